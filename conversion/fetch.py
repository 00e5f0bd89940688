"""Downloads a published checkpoint, converts it and verifies the result.

    python -m conversion.fetch --list
    python -m conversion.fetch allennlp-small elmo-small

Reads elmo_hf/conversion/checkpoints.toml, which lists the checkpoints and their addresses.
After `pip install elmo-hf`, the same command is `elmo-hf fetch`.
"""

import sys
from functools import partial

import elmo_hf_cli

main = partial(elmo_hf_cli.main, command="fetch", program="python -m conversion.fetch")

if __name__ == "__main__":
    sys.exit(main())
