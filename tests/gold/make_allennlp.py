"""Write the gold vectors in `allennlp/`: what AllenNLP 2.10.1 computes from random weights.

    PYTHONPATH=.:tests python tests/gold/make_allennlp.py

It needs allennlp 2.10.1 in the environment, which asks for torch below 1.13; the tests need only
the files that it wrote.
"""

import json
from pathlib import Path

import numpy as np
import torch
from allennlp.modules.elmo import Elmo, _ElmoBiLm, batch_to_ids
from helpers.originals import options, random_arrays, write_original

FOLDER = Path(__file__).parent / "allennlp"
# The second call begins with the states that the first one ended with.
CALLS = [
    [["The", "bank", "of", "the", "river", "."], ["naïve", "日本語", "😀"], ["a"]],
    [["She", "rose", "."], ["-"], ["a" * 60, "<S>", "don't", "Zürich"]],
]
MODELS = {
    "relu": options(lstm__cell_clip=0.3, lstm__proj_clip=0.2),
    "tanh": options(
        char_cnn__activation="tanh",
        char_cnn__n_highway=1,
        lstm__n_layers=3,
    ),
}
MIX = [0.3, -0.2, 0.5, 0.1]


def main() -> None:
    (FOLDER / "sentences.json").write_text(json.dumps(CALLS, ensure_ascii=False, indent=1) + "\n")
    for name, made_of in MODELS.items():
        folder = write_original(FOLDER / name, made_of, random_arrays(made_of, seed=3))
        files = str(folder / "options.json"), str(folder / "weights.hdf5")
        bilm = _ElmoBiLm(*files).eval()
        gold = {}
        with torch.no_grad():
            for number, batch in enumerate(CALLS):
                ids = batch_to_ids(batch)
                for layer, values in enumerate(bilm(ids)["activations"]):
                    gold[f"call {number}, layer {layer}"] = values.numpy()
            for norm in (False, True):
                mixed = Elmo(*files, 1, do_layer_norm=norm, dropout=0.0)
                for parameter, value in zip(
                    mixed.scalar_mix_0.scalar_parameters, MIX, strict=False
                ):
                    parameter.fill_(value)
                mixed.scalar_mix_0.gamma.fill_(1.5)
                output = mixed.eval()(batch_to_ids(CALLS[0]))
                gold[f"mix, layer norm {norm}"] = output["elmo_representations"][0].numpy()
        np.savez_compressed(folder / "answers.npz", **gold)


if __name__ == "__main__":
    main()
