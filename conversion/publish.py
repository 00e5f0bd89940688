"""Upload a converted, verified folder to the Hub, with its code and its model card.

    python -m conversion.publish elmo-small me/elmo-small --checkpoint allennlp-small --dry-run

After `pip install elmo-hf`, the same command is `elmo-hf publish`.
"""

import sys

from elmo_hf.conversion.publish import main

if __name__ == "__main__":
    sys.exit(main())
