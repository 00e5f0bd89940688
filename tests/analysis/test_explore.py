"""Sense maps, their pages, pictures and files, with vectors in which every number is known."""

import itertools
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from helpers.vectors import Given, noisy, vector

from elmo_hf.analysis import exports
from elmo_hf.analysis.exports import save_map, write_projector
from elmo_hf.analysis.figures import draw_heat_map, draw_map, draw_mixes, label
from elmo_hf.analysis.maps import draw_occurrences, find_occurrences, map_senses
from elmo_hf.analysis.page import Section, explain, write_page
from elmo_hf.analysis.similarity import WordInSentence

pytest.importorskip("plotly")
EVIL = ["</script><script>alert(1)</script>", "<img", "src=x", "onerror=alert(1)>", "&lt;b>"]
TEXT = [
    ["the", "bank", "rose", "."],
    ["a", "bank", "and", "a", "bank", "."],
    ["no", "word", "."],
    [*EVIL, "bank", "."],
    ["my", "bank", "lent", "."],
]
NUMBERED = [*enumerate(TEXT, 1)]
SENSES = ["river", "money\triver", "", "<img src=x onerror=alert(2)>", ""]


@pytest.fixture
def sense_map():
    return map_senses(noisy(3), find_occurrences(NUMBERED, ["bank"], SENSES))


def test_occurrences_are_found_with_their_senses():
    found = find_occurrences(NUMBERED, ["bank", "a"], [*SENSES[:1], "river", *SENSES[2:]])
    assert [(one.sentence, one.place.position, one.sense) for one in found] == [
        (1, 1, "river"),
        (2, 0, "river"),
        (2, 1, "river"),
        (2, 3, "river"),
        (2, 4, "river"),
        (4, 5, SENSES[3]),
        (5, 1, ""),
    ]


def test_occurrences_are_drawn_word_by_word():
    found = find_occurrences(NUMBERED, ["bank", "a"])
    some = draw_occurrences(found, 2, seed=1)
    assert [one.place.word for one in some].count("bank") == 2 and len(some) == 4
    assert some == draw_occurrences(found, 2, seed=1) == [one for one in found if one in some]
    assert draw_occurrences(found, 5) == found


@pytest.mark.parametrize(
    ("words", "senses", "complaint"),
    [
        ("bank", None, "pass a list of words, ['bank']"),
        (["Bank"], None, "'Bank' does not occur in the text; it has 'bank'"),
        (["bank", "lent"], None, "'lent' occurs only once"),
        (["bank"], SENSES[:4], "there are 4 lines of senses, but sentence 5"),
        (["bank", "a"], SENSES, "line 2 of the senses is 'money\\triver', but .* occur 4 times"),
    ],
)
def test_what_cannot_be_found_is_an_error(words, senses, complaint):
    with pytest.raises(ValueError, match=re.escape(complaint).replace(r"\.\*", ".*")):
        find_occurrences(NUMBERED, words, senses)


def test_points_lie_in_the_plane_of_all_layers(sense_map):
    rows = sense_map.vectors - sense_map.vectors.mean(1, keepdims=True)
    np.testing.assert_allclose(np.linalg.norm(sense_map.vectors, axis=-1), 1, atol=1e-6)
    axes = np.linalg.svd(np.concatenate([*rows]), full_matrices=False)[2][:2]
    expected = rows @ axes.T
    signs = np.sign((expected * sense_map.points).sum((0, 1)))  # those of an axis are arbitrary
    np.testing.assert_allclose(sense_map.points, expected * signs, atol=1e-5)
    np.testing.assert_allclose(sense_map.points[0], 0, atol=1e-6)
    shares = (expected**2).sum((1, 2)) / (rows**2).sum((1, 2)).clip(1e-9)
    assert np.isnan(sense_map.shown[0])
    np.testing.assert_allclose(sense_map.shown[1:], shares[1:], atol=1e-5)


