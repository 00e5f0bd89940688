"""The benchmark of noise, and its control: a biLM of WordPieces beside one of characters."""

import json
import lzma
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from elmo_hf import ElmoConfig, ElmoModel, ElmoTokenizer
from elmo_hf.analysis.noise import ChangeCase
from elmo_hf.analysis.probes import Labelled

ROOT = Path(__file__).parents[2]
TINY = {"cell_dim": 12, "projection_dim": 6, "filters": [[1, 4], [2, 5]], "num_sampled_words": 0}
TEXT = "the river rose and the bank fell .\nwe saw the old river .\n\nit was good .\n"
UD = "".join(f"{i}\t{w}\t_\t{t}\n" for i, (w, t) in enumerate([("the", "DET"), ("river", "NOUN")]))
FILES = {
    "ud_en_ewt/en_ewt-ud-train.conllu.xz": (UD + "\n") * 4,
    "ud_en_ewt/en_ewt-ud-test.conllu.xz": (UD + "\n") * 3,
    "sst/train.txt": "(4 (2 good) (2 river))\n(0 (2 old) (2 bank))\n" * 4,
    "sst/test.txt": "(4 (2 good) (2 bank))\n(0 (2 old) (2 .))\n",
    "misspellings_codespell/dictionary.txt.xz": "rivr->river\n",
    "toefl_spell/Annotations.tsv": "Misspelling\tCorrection\nteh\tthe\n",
    "char_noise/en.natural.xz": "good god goood\n",
}


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture
def data(tmp_path):
    for name, content in FILES.items():
        file = tmp_path / "data" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        text = content.encode()
        file.write_bytes(lzma.compress(text) if file.suffix == ".xz" else text)
    (tmp_path / "text.txt").write_text(TEXT * 30)
    return tmp_path / "data"


@pytest.fixture
def pieces(tmp_path):
    """The folder of a biLM of pieces with random weights."""
    import subword_control

    (tmp_path / "text.txt").write_text(TEXT * 30)
    text = [str(tmp_path / "text.txt")]
    settings = subword_control.prepare(tmp_path / "control", text, text, 100, 45)
    torch.manual_seed(0)
    model = ElmoModel(ElmoConfig(**subword_control.piece_fields(TINY, settings["pieces"])))
    model.save_pretrained(tmp_path / "control/pieces")
    vocabulary = str(tmp_path / "control/pieces.txt")
    tokenizer = ElmoTokenizer(use_characters=False, lm_vocab_file=vocabulary)
    tokenizer.save_pretrained(tmp_path / "control/pieces")
    return tmp_path / "control/pieces"


def test_pieces_are_those_of_the_same_words(pieces):
    folder = pieces.parent
    words, split = (
        (folder / f"{name}-train.txt").read_text().splitlines() for name in ("characters", "pieces")
    )
    assert [" ".join(line.split()).replace(" ##", "") for line in split] == words
    settings = json.loads((folder / "settings.json").read_text())
    assert 100 <= settings["words"] == sum(len(line.split()) for line in words) < 110
    vocabulary = (folder / "pieces.txt").read_text().split("\n")[:-1]
    counts = [" ".join(split).split().count(piece) for piece in vocabulary]
    assert vocabulary[:3] == ["<S>", "</S>", "<UNK>"] and len(vocabulary) == settings["pieces"]
    assert counts[3:] == sorted(counts[3:], reverse=True)


def test_the_table_of_pieces_has_as_many_parameters_as_the_character_encoder():
    import subword_control

    fields = subword_control.CONFIG
    characters = subword_control.count_parameters(subword_control.encoder_config(fields))
    table = subword_control.piece_fields(fields, 8000)
    counted = subword_control.count_parameters(subword_control.encoder_config(table))
    assert counted["LSTMs"] == characters["LSTMs"]
    assert 0 <= characters["input"] - counted["input"] < 8001 + 256
    assert counted["input"] == (8001 + 256) * table["word_embedding_dim"] + 256


def test_the_vector_of_a_word_is_the_mean_of_its_pieces(pieces):
    import subword_control

    vectors = subword_control.PieceVectors(pieces)
    sentences = [["the", "rivers", "o<S>o", "\ue000x", " "], [], ["bank"]]
    found = [*vectors(sentences)]
    assert [rows.shape for rows in found] == [(3, 5, 12), (3, 0, 12), (3, 1, 12)]
    splitter = subword_control.load_splitter(pieces.parent)
    split = [splitter.encode(word).tokens or ["<UNK>"] for word in sentences[0]]
    assert split[0] == ["the"] and len(split[1]) > 1
    assert split[2:] == [["<UNK>"]] * 3
    (layers,) = subword_control.ElmoVectors(pieces)([[piece for parts in split for piece in parts]])
    start = 0
    for i, parts in enumerate(split):
        stop = start + len(parts)
        assert found[0][:, i] == pytest.approx(layers[:, start:stop].mean(1), abs=1e-6)
        start = stop


def test_another_text_is_refused_and_no_model_is_an_error(pieces):
    import subword_control

    with pytest.raises(ValueError, match=r"made with asked_words 100, not 50; use the same"):
        text = [str(pieces.parents[1] / "text.txt")]
        subword_control.prepare(pieces.parent, text, text, 50, 45)
    with pytest.raises(ValueError, match="has no trained model; make it with python"):
        subword_control.load_sources(pieces)


class Spelled:
    """Class that gives two layers: whether a word is in lower case, and its length."""

    name, layers = "spelled", ("layer 0", "layer 1")

    def __call__(self, sentences):
        for words in sentences:
            rows = [[[float(w.islower())] for w in words], [[float(len(w))] for w in words]]
            yield np.array(rows, np.float32)


