"""Noise: lists of misspellings, determinism, error rates, and how far vectors move."""

import lzma

import numpy as np
import pytest
from helpers.vectors import noisy, vector

from elmo_hf.analysis import (
    ChangeCase,
    MisspellWords,
    ReplaceCharacters,
    measure_noise,
    read_misspellings,
)

TEXT = "The river rose because it rained , and Because the RIVER rose ."
SENTENCE = TEXT.split()
CODESPELL = (
    "rivr->river\nriber->river, fibre,\nteh->the\nbe cause->because\nclas->class, a name in C\n"
)
CHARNMT = "because becaus becouse\nPolina P?lina Plina\n"
TOEFL = (
    "Filename\tOffsetSpan\tMisspelling\tType\tCorrection\n"
    "1\t2-3\tbeacuse\tM\tbecause\n1\t5-9\tOfcourse\tM\tOf course\n2\t2-3\tbeacuse\tM\tbecause\n"
)


def test_lists_are_read_in_three_formats_and_joined(tmp_path):
    files = [tmp_path / "codespell.txt.xz", tmp_path / "en.natural", tmp_path / "Annotations.tsv"]
    files[0].write_bytes(lzma.compress(CODESPELL.encode()))
    files[1].write_text(CHARNMT)
    files[2].write_text(TOEFL)
    assert read_misspellings(files[0]) == {
        "river": ["rivr", "riber"], "fibre": ["riber"], "the": ["teh"], "class": ["clas"]
    }  # fmt: skip
    found = read_misspellings(*files)
    assert found["because"] == ["becaus", "becouse", "beacuse", "beacuse"]
    assert found["Polina"] == ["Plina"] and "Of course" not in found


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("rivr->river\nrivr river\n", r"line 2, is 'rivr river'; expected .* first line"),
        ("river rivr\nbecause\n", "line 2, is 'because'"),
        (TOEFL + "1\t2-3\n", "line 5"),
        ("", "holds no pair"),
        ("a b->ab\n", "holds no pair"),
        (TEXT, "is no list of misspellings: .* 'The' and 'river', begin with"),
    ],
)
def test_damaged_lists_are_refused(tmp_path, content, complaint):
    (tmp_path / "list").write_text(content)
    with pytest.raises(ValueError, match=complaint):
        read_misspellings(tmp_path / "list")


def test_words_with_listed_misspellings_are_replaced_and_keep_their_capitals():
    noise = MisspellWords({"river": ["rivr"], "because": ["becaus"], "Rose": ["rosse"]})
    expected = "The rivr rose becaus it rained , and Becaus the RIVR rose ."
    assert noise(SENTENCE) == expected.split()
    assert noise.find("Rose") == ["rosse"] and noise.find("it") == []
    assert noise.cover([SENTENCE, []]) == 4 / 13
    assert np.isnan(noise.cover([]))


def test_a_larger_probability_replaces_the_same_words_and_more():
    listed = {word: [word + "x", word + "y"] for word in SENTENCE}
    texts = [[*SENTENCE, str(i)] for i in range(100)]
    made = [[MisspellWords(listed, p)(words) for words in texts] for p in (0.3, 0.6, 1.0)]
    shares = [np.mean(np.array(texts) != np.array(noised)) for noised in made]
    assert shares == pytest.approx([0.3 * 13 / 14, 0.6 * 13 / 14, 13 / 14], abs=0.03)
    for words, *versions in zip(texts, *made, strict=True):
        for word, few, more, all_ in zip(words, *versions, strict=True):
            assert few in (word, more) and more in (word, all_)


def test_noise_depends_on_the_sentence_and_the_seed_only():
    texts = [[*SENTENCE, str(i)] for i in range(5)]
    noise = ReplaceCharacters(0.2)
    once = [noise(words) for words in texts]
    assert [noise(words) for words in reversed(texts)][::-1] == once
    assert [ReplaceCharacters(0.2, seed=1)(words) for words in texts] != once
    assert once[0][:13] != once[1][:13]  # the words differ in the last one only


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_characters_are_replaced_at_the_rate(rate):
    pytest.importorskip("textnoisr")
    texts = [[*SENTENCE, str(i)] for i in range(300)]
    noise = ReplaceCharacters(rate)
    edits = sum(distance(a, b) for words in texts for a, b in zip(words, noise(words), strict=True))
    assert edits / sum(len(word) for words in texts for word in words) == pytest.approx(
        rate, rel=0.12
    )
    assert all(all(noise(["a", "I", "."])) for _ in range(50))  # no word is lost
    assert ReplaceCharacters(0.0)(SENTENCE) == SENTENCE


def distance(a, b):
    """Levenshtein's distance."""
    row = [*range(len(b) + 1)]
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def test_case_is_changed():
    words = ["McDonald", "n't", "RIVER", "."]
    assert ChangeCase("lower")(words) == ["mcdonald", "n't", "river", "."]
    assert ChangeCase("upper")(words) == ["MCDONALD", "N'T", "RIVER", "."]
    assert ChangeCase("title")(words) == ["Mcdonald", "N't", "River", "."]


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: ReplaceCharacters(5), "rate is 5; expected a share of the characters"),
        (lambda: MisspellWords({}, 2), "probability is 2; expected a number from 0 to 1"),
        (lambda: ChangeCase("snake"), "case is 'snake'; expected one of lower, upper, title"),
        (lambda: MisspellWords({})("one text"), "words is one string, 'one text'"),
        (lambda: measure_noise(noisy(), [SENTENCE], list), "changes none of these 13 words"),
        (lambda: measure_noise(noisy(), [SENTENCE], sorted_set), "makes 12 words of 13"),
    ],
)
def test_wrong_arguments_are_refused(make, complaint):
    with pytest.raises(ValueError, match=complaint):
        make()


def sorted_set(words):
    return sorted({*words})


def test_moved_vectors_equal_a_loop():
    def noise(words):
        return ["X" if word == "river" else word for word in words]

    texts = [SENTENCE, ["the", "river"], ["no", "change"], []]
    found = measure_noise(noisy(), texts, noise)
    assert found.share == 2 / 17
    changed, kept = [], []
    for words in texts[:2]:
        for word, other in zip(words, noise(words), strict=True):
            rows = [vector(f"{w} {s} 1", 6) for w, s in ((word, words), (other, noise(words)))]
            cosine = rows[0] @ rows[1] / np.linalg.norm(rows[0]) / np.linalg.norm(rows[1])
            (kept if word == other else changed).append(cosine)
    assert found.changed["layer 1"].value == pytest.approx(np.mean(changed), abs=1e-5)
    assert found.kept["layer 1"].value == pytest.approx(np.mean(kept), abs=1e-5)
    assert found.kept["layer 1"].n == 13 and found.kept["layer 0"].value == pytest.approx(1)
    assert abs(found.changed["layer 1"].floor) < 0.5
    assert measure_noise(noisy(), texts, ChangeCase("upper")).kept["layer 0"].n == 3  # , RIVER .


def test_the_floor_is_that_of_random_words():
    texts = [[f"w{i}", f"v{i}", "x"] for i in range(500)]
    found = measure_noise(noisy(), texts, lambda words: [*words[:2], "y"])
    third = 1 / 3  # pairs of equal words: x and x
    assert found.changed["layer 0"].floor == pytest.approx(third**2, abs=0.03)
