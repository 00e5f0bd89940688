"""What the training scripts share: help, errors, cards, and predictions of trained models."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pretrain
import pytest
import task_data
import torch
import train_classifier
import train_ner
import train_qa
import train_sentence_embeddings
import training_script
from transformers import AutoConfig, EvalPrediction, pipeline

import elmo_hf
from elmo_hf import ElmoConfig, ElmoModel, ElmoTokenizer

ROOT = Path(__file__).parents[2]
TINY = {"cell_dim": 12, "projection_dim": 6, "filters": [[1, 4], [2, 5]], "char_embedding_dim": 3}
TEST = {"--test": "a.conll"}
TRAIN = {"--train": "b.conll", "--dev": "b.conll"}
SCRIPTS = [pretrain, train_classifier, train_ner, train_qa, train_sentence_embeddings]
EXTRAS = {"train_ner": ("seqeval", "train"), "train_sentence_embeddings": ("datasets", "sentences")}
COLUMNS = """-DOCSTART- -X- O
# sent_id = 1

# sent_id = 2
Ada NNP I-PER
Lovelace NNP I-PER
met VBD O

# text = # 1 is London
# NN O
1 CD O
London NNP I-LOC
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "elmo"
    torch.manual_seed(0)
    still = {"dropout": 0, "mix_dropout": 0, "classifier_dropout": 0}
    ElmoModel(ElmoConfig(**TINY, **still)).save_pretrained(folder)
    ElmoTokenizer().save_pretrained(folder)
    return str(folder)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def train(script, checkpoint, data, folder, *more, epochs=30):
    return script.main(
        ["--model", checkpoint, "--train", data, "--dev", data, "--output_dir", str(folder),
         "--num_train_epochs", str(epochs), "--learning_rate", "0.1", "--eval_strategy", "no",
         "--save_strategy", "no", "--use_cpu", "--disable_tqdm", "true", *more]
    )  # fmt: skip


# --- Command line ---


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_help_shows_own_options_first_and_trainers_on_demand(script, capsys):
    texts = []
    for option in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as caught:
            script.main([option])
        assert caught.value.code == 0
        texts.append(capsys.readouterr().out)
    short, full = texts
    assert short.index("options of this script:") < short.index("options of Trainer")
    assert "--learning_rate" in short and "--deepspeed" not in short and "--deepspeed" in full
    assert "None" not in short and short.count("\n") < 110 < full.count("\n")
    assert script is pretrain or "ELMo checkpoint (required)" in " ".join(short.split())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_a_missing_package_is_one_line_after_help(script, checkpoint, monkeypatch, capsys):
    package, extra = EXTRAS.get(script.__name__, ("accelerate", "train"))
    monkeypatch.setitem(sys.modules, package, None)
    options = ["--train", "x", "--dev", "x"] if script is not pretrain else ["--train_files", "x"]
    options += ["--model", checkpoint] if script is not pretrain else []
    with pytest.raises(SystemExit, match=rf"error: the package {package} .*\.\[{extra}\]'$"):
        script.main([*options, "--output_dir", "x"])
    with pytest.raises(SystemExit) as caught:
        script.main(["--help"])
    assert caught.value.code == 0 and "options" in capsys.readouterr().out


@pytest.mark.slow
def test_scripts_start_without_a_word_and_import_no_extra():
    code = "import sys\nfor name in sys.argv[1:]: sys.modules[name] = None\n"
    code += (
        "import pretrain, train_ner, train_classifier, train_qa, train_sentence_embeddings, pack"
    )
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "examples")))
    done = subprocess.run(
        [sys.executable, "-c", code, "seqeval", "datasets", "pyarrow", "sentence_transformers"],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_only_the_known_lines_of_torchao_are_hidden(caplog, monkeypatch):
    importlib.reload(elmo_hf.quiet_imports)
    messages = [
        ("torchao", "Failed to load /x/torchao/_C_mxfp8.cpython-310.so: no"),
        ("torch.utils._pytree", "<enum 'KernelPreference'> is an Enum subclass and"),
        ("torchao", "Failed to load /x/torchao/_C.abi3.so: no"),
        ("torch.utils._pytree", "<enum 'Mine'> is an Enum subclass and"),
    ]
    import logging

    for name, message in messages:
        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, "propagate", False)  # PyTorch's loggers stop before pytest's
        logger.addHandler(caplog.handler)
        logger.warning(message)
        logger.removeHandler(caplog.handler)
    assert [r.getMessage() for r in caplog.records] == [message for _, message in messages[2:]]


