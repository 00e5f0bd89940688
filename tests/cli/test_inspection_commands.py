"""The commands info, words and similar, with the real checkpoint where vectors matter."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.originals import options, random_arrays, write_original

import elmo_hf_cli
from elmo_hf import ElmoConfig, ElmoEmbedder, ElmoModel, ElmoTokenizer

ROOT = Path(__file__).parents[2]
MINI = "checkpoints/elmo-mini-en"
TEXT = (
    """We sat on the bank of the river and fished .
Willows grew along the bank of the stream .

The bank lent him money for a house .
The bank raised its interest rates again .
The sun rose over łódź in """
    + "w" * 60
)


FILES = ("model.safetensors", "README.md", "tokenizer.json")


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run a command line where the checkpoints, text.txt and words.txt are."""
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "words.txt").write_text("bank\n\nBanks\nłódź\n")
    monkeypatch.chdir(tmp_path)

    def call(line):
        status = elmo_hf_cli.main(shlex.split(line))
        return status, *capsys.readouterr()

    return call


def facts(printed):
    return dict(re.split(r"\s{2,}", line, maxsplit=1) for line in printed.splitlines())


def test_info_describes_a_model(run):
    status, printed, errors = run(f"info {MINI}")
    found = facts(printed)
    assert status == 0 and errors == ""
    assert found["parameters"].startswith("18,271,408: 12,850,000 in softmax")
    assert found["vocabulary"] == "50,000 words" and found["splitter"] == "treebank"
    assert found["licence"] == "cc-by-sa-3.0" and found["vectors"] == "512 wide"
    assert found["weights"].startswith("BF16 on disk")
    assert found["layers"].endswith("2 biLSTM layers (cell 512, projection 256)")


def test_info_counts_what_a_model_covers(run):
    found = facts(run(f"info {MINI} --text text.txt")[1])
    assert found["text"] == "44 words, 32 different ones, in text.txt"
    unknown = ("Willows", "łódź", "w" * 60)
    known = sum(word not in unknown for word in TEXT.split())
    assert found["in vocabulary"].startswith(f"{known / 44:.2%} of words")
    assert found["read whole"] == f"{43 / 44:.2%} of words, {31 / 32:.2%} of different ones"
    Path("strange.txt").write_text("the ⅷ river ⅷ ⅸ\n")
    found = facts(run(f"info {MINI} --text strange.txt")[1])
    assert found["familiar characters"].startswith("40.00% of words, 50.00% of different ones")
    assert found["familiar characters"].endswith("most frequent others: ⅷ ⅸ")


def test_info_tells_where_weights_come_from(run):
    write_original(Path("original"), options(), random_arrays(options()))
    assert run("convert original ours")[0] == 0
    found = facts(run("info ours --text text.txt")[1])
    assert re.match(r"from .+; \d.\de-\d\d from the original", found["converted"])
    assert found["vocabulary"] == "none" and "in vocabulary" not in found
    record = Path("ours/conversion.json")
    record.write_text(record.read_text().replace("billion-words", "treebank"))
    assert "was edited after the conversion" in facts(run("info ours")[1])["converted"]
    Path("ours/pretraining.json").write_text("{}")
    assert "the settings are in" in facts(run("info ours")[1])["trained"]


def test_words_have_their_layer_0(run):
    status, printed, _ = run(f"words {MINI} vectors.txt --words words.txt")
    assert status == 0 and printed == "wrote vectors.txt: 3 words, 512 numbers each\n"
    header, *lines = Path("vectors.txt").read_text().splitlines()
    assert header == "3 512" and [line.split()[0] for line in lines] == ["bank", "Banks", "łódź"]
    (expected,) = ElmoEmbedder(MINI, layers=0).embed([["bank", "Banks", "łódź"]])
    found = np.array([line.split()[1:] for line in lines], float)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    gensim = pytest.importorskip("gensim.models")
    opened = gensim.KeyedVectors.load_word2vec_format("vectors.txt")
    np.testing.assert_allclose(opened["bank"], expected[0], rtol=1e-5)


@pytest.mark.parametrize("format", ["keyedvectors", "static"])
def test_words_are_written_for_other_libraries(run, format):
    assert run(f"words {MINI} out --words words.txt --to {format}")[0] == 0
    ((bank, łódź),) = ElmoEmbedder(MINI, layers=0).embed([["bank", "łódź"]])
    if format == "static":
        library = pytest.importorskip("sentence_transformers")
        found = library.SentenceTransformer("out", device="cpu").encode(["bank", "łódź"])
    else:
        found = pytest.importorskip("gensim.models").KeyedVectors.load("out")[["bank", "łódź"]]
    np.testing.assert_allclose(found, [bank, łódź], atol=1e-6)
    status, _, errors = run(f"words {MINI} out --words words.txt --to {format}")
    assert status == 1 and "exists already" in errors
    assert {path.name for path in Path().iterdir()} == {
        "out",
        "checkpoints",
        "text.txt",
        "words.txt",
    }


