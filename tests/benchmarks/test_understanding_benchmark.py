"""The benchmark of what the layers know: its data, its rows and its page."""

import json
import lzma
from pathlib import Path

import pytest
import torch

from elmo_hf import ElmoConfig, ElmoForTokenClassification, ElmoModel, ElmoTokenizer

ROOT = Path(__file__).parents[2]
TINY = {"cell_dim": 12, "projection_dim": 6, "filters": [[1, 4], [2, 5]], "char_embedding_dim": 3}
SEMCOR = """# newdoc id = br-a01 part = brown1
# sent_id = br-a01.s1 par = 1
The\tthe\tDT\t_\t_\t_\t_
jury\tjury\tNN\tjury%1:14:00::\t1\t_\t1-n
took_place\ttake_place\tVB\ttake_place%2:30:00::\t1\t_\t2-v
Ada\tperson\tNNP\tperson%1:03:00::\t1\t_\t3-n

# newdoc id = br-a02 part = brown1
# sent_id = br-a02.s1 par = 1
runs\trun\tVB\trun%2:38:00:: run%2:30:01::\t1 2\t_\t4-v
_\t_\tPUNCT\t_\t_\t_\t_
jury\tjury\tNN\tjury%1:14:00::\t1\t_\t1-n
"""
WSD = """<corpus><text id="d"><sentence id="d.s0">
<wf lemma="the" pos="DET">The</wf>
<instance id="d.s0.t0" lemma="Jury" pos="NOUN">juries</instance>
<instance id="d.s0.t1" lemma="worked_up" pos="ADJ">worked up</instance>
</sentence></text></corpus>"""
UD = "# sent_id = 1\n1-2\tdon't\t_\t_\n1\tdo\tdo\tAUX\n2\tn't\tnot\tPART\n\n1\t#\t#\tSYM\n"
FILES = {
    "wic/{}/{}.data.txt": "board\tN\t2-1\tRoom and board .\tTwo boards\n"
    "run\tV\t0-1\trun .\tI run\nrun\tV\t1-1\tA run .\tI run\n",
    "wic/{}/{}.gold.txt": "F\nT\nF\n",
    "scws/ratings.txt.xz": "1\ta\tn\tb\tn\tNo . The <b> a </b> rose ! x\ty . <b> b </b>\t1.5\n"
    "2\tc\tn\td\tn\tA <b> c </b>\t<b> d </b> , e .\t8\n",
    "cosimlex/cosimlex_en.csv": "word1\tcontext1\tcontext2\tsim1\tsim2\n"
    'a\t"A" <strong>cat</strong>, a <strong>dog</strong>.\t<strong>Dogs</strong>, '
    "<strong>cats</strong>\t2\t4\nb\t<strong>A</strong> <strong>b</strong>\t<strong>b</strong> "
    "<strong>c</strong>\t5\t1\n",
    "semcor3/semcor3.tsv.xz": SEMCOR,
    "wsd_eval/ALL/ALL.data.xml.xz": WSD,
    "wsd_eval/ALL/ALL.gold.key.txt": "d.s0.t0 jury%1:14:00::\nd.s0.t1 x%5:00:00:y:00 z%3:00:00::\n",
    "ud_en_ewt/en_ewt-ud-{}.conllu.xz": UD,
    "uner_en_ewt/{}.iob2": "# sent_id = 1\nAda\tB-PER\nin\tO\nRome\tB-LOC\n\n#\tO\n",
    "index.sense": "previous%5:00:00:preceding(a):00 01 1 0\njury%1:14:00:: 02 2 1\n",
}


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture
def data(tmp_path):
    for name, content in FILES.items():
        for part in ("train", "dev", "test") if "{}" in name else ("",):
            file = tmp_path / "data" / name.format(part, part)
            file.parent.mkdir(parents=True, exist_ok=True)
            text = content.encode()
            file.write_bytes(lzma.compress(text) if file.suffix == ".xz" else text)
    return tmp_path / "data"


def test_pairs_of_words_are_read_in_their_sentences(data):
    import understanding_texts as texts

    first, second, _ = texts.wic(data, "dev")
    assert (first.first.word, first.second.word, first.gold) == ("board", "boards", 0)
    assert second.gold == 1 and second.has_one_form() and not first.has_one_form()
    first, second = texts.scws(data)
    assert first.first == (["The", "a", "rose", "!"], 1) and first.second == (["b"], 0)
    assert (first.gold, second.second) == (1.5, (["d", ",", "e", "."], 0))
    tokenizer = ElmoTokenizer()
    one, other = texts.cosimlex(data, lambda t: tokenizer(t, add_special_tokens=False).tokens())
    assert [place.word for place in one[0][:2]] == ["cat", "dog"]
    assert [place.word for place in other[0][:2]] == ["Dogs", "cats"]
    assert one[0].first.words[-1] == "." and (one[0].gold, other[0].gold) == (2, 4)


def test_senses_are_read_with_split_multiwords(data):
    import understanding_texts as texts

    first, second = texts.semcor_senses(data)
    assert first.words == ["The", "jury", "took", "place", "Ada"]
    assert first.tagged[1] == (2, 4, "take_place VERB", ["take_place%2:30:00::"])
    assert second.words == ["runs", "_", "jury"] and len(second.tagged[0].senses) == 2
    (test,) = texts.wsd_test(data)
    assert test.words == ["The", "juries", "worked", "up"]
    assert test.tagged[0] == (1, 2, "jury NOUN", ["jury%1:14:00::"])
    assert test.tagged[1][:3] == (2, 4, "worked_up ADJ") and len(test.tagged[1].senses) == 2
    found = texts.first_senses(data / "index.sense")
    assert found == {"previous ADJ": "previous%5:00:00:preceding:00"}
    with pytest.raises(texts.DataError, match=r"is no index\.sense of WordNet"):
        texts.first_senses(data / "wic/dev/dev.gold.txt")


