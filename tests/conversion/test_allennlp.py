"""AllenNLP's state dicts to a folder, verified, and back."""

import json
import tarfile
import zipfile

import pytest
import torch
from helpers.originals import options, random_arrays, write_original
from helpers.torch_originals import PREFIX, allennlp_tensors, refuses, task_model, write_bite

from conversion.convert import main
from elmo_hf import ElmoConfig, ElmoModel
from elmo_hf.conversion.allennlp import load_scalar_mix
from elmo_hf.conversion.convert import convert
from elmo_hf.conversion.tables import WeightsError

OPTIONS = options()
OPTIONS["lstm"] |= {"cell_clip": 0.3, "proj_clip": 0.2}


@pytest.fixture(scope="module")
def tensors():
    return allennlp_tensors(OPTIONS, random_arrays(OPTIONS))


def archive(folder, state_dict, **files):
    """A model.tar.gz of AllenNLP."""
    folder.mkdir()
    torch.save(state_dict, folder / "weights.th")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "vocabulary").mkdir()
    (folder / "vocabulary/labels.txt").write_text("O\nB\n")
    with tarfile.open(folder / "model.tar.gz", "w:gz") as tar:
        for path in ("weights.th", "vocabulary", *(f"{name}.json" for name in files)):
            tar.add(folder / path, path)
    return folder / "model.tar.gz"


def test_an_archive_gives_the_same_model_as_the_hdf5_file_it_was_made_from(tmp_path, tensors):
    settings = {
        "dataset_reader": {"token_indexers": {"elmo": {"type": "elmo_characters"}}},
        "model": {"elmo": {"options_file": "far/away", "do_layer_norm": True, "dropout": 0.2}},
    }
    source = archive(tmp_path / "a", task_model(tensors), options=OPTIONS, config=settings)
    record = convert(source, tmp_path / "ours")
    convert(write_original(tmp_path / "o", OPTIONS, random_arrays(OPTIONS)), tmp_path / "hdf5")
    ours, hdf5 = (ElmoModel.from_pretrained(tmp_path / name) for name in ("ours", "hdf5"))
    for name, tensor in hdf5.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name
    assert (ours.config.mix_layer_norm, ours.config.mix_dropout) == ("allennlp", 0.2)
    assert ours.config.cell_clip == 0.3
    assert record["source"]["format"] == "AllenNLP state dict"
    assert record["word_splitter"] == "billion-words"
    assert record["source"]["prefix"] == PREFIX
    assert [d["name"] for d in record["verification"]["differences"]] == [
        f"layer {k}" for k in range(3)
    ]
    assert record["notes"] == ["1 tensors of the task's own model are left out"]


@pytest.mark.parametrize("prefix", ["", "_elmo_lstm.", PREFIX, "a.b._elmo._elmo_lstm."])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_plain_state_dict_comes_back_bit_for_bit(tmp_path, tensors, prefix, legacy):
    whole = task_model(tensors, prefix)
    del whole["tag_projection_layer.weight"]
    zipped = not legacy
    torch.save(whole, tmp_path / "best.th", _use_new_zipfile_serialization=zipped)
    assert main([str(tmp_path / "best.th"), str(tmp_path / "ours")]) == 0
    assert main(["--to-allennlp", str(tmp_path / "ours"), str(tmp_path / "back.th")]) == 0
    back = torch.load(tmp_path / "back.th", weights_only=True)
    assert back.keys() == whole.keys()
    for name, tensor in whole.items():
        assert torch.equal(back[name], tensor), name


def test_sizes_are_inferred_and_assumptions_are_noted(tmp_path, tensors):
    torch.save(tensors, tmp_path / "elmo.th")
    record = convert(tmp_path / "elmo.th", tmp_path / "ours")
    config = ElmoConfig.from_pretrained(tmp_path / "ours")
    assert config.filters == OPTIONS["char_cnn"]["filters"]
    assert (config.projection_dim, config.cell_dim, config.num_hidden_layers) == (12, 24, 2)
    assert (config.num_highway_layers, config.cell_clip, config.use_skip_connections) == (
        2,
        3,
        True,
    )
    assert "activation relu, max_characters_per_token 50, cell_clip 3" in record["notes"][0]


