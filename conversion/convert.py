"""Convert original ELMo weights to a Hub folder, verified; or a folder back to original files.

    python -m conversion.convert original elmo-small
    python -m conversion.convert --options options.json --weights weights.hdf5 elmo-small
    python -m conversion.convert --to-hdf5 elmo-small back-again
    python -m conversion.convert --to-allennlp elmo-small weights.th

The original is a folder, a .zip or a .tar.gz in any supported format, recognised by its content.
After `pip install elmo-hf`, the same command is `elmo-hf convert`.
"""

import sys

from elmo_hf.conversion.convert import main

if __name__ == "__main__":
    sys.exit(main())
