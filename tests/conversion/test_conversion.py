"""Original files to a folder, verified, and back."""

import io
import json
import tarfile
import zipfile

import h5py
import numpy as np
import pytest
import torch
from helpers.originals import VARIANTS, WORDS, options, random_arrays, token_options, write_original
from transformers import AutoModel, AutoModelForTokenClassification

from conversion.convert import main
from elmo_hf import ElmoForPreTraining, ElmoModel, ElmoTokenizer
from elmo_hf.conversion import reference, verification
from elmo_hf.conversion.bilm_arrays import EXACT_FORGET_BIAS, expected_layers
from elmo_hf.conversion.convert import convert, convert_back
from elmo_hf.conversion.outputs import new_folder
from elmo_hf.conversion.tables import WeightsError


@pytest.fixture
def original(tmp_path):
    return write_original(tmp_path / "original", options(), random_arrays(options()))


def read_arrays(path):
    with h5py.File(path / "weights.hdf5") as file:
        arrays = {}
        file.visititems(
            lambda n, d: arrays.update({n: d[...]}) if isinstance(d, h5py.Dataset) else None
        )
        return arrays


def refuses(tmp_path, *arguments, complaint, capsys):
    """The command fails with one clear error and leaves nothing behind."""
    before = sorted(tmp_path.iterdir())
    assert main([str(a) for a in (*arguments, tmp_path / "output")]) == 1
    printed = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in printed if line.startswith("error: ")]
    assert len(errors) == 1 and complaint in errors[0], printed
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "softmax", [pytest.param(False, marks=pytest.mark.slow), True], ids=["bare", "with softmax"]
)
def test_every_variant_converts_and_comes_back_byte_for_byte(tmp_path, variant, softmax):
    made_of = VARIANTS[variant]
    arrays = random_arrays(made_of, softmax=softmax)
    source = write_original(tmp_path / "original", made_of, arrays, vocab=True)
    record = convert(source, tmp_path / "ours")
    differences = record["verification"]["differences"]
    logits = (1 if made_of.get("bidirectional") is False else 2) if softmax else 0
    assert len(differences) == made_of["lstm"]["n_layers"] + 1 + logits

    convert_back(tmp_path / "ours", tmp_path / "back")
    back = read_arrays(tmp_path / "back")
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        assert back[name].tobytes() == array.tobytes(), name
    again = convert(tmp_path / "back", tmp_path / "again")
    assert again["notes"] == []
    assert (tmp_path / "ours/model.safetensors").read_bytes() == (
        tmp_path / "again/model.safetensors"
    ).read_bytes()


def test_the_verification_would_see_a_wrong_weight(tmp_path, original):
    folder = tmp_path / "ours"
    convert(original, folder)
    model = ElmoModel.from_pretrained(folder)
    with torch.no_grad():
        model.layers[1].backward_lstm.output_map.weight[3, 5] += 0.01
    model.save_pretrained(folder)
    arrays = read_arrays(original)
    differences = verification.compare(
        expected_layers(options(), arrays, {}, verification.SENTENCES), folder
    )
    assert [d.passed for d in differences] == [True, True, False]
    with pytest.raises(WeightsError, match=r"layer 2: largest difference .* TOO LARGE"):
        verification.report(differences)


def test_trained_forget_biases_survive_the_original_format(tmp_path, original):
    convert(original, tmp_path / "ours")
    model = ElmoModel.from_pretrained(tmp_path / "ours")
    bias = model.layers[0].forward_lstm.input_map.bias
    with torch.no_grad():
        bias[24:48] = torch.linspace(-1e-3, 1e-3, 24)  # forget gate: 1 added and taken loses bits
    model.save_pretrained(tmp_path / "ours")
    convert_back(tmp_path / "ours", tmp_path / "back")
    with h5py.File(tmp_path / "back/weights.hdf5") as file:
        assert EXACT_FORGET_BIAS in file["RNN_0/RNN/MultiRNNCell/Cell0/LSTMCell/B"].attrs
    convert(tmp_path / "back", tmp_path / "again")
    again = ElmoModel.from_pretrained(tmp_path / "again")
    assert torch.equal(again.layers[0].forward_lstm.input_map.bias, bias)


def test_the_splitter_is_the_user_s_choice_and_survives_the_original_format(tmp_path, original):
    assert convert(original, tmp_path / "usual")["word_splitter"] == "billion-words"
    record = convert(original, tmp_path / "ours", word_splitter="whitespace")
    assert record["word_splitter"] == "whitespace"
    convert_back(tmp_path / "ours", tmp_path / "back")
    convert(tmp_path / "back", tmp_path / "again")
    for folder in ("ours", "again"):
        assert ElmoTokenizer.from_pretrained(tmp_path / folder).word_splitter == "whitespace"
    with pytest.raises(WeightsError, match="word_splitter is 'words'; expected 'treebank', "):
        convert(original, tmp_path / "no", word_splitter="words")
    assert not (tmp_path / "no").exists()


