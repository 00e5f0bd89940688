"""A script as users of AllenNLP 0.9 wrote it. The test changes only the names in its imports.

python old_script.py OPTIONS WEIGHTS SENTENCES OUTPUT
"""

import sys

import numpy as np
import torch
from allennlp.commands.elmo import ElmoEmbedder
from allennlp.modules.elmo import Elmo, batch_to_ids

options_file, weight_file, input_path, output = sys.argv[1:]
with open(input_path, encoding="utf-8") as file:
    sentences = [line.split() for line in file]

# Two representations for a model's input and output, without dropout.
elmo = Elmo(options_file, weight_file, 2, dropout=0)
with torch.no_grad():
    elmo.scalar_mix_1.scalar_parameters[2].fill_(1.0)
character_ids = batch_to_ids(sentences)
embeddings = elmo(character_ids)
first, second = embeddings["elmo_representations"]
np.savez(
    output + ".npz",
    character_ids=character_ids.numpy(),
    first=first.detach().numpy(),
    second=second.detach().numpy(),
    mask=embeddings["mask"].numpy(),
)

# Vectors of a file, once in every format.
for output_format in ("all", "top", "average"):
    with torch.no_grad(), open(input_path, encoding="utf-8") as file:
        embedder = ElmoEmbedder(options_file, weight_file, cuda_device=-1)
        embedder.embed_file(file, output + "." + output_format + ".hdf5", output_format)
