"""Write the gold vectors in `allennlp/drop_in/`: what AllenNLP 0.9.0 computes from random weights.

    python tests/gold/make_drop_in.py

It needs allennlp 0.9.0 in the environment, the last release with `ElmoEmbedder`; the tests need
only the files that it wrote.
"""

import json
import runpy
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from allennlp.commands.elmo import ElmoEmbedder
from allennlp.modules.elmo import Elmo, batch_to_ids
from torch import nn

ALLENNLP = Path(__file__).parent / "allennlp"
FOLDER = ALLENNLP / "drop_in"
FILES = [str(ALLENNLP / "relu" / name) for name in ("options.json", "weights.hdf5")]
CALLS = json.loads((ALLENNLP / "sentences.json").read_text(encoding="utf-8"))
SENTENCES = [*chain(*CALLS), CALLS[0][0]]  # the last one repeats the first
VOCABULARY = ["@@PADDING@@", "The", "bank", "of", "river", "."]


def main() -> None:
    text = FOLDER / "sentences.txt"
    text.write_text("".join(" ".join(words) + "\n" for words in SENTENCES), encoding="utf-8")
    np.savez_compressed(FOLDER / "trained.npz", **dict(train()))
    sys.argv = ["old_script.py", *FILES, str(text), str(FOLDER / "old_script")]
    runpy.run_path(str(FOLDER / "old_script.py"))
    torch.manual_seed(0)
    with torch.no_grad():
        np.savez_compressed(FOLDER / "answers.npz", **dict(answers()))


def train():
    """Five steps of fine-tuning, with states carried from step to step; then the vectors."""
    elmo = Elmo(*FILES, 1, requires_grad=True, dropout=0.0)
    optimizer = torch.optim.SGD(elmo.parameters(), lr=0.002)
    for step in range(5):
        vectors = elmo(batch_to_ids(CALLS[step % 2]))["elmo_representations"][0]
        optimizer.zero_grad()
        vectors.tanh().sum().backward()
        optimizer.step()
    elmo._elmo_lstm._elmo_lstm.reset_states()
    yield "vectors", elmo(batch_to_ids(CALLS[0]))["elmo_representations"][0].detach().numpy()


def answers():
    ids = batch_to_ids(CALLS[0])
    for name, arguments in {
        "norm": {"do_layer_norm": True},
        "boundaries": {"keep_sentence_boundaries": True},
        "fixed": {"scalar_mix_parameters": [0.5, -1.0, 2.0]},
    }.items():
        output = Elmo(*FILES, 1, dropout=0.0, **arguments)(ids)
        yield f"{name}, vectors", output["elmo_representations"][0].numpy()
        yield f"{name}, mask", output["mask"].numpy()

    four = batch_to_ids([*CALLS[0], *CALLS[1][:1]]).view(2, 2, -1, 50)
    output = Elmo(*FILES, 1, dropout=0.0)(four)
    yield "4-D, vectors", output["elmo_representations"][0].numpy()
    yield "4-D, mask", output["mask"].numpy()

    known = [["The", "bank", "of", "The", "river", "."], ["bank"]]
    words = torch.tensor([[VOCABULARY.index(w) for w in known[0]], [2] + [0] * 5])
    cached = Elmo(*FILES, 1, dropout=0.0, vocab_to_cache=VOCABULARY)
    yield "cached, vectors", cached(batch_to_ids(known), words)["elmo_representations"][0].numpy()

    # The number of rows shrinks to one, then grows beyond that of the first batch.
    embedder = ElmoEmbedder(*FILES)
    carried = [*embedder.embed_sentences(SENTENCES, batch_size=3), *embedder.embed_batch(SENTENCES)]
    for number, vectors in enumerate(carried):
        yield f"carried {number}", vectors

    # A user's trained model, whose weights differ from those in the files.
    user = nn.ModuleDict({"elmo": Elmo(*FILES, 2, dropout=0.0), "tagger": nn.Linear(24, 3)})
    for parameter in user.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    torch.save(user.state_dict(), FOLDER / "user_model.th")
    output = user["elmo"](ids)
    for number, vectors in enumerate(output["elmo_representations"]):
        yield f"user, vectors {number}", vectors.numpy()


if __name__ == "__main__":
    main()