def test_the_record_names_files_and_differences(tmp_path, original):
    record = convert(original, tmp_path / "ours")
    assert record == json.loads((tmp_path / "ours/conversion.json").read_text())
    assert record["source"]["weights"]["file"] == "weights.hdf5"
    assert len(record["source"]["weights"]["sha256"]) == 64
    for difference in record["verification"]["differences"]:
        assert 0 < difference["largest"] < difference["allowed"] < 1e-4


def test_the_number_of_characters_is_read_from_the_table(tmp_path):
    for claimed in (261, 262, 999):
        made_of = options(char_cnn__n_characters=claimed)
        source = write_original(tmp_path / str(claimed), made_of, random_arrays(made_of))
        convert(source, tmp_path / f"ours {claimed}")
        assert ElmoModel.from_pretrained(tmp_path / f"ours {claimed}").config.vocab_size == 262


@pytest.mark.parametrize("command", ["--to-hdf5", "--to-allennlp"])
@pytest.mark.parametrize("head", [AutoModel, AutoModelForTokenClassification])
def test_models_without_a_softmax_go_back(tmp_path, head, command):
    arrays = random_arrays(options(), softmax=True)
    convert(write_original(tmp_path / "o", options(), arrays, vocab=True), tmp_path / "ours")
    model = head.from_pretrained(tmp_path / "ours")
    model.save_pretrained(tmp_path / "saved")
    assert model.config.lm_vocab_size
    assert main([command, str(tmp_path / "saved"), str(tmp_path / "back")]) == 0
    source = tmp_path / "back"
    if command == "--to-allennlp":
        source = source.rename(tmp_path / "back.th")
    convert(source, tmp_path / "again")
    again = AutoModel.from_pretrained(tmp_path / "again").state_dict()
    bilm = model.base_model.state_dict()
    assert all(torch.equal(tensor, bilm[name]) for name, tensor in again.items())


def test_what_only_converts_forward_is_refused_backward(capsys):
    assert main(["--to-hdf5", "ours", "back", "--splitter", "treebank"]) == 2
    assert "go with SOURCE and OUTPUT only" in capsys.readouterr().err


def test_files_that_macos_adds_are_ignored(tmp_path, original):
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        for path in original.iterdir():
            archive.write(path, f"m/{path.name}")
            archive.writestr(f"__MACOSX/m/._{path.name}", b"\0\5\x16\7")
            (original / f"._{path.name}").write_bytes(b"\0\5\x16\7")
    for source in (tmp_path / "m.zip", original):
        assert convert(source, tmp_path / f"from {source.stem}")["verification"]


def test_a_zip_a_tar_and_named_files_give_the_same(tmp_path, original):
    with zipfile.ZipFile(tmp_path / "m.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(original / "weights.hdf5", "deep/inside/model.hdf5")
        archive.write(original / "options.json", "deep/inside/options.json")
        archive.writestr("README", "vectors")
        archive.writestr("meta.json", '{"id": 210}')
    with tarfile.open(tmp_path / "m.tar.gz", "w:gz") as archive:
        archive.add(original, "elmo")
    convert(tmp_path / "m.zip", tmp_path / "from zip")
    convert(tmp_path / "m.tar.gz", tmp_path / "from tar")
    named = ["--options", original / "options.json", "--weights", original / "weights.hdf5"]
    assert main([str(a) for a in (*named, tmp_path / "named")]) == 0
    contents = {
        (tmp_path / name / "model.safetensors").read_bytes()
        for name in ("from zip", "from tar", "named")
    }
    assert len(contents) == 1


def test_a_language_model_keeps_its_vocabulary(tmp_path):
    arrays = random_arrays(options(), softmax=True)
    convert(write_original(tmp_path / "o", options(), arrays, vocab=True), tmp_path / "ours")
    tokenizer = ElmoTokenizer.from_pretrained(tmp_path / "ours")
    inputs = tokenizer("the river sang", return_lm_labels=True, return_tensors="pt")
    assert inputs["labels"].tolist() == [[0, 3, 7, 2, 1]]
    output = ElmoForPreTraining.from_pretrained(tmp_path / "ours")(**inputs)
    top = reference.forward(options(), arrays, [["the", "river", "sang"]])[0][0][-1]
    forward, _ = reference.logits(arrays, top)
    np.testing.assert_allclose(output.forward_logits[0].detach(), forward, atol=1e-4)
    assert output.loss > 0


def test_unknown_options_and_datasets_are_ignored_with_a_note(tmp_path, capsys):
    arrays = random_arrays(options()) | {"author": np.zeros(3, np.float32)}
    made_of = options(colour="blue", lstm__warmth=3)
    assert main([str(write_original(tmp_path / "o", made_of, arrays)), str(tmp_path / "ours")]) == 0
    printed = capsys.readouterr().out
    for name in ("option colour", "option lstm.warmth", "dataset author"):
        assert f"note: {name} is unknown: ignored" in printed


def test_an_output_that_exists_is_not_touched(tmp_path, original):
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours/thesis.txt").write_text("years of work")
    with pytest.raises(WeightsError, match="exists already"):
        convert(original, tmp_path / "ours")
    assert [p.name for p in (tmp_path / "ours").iterdir()] == ["thesis.txt"]


def test_an_interrupted_conversion_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "ours") as folder:
        (folder / "half").write_text("")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def damaged(**changes):
    arrays = random_arrays(options())
    arrays.update({name.replace("__", "/"): array for name, array in changes.items()})
    return {name: array for name, array in arrays.items() if array is not None}


