"""The language model benchmark: its readers, its sums, its report and the card."""

import json
import lzma
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import language_model
from language_model_texts import DataError, Pair, read_blimp, read_text, read_wikitext

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoTokenizer
from elmo_hf.scoring import SentenceScores, score_sentences

WORDS = ["<S>", "</S>", "<UNK>", "the", "river", "rivers", "rises", "rise", "."]
PAIRS = [
    {
        "UID": paradigm,
        "linguistics_term": f"{paradigm}_term",
        "field": "morphology",
        "sentence_good": good,
        "sentence_bad": bad,
    }
    for paradigm, good, bad in [
        ("agreement", "The river rises.", "The river rise."),
        ("agreement", "The rivers rise.", "The rivers rises."),
        ("order", "The river rises.", "River the rises."),
    ]
]
WIKITEXT = """\
 = Rivers =

 A two @-@ part <unk> of 1 @,@ 000 didn 't stop . It 's long . He said , " Stop . Now ! " and left

 = = Banks = =

 " Why ? " Because .
"""


@pytest.fixture
def data(tmp_path):
    """A folder like that of the real data."""
    for name, text in {
        "pretrain_wiki_en": "The river rises.\nThe rivers rise.\n\nThe river.\n",
        "wikitext2_valid_test": WIKITEXT,
        "conll2000": "not NN B-NP\n",
    }.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "test.txt.xz").write_bytes(lzma.compress(text.encode()))
    write_blimp(tmp_path / "data/blimp", PAIRS)
    return tmp_path / "data"


def write_blimp(folder, pairs):
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "blimp_data.zip", "w") as archive:
        for paradigm in {pair["UID"] for pair in pairs}:
            lines = [json.dumps(pair) + "\n" for pair in pairs if pair["UID"] == paradigm]
            archive.writestr(f"{paradigm}.jsonl", "".join(lines))
    return folder / "blimp_data.zip"


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    config = ElmoConfig(
        cell_dim=6,
        projection_dim=4,
        filters=[[1, 3]],
        char_embedding_dim=2,
        num_highway_layers=1,
        lm_vocab_size=len(WORDS),
    )
    ElmoForPreTraining(config).save_pretrained(tmp_path / "model")
    ElmoTokenizer(lm_vocab=WORDS).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_wikitext_becomes_sentences_of_ordinary_words(data):
    sentences = read_wikitext(data / "wikitext2_valid_test/test.txt.xz", "<UNK>")
    assert [" ".join(words) for words in sentences] == [
        "A two-part <UNK> of 1,000 did n't stop .",
        "It 's long .",
        'He said , " Stop .',
        'Now ! "',
        "and left",
        '" Why ? "',
        "Because .",
    ]


def test_the_pairs_of_blimp_are_read(data):
    pairs = read_blimp(data / "blimp/blimp_data.zip")
    assert len(pairs) == 3
    assert pairs[0] == Pair(
        "agreement", "agreement_term", "morphology", "The river rises.", "The river rise."
    )


def test_fields_and_phenomena_have_their_published_names(tmp_path):
    odd = {"field": "syntax/semantics", "linguistics_term": "s-selection"}
    (pair,) = read_blimp(write_blimp(tmp_path / "odd", [PAIRS[0] | odd]))
    assert (pair.field, pair.term) == ("syntax_semantics", "argument_structure")


def test_damaged_data_are_named(tmp_path):
    for content in (b"", b"PK\x03\x04 and no more"):
        (tmp_path / "blimp_data.zip").write_bytes(content)
        with pytest.raises(DataError, match="not a valid zip of BLiMP's pairs"):
            read_blimp(tmp_path / "blimp_data.zip")
    with pytest.raises(DataError, match="KeyError"):
        read_blimp(write_blimp(tmp_path / "keys", [{"UID": "x"}]))
    with pytest.raises(DataError, match="contains no"):
        read_blimp(write_blimp(tmp_path / "empty", []))
    (tmp_path / "test.txt.xz").write_bytes(lzma.compress(b"The river rises.\n" * 99)[:-20])
    with pytest.raises(DataError, match="cannot be read as text"):
        read_text(tmp_path / "test.txt.xz")


