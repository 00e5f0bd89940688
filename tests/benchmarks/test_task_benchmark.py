"""The benchmark on tasks: its data, its rows, its memory and its table."""

import json
import lzma
import sys
from pathlib import Path

import pytest
import torch

from elmo_hf import ElmoConfig, ElmoModel, ElmoTokenizer

ROOT = Path(__file__).parents[2]
TINY = {"cell_dim": 12, "projection_dim": 6, "filters": [[1, 4], [2, 5]], "char_embedding_dim": 3}


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    for folder in ("examples", "benchmarks"):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    for module in ("task_data", "train_ner", "train_classifier", "train_qa"):
        monkeypatch.delitem(sys.modules, module, raising=False)


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    ElmoModel(ElmoConfig(**TINY)).save_pretrained(tmp_path / "elmo")
    ElmoTokenizer().save_pretrained(tmp_path / "elmo")
    return str(tmp_path / "elmo")


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    tagged = "# sent_id = 1\nAda\tB-PER\nmet\tO\n#\tO\n\nParis\tB-LOC\n"
    for name in ("train", "test"):
        write(folder / "uner_en_ewt" / f"{name}.iob2", tagged)
    write(folder / "conll2000/train.txt.xz", "# # I-NP\n20 CD I-NP\n")
    write(folder / "conll2000/test.txt", "it PRP B-NP\n")
    write(
        folder / "sst/train.txt", "(3 (2 A) (4 good\\/fine))\n(2 (2 one) (2 .))\n(0 (1 Bad) (2 .))"
    )
    write(folder / "sst/test.txt", "(4 (2 Very) (4 good))\n")
    write(folder / "trec_qc/train.txt", "HUM:ind Who was Café ?\n".encode("latin-1"))
    write(folder / "trec_qc/test.txt", "LOC:city Where ?\n")
    article = {"context": "Ada slept.", "qas": [{"question": "Who ?", "answers": []}]}
    article["qas"][0]["answers"] = [{"text": "Ada", "answer_start": 0}]
    articles = [{"paragraphs": [article]} for _ in range(5)]
    write(folder / "xquad/xquad.en.json", json.dumps({"data": articles}))
    for name in ("neg", "pos"):
        lines = "\n".join(f"{name} {number}" for number in [*range(20), 3])
        write(folder / f"sentence_polarity/rt-polarity.{name}", lines)
    return folder


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(lzma.compress(content) if path.suffix == ".xz" else content)


def prepare(name, data, tmp_path):
    from task_texts import TASKS

    (tmp_path / name).mkdir()
    return [path.read_text() for path in TASKS[name].write(data, tmp_path / name)]


def test_columns_lose_their_comments_and_no_word(data, tmp_path):
    assert prepare("uner_en_ewt", data, tmp_path)[0].startswith("Ada\tB-PER\nmet\tO\n#\tO\n")
    assert prepare("conll2000", data, tmp_path)[0] == "# # I-NP\n20 CD I-NP\n"


def test_texts_come_with_their_classes(data, tmp_path):
    def pairs(name):
        parts = prepare(name, data, tmp_path)
        rows = [[json.loads(line) for line in part.splitlines()] for part in parts]
        return [[(row["text"], row["label"]) for row in part] for part in rows]

    assert pairs("sst2") == [[("A good\\/fine", "1"), ("Bad .", "0")], [("Very good", "1")]]
    assert [label for _, label in pairs("sst5")[0]] == ["3", "2", "0"]
    assert pairs("trec") == [[("Who was Café ?", "HUM")], [("Where ?", "LOC")]]
    train, test = pairs("sentence_polarity")
    assert len(train) == 36 and len(test) == 4 and not {*train} & {*test}
    assert {label for _, label in test} == {"negative", "positive"}


def test_articles_of_questions_are_in_one_part_only(data, tmp_path):
    train, test = prepare("xquad", data, tmp_path)
    assert len(train.splitlines()) == 4 and len(test.splitlines()) == 1


def test_a_missing_file_is_named(data, tmp_path):
    from task_texts import DataError

    with pytest.raises(DataError, match=r"wnut17/train.conll is missing; .* --data"):
        prepare("wnut17", data, tmp_path)


