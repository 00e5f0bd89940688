"""Download a published checkpoint by its name, convert it and verify it.

    python -m conversion.fetch --list
    python -m conversion.fetch allennlp-small elmo-small

It reads elmo_hf/conversion/checkpoints.toml, which names the checkpoints and their addresses.
After `pip install elmo-hf`, the same command is `elmo-hf fetch`.
"""

import sys
from functools import partial

import elmo_hf_cli

main = partial(elmo_hf_cli.main, command="fetch", program="python -m conversion.fetch")

if __name__ == "__main__":
    sys.exit(main())
