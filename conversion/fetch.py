"""Download a published checkpoint by its name, convert it and verify it.

    python -m conversion.fetch --list
    python -m conversion.fetch allennlp-small elmo-small

After `pip install elmo-hf`, the same command is `elmo-hf fetch`.
"""

import sys

from elmo_hf.conversion.fetch import main

if __name__ == "__main__":
    sys.exit(main())
