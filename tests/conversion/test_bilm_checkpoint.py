"""Tests of converting TensorFlow's training checkpoints without TensorFlow."""

import json
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from helpers.bundles import checkpoint_name, field, sorted_table, write_bundle, write_checkpoint
from helpers.gold import GOLD
from helpers.originals import (
    VARIANTS,
    WORDS,
    options,
    random_arrays,
    token_options,
    write_original,
)
from safetensors.torch import load_file

from conversion.convert import main
from elmo_hf import ElmoForPreTraining, ElmoTokenizer
from elmo_hf.conversion import tf_sorted_table
from elmo_hf.conversion.bilm_checkpoint import hdf5_name, read_checkpoint
from elmo_hf.conversion.convert import convert
from elmo_hf.conversion.tables import WeightsError
from elmo_hf.conversion.tf_bundle import Bundle
from elmo_hf.conversion.tf_sorted_table import masked_crc32c

INDEX, DATA = "model.ckpt-7.index", "model.ckpt-7.data-00001-of-00002"


@pytest.fixture
def checkpoint(tmp_path):
    arrays = random_arrays(options(), softmax=True)
    return write_checkpoint(tmp_path / "original", options(), arrays, vocab=True)


def converted(source, output):
    convert(source, output)
    return (output / "model.safetensors").read_bytes()


def refuses(tmp_path, source, complaint, capsys, *named):
    """The command fails with one clear error and leaves nothing behind."""
    before = sorted(tmp_path.iterdir())
    assert main([str(a) for a in (source, tmp_path / "output", *named)]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and complaint in errors[0], errors
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(name, marks=[pytest.mark.slow] * bool(number % 3))
        for number, name in enumerate(VARIANTS)
    ],
)
def test_every_variant_equals_its_hdf5_file(tmp_path, variant):
    made_of = VARIANTS[variant]
    arrays = random_arrays(made_of, softmax=True)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", made_of, arrays, vocab=True)
    hdf5 = write_original(tmp_path / "hdf5", made_of, arrays, vocab=True)
    expected = converted(hdf5, tmp_path / "from hdf5")
    assert converted(checkpoint, tmp_path / "from checkpoint") == expected
    for name in arrays:  # the table of names runs both ways
        assert checkpoint_name(hdf5_name(checkpoint_name(name))) == checkpoint_name(name)


def test_a_softmax_tied_to_the_word_table_becomes_a_table_of_its_own(tmp_path):
    arrays = random_arrays(token_options(), softmax=True)
    del arrays["softmax/W"]
    made_of = token_options(share_embedding_softmax=True)
    source = write_checkpoint(tmp_path / "original", made_of, arrays, vocab=True)
    record = convert(source, tmp_path / "ours")
    assert any("its own copy" in note for note in record["notes"])
    assert record["verification"]["differences"][-1]["name"] == "backward logits"
    model = ElmoForPreTraining.from_pretrained(tmp_path / "ours")
    table = model.elmo.embeddings.word_embeddings.weight
    assert torch.equal(model.lm_head.weight, table[1:])


def test_the_record_names_all_files_and_what_is_left_out(tmp_path, checkpoint):
    record = convert(checkpoint, tmp_path / "ours")
    assert record["source"]["format"] == "bilm-tf TensorFlow checkpoint"
    assert record["word_splitter"] == "billion-words"
    assert record["source"]["weights"]["file"] == INDEX
    assert [file["file"] for file in record["source"]["data"]][1] == DATA
    assert record["notes"] == ["33 variables of training (optimizer, counters) are left out"]
    assert ElmoTokenizer.from_pretrained(tmp_path / "ours").lm_vocab == WORDS