@pytest.mark.parametrize(
    ("made_of", "arrays", "complaint"),
    [
        (options(), damaged(CNN__W_cnn_1=None), "dataset CNN/W_cnn_1 is missing"),
        (options(), damaged(CNN__b_cnn_2=np.zeros(7, "f4")), "CNN/b_cnn_2 has shape (7,), but"),
        (options(), damaged(char_embed=np.zeros((261, 4), int)), "char_embed holds int64"),
        (options(), damaged(char_embed=np.zeros(5, "f4")), "expected a table of rows"),
        (options(lstm__dim=32), damaged(), "but options.json requires (24, 128)"),
        (options(lstm__n_layers=1), damaged(), "belongs to a larger model"),
        (options(lstm__n_layers=3), damaged(), "Cell2/LSTMCell/B is missing"),
        (options(char_cnn__n_highway=1), damaged(), "CNN_high_1/W_carry (and 3 more) belongs"),
        (options(bidirectional=False), damaged(), "RNN_1/RNN/MultiRNNCell/Cell0/LSTMCell/B (and 5"),
        (token_options(), damaged(), "options.json has no char_cnn section"),
        (options(), {"embedding": np.zeros((9, 12), "f4")}, "a dump of word vectors"),
        (options(), damaged(char_embed=None), "there is no dataset char_embed"),
        (options(lstm__dim=None), damaged(), "lstm.dim is None; expected int"),
        (options(lstm__cell_clip=-3), damaged(), "is not of an ELMo model"),
        (options(char_cnn__activation="gelu"), damaged(), "is not of an ELMo model"),
        (options(char_cnn__filters="wide"), damaged(), "char_cnn.filters is 'wide'"),
        (options(lstm__n_layers="2"), damaged(), "is not of an ELMo model"),
        (options(), damaged(char_embed=np.full((261, 4), np.nan, "f4")), "differs from the orig"),
        ({"lstm": {}, "char_cnn": 3}, damaged(), "lstm.projection_dim is None"),
    ],
)
def test_files_that_contradict_each_other_are_refused(tmp_path, capsys, made_of, arrays, complaint):
    source = write_original(tmp_path / "original", made_of, arrays)
    refuses(tmp_path, source, complaint=complaint, capsys=capsys)


def test_a_truncated_file_is_refused(tmp_path, capsys, original):
    whole = (original / "weights.hdf5").read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 1):
        (original / "weights.hdf5").write_bytes(whole[:size])
        complaint = "is not a complete HDF5 file" if size else "expected one HDF5 file"
        refuses(tmp_path, original, complaint=complaint, capsys=capsys)


def test_data_in_other_files_or_only_claimed_are_refused(tmp_path, capsys, original):
    with h5py.File(original / "weights.hdf5", "a") as file:
        del file["char_embed"]
        file.create_dataset("char_embed", (1 << 40, 4), "f4", chunks=(1024, 4))
    refuses(tmp_path, original, complaint="claims 17592186044416 bytes", capsys=capsys)
    secret = tmp_path / "original/secret"
    secret.write_bytes(bytes(261 * 4 * 4))
    with h5py.File(original / "weights.hdf5", "a") as file:
        del file["char_embed"]
        file.create_dataset("char_embed", (261, 4), "f4", external=[(str(secret), 0, 4176)])
    refuses(tmp_path, original, complaint="points to another file", capsys=capsys)


