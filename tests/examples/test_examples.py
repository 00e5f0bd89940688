"""The training examples on tiny data, and what they say about bad data."""

import json
import re

import pack
import pytest
import task_data
import torch
import train_classifier
import train_ner
import train_qa
import train_sentence_embeddings

from elmo_hf import (
    ElmoConfig,
    ElmoForPreTraining,
    ElmoForTokenClassification,
    ElmoModel,
    ElmoTokenizer,
)

TINY = {"cell_dim": 12, "projection_dim": 6, "filters": [[1, 4], [2, 5]], "char_embedding_dim": 3}
VOCABULARY = ["<S>", "</S>", "<UNK>", "Ada", "Where", "it", "a"]
CONLL = """-DOCSTART- -X- O

Ada NNP I-PER
Lovelace NNP I-PER
met VBD O
Babbage NNP I-PER

in IN O
London NNP I-LOC
Paris NNP B-LOC
"""
CONLLU = """# text = don't go
1-2\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tdo\tdo\tAUX\t_\t_\t3\taux\t_\t_
2\tn't\tnot\tPART\t_\t_\t3\tadvmod\t_\t_
3\tgo\tgo\tVERB\t_\t_\t0\troot\t_\t_
3.1\tit\tit\tPRON\t_\t_\t_\t_\t_\t_
"""


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    still = {"dropout": 0, "mix_dropout": 0, "classifier_dropout": 0}
    config = ElmoConfig(**TINY, **still, lm_vocab_size=len(VOCABULARY))
    ElmoForPreTraining(config).save_pretrained(tmp_path / "elmo")
    ElmoTokenizer(lm_vocab=VOCABULARY).save_pretrained(tmp_path / "elmo")
    return str(tmp_path / "elmo")


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def json_lines(path, rows):
    return write(path, "\n".join(map(json.dumps, rows)) + "\n")


def run(script, checkpoint, train, tmp_path, *more, epochs=30, rate=0.1):
    arguments = {"model": checkpoint, "train": train, "dev": train, "output_dir": tmp_path / "out"}
    arguments |= {"num_train_epochs": epochs, "learning_rate": rate, "eval_strategy": "no"}
    arguments |= {"save_strategy": "no"}
    flags = [str(part) for name, value in arguments.items() for part in (f"--{name}", value)]
    return script.main([*flags, "--use_cpu", "--disable_tqdm", "true", *more])


@pytest.mark.slow
def test_parts_of_speech_are_learnt_from_conllu_and_the_biLM_along(checkpoint, tmp_path):
    pytest.importorskip("seqeval")
    train = write(tmp_path / "train.conllu", CONLLU)
    options = ["--scheme", "none", "--tags_column", "upos", "--lstm_dim", "0", "--no_crf"]
    options += ["--train_bilm", "--output_embeddings"]
    found = run(train_ner, checkpoint, train, tmp_path, *options)
    assert found["eval_accuracy"] == 1
    tuned = ElmoForTokenClassification.from_pretrained(tmp_path / "out").elmo
    before = ElmoModel.from_pretrained(checkpoint)
    assert not torch.equal(next(tuned.parameters()), next(before.parameters()))


@pytest.mark.slow
def test_numbers_of_pairs_are_learnt_from_json_lines(checkpoint, tmp_path):
    rows = [("rain", "it rains", 1.0), ("sun", "moon", 0.2), ("a hill", "a car", 0)]
    rows = [dict(zip(("text", "other", "label"), row, strict=True)) for row in rows]
    options = ["--pair_column", "other", "--regression", "--pooling", "ends"]
    options += ["--output_embeddings"]
    train = json_lines(tmp_path / "train.jsonl", rows)
    found = run(train_classifier, checkpoint, train, tmp_path, *options, epochs=90)
    assert found["eval_pearson"] > 0.9


