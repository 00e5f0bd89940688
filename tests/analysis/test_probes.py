"""Probes find what is in the vectors; the control task shows what was memorized."""

import numpy as np
import pytest
from helpers.vectors import Given, vector

from elmo_hf.analysis.probes import Labelled, probe


def compute(words):
    """Layer 0 is the word; in layer 1 the first number says whether the word before is 'to'."""
    forms = np.array([vector(word, 12) for word in words])
    after = np.array([[word == "to"] for word in ["", *words[:-1]]], float)
    return np.stack([forms, np.concatenate([after, forms[:, 1:]], 1)])


def sentences(count, seed):
    """A word after 'to' is a verb, other words are nouns; 'to' itself has no label."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        words, labels = [], []
        for _ in range(rng.integers(1, 5)):
            verb, word = rng.random() < 0.4, f"w{rng.integers(30)}"
            words += ["to", word] if verb else [word]
            labels += [None, "VERB"] if verb else ["NOUN"]
        made.append(Labelled(words, labels))
    return made


def test_the_layer_that_knows_the_context_has_accuracy_and_selectivity():
    test = sentences(80, 1)
    found = probe(Given(2, compute), sentences(200, 0), test, words=300, seeds=(0, 1))
    labels = [label for one in test for label in one.labels if label]
    word, context = found["layer 0"], found["layer 1"]
    assert context.task.value == 1 and word.task.value < 0.75
    assert word.task.floor == labels.count("NOUN") / len(labels)
    assert context.task.n == len(test)
    for one in (word, context):
        assert one.selectivity.value == pytest.approx(one.task.value - one.control.value)
        assert one.selectivity.low <= one.selectivity.value <= one.selectivity.high
    assert context.selectivity.low > 0


def test_the_control_task_can_be_memorized_from_the_word():
    def one_hot(words):
        return [np.eye(31)[[int(word[1:]) if word != "to" else 30 for word in words]]]

    parts = sentences(200, 0), sentences(80, 1)
    found = probe(Given(1, one_hot), *parts, words=400, seeds=(0,), strengths=[0.1])
    assert found["layer 0"].control.value == 1
    assert found["layer 0"].selectivity.value < 0


def test_the_regularization_is_the_best_one_for_held_out_training_sentences():
    def by_word(words):
        return [[vector(word, 40) for word in words]]

    even = [Labelled(one.words, [f"{word[-1:]}" for word in one.words]) for one in sentences(80, 0)]
    assert (
        probe(Given(1, by_word), even, even[:9], strengths=[1e-9, 0.1])["layer 0"].strength == 0.1
    )


def test_two_words_are_enough():
    two = [Labelled(["a", "b"], ["X", "Y"])]
    found = probe(Given(2, compute), two, two, seeds=(0, 1, 2, 3))["layer 0"]
    assert (found.task.value, found.control.value, found.task.n) == (1, 1, 1)
    assert np.isnan(found.task.low)


def test_labels_that_do_not_fit_are_refused():
    source = Given(2, compute)
    with pytest.raises(ValueError, match="2 words have 1 labels: 'a b'"):
        probe(source, [Labelled(["a", "b"], ["X"])], [])
    with pytest.raises(ValueError, match="fewer than two different labels"):
        probe(source, [Labelled(["a"], ["X"])], [Labelled(["a"], ["X"])])
    with pytest.raises(ValueError, match="no word of the test sentences has a label"):
        probe(source, [Labelled(["a"], ["X"])], [Labelled(["a"], [None])])