@pytest.mark.parametrize("name", ["../evil.json", "/etc/evil.json", "a/../../evil.json", "C:\\e"])
def test_archives_that_reach_outside_are_refused(tmp_path, capsys, name):
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        archive.writestr(name, "{}")
    refuses(tmp_path, tmp_path / "m.zip", complaint="outside the archive", capsys=capsys)
    with tarfile.open(tmp_path / "m.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    refuses(tmp_path, tmp_path / "m.tar", complaint="outside the archive", capsys=capsys)


def test_a_zip_bomb_is_not_unpacked(tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "m.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("options.json", b" " * (64 << 20))
    refuses(tmp_path, tmp_path / "m.zip", complaint="100 times its size", capsys=capsys)


def test_damaged_and_other_files_are_refused(tmp_path, capsys, original):
    refuses(tmp_path, tmp_path / "nowhere", complaint="does not exist", capsys=capsys)
    refuses(
        tmp_path, original / "weights.hdf5", complaint="neither a folder nor a zip", capsys=capsys
    )
    with zipfile.ZipFile(tmp_path / "m.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(original / "weights.hdf5", "weights.hdf5")
        archive.write(original / "options.json", "options.json")
    whole = bytearray((tmp_path / "m.zip").read_bytes())
    whole[len(whole) // 3] ^= 255
    (tmp_path / "m.zip").write_bytes(whole)
    refuses(tmp_path, tmp_path / "m.zip", complaint="damaged archive", capsys=capsys)
    (original / "options.json").write_text("{'lstm': 3")
    refuses(tmp_path, original, complaint="not readable JSON", capsys=capsys)


def test_several_candidates_are_refused_until_one_is_chosen(tmp_path, capsys, original):
    (original / "other.hdf5").write_bytes((original / "weights.hdf5").read_bytes())
    refuses(tmp_path, original, complaint="several candidates", capsys=capsys)
    named = ["--weights", original / "other.hdf5", original]
    assert main([str(a) for a in (*named, tmp_path / "ours")]) == 0


def test_token_input_needs_its_vocabulary(tmp_path, capsys):
    arrays = random_arrays(token_options())
    source = write_original(tmp_path / "original", token_options(), arrays)
    refuses(tmp_path, source, complaint="--vocab FILE", capsys=capsys)
    (source / "words.txt").write_text("\n".join(WORDS[:-1]))
    named = ["--vocab", source / "words.txt", source]
    refuses(tmp_path, *named, complaint="has 9 words, but the weights have 10", capsys=capsys)


def test_models_that_the_original_format_cannot_represent_are_refused(tmp_path, capsys):
    from elmo_hf import ElmoConfig

    tiny = {"cell_dim": 8, "projection_dim": 8, "filters": [[1, 4]], "vocab_size": 262}
    for changes, complaint in (
        ({"vocab_size": 70}, "UTF-8 bytes"),
        ({"word_vocab_size": 5, "word_embedding_dim": 2}, "combine a word table"),
        ({"lstm_projection": True}, "only between different widths"),
    ):
        folder = tmp_path / complaint
        ElmoModel(ElmoConfig(**{**tiny, **changes})).save_pretrained(folder)
        refuses(tmp_path, folder, "--to-hdf5", complaint=complaint, capsys=capsys)


def test_raw_text_is_split_as_the_training_text_of_the_published_weights(tmp_path, original):
    record = convert(original, tmp_path / "ours")
    assert record["word_splitter"] == "billion-words"
    tokenizer = ElmoTokenizer.from_pretrained(tmp_path / "ours")
    assert tokenizer.tokenize("A long-term U.S. plan.") == ["A", "long-term", "U.S.", "plan", "."]


def test_another_word_splitter_survives_the_original_format(tmp_path, capsys, original):
    convert(original, tmp_path / "ours")
    tokenizer = ElmoTokenizer.from_pretrained(tmp_path / "ours")
    tokenizer.word_splitter = "whitespace"
    tokenizer.save_pretrained(tmp_path / "ours")
    convert_back(tmp_path / "ours", tmp_path / "back")
    record = convert(tmp_path / "back", tmp_path / "again")
    assert record["word_splitter"] == "whitespace"
    assert record["notes"] == []
    assert ElmoTokenizer.from_pretrained(tmp_path / "again").word_splitter == "whitespace"
    (original / "options.json").write_text(json.dumps(options() | {"word_splitter": "sentences"}))
    complaint = "word_splitter is 'sentences'; expected"
    refuses(tmp_path, original, complaint=complaint, capsys=capsys)
