"""Nearest contexts against a sort of all cosines."""

import numpy as np
import pytest
from helpers.vectors import noisy

from elmo_hf.analysis.neighbors import nearest_contexts
from elmo_hf.analysis.similarity import Place

TEXT = [["the", "bank", "rose"], [], ["bank", "."], ["a", "rose", "bank"], ["no", "such", "word"]]
QUERY = Place(["my", "bank"], 1)


@pytest.mark.parametrize("same_word", [False, True])
def test_the_nearest_words_of_each_layer(same_word):
    source = noisy()
    query = next(source([QUERY.words]))[:, 1]
    for layer, found in enumerate(
        nearest_contexts(source, QUERY, iter(TEXT), count=2, same_word=same_word).values()
    ):
        best = []
        for number, words in enumerate(TEXT):
            rows = next(source([words]))[layer]
            cosines = rows @ query[layer] / np.linalg.norm(rows, axis=1)
            cosines /= np.linalg.norm(query[layer])
            allowed = [i for i, word in enumerate(words) if word == "bank" or not same_word]
            if allowed:
                index = max(allowed, key=cosines.__getitem__)
                best.append((-round(float(cosines[index]), 6), number, index))
        wanted = sorted(best)[:2]
        assert [(one.sentence, one.place.position) for one in found] == [one[1:] for one in wanted]
        np.testing.assert_allclose(
            [one.cosine for one in found], [-one[0] for one in wanted], atol=1e-6
        )
        assert found[0].place.words == TEXT[found[0].sentence]