def test_similarities_are_those_of_all_pairs(sense_map):
    cosines = np.einsum("lad,lbd->lab", sense_map.vectors, sense_map.vectors)
    pairs = [*itertools.combinations(range(5), 2)]
    means = [np.mean([layer[pair] for pair in pairs]) for layer in cosines]
    np.testing.assert_allclose(sense_map.self_similarity("bank"), means, atol=1e-6)
    for found, layer in zip(sense_map.nearest(2, 3)[1:], cosines[1:], strict=True):
        best = sorted(((layer[2, i], i) for i in (0, 1, 3, 4)), reverse=True)[:3]
        assert [i for _, i in found] == [i for _, i in best]
        np.testing.assert_allclose([one for one, _ in found], [one for one, _ in best], atol=1e-6)


def test_points_are_grouped_by_sense_then_word_then_cluster():
    def of(words, senses=None, source=None):
        return map_senses(source or noisy(), find_occurrences(NUMBERED, words, senses))

    given = of(["bank"], SENSES)
    assert given.kind == "sense" and given.groups[4] == "no sense given"
    assert given.members()["river"] == [0, 2] and given.typical()["money"] == 1
    assert of(["bank", "a"]).groups == ["bank", "a", "bank", "a", "bank", "bank", "bank"]
    far = Given(
        2, lambda words: [[vector("a" if "bank" in words[:2] else "b", 4)] * len(words)] * 2
    )
    found = of(["bank"], source=far)
    assert found.kind == "cluster" and found.groups == ["cluster 1"] * 3 + [
        "cluster 2",
        "cluster 1",
    ]


def test_tsne_is_repeatable_and_keeps_neighbours():
    def compute(words):
        return [[vector("x", 4)] * len(words), [vector(f"{len(words) % 2}", 4)] * len(words)]

    text = [["bank"] * (2 + i % 2) for i in range(12)]
    occurrences = find_occurrences([*enumerate(text, 1)], ["bank"])
    one, again = (map_senses(Given(2, compute), occurrences, method="tsne") for _ in range(2))
    np.testing.assert_array_equal(one.points, again.points)
    np.testing.assert_allclose(one.points[0], 0, atol=1e-6)
    even = np.array([len(occurrence.place.words) == 2 for occurrence in occurrences])
    middles = [one.points[1][even == kind].mean(0) for kind in (True, False)]
    nearer = [np.linalg.norm(one.points[1] - middle, axis=1) for middle in middles]
    np.testing.assert_array_equal(nearer[0] < nearer[1], even)


@pytest.mark.parametrize(("method", "count"), [("umap", 2), ("pca", 1)])
def test_what_cannot_be_drawn_is_an_error(method, count):
    with pytest.raises(ValueError, match=r"expected 'pca'|needs two"):
        map_senses(noisy(), find_occurrences(NUMBERED, ["bank"])[:count], method=method)


def test_a_slider_moves_x_and_y_only(sense_map):
    figure = draw_map(sense_map)
    assert {trace.name for trace in figure.data} >= {"river (2)", "money (1)"}
    assert len(figure.frames) == len(figure.layout.sliders[0].steps) == 3
    for number, frame in enumerate(figure.frames):
        for trace, members in zip(frame.data, sense_map.members().values(), strict=True):
            assert {*trace.to_plotly_json()} == {"type", "x", "y"}
            points = sense_map.points[number, members]
            np.testing.assert_allclose(np.stack([trace.x, trace.y], 1), points, atol=1e-6)
    np.testing.assert_array_equal(figure.data[0].x, figure.frames[-1].data[0].x)
    alone = draw_map(sense_map, 1)
    np.testing.assert_array_equal(alone.data[0].x, figure.frames[1].data[0].x)
    assert not alone.frames and not alone.layout.sliders