@pytest.mark.slow
def test_answers_are_learnt_and_so_is_that_there_is_none(checkpoint, tmp_path):
    context = "Ada slept. It rained in London."
    answers = [("Who slept ?", "Ada", 0), ("Where ?", "in London", 21)]
    rows = [
        {"question": q, "context": context, "answers": {"text": [a], "answer_start": [start]}}
        for q, a, start in answers
    ]
    rows.append({"question": "Why ?", "context": "No one knows.", "answers": {}})
    rows[2]["answers"] = {"text": [], "answer_start": []}
    train = json_lines(tmp_path / "train.jsonl", rows)
    options = ["--lstm_dim", "12", "--output_embeddings"]
    found = run(train_qa, checkpoint, train, tmp_path, *options, epochs=60, rate=0.05)
    assert found["eval_f1"] == 1 and found["eval_exact_match"] == 1
    files = ["--model", str(tmp_path / "out"), "--predict", train, "--output_dir", str(tmp_path)]
    train_qa.main([*files, "--use_cpu", "--disable_tqdm", "true"])
    lines = (tmp_path / "train.predicted.jsonl").read_text().splitlines()
    assert [json.loads(line)["predicted"] for line in lines[:2]] == ["Ada", "in London"]
    assert [json.loads(line)["better_than_none_by"] > 0 for line in lines] == [True, True, False]


@pytest.mark.slow
def test_sentence_embeddings_are_trained_on_pairs(checkpoint, tmp_path):
    pytest.importorskip("sentence_transformers")
    rows = [("rain fell", "it rained"), ("a hill", "a mountain"), ("no", "never")]
    lines = "\n".join(map(",".join, rows))
    train = write(tmp_path / "train.csv", f"anchor,positive\n{lines}\n")
    scores = [(a, b, int(a == c)) for a, _ in rows for c, b in rows]
    lines = "\n".join(",".join(map(str, row)) for row in scores)
    dev = write(tmp_path / "dev.csv", f"sentence1,sentence2,score\n{lines}\n")
    found = run(train_sentence_embeddings, checkpoint, train, tmp_path, "--dev", dev, rate=0.02)
    assert found["dev_spearman_cosine"] > 0.7
    assert (tmp_path / "out" / "modules.json").is_file()


def test_a_checkpoint_is_packed_in_half_its_size(tmp_path, capsys):
    words = ["<S>", "</S>", "<UNK>", "rain", "fell", "."]
    torch.manual_seed(0)
    model = ElmoForPreTraining(ElmoConfig(**TINY, lm_vocab_size=len(words)))
    model.save_pretrained(tmp_path / "run")
    ElmoTokenizer(lm_vocab=words).save_pretrained(tmp_path / "run")
    text = write(tmp_path / "text.txt", "rain fell .\n\nrain .\n")
    given = [str(tmp_path / "run"), str(tmp_path / "packed")]
    pack.main([*given, "--text", text])
    before, after = re.search(
        r"perplexity (\S+) before, (\S+) after", capsys.readouterr().out
    ).groups()
    assert float(before) == pytest.approx(float(after), rel=1e-2)
    half, whole = ((tmp_path / name / "model.safetensors") for name in ("packed", "run"))
    assert half.stat().st_size < 0.7 * whole.stat().st_size
    packed = ElmoForPreTraining.from_pretrained(tmp_path / "packed")
    rounded = model.state_dict()["lm_head.weight"].bfloat16().float()
    assert torch.equal(packed.state_dict()["lm_head.weight"], rounded)
    with pytest.raises(SystemExit, match="exists already"):
        pack.main(given)
    with pytest.raises(SystemExit, match=r"error: SOURCE .*no such folder; did you mean .*run"):
        pack.main([str(tmp_path / "rum"), str(tmp_path / "new")])


def test_a_data_set_of_the_hub_is_read_with_the_names_of_its_classes(tmp_path):
    datasets = pytest.importorskip("datasets")
    many = getattr(datasets, "List", datasets.Sequence)
    tags = many(datasets.ClassLabel(names=["O", "B-PER"]))
    features = datasets.Features({"tokens": many(datasets.Value("string")), "tags": tags})
    rows = {"tokens": [["Ada", "slept"], ["no"]], "tags": [[1, 0], [0]]}
    (tmp_path / "hub").mkdir()
    made = datasets.Dataset.from_dict(rows, features=features)
    made.to_parquet(tmp_path / "hub" / "train.parquet")
    source = f"{tmp_path / 'hub'}:train[:1]"
    (sentence,) = task_data.read_tagged(source, "tokens", "tags")
    assert sentence["tags"] == ["B-PER", "O"] and sentence["where"][0] == f"{source}, row 0"
    with pytest.raises(task_data.DataError, match="no column words; found tokens, tags"):
        task_data.read_tagged(source, "words", "tags")