# --- Errors ---


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"--model": "elmo-smal", **TEST}, "elmo-smal: no such folder; did you mean elmo-small?"),
        ({"--model": "a/b/c", **TEST}, "no such folder; and the Hugging Face Hub was not searched"),
        ({"--model": "empty", **TEST}, "--model empty has no config.json"),
        ({}, "nothing to do"),
        ({"--train": "a.conll"}, "--train needs --dev"),
        ({"--predict": "a.conll"}, "is not a trained Elmo"),
        ({"--train": "missing.conll", "--dev": "x"}, "missing.conll: there is no such file"),
        ({**TRAIN, "--predict": "missing.conll"}, "missing.conll: there is no such file"),
        ({**TRAIN, "--predictions": "gone/x.conll"}, "--predictions gone/x.conll: there is no"),
        (
            {**TRAIN, "--resume_from_checkpoint": "True"},
            "True: there is no checkpoint",
        ),
        ({**TRAIN, "--resume_from_checkpoint": "x"}, "x: there is no checkpoint"),
        ({**TRAIN, "--label_smoothing_factor": "0.1"}, "trains no CRF"),
    ],
)
def test_a_wrong_option_is_one_line(options, complaint, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training_script, "HF_HUB_OFFLINE", True)
    Path("empty").mkdir()
    Path("elmo-small").mkdir()
    Path("elmo-small/config.json").write_text("{}")
    Path("b.conll").write_text(COLUMNS)
    options = {"--model": checkpoint, "--output_dir": "out"} | options
    with pytest.raises(SystemExit, match=r"^error: ") as caught:
        train_ner.main([part for pair in options.items() for part in pair])
    assert complaint in str(caught.value)


def test_training_needs_an_output_folder(checkpoint, capsys):
    with pytest.raises(SystemExit) as caught:
        train_ner.main(["--model", checkpoint, "--train", "x", "--dev", "x"])
    assert caught.value.code == 2 and "--output_dir is required" in capsys.readouterr().err


# --- Comments ---


def test_comments_before_a_sentence_are_no_words(tmp_path):
    path = write(tmp_path / "a.iob2", COLUMNS)
    first, second = task_data.read_tagged(path, "", "")
    assert first["words"] == ["Ada", "Lovelace", "met"] and first["where"][0] == f"{path}:5"
    assert second["words"] == ["#", "1", "London"]  # "# NN O" has all columns: a word
    path = write(tmp_path / "b.conll", "# newdoc\n#\tO\nx\n")
    with pytest.raises(task_data.DataError, match=r"b.conll:3: expected 2 columns, found 'x'"):
        task_data.read_tagged(path, "", "")


# --- Tables ---


def test_a_quote_in_a_tsv_is_a_character(tmp_path):
    lines = ['"An open quote', 'he said "no"', 'a close" here', '"whole"']
    text = "text\tlabel\n" + "".join(f"{line}\t{i}\n" for i, line in enumerate(lines))
    rows = task_data.read_examples(write(tmp_path / "a.tsv", text), ["text", "label"])
    assert [row["text"] for row in rows] == lines
    assert [row["label"] for row in rows] == list("0123")
    task_data.write_rows(tmp_path / "b.tsv", rows, [{}] * 4)
    assert (tmp_path / "b.tsv").read_text().replace("\r\n", "\n") == text
    with pytest.raises(task_data.DataError, match=r"b.tsv: a field has a tab or a line break"):
        task_data.write_rows(tmp_path / "b.tsv", [rows[0] | {"text": "a\tb"}], [{}])


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.csv", 'text,label\n"open,1\nnext,0\nclosed" x,1\n', r"a.csv:\d: .*doubled"),
        ("a.csv", "text,label,text\na,b,c\n", "two columns are named text"),
        ("a.csv", "text,label\na,x\nb,x\n", "all labels are 'x'"),
        (
            "a.jsonl",
            '{"text": 5, "label": 1}\n',
            "expected 'text' to be a text, found 5",
        ),
    ],
)
def test_odd_tables_are_refused(name, text, complaint, checkpoint, tmp_path):
    data = write(tmp_path / name, text)
    with pytest.raises(SystemExit, match=f"^error: .*{complaint}"):
        train(train_classifier, checkpoint, data, tmp_path / "out")


def test_a_column_may_be_called_where_and_a_field_may_be_long(tmp_path):
    text = f"where,text\nBerlin,{'rain ' * 40_000}\n"
    (row,) = task_data.read_examples(write(tmp_path / "a.csv", text), ["where", "text"])
    assert row["where"] == "Berlin" and len(row["text"]) == 200_000


