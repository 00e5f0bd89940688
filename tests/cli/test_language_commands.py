"""The commands fill and score print the language model's own numbers."""

import csv
import io
import math
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import elmo_hf_cli
from elmo_hf import (
    ElmoConfig,
    ElmoForPreTraining,
    ElmoModel,
    ElmoTokenizer,
    fill_gaps,
    perplexity,
    score_sentences,
    score_text,
)

ROOT = Path(__file__).parents[2]
WORDS = ["<S>", "</S>", "<UNK>", "the", "bank", "of", "a", "river", "rose", ".", '"', "NA"]
TEXT = 'the river rose.\n\nthe flooded bank of "the NA river".\nrose\n'
TINY = {
    "cell_dim": 12,
    "projection_dim": 6,
    "filters": [[1, 4], [2, 4]],
    "char_embedding_dim": 3,
    "max_characters_per_token": 12,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    tokenizer = ElmoTokenizer(lm_vocab=WORDS, max_characters_per_token=12)
    config = ElmoConfig(**TINY, lm_vocab_size=len(WORDS))
    made = {
        "both": ElmoForPreTraining(config),
        "forward": ElmoForPreTraining(
            ElmoConfig(**TINY, lm_vocab_size=len(WORDS), bidirectional=False)
        ),
        "no-softmax": ElmoModel(config),
        "no-words": ElmoModel(ElmoConfig(**TINY)),
    }
    for name, model in made.items():
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root


@pytest.fixture
def run(capsys, tmp_path, monkeypatch, folders):
    """Run a command line where text.txt and the models are; return its status and output."""
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    for folder in folders.iterdir():
        (tmp_path / folder.name).symlink_to(folder)
    monkeypatch.chdir(tmp_path)

    def call(line):
        status = elmo_hf_cli.main(shlex.split(line))
        return status, *capsys.readouterr()

    return call


def load(folder):
    model = ElmoForPreTraining.from_pretrained(folder).eval()
    return model, ElmoTokenizer.from_pretrained(folder)


def table(text):
    return list(csv.DictReader(io.StringIO(text), dialect="excel-tab"))


def test_fill_prints_the_words_of_each_side(run):
    status, printed, errors = run('fill "the ___ of the ___." --model both --top 4')
    assert status == 0 and errors == ""
    first, second = re.split(r"^gap \d, word (\d)$", printed, flags=re.MULTILINE)[2::2]
    assert re.findall(r"^gap .*", printed, re.MULTILINE) == ["gap 1, word 2", "gap 2, word 5"]
    for number, lines in enumerate((first, second)):
        title, *rows = lines.strip("\n").splitlines()
        assert title.split("   ")[0] == "from the left"
        for column, direction in enumerate(("forward", "backward", "both")):
            gap = fill_gaps(*load("both"), "the ___ of the ___.", top=4, direction=direction)
            best = gap[number].candidates
            expected = [(f"{getattr(one, direction):.2f}", one.word) for one in best]
            assert [tuple(row.split()[2 * column :][:2]) for row in rows] == expected


def test_fill_compares_named_words_and_takes_any_sign(run):
    status, printed, _ = run("fill 'the [MASK] rose' --gap [MASK] -m forward --words bank,river")
    rows = [line.split() for line in printed.splitlines()[2:]]
    assert status == 0 and {word for _, word in rows} == {"bank", "river"}
    assert printed.splitlines()[1] == "from the left"


def test_score_prints_the_surprisal_of_each_word(run):
    status, printed, errors = run("score text.txt --model both")
    rows = table(printed)
    model, tokenizer = load("both")
    sentences = {1: "the river rose.", 3: 'the flooded bank of "the NA river".', 4: "rose"}
    scores = list(score_sentences(model, tokenizer, list(sentences.values())))
    assert status == 0 and {row["sentence"] for row in rows} == {"1", "3", "4"}
    for number, score in zip(sentences, scores, strict=True):
        own = [row for row in rows if row["sentence"] == str(number)]
        words = tokenizer(sentences[number]).tokens()
        assert [row["word"] for row in own] == words
        assert [row["position"] for row in own] == [str(i) for i in range(len(words))]
        np.testing.assert_allclose(
            [-float(row["forward"]) for row in own[1:]], score.forward, atol=1e-6
        )
        np.testing.assert_allclose(
            [-float(row["backward"]) for row in own[:-1]], score.backward, atol=1e-6
        )
        assert own[0]["forward"] == own[-1]["backward"] == ""
        assert [row["unknown"] == "1" for row in own[1:-1]] == score.unknown.tolist()
    total = perplexity(scores)
    assert errors == (
        f"perplexity: forward {total.forward:.2f}, backward {total.backward:.2f}, mean "
        f"{total.mean:.2f}; words: 15, 6.67% unknown; sentences: 3\n"
    )


def test_bits_one_direction_and_no_boundaries(run):
    everything = table(run("score text.txt --model both")[1])
    inner = [row for row in everything if row["word"] not in ("<S>", "</S>")]
    for direction, other in (("forward", "backward"), ("backward", "forward")):
        line = f"score text.txt --model both --bits --no-eos --direction {direction}"
        status, printed, errors = run(line)
        rows = table(printed)
        assert status == 0 and len(rows) == len(inner) and other not in rows[0]
        found = [float(row[direction]) * math.log(2) for row in rows]
        expected = [float(row[direction]) for row in inner]
        assert found == pytest.approx(expected, abs=1e-5)
        assert f"perplexity: {direction} {math.exp(np.mean(expected)):.2f};" in errors


def test_running_text_and_its_summary(run):
    model, tokenizer = load("both")
    sentences = [line for line in TEXT.splitlines() if line]
    total = perplexity(score_text(model, tokenizer, sentences))
    status, printed, errors = run("score text.txt --model both --running-text --summary")
    assert status == 0 and errors == ""
    assert printed.startswith(f"perplexity: forward {total.forward:.2f}, backward")
    one_way = run("score text.txt --model forward --running-text")[1]
    assert "backward" not in table(one_way)[0]


def test_other_inputs_and_the_standard_input(run, monkeypatch):
    Path("words.jsonl").write_text('["the", "river", "rose", "."]\n["a", "b c"]\n')
    rows = table(run("score words.jsonl --input jsonl --model both")[1])
    assert [row["word"] for row in rows][-4:] == ["<S>", "a", "b c", "</S>"]
    with Path("text.txt").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert run("score - --model both")[1] == run("score text.txt --model both")[1]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('fill "a bank" --model both', "'a bank' has no gap; write ___ for a missing word"),
        ('fill "a ___" --model both --words bnak', "lacks ['bnak']"),
        ('fill "a ___" --model both --words ""', "lacks ['']"),
        ('fill "a ___" --model bot', "no folder bot; did you mean both?"),
        ('fill "a ___" --model no-words', "no-words holds no language model"),
        ('fill "a ___" --model no-softmax', "it lacks lm_head.bias, lm_head.weight"),
        ("score txt --model both", "txt does not exist"),
        ("score /dev/null --model both", "/dev/null holds no words"),
        ("score text.txt --model both --input conllu", "text.txt, line 1, is"),
        ("score text.txt --model forward --direction backward", "forward has no backward LSTMs"),
    ],
)
def test_what_is_wrong_is_one_line(run, line, complaint):
    status, printed, errors = run(line)
    assert status == 1 and errors.count("\n") == 1 and errors.startswith("error: ")
    assert complaint in errors and printed == ""


@pytest.mark.parametrize("command", ["fill", "score"])
def test_the_examples_run_with_the_real_checkpoint(run, monkeypatch, command):
    text = run(f"{command} --help")[1].partition("Examples:")[2].partition("Arguments:")[0]
    for line in text.strip().splitlines():
        given, _, typed = line.strip().rpartition(" | ")
        Path("stdin").write_text("".join(shlex.split(given)[1:]))
        with Path("stdin").open() as stdin:
            monkeypatch.setattr("sys.stdin", stdin)
            status, printed, _ = run(typed.partition(" > ")[0].removeprefix("elmo-hf "))
        assert status == 0 and printed
