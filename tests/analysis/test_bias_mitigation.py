"""Swap averages and LEACE: what they remove, and what fresh classifiers still find."""

import numpy as np
import pytest
from helpers.vectors import Given, noisy, vector
from sklearn.linear_model import LogisticRegression

from elmo_hf.analysis.bias_data import PersonSentence
from elmo_hf.analysis.bias_mitigation import (
    Erased,
    SwapAverages,
    fit_eraser,
    person_vectors,
    recover_gender,
    swap_gender,
)

SWAPS = {"he": "she", "she": "he", "him": "her", "his": "her", "king": "queen"}


@pytest.mark.parametrize(
    "text, swapped",
    [
        ("He met the King .", "She met the Queen ."),
        ("she lost her book", "he lost his book"),
        ("they saw her and left her .", "they saw him and left him ."),
        ("Her win", "His win"),
        ("they saw him", "they saw her"),
        ("", ""),
    ],
)
def test_gender_is_swapped_word_by_word(text, swapped):
    assert swap_gender(text.split(), SWAPS) == swapped.split()


def test_swap_averages_are_the_mean_of_both_sentences():
    source = noisy(layers=2)
    rows = [*SwapAverages(source, SWAPS)([["he", "left"], ["rain"]])]
    first, second = source([["he", "left"], ["she", "left"]])
    np.testing.assert_allclose(rows[0], (first + second) / 2)
    np.testing.assert_allclose(rows[1], next(source([["rain"]])))
    (twin,) = SwapAverages(source, SWAPS)([["she", "left"]])
    np.testing.assert_allclose(twin, rows[0])


def test_no_linear_classifier_finds_what_leace_erased():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400, 8)).astype(np.float32)
    labels = rows[:, 0] + 0.5 * rows[:, 1] > 0
    rows[:, 2] += labels
    erased = fit_eraser(rows, labels)(rows)
    assert LogisticRegression().fit(rows, labels).score(rows, labels) > 0.95
    assert LogisticRegression().fit(erased, labels).score(erased, labels) < 0.6
    assert erased.dtype == np.float32 and erased.shape == rows.shape
    differences = erased[labels].mean(0) - erased[~labels].mean(0)
    np.testing.assert_allclose(differences, 0, atol=1e-5)
    np.testing.assert_allclose(erased[:, 5], rows[:, 5], atol=0.2)  # the rest stays nearly as it is


def gendered(jobs):
    """A source in which a job's vector tells the pronoun's gender and the job's stereotype."""

    def compute(words):
        shift = {"she": 1.0, "he": -1.0}[words[1]]
        noise = [vector(f"{word} {words}", 4) * 0.1 for word in words]
        return [[[shift, jobs.get(word, 0), *row] for word, row in zip(words, noise, strict=True)]]

    return Given(1, compute)


def test_what_fresh_classifiers_recover():
    jobs = {f"job{i}": i % 2 == 0 for i in range(10)}
    sentences = [
        PersonSentence([job, pronoun, str(i)], 0, job, pronoun == "she")
        for job in jobs
        for pronoun in ("he", "she")
        for i in range(3)
    ]
    source = gendered({job: 1.0 if female else -1.0 for job, female in jobs.items()})
    plain = recover_gender(source, sentences, sentences, jobs)["layer 0"]
    assert plain.linear.value == plain.kernel.value == plain.stereotype.value == 1
    assert (plain.linear.n, plain.stereotype.n) == (60, 10)
    rows = person_vectors(source, sentences)
    assert rows.shape == (1, 60, 6)
    erased = Erased(source, [fit_eraser(rows[0], [s.is_female for s in sentences])])
    found = recover_gender(erased, sentences, sentences, jobs)["layer 0"]
    assert found.linear.value < 0.7 and found.stereotype.value == 1  # the stereotype stays
    found = recover_gender(SwapAverages(source, SWAPS), sentences, sentences, jobs)["layer 0"]
    assert found.linear.value == found.kernel.value == 0.5