@pytest.mark.parametrize("value", ["nan", "inf", "x", None])
def test_numbers_are_finite(value):
    with pytest.raises(task_data.DataError, match=f"a.csv:3: expected a number, found {value!r}"):
        task_data.read_number(value, "a.csv:3")


def test_macro_f1_counts_classes_that_are_only_predicted():
    logits = np.eye(3)[[0, 1, 2, 0]]
    found = train_classifier.classification_metrics(EvalPrediction(logits, np.array([0, 1, 1, 0])))
    assert found["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)


# --- Models, cards and predictions ---


@pytest.mark.slow
def test_a_trained_tagger_evaluates_predicts_and_has_a_card(checkpoint, tmp_path, capsys):
    data = write(tmp_path / "train.conll", COLUMNS)
    out = tmp_path / "tagger"
    found = train(train_ner, checkpoint, data, out, "--lstm_dim", "8", "--test", data)
    assert found["test_f1"] == 1
    usage = capsys.readouterr().out.partition("To use it:\n")[2]
    exec(usage, {})
    assert "'entity_group'" in capsys.readouterr().out
    config = AutoConfig.from_pretrained(out)
    assert config.tagging_scheme == "BIOES" and config.id2label[1] == "B-LOC"
    card = (out / "README.md").read_text()
    for part in ("pipeline_tag: token-classification", "| test_f1 | 1 |", "--lstm_dim 8", data):
        assert part in card
    assert "Licence: not stated yet" in card and "base_model" not in card
    assert not (out / "unfinished").exists()

    raw = write(tmp_path / "raw.conll", COLUMNS.replace(" I-PER", "").replace(" I-LOC", "").
                replace(" O", ""))  # fmt: skip
    options = ["--model", str(out), "--predict", raw, "--predictions", str(tmp_path / "new.conll")]
    assert train_ner.main([*options, "--use_cpu", "--disable_tqdm", "true"]) == {}
    expected = COLUMNS.replace("Ada NNP I-PER", "Ada NNP B-PER").replace("I-LOC", "B-LOC")
    assert (tmp_path / "new.conll").read_text() == expected
    assert train_ner.main(["--model", str(out), "--test", data, "--use_cpu"])["test_f1"] == 1


@pytest.mark.slow
def test_a_trained_classifier_labels_tables_and_json_lines(checkpoint, tmp_path):
    data = write(tmp_path / "train.csv", 'text,label\n"rain, rain",bad\nsun,good\nsnow,bad\n')
    out = tmp_path / "classifier"
    found = train(train_classifier, checkpoint, data, out)
    assert found["eval_accuracy"] == found["eval_macro_f1"] == 1
    assert AutoConfig.from_pretrained(out).id2label == {0: "bad", 1: "good"}
    for name, text in (("a.tsv", "id\ttext\n7\tsun\n"), ("a.jsonl", '{"id": 7, "text": "sun"}\n')):
        source = write(tmp_path / name, text)
        options = ["--model", str(out), "--predict", source, "--output_dir", str(tmp_path)]
        train_classifier.main([*options, "--use_cpu", "--disable_tqdm", "true"])
        written = (tmp_path / name.replace(".", ".predicted.")).read_text()
        (row,) = task_data.read_examples(
            str(tmp_path / name.replace(".", ".predicted.")), ["id", "text", "predicted"]
        )
        assert row["predicted"] == "good" and float(row["probability"]) > 0.5, written
        assert str(row["id"]) == "7" and not list(tmp_path.glob("*.part"))
    assert pipeline("text-classification", str(out))("sun")[0]["label"] == "good"


@pytest.mark.slow
def test_a_model_that_cannot_be_saved_leaves_the_one_before(checkpoint, tmp_path, monkeypatch):
    data = write(tmp_path / "train.csv", "text,label\nrain,bad\nsun,good\n")
    train(train_classifier, checkpoint, data, tmp_path / "out", epochs=1)
    before = (tmp_path / "out" / "model.safetensors").read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device", "model.safetensors")

    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", full)
    with pytest.raises(
        SystemExit, match=r"could not write to .*No space left on device\nmake room"
    ):
        train(train_classifier, checkpoint, data, tmp_path / "out", epochs=2)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    assert AutoConfig.from_pretrained(tmp_path / "out").id2label == {0: "bad", 1: "good"}
