"""The benchmark of the alignment: its dictionary seeds, its test list and its page."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_seeds_are_words_that_are_spelled_alike():
    import cross_lingual_words as words

    portuguese = ["nação", "rapidamente", "as", "1866", "família", "maria", "casa", "physica"]
    english = ["nation", "rapidly", "as", "1866", "family", "maria", "case", "physics", "physical"]
    sentences = [["x", "Maria", "as"], ["x", "Maria"], ["As", "x"]]
    names = words.find_names(sentences)
    assert names == {"maria"}
    identical = words.find_identical(portuguese, english, names)
    assert identical == [("1866", "1866"), ("maria", "maria")]
    assert words.find_relatives(portuguese, english) == [
        ("nação", "nation"),
        ("rapidamente", "rapidly"),
        ("família", "family"),
        ("physica", "physical"),
    ]


def test_the_test_list_has_pairs_in_lower_case_and_none_twice():
    import cross_lingual_words as words

    lines = words.LIST.read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t") for line in lines if not line.startswith("#")]
    assert all(len(pair) == 2 and pair == [word.strip().lower() for word in pair] for pair in pairs)
    assert len({*map(tuple, pairs)}) == len(pairs) > 150
    listed = words.read_list()
    assert listed["house"] == {"casa"} and words.invert(listed)["casa"] == {"house", "home"}


def test_words_of_the_list_are_not_learned_from():
    import cross_lingual as benchmark
    import numpy as np

    from elmo_hf.analysis import Anchors

    spelled = ["casa", "face", "nação", "animal"], ["house", "face", "nation", "animal"]
    anchors = {
        language: Anchors(words, np.zeros((1, 4, 2)))
        for language, words in zip(("pt", "en"), spelled, strict=True)
    }
    assert benchmark.find_seeds(anchors, {"pt": [], "en": []}) == (
        [("animal", "animal")],  # "face" is in the list
        [("nação", "nation")],
    )


def test_the_page_has_a_row_per_alignment():
    import cross_lingual_report

    def estimates(*names):
        one = {"value": 0.25, "low": 0.1, "high": 0.4, "n": 200, "floor": 0.2}
        return {name: one for name in names}

    layers = estimates("layer 0", "all layers")
    results = {
        "words": {"en": 1000, "pt": 2000},
        "anchors": {"en": 50, "pt": 60},
        "seeds": {"identical": 3, "relatives": 4, "endings": 5},
        "listed": [9, 10],
        "examples": [["real", "real"], ["nação", "nation"]],
        "translation": {"the most similar spelling": estimates("layer 0 first", "layer 0 of five")},
        "tagged": 20000,
        "tagging": {"English test part": layers, "Portuguese, not aligned": layers},
        "made": {"date": "today", "command": "x", "machine": {"processor": "y", "cores": 2}},
    }
    page = cross_lingual_report.markdown(results)
    assert "real, nação – nation." in page and "at least 2.00 %" in page.replace("\n", " ")
    assert "| the most similar spelling | 25.0 [10.0, 40.0] | 25.0 [10.0, 40.0] |" in page
    assert "| Portuguese, not aligned | 25.0 [10.0, 40.0] |" in page


def test_the_committed_page_shows_the_committed_figures():
    import cross_lingual_report

    results = json.loads((ROOT / "benchmarks/cross_lingual.json").read_text(encoding="utf-8"))
    page = (ROOT / "benchmarks/cross_lingual.md").read_text(encoding="utf-8")
    assert cross_lingual_report.markdown(results) == page
