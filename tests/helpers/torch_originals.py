"""Random models as AllenNLP and ELMoForManyLangs store them, and pickles that bite."""

import json
import pickle
from pathlib import Path

import numpy as np
import torch

from conversion.convert import main

PREFIX = "text_field_embedder.token_embedder_elmo._elmo._elmo_lstm."
CHARACTERS = [*"abcdefghistuvnkr.'0", "é", "日", "\u3000"]
WORDS = ["the", "bank", "river", "日本語", "."]
SETTINGS = {
    "encoder": {
        "name": "elmo",
        "projection_dim": 6,
        "cell_clip": 0.4,
        "proj_clip": 0.3,
        "dim": 8,
        "n_layers": 2,
    },
    "token_embedder": {
        "name": "cnn",
        "activation": "tanh",
        "filters": [[1, 3], [2, 4]],
        "n_highway": 1,
        "word_dim": 5,
        "char_dim": 3,
        "max_characters_per_token": 9,
    },
    "dropout": 0.1,
}


def allennlp_tensors(made_of: dict, arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The state dict that AllenNLP has once it has loaded these HDF5 arrays (elmo.py)."""
    swapped = [0, 2, 1, 3]  # input, candidate, forget, output to input, forget, candidate, output

    def gates(rows: np.ndarray) -> np.ndarray:
        return np.concatenate([np.split(rows, 4)[k] for k in swapped])

    cnn, lstm = made_of["char_cnn"], made_of["lstm"]
    table = arrays["char_embed"]
    made = {"_token_embedder._char_embedding_weights": np.concatenate([0 * table[:1], table])}
    for i in range(len(cnn["filters"])):
        name = f"_token_embedder.char_conv_{i}"
        made[f"{name}.weight"] = arrays[f"CNN/W_cnn_{i}"][0].transpose(2, 1, 0)
        made[f"{name}.bias"] = arrays[f"CNN/b_cnn_{i}"]
    for k in range(cnn["n_highway"]):
        name, theirs = f"_token_embedder._highways._layers.{k}", f"CNN_high_{k}"
        halves = [arrays[f"{theirs}/W_transform"].T, -arrays[f"{theirs}/W_carry"].T]
        made[f"{name}.weight"] = np.concatenate(halves)
        halves = [arrays[f"{theirs}/b_transform"], -arrays[f"{theirs}/b_carry"]]
        made[f"{name}.bias"] = np.concatenate(halves)
    made["_token_embedder._projection.weight"] = arrays["CNN_proj/W_proj"].T
    made["_token_embedder._projection.bias"] = arrays["CNN_proj/b_proj"]
    layers, width = lstm["n_layers"], lstm["projection_dim"]
    for number, direction in enumerate(("forward", "backward")):
        for layer in range(layers):
            cell = f"RNN_{number}/RNN/MultiRNNCell/Cell{layer}/LSTMCell"
            name = f"_elmo_lstm.{direction}_layer_{layer}"
            kernel = gates(arrays[f"{cell}/W_0"].T)
            made[f"{name}.input_linearity.weight"] = kernel[:, :width]
            made[f"{name}.state_linearity.weight"] = kernel[:, width:]
            bias = gates(arrays[f"{cell}/B"])
            bias[lstm["dim"] : 2 * lstm["dim"]] += 1
            made[f"{name}.state_linearity.bias"] = bias
            made[f"{name}.state_projection.weight"] = arrays[f"{cell}/W_P_0"].T
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in made.items()}


def task_model(tensors: dict[str, torch.Tensor], prefix: str = PREFIX) -> dict[str, torch.Tensor]:
    """A tagger with this ELMo inside: two scalar mixes and layers of its own."""
    root = prefix.removesuffix("_elmo_lstm.")
    whole = {prefix + name: tensor for name, tensor in tensors.items()}
    for k in range(2):
        whole[f"{root}scalar_mix_{k}.gamma"] = torch.tensor([0.7 + k])
        for j in range(3):
            whole[f"{root}scalar_mix_{k}.scalar_parameters.{j}"] = torch.tensor([0.1 * j - k])
    return whole | {"tag_projection_layer.weight": torch.ones(3, 4)}


def manylangs_tensors(settings: dict, seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    """Both state dicts of a model, by file; clips fire now and then."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw) * shape[-1] ** -0.5

    embedder, encoder = settings["token_embedder"], settings["encoder"]
    width, dim, inputs = encoder["projection_dim"], encoder["dim"], 0
    first, second = {}, {}
    if embedder["word_dim"] > 0:
        inputs += embedder["word_dim"]
        first["word_emb_layer.embedding.weight"] = normal(len(WORDS) + 4, embedder["word_dim"])
    if embedder["char_dim"] > 0:
        filters = sum(count for _, count in embedder["filters"])
        inputs += filters
        size = (len(CHARACTERS) + 6, embedder["char_dim"])
        first["char_emb_layer.embedding.weight"] = normal(*size)
        for i, (kernel, count) in enumerate(embedder["filters"]):
            first[f"convolutions.{i}.weight"] = normal(count, embedder["char_dim"], kernel)
            first[f"convolutions.{i}.bias"] = normal(count)
        for k in range(embedder["n_highway"]):
            first[f"highways._layers.{k}.weight"] = normal(2 * filters, filters)
            first[f"highways._layers.{k}.bias"] = normal(2 * filters)
    first["projection.weight"], first["projection.bias"] = normal(width, inputs), normal(width)
    if encoder["name"] == "lstm":
        lstm = torch.nn.LSTM(width, dim, encoder["n_layers"], bidirectional=True)
        shapes = {f"encoder.{key}": tensor.shape for key, tensor in lstm.state_dict().items()}
        shapes |= {"projection.weight": (width, dim), "projection.bias": (width,)}
        made = {name: 2 * normal(*shape) for name, shape in shapes.items()}
        return {"token_embedder.pkl": first, "encoder.pkl": made}
    for layer in range(encoder["n_layers"]):
        for direction in ("forward", "backward"):
            name = f"{direction}_layer_{layer}"
            second[f"{name}.input_linearity.weight"] = 2 * normal(4 * dim, width)
            second[f"{name}.state_linearity.weight"] = normal(4 * dim, width)
            second[f"{name}.state_linearity.bias"] = 4 * normal(4 * dim)
            second[f"{name}.state_projection.weight"] = 3 * normal(width, dim)
    return {"token_embedder.pkl": first, "encoder.pkl": second}


def write_manylangs(folder: Path, settings: dict = SETTINGS) -> Path:
    """A model as the original program saves it, its settings under another machine's path."""
    folder.mkdir(parents=True)
    for name, tensors in manylangs_tensors(settings).items():
        torch.save(tensors, folder / name)
    marks = ["<bos>", "<eos>", "<oov>", "<pad>", "<bow>", "<eow>"]
    for name, entries in (
        ("char.dic", [*CHARACTERS, *marks]),
        ("word.dic", ["<oov>", "<bos>", "<eos>", "<pad>", *WORDS]),
    ):
        lines = [f"{entry}\t{number}\n" for number, entry in enumerate(entries)]
        (folder / name).write_text("".join(lines), encoding="utf-8")
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text('{"config_path": "/home/somebody/run/settings.json"}')
    return folder


def refuses(tmp_path, *arguments, complaint, capsys):
    """The command fails with one clear error and leaves nothing behind."""
    before = sorted(tmp_path.rglob("*"))
    assert main([str(a) for a in (*arguments, tmp_path / "output")]) == 1
    printed = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in printed if line.startswith("error: ")]
    assert len(errors) == 1 and complaint in errors[0], printed
    assert sorted(tmp_path.rglob("*")) == before


class Bite:
    """A pickle of it makes the file `bitten` beside it, where code in pickles is run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def write_bite(path: Path, plain: bool = False) -> Path:
    """A file with code in it, of `torch.save` or of pickle alone; the file it would make."""
    bitten = path.with_name("bitten")
    if plain:
        path.write_bytes(pickle.dumps({"weights": Bite(bitten)}))
    else:
        torch.save({"weights": Bite(bitten)}, path)
    return bitten