def test_words_are_those_of_the_vocabulary(run, tmp_path):
    words = ["<S>", "</S>", "<UNK>", *(f"w{i}" for i in range(50))]
    ElmoModel(ElmoConfig(cell_dim=4, projection_dim=2, filters=[[1, 4]])).save_pretrained("tiny")
    ElmoTokenizer(lm_vocab=words).save_pretrained("tiny")
    assert run("words tiny vectors.txt")[0] == 0
    lines = Path("vectors.txt").read_text().splitlines()
    assert lines[0] == "53 4" and [line.split()[0] for line in lines[1:]] == words


def test_similar_finds_words_with_the_same_sense(run):
    line = f'similar bank --sentence "The bank lent money ." --text text.txt --model {MINI}'
    status, printed, errors = run(f"{line} --layers top --same-word")
    *rows, mean = printed.splitlines()
    assert status == 0 and errors == ""
    numbers = [row.split()[1] for row in rows]
    assert {*numbers[:2]} == {"4:", "5:"} and {*numbers[2:]} == {"1:", "2:"}
    assert any(row.endswith("4: The [bank] lent him money for a house .") for row in rows)
    cosines = [float(row.split()[0]) for row in rows]
    embed = ElmoEmbedder(MINI, layers="top").embed
    query, *others = (rows[i] for rows, i in zip(embed(texts()), [1, 4, 4, 1, 1], strict=True))
    expected = [cosine(query, other) for other in others]
    np.testing.assert_allclose(sorted(cosines), sorted(expected), atol=1e-3)
    assert mean == f"{np.mean(expected):.3f}  mean of 4 words"


def texts():
    lines = TEXT.splitlines()
    return ["The bank lent money .", lines[0], lines[1], lines[3], lines[4]]


def cosine(one, other):
    return one @ other / np.linalg.norm(one) / np.linalg.norm(other)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("info checkpoints/elmo-mini-e", "did you mean checkpoints/elmo-mini-en?"),
        ("info checkpoints", "has no config.json"),
        (f"info {MINI} --text txt", "txt does not exist"),
        (f"words {MINI} text.txt", "text.txt exists already"),
        (f"words {MINI} out.txt --words spaces.txt", "the word 'a b' has white space"),
        (f"words {MINI} out.txt --words empty.txt", "empty.txt names no words"),
        (f"words {MINI} gone/out.txt --words words.txt", "there is no folder gone for out.txt"),
        (f'similar bnk --sentence "A bank." --text text.txt -m {MINI}', "sentence: A bank ."),
        (f"similar a --sentence a --text text.txt -m {MINI} --layers 3", "the layers 0 to 2"),
        (f"similar a --sentence a --text empty.txt -m {MINI}", "empty.txt holds no words"),
        (f"similar x --sentence x --text text.txt -m {MINI} --same-word", "no other place of 'x'"),
    ],
)
def test_what_is_wrong_is_one_line(run, line, complaint):
    Path("empty.txt").touch()
    Path("spaces.txt").write_text("a b\n")
    status, printed, errors = run(line)
    assert status == 1 and errors.count("\n") == 1 and errors.startswith("error: ")
    assert complaint in errors and printed == ""
    assert not list(Path().glob("out*"))


def test_all_layers_are_no_single_vector(run):
    line = f"similar a --sentence a --text text.txt -m {MINI} --layers all"
    status, _, errors = run(line)
    assert status == 2 and "pass average, top, mix or the number of a layer" in errors


@pytest.mark.parametrize("command", ["info", "words", "similar"])
def test_the_examples_run_with_the_real_checkpoint(run, command):
    text = run(f"{command} --help")[1].partition("Examples:")[2].partition("Arguments:")[0]
    for line in text.strip().splitlines():
        if "vectors.txt" not in line or "--words" in line:  # the whole vocabulary takes too long
            status, printed, _ = run(line.strip().removeprefix("elmo-hf "))
            assert status == 0 and printed


@pytest.mark.parametrize("command", ["info m", "words m out.txt", "score text.txt -m m"])
def test_damaged_models_are_one_line(run, tmp_path, command):
    shutil.copytree(ROOT / MINI, tmp_path / "m")
    weights, card, table = (tmp_path / "m" / name for name in FILES)
    card.write_text("---\nlicense: [a\n  b: : c\n---\n")
    if command.startswith("info"):
        assert "begins with invalid YAML" in facts(run(command)[1])["licence"]
    weights.write_text("version https://git-lfs.github.com/spec/v1\n")
    status, _, errors = run(command)
    assert status == 1 and errors.count("\n") == 1
    assert "the weights in" in errors and "only a pointer of Git LFS" in errors
    shutil.copy(ROOT / MINI / "model.safetensors", weights)
    table.write_text('{"version":')
    status, _, errors = run(command)
    assert status == 1 and errors.count("\n") == 1 and "m" in errors
