"""Uploads a verified conversion to the Hugging Face Hub, with its code and its model card.

    python -m conversion.publish elmo-small me/elmo-small --checkpoint allennlp-small --dry-run

Reads model_cards/ and a folder written by conversion.convert or conversion.fetch.
After `pip install elmo-hf`, the same command is `elmo-hf publish`.
"""

import sys
from functools import partial

import elmo_hf_cli

main = partial(elmo_hf_cli.main, command="publish", program="python -m conversion.publish")

if __name__ == "__main__":
    sys.exit(main())
