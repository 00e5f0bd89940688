"""Upload a verified conversion to the Hugging Face Hub, with its code and its model card.

    python -m conversion.publish elmo-small me/elmo-small --checkpoint allennlp-small --dry-run

It reads a folder that conversion.convert or conversion.fetch wrote, and model_cards/.
After `pip install elmo-hf`, the same command is `elmo-hf publish`.
"""

import sys
from functools import partial

import elmo_hf_cli

main = partial(elmo_hf_cli.main, command="publish", program="python -m conversion.publish")

if __name__ == "__main__":
    sys.exit(main())