def test_a_remembered_biLM_gives_the_same_layers():
    from remembered import remember

    known = {}
    tokenizer = ElmoTokenizer(lm_vocab=["<S>", "</S>", "<UNK>", "a", "d"], use_word_ids=True)
    elmo = ElmoModel(ElmoConfig(**TINY, lm_vocab_size=5, output_embedding_layer=True)).eval()
    elmo.requires_grad_(False)
    module = remember(elmo, known)
    for sentences in (["a b c", "d"], ["d", "e f g h"]):
        inputs = tokenizer(sentences, padding=True, return_tensors="pt")
        found = module(**inputs, inputs_embeds=None).hidden_states
        expected = elmo(**inputs, output_hidden_states=True).hidden_states
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    assert len(known) == 3


@pytest.mark.slow
def test_rows_are_measured_once_and_reported(checkpoint, data, tmp_path, monkeypatch):
    pytest.importorskip("seqeval")
    import tasks

    for name in ("LINEAR", "LSTM", "TRAINED"):
        steps = [*getattr(tasks, name)]
        steps[steps.index("--max_steps") + 1] = "1"
        monkeypatch.setattr(tasks, name, tuple(steps))
    arguments = [checkpoint, "--data", str(data), "--work", str(tmp_path / "work"), "--seeds", "1"]
    given = tasks.parse_arguments([*arguments, "--tasks", "uner_en_ewt", "sst2"])
    plans = tasks.make_plans(given)
    assert tasks.make_plans(given) == plans
    for plan in plans:
        wanted = ["learned mix, CRF", "random weights, biLSTM (CRF)", "learned mix, biLM trained"]
        plan.rows.update({name: plan.rows.pop(name) for name in wanted})
        for name in set(plan.rows) - set(wanted):
            del plan.rows[name]
        assert tasks.measure(plan) == plan.name
        assert not [*plan.runs()]
        with plan.results("random").open("a") as file:
            file.write('{"row": "cut')
        assert len(plan.read()) == (3 if plan.name == "uner_en_ewt" else 2)
    results = tasks.collect(plans, "python tasks.py")
    text = tasks.markdown(results)
    assert "| vectors and head | uner_en_ewt | sst2 | mean |" in text
    assert "| learned mix, CRF |" in text and " | - | - |" in text
    assert "--no_crf" in text and "--train_bilm" in text
    del plan.rows["learned mix, CRF"]
    again = tasks.collect([plan], "python tasks.py --add")
    again["tasks"]["sst2"]["scores"] = {"added": {"mean": 50.0, "spread": None, "seeds": 1}}
    both = tasks.add_results(results, again)
    assert len(both["made"]) == 2 and both["tasks"]["sst2"]["scores"].keys() > {"added"}
    again["made"][0]["checkpoint"] = None  # word2vec reads none
    assert "cores; no checkpoint." in tasks.markdown(tasks.add_results(results, again))
    again["made"][0]["checkpoint"] = "another"
    with pytest.raises(ValueError, match="another checkpoint"):
        tasks.add_results(results, again)


def test_the_learned_mix_is_compared_with_single_layers_and_random_weights():
    import tasks

    def scores(mix, bottom, top, random):
        rows = zip(
            [tasks.MIX, "layer 0", "layer 1", tasks.RANDOM], (mix, bottom, top, random), strict=True
        )
        return {"scores": {row: {"mean": mean} for row, mean in rows}}

    found = {"one": scores(80.0, 60.0, 81.0, 40.0), "two": scores(90.0, 88.0, 70.0, 60.0)}
    best, random = tasks.compare(found)
    assert best.endswith("best single layer: +0.5 on average, from -1.0 (one) to +2.0 (two)")
    assert random.endswith("mix: +35.0 on average, from +30.0 (two) to +40.0 (one)")
    assert tasks.compare({"one": {"scores": {tasks.MIX: {"mean": 1.0}}}}) == []


def test_a_model_of_word2vec_has_its_vectors_in_layer_0(data, tmp_path):
    pytest.importorskip("gensim")
    from task_models import write_word2vec

    text = tmp_path / "text.txt"
    text.write_text("the cat saw the dog\n" * 20, encoding="utf-8")
    folder = write_word2vec([str(text)], 8, tmp_path / "word2vec", 1)
    model, tokenizer = ElmoModel.from_pretrained(folder), ElmoTokenizer.from_pretrained(folder)
    layer = model(**tokenizer("the cat cat", return_tensors="pt"), output_hidden_states=True)[1][0]
    assert layer.shape == (1, 5, 16)
    assert torch.equal(layer[0, 2], layer[0, 3]) and torch.equal(layer[0, 2, :8], layer[0, 2, 8:])
    rare = model(**tokenizer("unseen", return_tensors="pt"), output_hidden_states=True)[1][0][0, 1]
    mean = model.get_input_embeddings().weight[4:].mean(0)
    torch.testing.assert_close(rare[:8], mean)