def test_projections_between_equal_widths_are_kept(tmp_path):
    other = options(lstm__dim=16, lstm__projection_dim=14)
    tensors = allennlp_tensors(other, random_arrays(other))
    square = {
        name: torch.randn([{16: 15, 14: 15, 64: 60}.get(size, size) for size in tensor.shape]) / 4
        for name, tensor in tensors.items()
    }
    torch.save(square, tmp_path / "elmo.th")
    made_of = options(lstm__dim=15, lstm__projection_dim=15)
    (tmp_path / "options.json").write_text(json.dumps(made_of))
    named = ["--options", tmp_path / "options.json", "--weights", tmp_path / "elmo.th"]
    assert main([str(a) for a in (*named, tmp_path / "ours")]) == 0
    config = ElmoConfig.from_pretrained(tmp_path / "ours")
    assert config.has_lstm_projection and config.has_embedding_projection


def test_the_learned_mixes_can_be_loaded(tmp_path, tensors):
    torch.save(task_model(tensors), tmp_path / "best.th")
    record = convert(tmp_path / "best.th", tmp_path / "ours")
    assert len(record["scalar_mixes"]) == 2
    mix = load_scalar_mix(tmp_path / "ours", 1)
    torch.testing.assert_close(mix.weights.data, torch.tensor([-1.0, -0.9, -0.8]))
    torch.testing.assert_close(mix.gamma.data, torch.tensor([1.7]))
    with pytest.raises(WeightsError, match="has 2 scalar mixes"):
        load_scalar_mix(tmp_path / "ours", 2)


def test_tensors_that_are_not_converted_are_noted(tmp_path, tensors):
    cached = tensors | {
        "_word_embedding.weight": torch.ones(5, 12),
        "_elmo_lstm.odd": torch.ones(1),
    }
    torch.save(cached | {"tagger.weight": torch.ones(1)}, tmp_path / "elmo.th")
    notes = convert(tmp_path / "elmo.th", tmp_path / "ours")["notes"][1:]
    assert [note.split(":")[0] for note in notes] == [
        "tensor _elmo_lstm.odd is unknown",
        "cached word vectors are left out",
        "1 tensors of the task's own model are left out",
    ]


def test_equal_elmos_count_once_and_different_ones_must_be_chosen(tmp_path, capsys, tensors):
    twice = task_model(tensors) | task_model(tensors, "second._elmo_lstm.")
    torch.save(twice, tmp_path / "same.th")
    notes = convert(tmp_path / "same.th", tmp_path / "same")["notes"]
    assert any("is the same as at second._elmo_lstm." in note for note in notes)
    mix = "second.scalar_mix_0.gamma"
    torch.save(twice | {mix: torch.tensor([9.0])}, tmp_path / "mixes.th")
    notes = convert(tmp_path / "mixes.th", tmp_path / "mixes")["notes"]
    assert any("but its scalar mixes differ: those of second." in note for note in notes)
    name = "second._elmo_lstm._token_embedder._projection.bias"
    torch.save(twice | {name: twice[name] + 1}, tmp_path / "two.th")
    refuses(tmp_path, tmp_path / "two.th", complaint="choose one with --prefix", capsys=capsys)
    wrong = ["--prefix", "x.", tmp_path / "two.th"]
    refuses(tmp_path, *wrong, complaint="has no ELMo at 'x.'", capsys=capsys)
    named = ["--prefix", PREFIX, tmp_path / "two.th", tmp_path / "ours"]
    assert main([str(a) for a in named]) == 0


def test_the_trained_tensors_win_over_the_hdf5_file_packed_with_them(tmp_path, tensors):
    folder = write_original(tmp_path / "o", OPTIONS, random_arrays(OPTIONS, seed=1))
    torch.save(task_model(tensors), folder / "weights.th")
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as tar:
        tar.add(folder / "weights.th", "weights.th")
        tar.add(folder / "options.json", "fta/model.elmo.options_file")
        tar.add(folder / "weights.hdf5", "fta/model.elmo.weight_file")
    record = convert(tmp_path / "model.tar.gz", tmp_path / "ours")
    assert record["source"]["weights"]["file"] == "weights.th"
    assert record["source"]["options"]["content"]["lstm"]["cell_clip"] == 0.3
    assert record["notes"][0].startswith("model.elmo.weight_file is ignored: weights.th")


def test_the_verification_would_see_a_wrong_table(tmp_path, monkeypatch, tensors):
    from elmo_hf.conversion import allennlp
    from elmo_hf.conversion.tables import Transform

    right = allennlp.encoder_table

    def wrong(config, names):
        rows = right(config, names)
        swap = Transform(lambda t: (torch.cat(t.chunk(2)[::-1]),), lambda t: t)
        *rest, last = rows
        return [
            *rest[:-1],
            type(last)(rest[-1].original, rest[-1].shape, rest[-1].ours, swap),
            last,
        ]

    monkeypatch.setattr(allennlp, "encoder_table", wrong)
    torch.save(tensors, tmp_path / "elmo.th")
    with pytest.raises(WeightsError, match="differs from the original: layer 2"):
        convert(tmp_path / "elmo.th", tmp_path / "ours")


