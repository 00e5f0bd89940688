"""Converts original ELMo weights to a verified Hugging Face folder, or a folder back.

    python -m conversion.convert original elmo-small
    python -m conversion.convert --options options.json --weights weights.hdf5 elmo-small
    python -m conversion.convert --to-hdf5 elmo-small back-again
    python -m conversion.convert --to-allennlp elmo-small weights.th

Reads a folder, a .zip or a .tar.gz, and detects the format from the content: HDF5 files and
TensorFlow checkpoints of bilm-tf, archives and state dicts of AllenNLP, folders of
ELMoForManyLangs, TensorFlow Hub modules.
After `pip install elmo-hf`, the same command is `elmo-hf convert`.
"""

import sys
from functools import partial

import elmo_hf_cli

main = partial(elmo_hf_cli.main, command="convert", program="python -m conversion.convert")

if __name__ == "__main__":
    sys.exit(main())