def test_a_label_marks_the_word_and_cuts_long_sentences():
    assert label(WordInSentence(["a<b", "&", "c"], 1)) == "a&lt;b <b>&amp;</b> c"
    lines = label(WordInSentence([str(i) for i in range(100)], 50)).split("<br>")
    assert lines[0].startswith("… 30 31") and lines[-1].endswith("69 70 …")
    assert "<b>50</b>" in lines[2]


class Elements(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def test_a_page_holds_texts_as_texts_and_loads_nothing(sense_map, tmp_path):
    sections = explain(sense_map, noisy(3), mixes={"<script>": [0.5, 1, 2]})
    write_page(tmp_path / "page.html", EVIL[0], sections)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    found = Elements(page)
    assert "img" not in found.tags and found.tags.count("script") == 1 + 4
    assert {"src", "href", "onerror"}.isdisjoint(name for name, _ in found.attributes)
    assert ("content", "default-src 'none'") in [(n, v[:18]) for n, v in found.attributes if v]
    assert " ".join(EVIL) in found.text and EVIL[0] in found.text
    assert [one.title for one in sections] == [
        "Sense map",
        "Nearest occurrences",
        "Layers",
        "Two sentences",
        "Scalar mixes",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_heat_map_has_the_cosines_of_the_words_nearby():
    source = noisy(3)
    long = WordInSentence([f"w{i}" for i in range(100)], 50)
    short = WordInSentence(["a", "<b>"], 1)
    figure = draw_heat_map(source, long, short)
    rows, columns = source([long.words]), source([short.words])
    one, other = next(rows)[:, 30:71], next(columns)
    one, other = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (one, other))
    for frame, expected in zip(figure.frames, one @ other.swapaxes(1, 2), strict=True):
        np.testing.assert_allclose(frame.data[0].z, expected, atol=1e-3)
    np.testing.assert_array_equal(figure.data[0].z, figure.frames[-1].data[0].z)
    assert [*figure.layout.xaxis.ticktext] == ["a", "<b>&lt;b&gt;</b>"]
    assert figure.layout.yaxis.ticktext[20] == "<b>w50</b>"


def test_words_without_a_sentence_have_a_page():
    found = find_occurrences([(i, ["bank"]) for i in range(1, 4)], ["bank"])
    assert len(explain(map_senses(noisy(), found), noisy())) == 4


def test_mixes_are_bars():
    figure = draw_mixes({"task": [0.2, 0.8]})
    assert [*figure.data[0].x] == ["layer 0", "layer 1"] and [*figure.data[0].y] == [0.2, 0.8]


def test_a_page_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        write_page(tmp_path / "page.html", "\ud800", [Section("", "", [])])
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
def test_pictures_have_their_format_and_are_repeatable(sense_map, tmp_path, ending):
    start = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}[ending]
    one, again = (tmp_path / f"{name}.{ending}" for name in ("one", "again"))
    save_map(sense_map, one)
    save_map(sense_map, again)
    assert one.read_bytes().startswith(start)
    assert one.read_bytes() == again.read_bytes()


def test_the_projector_has_a_row_per_occurrence(sense_map, tmp_path):
    folder = tmp_path / "vectors"
    write_projector(sense_map, folder)
    for number, rows in enumerate(sense_map.vectors):
        found = np.loadtxt(folder / f"layer_{number}.tsv", delimiter="\t")
        np.testing.assert_allclose(found, rows, atol=1e-5)
    header, *lines = (folder / "metadata.tsv").read_text(encoding="utf-8").splitlines()
    assert header == "word\tsense\tnumber\tsentence"
    assert lines[1] == "bank\tmoney\t2\ta bank and a bank ."
    assert (folder / "projector_config.pbtxt").read_text().count("metadata.tsv") == 3


def test_a_projector_that_fails_leaves_nothing(sense_map, tmp_path, monkeypatch):
    monkeypatch.setattr(exports.np, "savetxt", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_projector(sense_map, tmp_path / "vectors")
    assert not [*tmp_path.iterdir()]