@pytest.mark.parametrize("plain", [False, True], ids=["torch.save", "pickle"])
def test_code_in_a_pickle_is_not_run(tmp_path, capsys, plain):
    bitten = write_bite(tmp_path / "weights.th", plain)
    refuses(tmp_path, tmp_path / "weights.th", complaint="which is never run", capsys=capsys)
    assert not bitten.exists()


def test_damaged_files_are_refused(tmp_path, capsys, tensors):
    file = tmp_path / "elmo.th"
    for zipped in (True, False):
        torch.save(tensors, file, _use_new_zipfile_serialization=zipped)
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        refuses(tmp_path, file, complaint="is damaged", capsys=capsys)
    torch.save(tensors, file)
    whole = bytearray(file.read_bytes())
    value = tensors["_token_embedder._projection.bias"].numpy().tobytes()
    whole[whole.index(value)] ^= 1
    file.write_bytes(whole)
    refuses(tmp_path, file, complaint="the checksum of", capsys=capsys)
    torch.save(tensors, tmp_path / "m.th")
    with (
        zipfile.ZipFile(tmp_path / "m.th") as read,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as write,
    ):
        for name in read.namelist():
            write.writestr(name, read.read(name))
    (tmp_path / "m.th").unlink()
    refuses(tmp_path, file, complaint="is compressed, which no PyTorch file is", capsys=capsys)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"_token_embedder._char_embedding_weights": None}, "a state dict without an ELMo"),
        ({"_token_embedder._projection.bias": None}, "tensor _token_embedder._projection.bias is"),
        ({"_token_embedder.char_conv_1.bias": torch.ones(9)}, "has shape (9,); expected"),
        ({"_token_embedder.char_conv_1.bias": torch.ones(5).int()}, "holds torch.int32"),
        ({"_token_embedder.char_conv_0.weight": torch.ones(5)}, "of shape (5,); the state dict is"),
        (
            {"_elmo_lstm.forward_layer_0.state_projection.weight": None},
            "is missing; the state dict",
        ),
        (
            {"_token_embedder._char_embedding_weights": torch.ones(1, 1).expand(262, 1 << 30)},
            "more",
        ),
        (
            {"_token_embedder._char_embedding_weights": torch.full((262, 4), float("nan"))},
            "differs",
        ),
    ],
)
def test_incomplete_state_dicts_are_refused(tmp_path, capsys, tensors, change, complaint):
    changed = {n: t for n, t in (tensors | change).items() if t is not None}
    torch.save(changed, tmp_path / "elmo.th")
    refuses(tmp_path, tmp_path / "elmo.th", complaint=complaint, capsys=capsys)


def test_options_of_another_model_and_other_objects_are_refused(tmp_path, capsys, tensors):
    torch.save(tensors, tmp_path / "elmo.th")
    (tmp_path / "options.json").write_text(json.dumps(options(lstm__dim=32)))
    complaint = "says lstm.dim is 32, but the tensors say 24"
    refuses(tmp_path, tmp_path, complaint=complaint, capsys=capsys)
    torch.save([1, 2], tmp_path / "elmo.th")
    refuses(tmp_path, tmp_path, complaint="holds a list; expected a state dict", capsys=capsys)
    torch.save({"epoch": 3}, tmp_path / "elmo.th")
    refuses(tmp_path, tmp_path, complaint="holds no tensors, only epoch", capsys=capsys)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"bidirectional": False}, "it has one direction"),
        ({"use_skip_connections": False}, "it has no skip connections"),
        ({"vocab_size": 70}, "it has 70 character symbols"),
        ({"cell_dim": 8}, "it has no projection"),
        ({"word_vocab_size": 5, "word_embedding_dim": 2}, "it reads words from a table"),
    ],
)
def test_models_that_allennlp_cannot_represent_are_refused(tmp_path, capsys, change, complaint):
    tiny = {"cell_dim": 9, "projection_dim": 8, "filters": [[1, 4]]} | change
    ElmoModel(ElmoConfig(**tiny)).save_pretrained(tmp_path / "ours")
    refuses(tmp_path, tmp_path / "ours", "--to-allennlp", complaint=complaint, capsys=capsys)
