"""Tests of cross-lingual alignments, and of files of vectors that are not models."""

import h5py
import numpy as np
import pytest
import torch
from helpers.originals import options, random_arrays, write_original
from helpers.torch_originals import refuses, write_bite

from conversion.convert import main
from elmo_hf import ElmoModel, ElmoTokenizer
from elmo_hf.conversion.alignment import align, is_alignment, load_alignment, read_alignment
from elmo_hf.conversion.convert import convert
from elmo_hf.conversion.tables import WeightsError


@pytest.fixture
def original(tmp_path):
    return write_original(tmp_path / "original", options(), random_arrays(options()))


def matrix(seed, size=24, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal((size, size)).astype(dtype)


def test_published_matrices_beside_the_weights_are_kept_by_layer(tmp_path, original):
    torch.save(matrix(1), original / "es_best_mapping.pth")
    torch.save(torch.from_numpy(matrix(2)), original / "es_2.pth")
    notes = convert(original, tmp_path / "ours")["notes"]
    assert sum("is stored as the alignment of layer" in note for note in notes) == 2
    alignment = load_alignment(tmp_path / "ours")
    assert alignment.keys() == {1, 2}
    np.testing.assert_array_equal(alignment[1], matrix(1))
    np.testing.assert_array_equal(alignment[2], matrix(2))


def test_aligned_layers_are_multiplied_by_the_transposed_matrix(tmp_path, original):
    torch.save(matrix(0, dtype=np.float64), tmp_path / "m.pth")
    arguments = ["--alignment", f"2={tmp_path / 'm.pth'}", original, tmp_path / "ours"]
    assert main([str(a) for a in arguments]) == 0
    model = ElmoModel.from_pretrained(tmp_path / "ours").eval()
    inputs = ElmoTokenizer.from_pretrained(tmp_path / "ours")("a b", return_tensors="pt")
    with torch.no_grad():
        layers = model(**inputs, output_hidden_states=True).hidden_states
        aligned = align(layers, load_alignment(tmp_path / "ours"))
    assert aligned[0] is layers[0] and aligned[1] is layers[1]
    expected = np.matmul(layers[2].double().numpy(), matrix(0, dtype=np.float64).transpose())
    np.testing.assert_allclose(aligned[2], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "content", "complaint"),
    [
        ((), {"es_best_mapping.pth": matrix(0, 7)}, "of width 7; the model's width is 24"),
        ((), {"es_5.pth": matrix(0)}, "is for layer 5; the model has 3 layers"),
        ((), {"odd.pth": matrix(0)}, "its name shows no layer"),
        ((), {"a_1.pth": matrix(0), "b_best_mapping.pth": matrix(1)}, "both alignments of layer 1"),
    ],
)
def test_matrices_that_do_not_fit_are_refused(
    tmp_path, original, capsys, arguments, content, complaint
):
    for name, array in content.items():
        torch.save(array, original / name)
    refuses(tmp_path, *arguments, original, complaint=complaint, capsys=capsys)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (np.ones((2, 3), np.float32), "expected a square matrix"),
        (np.ones((2, 2), np.int64), "holds a ndarray|never run"),
        (np.full((2, 2), np.nan), "infinite numbers or NaN"),
        ({"a": torch.ones(2, 2)}, "holds a dict"),
    ],
)
def test_other_objects_are_no_alignment(tmp_path, content, complaint):
    torch.save(content, tmp_path / "m.pth")
    assert not is_alignment(tmp_path / "m.pth")
    with pytest.raises(WeightsError, match=complaint):
        read_alignment(tmp_path / "m.pth")


def test_code_in_a_matrix_is_not_run(tmp_path):
    bitten = write_bite(tmp_path / "es_best_mapping.pth")
    with pytest.raises(WeightsError, match="never run"):
        read_alignment(tmp_path / "es_best_mapping.pth")
    assert not bitten.exists()


def test_a_folder_without_alignment_says_how_to_get_one(tmp_path, original):
    convert(original, tmp_path / "ours")
    with pytest.raises(WeightsError, match="convert with --alignment LAYER=FILE"):
        load_alignment(tmp_path / "ours")


@pytest.mark.parametrize(
    ("datasets", "complaint"),
    [
        ({"embedding": np.ones((9, 12), "f4")}, "a dump of word vectors (bilm-tf's dump_token_"),
        ({"0": np.ones((2, 3, 4), "f4"), "1": np.ones((2, 5, 4), "f4")}, "the vectors of 2 sent"),
    ],
)
def test_files_of_vectors_are_distinguished_from_weights(tmp_path, capsys, datasets, complaint):
    folder = tmp_path / "vectors"
    folder.mkdir()
    with h5py.File(folder / "vectors.hdf5", "w") as file:
        for name, array in datasets.items():
            file[name] = array
    refuses(tmp_path, folder, complaint=complaint, capsys=capsys)
