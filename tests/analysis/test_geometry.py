"""Ethayarajh's measures against loops over every pair."""

import itertools

import numpy as np
import pytest
from helpers.vectors import noisy, vector

from elmo_hf.analysis.geometry import measure_geometry

SENTENCES = [
    ["the", "bank", "rose"],
    ["the", "bank"],
    ["bank", "the", "the", "."],
    ["one"],
    [],
    ["a", "rose", "."],
]


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def by_word(layer):
    found = {}
    for words in SENTENCES:
        for word, row in zip(words, next(noisy()([words]))[layer], strict=True):
            found.setdefault(word, []).append(row.astype(float))
    return [rows for rows in found.values() if len(rows) >= 3]


@pytest.mark.parametrize("layer", [0, 1])
def test_measures_equal_loops(layer):
    found = measure_geometry(noisy(), SENTENCES, min_contexts=3)
    name = f"layer {layer}"
    groups = by_word(layer)
    assert len(groups) == 2
    similar = [
        np.mean([cosine(a, b) for a, b in itertools.combinations(rows, 2)]) for rows in groups
    ]
    assert found.self_similarity[name].value == pytest.approx(np.mean(similar), abs=1e-5)
    explained = []
    for rows in groups:
        values = np.linalg.eigvalsh(np.transpose(rows) @ rows)
        explained.append(values[-1] / values.sum())
    assert found.explained_variance[name].value == pytest.approx(np.mean(explained), abs=1e-5)
    inside = []
    for words in SENTENCES:
        if len(words) > 1:
            rows = next(noisy()([words]))[layer].astype(float)
            inside.append(np.mean([cosine(row, rows.mean(0)) for row in rows]))
    assert found.intra_sentence_similarity[name].value == pytest.approx(np.mean(inside), abs=1e-5)
    assert found.intra_sentence_similarity[name].n == len(inside)
    assert found.self_similarity[name].floor == found.anisotropy[name].value


def test_without_context_a_word_is_always_the_same():
    found = measure_geometry(noisy(), SENTENCES, min_contexts=2)
    for measure in (found.self_similarity, found.explained_variance):
        assert measure["layer 0"].value == pytest.approx(1)
        assert measure["layer 1"].value < 0.99


def test_the_anisotropy_is_the_mean_cosine_of_random_words():
    sentences = [[f"w{i}", f"v{i}"] for i in range(400)] + [["w0"], ["w0"]]
    found = measure_geometry(noisy(1, 3), sentences, min_contexts=3).anisotropy["layer 0"]
    words = np.stack([vector(f"{word}  0", 3) for s in sentences for word in s])
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    total = words.sum(0)
    exact = (total @ total - len(words)) / (len(words) * (len(words) - 1))
    assert found.n == 401 and found.low < exact < found.high


def test_text_without_repeated_words_is_refused():
    with pytest.raises(ValueError, match=r"no word occurs 5 times in these 2 sentences; pass more"):
        measure_geometry(noisy(), [["a"], ["b"]])