def test_a_zip_and_a_tar_equal_the_folder(tmp_path, checkpoint):
    expected = converted(checkpoint, tmp_path / "from folder")
    with zipfile.ZipFile(tmp_path / "m.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in checkpoint.iterdir():
            archive.write(path, f"deep/inside/{path.name}")
    with tarfile.open(tmp_path / "m.tar.gz", "w:gz") as archive:
        archive.add(checkpoint, "./elmo")
    assert converted(tmp_path / "m.zip", tmp_path / "from zip") == expected
    assert converted(tmp_path / "m.tar.gz", tmp_path / "from tar") == expected


def test_the_state_file_chooses_among_several_checkpoints(tmp_path, capsys, checkpoint):
    other = random_arrays(options(), seed=1, softmax=True)
    write_checkpoint(checkpoint, options(), other, step=9)
    newest = converted(checkpoint, tmp_path / "newest")
    assert newest != converted_by_name(checkpoint, INDEX, tmp_path / "named")
    (checkpoint / "checkpoint").unlink()
    refuses(tmp_path, checkpoint, "several candidates", capsys)


def converted_by_name(source, weights, output):
    assert main([str(source), str(output), "--weights", str(source / weights)]) == 0
    return (output / "model.safetensors").read_bytes()


def test_an_hdf5_file_beside_the_checkpoint_is_left_out_with_a_note(tmp_path, checkpoint):
    expected = converted(checkpoint, tmp_path / "alone")
    write_original(checkpoint, options(), random_arrays(options(), seed=1))
    assert converted(checkpoint, tmp_path / "both") == expected
    record = json.loads((tmp_path / "both/conversion.json").read_text())
    assert "weights.hdf5 is ignored: model.ckpt-7.index" in record["notes"][0]
    assert converted_by_name(checkpoint, "weights.hdf5", tmp_path / "named") != expected


def test_a_vocabulary_of_another_size_is_refused(tmp_path, capsys, checkpoint):
    (checkpoint / "vocab.txt").write_text("\n".join(WORDS[:-1]))
    refuses(tmp_path, checkpoint, "has 9 words, but the weights have 10 rows", capsys)


@pytest.mark.parametrize("piece", [1 << 24, 4])
def test_the_checksum_is_that_of_the_standard_masked_as_tensorflow_does(monkeypatch, piece):
    monkeypatch.setattr(tf_sorted_table, "PIECE", piece)
    masked = (0x8A9136AA >> 15 | 0x8A9136AA << 17 & 0xFFFFFFFF) + 0xA282EAD8 & 0xFFFFFFFF
    assert masked_crc32c(np.zeros(32, np.uint8)) == masked  # RFC 3720, appendix B.4


def test_without_the_checksums_package_the_error_says_what_to_install(
    monkeypatch, capsys, tmp_path
):
    source = write_checkpoint(tmp_path / "original", options(), random_arrays(options()))
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    refuses(tmp_path, source, "google_crc32c is not installed", capsys)


def test_every_kind_of_number_comes_back_bit_for_bit(tmp_path):
    values = np.random.default_rng(0).integers(0, 2, 24).reshape(2, 3, 4)
    kinds = ("f4", "f8", "i4", "u1", "i2", "i1", "i8", "?", "f2")
    variables = {f"variable of {kind}": values.astype(kind) for kind in kinds}
    variables |= {"a number": np.float32(3), "nothing": np.empty((0, 5), np.float32)}
    bundle = Bundle(write_bundle(tmp_path / "m", variables))
    assert bundle.variables.keys() == variables.keys()
    for name, array in variables.items():
        found = bundle.read(name)
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        assert found.tobytes() == array.tobytes()
        assert found.flags.aligned
    bundle.read("variable of f4")[:] = 7
    again = Bundle(tmp_path / "m.index").read("variable of f4")
    assert again.tobytes() == variables["variable of f4"].tobytes()  # the file did not change


def test_no_flipped_byte_and_no_cut_goes_unnoticed(tmp_path):
    variables = {f"lm/CNN/W_cnn_{i}": np.arange(i + 2, dtype="f4") for i in range(7)}
    index = write_bundle(tmp_path / "m", variables)
    for path in (index, tmp_path / "m.data-00000-of-00002"):
        whole = path.read_bytes()
        for at in range(len(whole)):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
            # Parts that are never read may change: the footer's padding and the metaindex block.
            assert not reads(index, variables) or (path == index and at > 200), at
            path.write_bytes(whole[:at])
            assert not reads(index, variables), at
        path.write_bytes(whole)


def reads(index, variables):
    """Return True if all variables read correctly, False on WeightsError."""
    try:
        bundle = Bundle(index)
        found = {name: bundle.read(name).tobytes() for name in bundle.variables}
    except WeightsError:
        return False
    assert found == {name: array.tobytes() for name, array in variables.items()}
    return True


@pytest.mark.parametrize(
    ("claims", "complaint"),
    [
        ({2: field(2, field(1, 1 << 50))}, "claims shape (1125899906842624,) in 12 bytes"),
        ({5: 1 << 40}, "claims shape (3,) in 1099511627776 bytes"),
        ({2: field(2, field(1, 1 << 38)), 5: 1 << 40}, "is cut off: it has 12 bytes"),
        ({4: 1 << 62}, "is cut off: it has 12 bytes"),
        ({4: (1 << 64) - 12}, "is cut off"),
        ({3: 5}, "m.data-00005-of-00001 is missing"),
        ({1: 7}, "has TensorFlow's type 7"),
        ({7: field(1, b"")}, "is stored in slices"),
        ({2: field(2, field(1, 1)) * 9}, "a variable has 9 dimensions"),
        ({2: field(2, 3)}, "is no TensorFlow V2 checkpoint"),
        ({4: b"far away"}, "field 4 is not an integer"),
    ],
)
def test_false_claims_of_an_index_are_refused(tmp_path, claims, complaint):
    index = write_bundle(tmp_path / "m", {"lm/v": np.ones(3, "f4")}, claims, shards=1)
    with pytest.raises(WeightsError) as error:
        read_checkpoint(index)
    assert complaint in str(error.value)


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        (sorted_table({b"": field(2, 1)}), "big-endian"),
        (sorted_table({b"": b""}, compression=1), "it is compressed (Snappy)"),
        (sorted_table({b"b": b"", b"a": b""}), "key b'a' does not come after b'b'"),
        (sorted_table({b"k" * 5000: b""}), "an entry reaches past its block"),
        (sorted_table({b"": b"\xff" * 12}), "a number has too many bytes"),
        (sorted_table({b"": field(1, b"x" * 9)[:-3]}), "a field reaches past its message"),
        (sorted_table({b"": b"\x0b"}), "a field of unknown kind 3"),
        (sorted_table({b"": b"", b"beta1_power": b""}), "is no language model"),
        (sorted_table({}), "is no language model"),
        (sorted_table({})[:-1], "not a complete TensorFlow index"),
        (bytes(1 << 24) + sorted_table({}), "an index of more than 16777216 bytes"),
    ],
)
def test_hostile_tables_are_refused(tmp_path, table, complaint):
    (tmp_path / "m.index").write_bytes(table)
    with pytest.raises(WeightsError) as error:
        read_checkpoint(tmp_path / "m.index")
    assert complaint in str(error.value)


