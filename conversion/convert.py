"""Convert original ELMo weights to a Hugging Face folder, verified; or a folder back.

    python -m conversion.convert original elmo-small
    python -m conversion.convert --options options.json --weights weights.hdf5 elmo-small
    python -m conversion.convert --to-hdf5 elmo-small back-again
    python -m conversion.convert --to-allennlp elmo-small weights.th

It reads a folder, a .zip or a .tar.gz in any supported format, recognised by its content:
bilm-tf's HDF5 files and TensorFlow checkpoints, AllenNLP's archives and state dicts,
ELMoForManyLangs' folders, TensorFlow Hub modules.
After `pip install elmo-hf`, the same command is `elmo-hf convert`.
"""

import sys
from functools import partial

import elmo_hf_cli

main = partial(elmo_hf_cli.main, command="convert", program="python -m conversion.convert")

if __name__ == "__main__":
    sys.exit(main())