def test_labels_are_read_without_comments_names_and_multiwords(data):
    import understanding_texts as texts

    assert texts.supersenses(data, test=True) == [
        (["The", "jury", "took", "place", "Ada"], [None, "1:14", None, None, None])
    ]
    assert texts.supersenses(data, test=False)[0].labels == ["2:38", None, "1:14"]
    assert texts.parts_of_speech(data, "dev") == [
        (["do", "n't"], ["AUX", "PART"]),
        (["#"], ["SYM"]),
    ]
    assert texts.entity_types(data, "dev") == [
        (["Ada", "in", "Rome"], ["PER", None, "LOC"]),
        (["#"], [None]),
    ]


def test_a_page_shows_what_was_measured_and_no_more():
    import understanding_report

    from elmo_hf.analysis import Estimate

    def layers(*values):
        found = {
            f"layer {i}": Estimate(v, v - 0.02, v + 0.02, 9, 0.5) for i, v in enumerate(values)
        }
        return {**found, "average": Estimate(0.6, 0.5, 0.7, 9, 0.5)}

    rows = {
        "mini": {
            "wic": layers(0.5, 0.7, 0.65),
            "wsd": layers(0.3, 0.4, 0.51),
            "self_similarity": layers(1, 0.5, 0.6),
        },
        "word2vec": {"wic": {"static": Estimate(0.55, 0.5, 0.6, 9, None)}},
    }
    made = {"date": "today", "command": "python x", "checkpoint": "mini", "sha256": "abc"}
    made["machine"] = {"processor": "CPU", "cores": 1}
    page = understanding_report.markdown({"rows": rows, "made": made})
    assert "| mini | layer 1 | 70.0 [68.0, 72.0]; 50.0 |" in page
    assert "| word2vec | static | 55.0 [50.0, 60.0] |" in page
    assert "Probes" not in page and "SCWS |" not in page
    assert "+1.0; the best average of layers -9.0 (intervals overlap). No layer is surely" in page
    assert (
        "- WiC: layer 0 (50.0) < layer 2 (65.0) < layer 1 (70.0). The best layer minus the floor "
        "+20.0; word2vec +15.0 (intervals apart); the best average of layers +10.0 (intervals "
        "overlap).\n"
    ) in page
    assert "Self-similarity does not fall from layer to layer: 100.0, 50.0, 60.0" in page


@pytest.mark.parametrize("page", ["understanding", "understanding_small"])
def test_the_committed_pages_show_the_committed_figures(page):
    import understanding_report

    from elmo_hf.analysis import Estimate

    results = json.loads((ROOT / f"benchmarks/{page}.json").read_text())
    for found in results["rows"].values():
        for layers in found.values():
            layers.update({layer: Estimate(**values) for layer, values in layers.items()})
    written = (ROOT / f"benchmarks/{page}.md").read_text(encoding="utf-8")
    assert understanding_report.markdown(results) == written


def test_a_learned_mix_is_a_row_of_its_own(tmp_path):
    import understanding

    config = ElmoConfig(**TINY, num_labels=2)
    model = ElmoForTokenClassification(config)
    with torch.no_grad():
        model.scalar_mix.gamma.fill_(3.0)
    model.save_pretrained(tmp_path)
    ElmoTokenizer().save_pretrained(tmp_path)
    assert understanding.learned_mixes(str(tmp_path)) == {"learned mix 0": pytest.approx([1, 1, 1])}
    ElmoModel(config).save_pretrained(tmp_path)
    assert understanding.learned_mixes(str(tmp_path)) == {}


@pytest.mark.slow
def test_rows_are_measured_once_and_reported(data, tmp_path, monkeypatch):
    pytest.importorskip("gensim")
    import task_models
    import understanding
    from transformers import BertConfig, BertModel, BertTokenizer

    torch.manual_seed(0)
    ElmoModel(ElmoConfig(**TINY)).save_pretrained(tmp_path / "mini")
    ElmoTokenizer().save_pretrained(tmp_path / "mini")
    BertTokenizer(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "the": 4}).save_pretrained(
        tmp_path / "bert"
    )
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 5}
    BertModel(BertConfig(**sizes, intermediate_size=8)).save_pretrained(tmp_path / "bert")
    (tmp_path / "text.txt").write_text("the cat saw the dog\n" * 20)
    monkeypatch.setattr(understanding, "measure_geometry", few_contexts(understanding))
    arguments = [str(tmp_path / "mini"), "--data", str(data), "--work", str(tmp_path / "work")]
    arguments += ["--output", str(tmp_path / "page.md"), "--models", str(tmp_path / "bert")]
    arguments += ["--wordnet", str(data / "index.sense"), "--text", str(tmp_path / "text.txt")]
    assert understanding.main(arguments) == 0
    page = (tmp_path / "page.md").read_text()
    for row in ("mini | layer 2", "mini | average", "random weights | layer 0", "bert | layer 1"):
        assert page.count(f"| {row} |") == 4
    assert (
        page.count("| word2vec of 0.0 million words | static |") == 4 and "nan" in page
    )  # intervals of one item
    results = json.loads((tmp_path / "page.json").read_text())
    assert results["rows"]["mini"]["wsd"]["layer 0"]["n"] == 2
    monkeypatch.setattr(understanding, "MEASURES", dict.fromkeys(understanding.MEASURES))
    monkeypatch.setattr(task_models, "train_word2vec", None)
    assert understanding.main(arguments) == 0  # nothing is measured again


def few_contexts(understanding):
    measure = understanding.measure_geometry
    return lambda vectors, sentences: measure(vectors, [*sentences] * 3, min_contexts=3)