def test_spans_may_come_in_any_scheme():
    ways = {
        "IOB1": ["I-X", "I-X", "B-X", "O", "I-Y", "I-X"],
        "BIO": ["B-X", "I-X", "B-X", "O", "B-Y", "B-X"],
        "BIOES": ["B-X", "E-X", "S-X", "O", "S-Y", "S-X"],
    }
    for tags in ways.values():
        for scheme in ("BIO", "BIOES"):
            assert task_data.recode_spans(tags, scheme, tags) == ways[scheme]


def test_words_keep_their_lines(tmp_path):
    path = write(tmp_path / "a.conll", CONLL)
    _, second = task_data.read_tagged(path, "", "")
    assert second["words"] == ["in", "London", "Paris"]
    assert second["where"] == [f"{path}:{line}" for line in (8, 9, 10)]
    path = write(tmp_path / "a.conllu", CONLLU)
    (sentence,) = task_data.read_tagged(path, "", "upos")
    assert sentence["words"] == ["do", "n't", "go"]
    assert sentence["tags"] == ["AUX", "PART", "VERB"] and sentence["where"][2] == f"{path}:5"


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.conll", "", "the data set is empty"),
        ("a.conll", "a O\nb\n", ":2: expected 2 columns, found 'b'"),
        ("a.conllu", "1\ta\n", ":1: expected 10 columns"),
        ("a.csv", "text,target\na,b\n", ":1: no column label; found text, target"),
        ("a.csv", "text,label\na,b\nc\n", ":3: expected 2 fields"),
        ("a.csv", "text,label\na,b,c\n", ":2: expected 2 fields"),
        ("a.csv", "", ":1: no column text, label; found none"),
        ("a.tsv", "text\tlabel\n", "the data set is empty"),
        (
            "a.jsonl",
            '{"text": "a", "label": 1}\n{"text"\n',
            ":2: expected one JSON object per line",
        ),
        ("a.jsonl", "\n[1]\n", ":2: expected a JSON object"),
        ("a.jsonl", '{"text": "a"}\n', ":1: no column label; found text"),
        ("a.txt", "", "ends in .csv, .tsv, .jsonl or .json"),
        ("a.csv", b"text,label\n\xe9,b\n", "is not UTF-8 at byte 11"),
    ],
)
def test_bad_files_are_named_with_the_line(tmp_path, name, content, complaint):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(task_data.DataError) as caught:
        if "conll" in name:
            task_data.read_tagged(str(path), "words", "upos")
        else:
            task_data.read_examples(str(path), ["text", "label"])
    assert str(caught.value).startswith(str(path)) and complaint in str(caught.value)


def test_bad_labels_are_named_with_the_line(tmp_path):
    with pytest.raises(task_data.DataError, match=r"there is no such file; .* NAME:SPLIT"):
        task_data.read_examples("missing.csv", ["text"])
    with pytest.raises(task_data.DataError, match="a:3: expected a tag O"):
        task_data.recode_spans(["O", "PER"], "BIO", ["a:2", "a:3"])
    with pytest.raises(task_data.DataError, match=r"a:3: label 'X' is not one of .* \(O, B\)"):
        task_data.label_id("X", task_data.label_names(["B", "O"]), "a:3")
    with pytest.raises(task_data.DataError, match="a:3: expected a number, found 'x'"):
        task_data.read_number("x", "a:3")
    path = json_lines(tmp_path / "a.jsonl", [{"words": ["a"], "tags": ["O", "O"]}])
    with pytest.raises(task_data.DataError, match=r"a.jsonl:1: .* lists of equal length"):
        task_data.read_tagged(path, "words", "tags")
    row = {"question": "Who ?", "context": "Ada slept", "answers": {"text": ["Ada"]}}
    with pytest.raises(task_data.DataError, match=r"a.jsonl:1: expected answers like"):
        task_data.read_answers(json_lines(tmp_path / "a.jsonl", [row]))
    row["answers"]["answer_start"] = [3]
    with pytest.raises(task_data.DataError, match=r"a.jsonl:1: 'Ada' is not at character 3"):
        task_data.read_answers(json_lines(tmp_path / "a.jsonl", [row]))
