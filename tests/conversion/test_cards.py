"""Tests of model cards: known and unknown facts, and code that runs."""

import dataclasses
import json
import re

import pytest
import torch
from helpers.originals import VARIANTS, options, random_arrays, write_original
from huggingface_hub import ModelCard
from transformers import AutoModel, AutoTokenizer

import elmo_hf
from elmo_hf import ElmoModel
from elmo_hf.conversion.cards import count_parameters, render_card
from elmo_hf.conversion.convert import convert
from elmo_hf.conversion.registry import Measurement, find, read_registry

FIGURE = Measurement("token-classification", "wikigold", "f1", 71.5, "python benchmarks/ner.py")


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    work = tmp_path_factory.mktemp("cards")
    source = write_original(work / "theirs", options(), random_arrays(options()))
    convert(source, work / "ours")
    return work / "ours"


def card(folder, checkpoint, repo_id="me/elmo"):
    record = json.loads((folder / "conversion.json").read_text())
    return render_card(folder, repo_id, checkpoint, record)


def test_the_code_at_the_top_of_a_card_runs(converted, capsys):
    text = card(converted, find("german"), str(converted)).text
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert text[: code.end()].count("\n") < 20
    assert code[1].count("trust_remote_code=True") == 2
    exec(code[1].replace(", trust_remote_code=True", ""), {})
    words = "['<S>', 'They', 'don', \"'t\", 'bank', 'on', 'it', '.', '</S>']"
    assert capsys.readouterr().out == f"{words} 3 (2, 9, 24)\n"


def test_a_card_states_the_facts_of_the_registry_and_of_the_conversion(converted):
    made, record = (
        card(converted, find("german")),
        json.loads((converted / "conversion.json").read_text()),
    )
    assert made.data.to_dict() == {
        "language": ["de"],
        "license": "bsd-2-clause",
        "library_name": "transformers",
        "pipeline_tag": "feature-extraction",
        "tags": ["elmo", "word-embeddings"],
    }
    for file in ("weights", "options"):
        assert record["source"][file]["sha256"] in made.text
    assert made.text.count("| layer ") == 3
    for said in ("perplexity 40.17", "@inproceedings{peters2018", "at most 48", "BSD-2-Clause"):
        assert said in made.text
    parameters = AutoModel.from_pretrained(converted).num_parameters()
    assert f"| parameters | {parameters:,} |" in made.text


def test_a_card_says_what_was_not_measured(converted):
    text = card(converted, find("allennlp-small")).text
    assert "\nNot measured by this project.\n" in text
    assert "\nBias was not measured by this project.\n" in text
    assert "Weights: not stated (" in text


def test_measured_figures_are_shown_with_their_commands(converted):
    bias = Measurement("WEAT 7", "WEAT", "effect size", 0.3, "python benchmarks/bias.py")
    measured = dataclasses.replace(find("german"), evaluations=(FIGURE,), biases=(bias,))
    made = card(converted, measured)
    assert "not measured by" not in made.text.lower()
    for figure in (FIGURE, bias):
        assert f"| {figure.metric} | {figure.value} | `{figure.command}` |" in made.text
    (result,) = made.data.eval_results
    assert (result.metric_type, result.metric_value) == ("f1", 71.5)


def test_every_registered_checkpoint_has_a_card_that_reads_back(converted):
    for checkpoint in read_registry().values():
        made = card(converted, checkpoint)
        read = ModelCard(str(made))
        assert read.data.to_dict() == made.data.to_dict()
        assert f"# {checkpoint.title}\n" in read.text
        assert not re.search(r"\{[{%]|None|Undefined", read.text), checkpoint.name


def test_notes_and_softmax_are_mentioned_where_there_are_any(tmp_path):
    made_of = VARIANTS["one direction"]
    arrays = random_arrays(made_of, softmax=True)
    convert(write_original(tmp_path / "theirs", made_of, arrays), tmp_path / "ours")
    text = card(tmp_path / "ours", find("german")).text
    assert "\n- no vocabulary found" in text and "and their softmax" in text
    assert "12 wide (one direction)" in text and "| words of the softmax | 10 |" in text


def test_parameters_are_counted_without_loading_them(converted):
    counted = count_parameters(converted / "model.safetensors")
    assert counted == ElmoModel.from_pretrained(converted).num_parameters()


def test_the_translation_from_allennlp_runs(converted):
    text = card(converted, find("german"), str(converted)).text
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    table = text.partition("## Coming from AllenNLP")[2]
    namespace = {"elmo_hf": elmo_hf, "torch": torch, "sentences": [["A", "river", "bank"]]}
    exec(code.replace(", trust_remote_code=True", ""), namespace)
    batch, embedding, mix = re.findall(r"^\| `[^`]*` \| `([^`]*)`", table, re.MULTILINE)
    namespace["inputs"] = eval(batch, namespace)
    assert eval(embedding, namespace).shape == (3, 3, 24)
    torch.testing.assert_close(
        eval(mix, namespace), torch.stack(namespace["layers"]).mean(0), rtol=1e-5, atol=1e-6
    )


def test_nothing_in_a_record_becomes_markup(converted):
    record = json.loads((converted / "conversion.json").read_text())
    record["source"]["weights"]["file"] = "a | b`\n# Licence\nMIT"
    record["notes"] = ["![x](https://evil)\n\n## Evaluation\n<script>"]
    text = render_card(converted, "me/elmo", find("german"), record).text
    assert text.count("\n## Evaluation\n") == 1 and "\n# Licence" not in text
    assert "![x]" not in text and "<script>" not in text.replace("\\<", "")
    row = next(line for line in text.splitlines() if "MIT" in line and "original file" in line)
    assert len(re.findall(r"(?<!\\)\|", row)) == 3


@pytest.mark.parametrize(
    ("trusts", "words"),
    [
        ([], "none: they were local files"),
        (["registered", "registered"], "equals the one in elmo_hf's registry"),
        (["registered", "first download"], "that of the first download"),
        (["same as the first download"], "their publisher states no checksum"),
    ],
)
def test_the_card_says_how_far_the_original_files_can_be_trusted(converted, trusts, words):
    record = json.loads((converted / "conversion.json").read_text())
    download = {"address": "https://a/b", "size": 1, "sha256": "0" * 64}
    record["downloads"] = [{**download, "trust": trust} for trust in trusts]
    text = render_card(converted, "me/elmo", find("german"), record).text
    assert re.search(rf"\| trust in the original files \| .*{words}", text)


def test_the_card_names_the_word_splitter(converted):
    record = json.loads((converted / "conversion.json").read_text())
    text = render_card(converted, "me/elmo", find("german"), {**record, "word_splitter": "1b"}).text
    assert "| word splitter for raw text | 1b |" in text


def test_a_token_input_model_has_no_longest_word(tmp_path):
    made_of = VARIANTS["token input"]
    source = write_original(tmp_path / "theirs", made_of, random_arrays(made_of), vocab=True)
    convert(source, tmp_path / "ours")
    assert "bytes, 48" not in card(tmp_path / "ours", find("german")).text
    inputs = AutoTokenizer.from_pretrained(tmp_path / "ours")("the bank", return_tensors="pt")
    assert AutoModel.from_pretrained(tmp_path / "ours")(**inputs).last_hidden_state.shape[1] == 4