def test_damaged_checkpoints_leave_one_error_and_no_output(tmp_path, capsys, checkpoint):
    for name, complaint in ((INDEX, "is truncated, or"), (DATA, "is cut off: it has 8000 bytes")):
        whole = (checkpoint / name).read_bytes()
        (checkpoint / name).write_bytes(whole[:8000] if name == DATA else whole[:-5])
        refuses(tmp_path, checkpoint, complaint, capsys)
        (checkpoint / name).write_bytes(whole)
    flipped = bytearray((checkpoint / DATA).read_bytes())
    flipped[50] ^= 1
    (checkpoint / DATA).write_bytes(flipped)
    refuses(tmp_path, checkpoint, "is damaged: the checksum of variable", capsys)
    named = ("--weights", checkpoint / DATA)
    refuses(tmp_path, checkpoint, "is a part of a TensorFlow checkpoint", capsys, *named)
    (checkpoint / DATA).unlink()
    refuses(tmp_path, checkpoint, f"{DATA} is missing; put it beside {INDEX}", capsys)


@pytest.mark.parametrize("name", ["tfckpt_chars", "tfckpt_tok"])
def test_every_variable_of_a_real_checkpoint_is_read_bit_for_bit(name):
    bundle = Bundle(GOLD / name / "model.ckpt-300.index")
    gold = np.load(GOLD / name / "vars.npz")
    assert set(bundle.variables) == set(gold.files) | {
        f"{variable}/Adagrad" for variable in gold.files if variable.startswith("lm/")
    }
    for variable in gold.files:
        found = bundle.read(variable)
        assert (found.dtype, found.shape) == (gold[variable].dtype, gold[variable].shape)
        assert found.tobytes() == gold[variable].tobytes()


def test_a_real_checkpoint_gives_the_weights_of_the_original_programs_dump(tmp_path):
    dump = GOLD / "tfckpt_chars/weights.hdf5"
    for name, weights in (("index", None), ("dump", dump)):
        convert(GOLD / "tfckpt_chars", tmp_path / name, weights=weights)
    language_model, bare = (
        load_file(tmp_path / name / "model.safetensors") for name in ("index", "dump")
    )
    for name, tensor in bare.items():
        assert torch.equal(language_model.pop(f"elmo.{name}"), tensor), name
    assert set(language_model) == {"lm_head.weight", "lm_head.bias"}
