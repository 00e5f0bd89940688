"""Nearest contexts against a sort of all cosines."""

import numpy as np
import pytest
from helpers.vectors import noisy

from elmo_hf.analysis.neighbors import Nearest, nearest_contexts
from elmo_hf.analysis.similarity import WordInSentence

TEXT = [["the", "bank", "rose"], [], ["bank", "."], ["a", "rose", "bank"], ["no", "such", "word"]]
QUERY = WordInSentence(["my", "bank"], 1)


@pytest.mark.parametrize("same_word", [False, True])
def test_the_nearest_words_of_each_layer(same_word):
    source = noisy()
    query = next(source([QUERY.words]))[:, 1]
    found = nearest_contexts(source, QUERY, iter(TEXT), count=2, same_word=same_word)
    for layer, nearest in enumerate(found.values()):
        every = [
            (-round(float(cosine(row, query[layer])), 6), number, position)
            for number, words in enumerate(TEXT)
            for position, row in enumerate(next(source([words]))[layer])
            if words[position] == "bank" or not same_word
        ]
        kept = [(one.cosine, one.sentence, one.place.position) for one in nearest.neighbors]
        wanted = sorted(every)[:2]  # in layer 0, all places of "bank" are equally near
        assert [one[1:] for one in kept] == [one[1:] for one in wanted]
        np.testing.assert_allclose([one[0] for one in kept], [-one[0] for one in wanted], atol=1e-6)
        assert nearest.neighbors[0].place.word == TEXT[kept[0][1]][kept[0][2]]
        assert nearest.compared == len(every)
        assert nearest.mean == pytest.approx(-np.mean([one[0] for one in every]), abs=1e-6)


def test_memory_is_bounded():
    nearest = Nearest(np.ones(2), 3)
    for number in range(20):
        nearest.add(number, ["a", "b"], np.array([[1, number], [0, 1]]))
        assert len(nearest.neighbors) == min(2 * number + 2, 3)
    assert [one.sentence for one in nearest.neighbors] == [1, 2, 3]
    assert np.isnan(Nearest(np.ones(2), 3).mean)


def cosine(one, other):
    return one @ other / np.linalg.norm(one) / np.linalg.norm(other)
