"""The alignment of two languages: anchors, the rotation, translations."""

import numpy as np
import pytest
import torch
from scipy.stats import ortho_group

from elmo_hf import ElmoConfig, ElmoModel, ElmoTokenizer
from elmo_hf.analysis import (
    AlignedVectors,
    Anchors,
    ElmoVectors,
    StaticVectors,
    find_anchors,
    learn_alignment,
    translate,
)
from elmo_hf.conversion.alignment import align, load_alignment, store_alignment
from elmo_hf.conversion.tables import WeightsError
from elmo_hf.embedder import ElmoEmbedder

TINY = {"cell_dim": 12, "projection_dim": 6, "filters": [[1, 4], [2, 5]], "char_embedding_dim": 3}
WORDS = [f"w{i}" for i in range(60)]


def anchors(seed=0, layers=2, width=8, words=WORDS):
    rng = np.random.default_rng(seed)
    return Anchors([*words], rng.standard_normal((layers, len(words), width)).astype("f4"))


class Rows:
    """A source that gives every sentence the same vectors."""

    name, layers = "rows", ["layer 0", "layer 1"]

    def __init__(self, rows):
        self.rows = rows

    def __call__(self, sentences):
        return iter([self.rows for _ in sentences])


@pytest.fixture
def rotated():
    """Anchors, the same ones rotated under other names, and the rotations of both layers."""
    own = anchors()
    rotations = ortho_group.rvs(8, size=2, random_state=1).astype("f4")
    vectors = np.stack([rows @ turn.T for rows, turn in zip(own.vectors, rotations, strict=True)])
    return own, Anchors([f"v{i}" for i in range(60)], vectors), rotations


def test_a_rotation_is_recovered_and_translates_every_word(rotated):
    own, other, rotations = rotated
    pairs = [(f"w{i}", f"v{i}") for i in range(20)]
    alignment = learn_alignment(own, other, [*pairs, ("unknown", "v1")])
    for layer, rotation in enumerate(rotations):
        np.testing.assert_allclose(alignment[layer], rotation, atol=1e-4)
        assert translate(own, other, WORDS, layer, alignment, count=1) == [
            [f"v{i}"] for i in range(60)
        ]
    # Without the alignment the words are at chance.
    guessed = translate(own, other, WORDS, 0, count=1)
    assert sum(found == [f"v{i}"] for i, found in enumerate(guessed)) < 10


def test_directions_are_rotated_apart(rotated):
    own, other, _ = rotated
    pairs = [(f"w{i}", f"v{i}") for i in range(60)]
    matrix = learn_alignment(own, other, pairs, directions=True)[0]
    assert not matrix[:4, 4:].any() and not matrix[4:, :4].any()
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(8), atol=1e-5, rtol=0)
    assert not torch.allclose(matrix, learn_alignment(own, other, pairs)[0])


def test_further_rounds_repair_a_bad_dictionary(rotated):
    own, other, rotations = rotated
    pairs = [(f"w{i}", f"v{i}") for i in range(14)] + [
        (f"w{i}", f"v{i + 1}") for i in range(20, 24)
    ]
    first, last = (learn_alignment(own, other, pairs, rounds=rounds)[0] for rounds in (0, 3))
    assert np.abs(first.numpy() - rotations[0]).max() > 0.1
    np.testing.assert_allclose(last, rotations[0], atol=1e-4)


def test_anchors_are_the_means_of_a_words_vectors():
    torch.manual_seed(0)
    model = ElmoModel(ElmoConfig(**TINY)).eval()
    vectors = ElmoVectors(ElmoEmbedder(model, ElmoTokenizer()))
    sentences = [["The", "river", "rose"], ["the", "the"], ["A", "river"]]
    found = find_anchors(vectors, sentences, min_count=2)
    assert found.words == ["the", "river"] and found.vectors.shape == (3, 2, 12)
    first, second, third = vectors(sentences)
    river = (first[:, 1] + third[:, 1]) / 2
    np.testing.assert_allclose(found.vectors[:, 1], river, atol=1e-6)
    the = (first[:, 0] + second[:, 0] + second[:, 1]) / 3
    np.testing.assert_allclose(found.vectors[:, 0], the, atol=1e-6)


def test_a_learned_alignment_is_stored_with_the_model_and_maps_its_vectors(tmp_path, rotated):
    own, other, _ = rotated
    ElmoConfig(**TINY | {"projection_dim": 4}).save_pretrained(tmp_path)
    alignment = learn_alignment(own, other, [(f"w{i}", f"v{i}") for i in range(60)])
    store_alignment(tmp_path, alignment)
    layers = [torch.from_numpy(rows) for rows in own.vectors]
    mapped = align(layers, load_alignment(tmp_path))
    np.testing.assert_allclose(torch.stack(mapped), other.vectors, atol=1e-4)
    aligned = AlignedVectors(Rows(own.vectors), load_alignment(tmp_path))
    assert (aligned.name, aligned.layers) == ("rows, aligned", ["layer 0", "layer 1"])
    np.testing.assert_allclose(next(aligned([WORDS])), other.vectors, atol=1e-4)
    for wrong, message in (
        ({3: torch.eye(8)}, "layer 3; the model has 3 layers"),
        ({0: torch.eye(6)}, "of width 6; the model's width is 8"),
        ({}, "no matrix"),
    ):
        with pytest.raises(WeightsError, match=message):
            store_alignment(tmp_path, wrong)
    assert load_alignment(tmp_path).keys() == {0, 1}


def test_what_cannot_be_aligned_is_refused():
    own = anchors()
    with pytest.raises(ValueError, match="2 layers of 8 and 3 layers of 8; expected equal layers"):
        learn_alignment(own, anchors(layers=3), [("w1", "w1")])
    with pytest.raises(ValueError, match="1 of 2 pairs have anchors for both words"):
        learn_alignment(own, own, [("w1", "w1"), ("W2", "w2")])
    with pytest.raises(ValueError, match="no anchor for river; leave"):
        translate(own, own, ["w1", "river"], 0)
    with pytest.raises(ValueError, match=r"has layers \[0\], not 1"):
        translate(own, own, ["w1"], 1, {0: torch.eye(8)})
    with pytest.raises(ValueError, match="no word occurs 5 times"):
        find_anchors(StaticVectors, [["a", "b"]])
