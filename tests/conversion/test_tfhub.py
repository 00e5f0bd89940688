"""TensorFlow Hub modules to a folder, verified."""

import tarfile

import numpy as np
import pytest
import torch
from helpers.bundles import write_bundle
from helpers.originals import options, random_arrays, write_original
from helpers.torch_originals import refuses

from conversion.convert import main
from elmo_hf import ElmoConfig, ElmoModel
from elmo_hf.conversion.allennlp import load_scalar_mix
from elmo_hf.conversion.convert import convert

LEAVES = {"W_0": "kernel", "B": "bias", "W_P_0": "projection/kernel"}
SPELLINGS = {
    "as saved by a module": "bilm/{stack}/RNN/MultiRNNCell/Cell{layer}/rnn/lstm_cell/{leaf}",
    "as trained": "module/bilm/{stack}/rnn/multi_rnn_cell/cell_{layer}/lstm_cell/{leaf}",
}


def write_module(folder, arrays, spelling, padded=False, mix=True):
    """A module's folder; the biLM's variables with or without a row of padding."""
    scope = spelling.split("bilm/")[0]
    variables = {}
    for name, array in arrays.items():
        if name.startswith("RNN_"):
            stack, *middle, leaf = name.split("/")
            layer = middle[2].removeprefix("Cell") if "MultiRNNCell" in middle else 0
            theirs = spelling.format(stack=stack, layer=layer, leaf=LEAVES[leaf])
        else:
            theirs = f"{scope}bilm/{name}"
        variables[theirs] = array
    if padded:
        table = variables[f"{scope}bilm/char_embed"]
        variables[f"{scope}bilm/char_embed"] = np.concatenate([0 * table[:1], table])
    if mix:
        variables[f"{scope}aggregation/weights"] = np.array([0.1, 0.2, 0.3], np.float32)
        variables[f"{scope}aggregation/scaling"] = np.float32(0.5)
    (folder / "variables").mkdir(parents=True)
    write_bundle(folder / "variables/variables", variables)
    (folder / "saved_model.pb").write_bytes(b"\x08\x01")
    return folder


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize("padded", [False, True], ids=["261 rows", "262 rows"])
def test_a_module_equals_the_same_hdf5_file(tmp_path, spelling, padded):
    arrays = random_arrays(options())
    record = convert(write_module(tmp_path / "hub", arrays, spelling, padded), tmp_path / "ours")
    convert(write_original(tmp_path / "o", options(), arrays), tmp_path / "hdf5")
    ours, hdf5 = (tmp_path / f"{name}/model.safetensors" for name in ("ours", "hdf5"))
    assert ours.read_bytes() == hdf5.read_bytes()
    first, second = (ElmoConfig.from_pretrained(tmp_path / name) for name in ("ours", "hdf5"))
    assert first.to_dict() == second.to_dict()
    assert record["source"]["format"] == "TensorFlow Hub module"
    assert record["word_splitter"] == "billion-words"
    assert any("cell_clip 3, proj_clip 3 and skip connections" in note for note in record["notes"])
    mix = load_scalar_mix(tmp_path / "ours")
    torch.testing.assert_close(mix.weights.data, torch.tensor([0.1, 0.2, 0.3]))
    assert mix.gamma.item() == 0.5


@pytest.mark.parametrize(
    "made_of",
    [
        options(lstm__n_layers=1),
        options(char_cnn__n_highway=0),
        options(lstm__projection_dim=15),
        options(lstm__dim=12),
    ],
    ids=["one layer", "no highway", "no character projection", "no LSTM projection"],
)
def test_sizes_are_read_from_the_variables(tmp_path, made_of):
    spelling = SPELLINGS["as trained"]
    source = write_module(tmp_path / "hub", random_arrays(made_of), spelling, mix=False)
    record = convert(source, tmp_path / "ours")
    assert record["scalar_mixes"] == []
    assert (
        ElmoModel.from_pretrained(tmp_path / "ours").config.num_hidden_layers
        == (made_of["lstm"]["n_layers"])
    )


def test_an_archive_and_a_named_options_file_do_too(tmp_path):
    spelling = SPELLINGS["as saved by a module"]
    folder = write_module(tmp_path / "hub", random_arrays(options()), spelling)
    with tarfile.open(tmp_path / "hub.tar.gz", "w:gz") as archive:
        archive.add(folder, ".")
    convert(tmp_path / "hub.tar.gz", tmp_path / "ours")
    made_of = options(lstm__cell_clip=0.3)
    named = write_original(tmp_path / "o", made_of, {}) / "options.json"
    assert main(["--options", str(named), str(folder), str(tmp_path / "clipped")]) == 0
    assert ElmoConfig.from_pretrained(tmp_path / "clipped").cell_clip == 0.3


def test_damaged_modules_are_refused(tmp_path, capsys):
    spelling = SPELLINGS["as trained"]
    arrays = random_arrays(options())
    for name, complaint in (
        ("char_embed", "the module lacks char_embed, so it is not an ELMo"),
        ("RNN_1/RNN/MultiRNNCell/Cell1/LSTMCell/B", "LSTMCell/B is missing"),
    ):
        kept = {n: array for n, array in arrays.items() if n != name}
        source = write_module(tmp_path / name.replace("/", "_"), kept, spelling)
        refuses(tmp_path, source, complaint=complaint, capsys=capsys)
    (shard,) = source.glob("variables/*.data-00001-*")
    shard.write_bytes(shard.read_bytes()[:-9])
    refuses(tmp_path, source, complaint="is cut off", capsys=capsys)