def score(forward, backward, unknown=False):
    return SentenceScores(np.array(forward), np.array(backward), np.array([unknown]))


def test_a_pair_is_told_apart_by_the_sums_of_each_direction():
    good, bad = score([-1, -2], [-4, -1]), score([-3, -1], [-2, -2.0001], unknown=True)
    assert language_model.compare(good, bad) == {
        "forward": True,
        "backward": False,
        "both": False,  # a tie, up to rounding, is no success
        "forward_ties": False,
        "backward_ties": False,
        "both_ties": True,
        "unknown": True,
    }


def test_means_are_of_paradigms_not_of_pairs():
    def result(term, pairs, right):
        measured = {"forward": right, "backward": right, "both": right, "unknown": 0.0}
        return {"term": term, "field": "syntax", "pairs": pairs, **measured}

    blimp = {"a": result("x", 1, 1.0), "b": result("x", 999, 0.5), "c": result("y", 5, 0.0)}
    assert language_model.summarize(blimp)["all"]["forward"] == 0.5
    by_term = language_model.summarize(blimp, "term")
    assert by_term["x"]["both"] == 0.75 and by_term["x"]["paradigms"] == 2


def test_pairs_are_scored_as_their_sentences_are(checkpoint, data):
    model = ElmoForPreTraining.from_pretrained(checkpoint)
    tokenizer = ElmoTokenizer.from_pretrained(checkpoint)
    pairs = read_blimp(data / "blimp/blimp_data.zip")
    found = language_model.evaluate_pairs(model, tokenizer, pairs)
    right = [
        good.forward.sum() > bad.forward.sum()
        for pair in pairs
        for good, bad in [score_sentences(model, tokenizer, [pair.good, pair.bad])]
    ]
    assert found["agreement"]["forward"] == np.mean(right[:2])
    assert found["order"]["forward"] == right[2]
    assert found["order"]["pairs"] == 1 and found["order"]["unknown"] == 1  # "The", "River"


def test_the_command_writes_tables_and_card(tmp_path, checkpoint, data, capsys):
    card = tmp_path / "README.md"
    card.write_text("# A model\n\nText.\n")
    command = [str(checkpoint), "--data", str(data), "--output", str(tmp_path / "report.md")]
    command += ["--card", str(card), "--streams", "2"]
    assert language_model.main(command) == 0
    results = json.loads((tmp_path / "report.json").read_text())
    assert set(results["perplexity"]) == {"pretrain_wiki_en", "wikitext2_valid_test"}
    wiki = results["perplexity"]["pretrain_wiki_en"]["sentences"]
    assert (wiki["words"], wiki["sentences"]) == (11, 3)
    assert wiki["unknown_rate"] == pytest.approx(3 / 11)
    assert wiki["mean"] == pytest.approx((wiki["forward"] * wiki["backward"]) ** 0.5)
    report = (tmp_path / "report.md").read_text()
    assert "| pretrain_wiki_en | 11 | 27.3% |" in report and "| *morphology* | 2 |" in report
    assert "--streams 2" in report

    once = card.read_text()
    assert once.startswith("# A model\n\nText.\n\n## Language model\n\n") and "27.3%" in once
    card.write_text(once + "\n## License\n")
    assert language_model.main(command) == 0
    assert card.read_text() == once + "\n## License\n"  # replaced, not repeated


def test_errors_leave_nothing_behind(tmp_path, checkpoint, data, capsys):
    output = ["--output", str(tmp_path / "report.md")]
    assert language_model.main([str(checkpoint), "--data", str(tmp_path / "none"), *output]) == 1
    assert "has no test data; name the folder of the data" in capsys.readouterr().err
    bare = ElmoConfig(cell_dim=6, projection_dim=4, filters=[[1, 3]])
    bare.save_pretrained(tmp_path / "bare")
    ElmoTokenizer().save_pretrained(tmp_path / "bare")
    assert language_model.main([str(tmp_path / "bare"), "--data", str(data), *output]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    card = tmp_path / "card.md"
    card.write_text(language_model.BEGIN)
    command = [str(checkpoint), "--data", str(data), *output, "--card", str(card)]
    assert language_model.main(command) == 1
    assert "language model: end" in capsys.readouterr().err
    assert not list(tmp_path.glob("report*"))