def test_words_that_noise_changes_are_counted(monkeypatch):
    pytest.importorskip("sklearn")
    import robustness

    names = [["ada", "NOUN"], ["in", "ADP"], ["rome", "NOUN"]]
    sentence = Labelled(*map(list, zip(*names, strict=True)))
    task = robustness.Task([sentence] * 200, [sentence, Labelled(["IN"], ["ADP"])], 598)
    assert len(task.draw(0)) == 200 and not task.is_of_sentences
    noises = {
        "none": lambda seed: list,
        "upper": lambda seed: ChangeCase("upper"),
        "longer": lambda seed: (
            lambda words: [word + "xx" if word == "in" else word for word in words]
        ),
    }
    found = robustness.measure(Spelled(), task, noises)
    assert found["labels"].tolist() == [3, 1]
    assert found["clean/none/layer 1"].tolist() == [3, 1]
    assert found["changed/upper"].tolist() == [3, 0] and found["right/upper"].tolist() == [2, 0]
    assert found["changed/longer"].tolist() == [1, 0] and found["right/longer"].tolist() == [0, 0]
    assert found["clean/longer/average"].tolist() == [2, 1]
    assert found["noisy/longer/average"].tolist() == [2, 0]
    pooled = robustness.Task([Labelled(["a", "bcd"], ["x"])], [Labelled(["a", "bcd"], ["x"])], 1)
    rows = robustness.features(Spelled(), pooled, [["a", "bcd"]])
    assert rows[1].tolist() == [[2, 3]] and rows[2].tolist() == [[1.5, 2]]


def test_the_page_tells_pairs_apart():
    import robustness_report

    def part(noisy):
        right = np.array([1.0, 0.0] * 50)
        found = {"labels": np.ones(100), "clean/none/layer 0": right, "clean/n/layer 0": noisy}
        return found | {"noisy/n/layer 0": noisy, "changed/n": np.ones(100), "right/n": noisy}

    sources = {"mini": np.ones(100), "word2vec": np.zeros(100)}
    sources |= {"characters, 1 word": np.ones(100), "WordPiece, 1 word": np.ones(100)}
    tables = robustness_report.estimate({"tagging": {n: part(v) for n, v in sources.items()}})
    saved = tables["tagging"]["saved"]["n"]
    assert [*saved] == [
        "mini against word2vec",
        "characters, 1 word against WordPiece, 1 word",
    ]
    assert [one.value for one in saved.values()] == [1, 0]
    made = {"checkpoint": "mini", "date": "today", "command": "c", "sha256": "s", "subwords": "S"}
    made |= {"machine": {"processor": "P", "cores": 1}, "sizes": {"tagging": 9}}
    listed = {"tagging": {"n": 0.25}}
    page = robustness_report.markdown({"tasks": tables, "listed": listed, "made": made})
    assert "| n | 100.0 % | 25.0 % |" in page and "WordPieces: two biLMs" in page
    assert "| n | 100.0 [100.0, 100.0] | 0.0 [0.0, 0.0] |" in page
    assert (
        "mini against word2vec: the first is more accurate with *n*, and cannot be told apart with "
        "the others. It loses less with every noise.\n"
    ) in page


@pytest.mark.parametrize(
    "page, others",
    [
        ("robustness", ["model_cards/elmo-mini-en.md"]),
        ("robustness_small", ["docs/noise.md", "model_cards/elmo-small-en.md"]),
    ],
)
def test_the_committed_pages_and_their_excerpts_show_the_committed_figures(page, others):
    import robustness_report

    results = robustness_report.read(ROOT / f"benchmarks/{page}.json")
    written = (ROOT / f"benchmarks/{page}.md").read_text(encoding="utf-8")
    assert robustness_report.markdown(results) == written
    for name in others:
        excerpt = "\n".join(robustness_report.summary(results))
        assert excerpt in (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.slow
def test_both_models_are_trained_and_measured(data, tmp_path, monkeypatch):
    import pretrain
    import robustness
    import subword_control

    class Done:
        returncode = 0

    def run(command):
        pretrain.main(command[2:])
        return Done

    monkeypatch.setattr(subword_control, "subprocess", SimpleNamespace(run=run))
    text, control = str(tmp_path / "text.txt"), tmp_path / "control"
    for model in subword_control.MODELS:
        arguments = [model, str(control), "--text", text, "--valid", text, "--words", "300"]
        arguments += ["--pieces", "45", "--config", json.dumps(TINY), "--max_steps", "2"]
        arguments += ["--vocabulary_size", "9", "--use_cpu", "--report_to", "none"]
        assert subword_control.main(arguments) == 0
    torch.manual_seed(0)
    ElmoModel(ElmoConfig(**TINY)).save_pretrained(tmp_path / "mini")
    ElmoTokenizer().save_pretrained(tmp_path / "mini")
    arguments = [str(tmp_path / "mini"), "--subwords", str(control), "--data", str(data)]
    arguments += ["--output", str(tmp_path / "page.md"), "--work", str(tmp_path / "work")]
    assert robustness.main(arguments) == 0
    page = (tmp_path / "page.md").read_text()
    names = "mini | random weights | characters, 0.0 million words | WordPiece, 0.0 million words"
    assert page.count(f"| noise | {names} |") == 5
    assert "a word's vector is the mean of its pieces. 302 words; " in page
    monkeypatch.setattr(robustness, "measure", None)
    assert robustness.main(arguments) == 0  # nothing is measured again
