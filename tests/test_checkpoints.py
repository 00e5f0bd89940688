"""The checkpoint that comes with the project: complete, small, trained, an original's equal."""

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForPreTraining, AutoTokenizer

from conversion.convert import convert, convert_back
from elmo_hf.scoring import perplexity, score_sentences

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "checkpoints/elmo-mini-en"
SENTENCES = ["The old house stood on a hill above the town.", "She has not been seen since May."]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model():
    return AutoModelForPreTraining.from_pretrained(FOLDER).eval()


def test_it_is_a_complete_folder_of_at_most_40_megabytes():
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir() if path.suffix != ".py"}
    assert sum(files.values()) <= 40e6
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json", "vocab.txt"} <= {
        *files
    }
    card = (ROOT / "model_cards/elmo-mini-en.md").read_text(encoding="utf-8")
    assert (FOLDER / "README.md").read_text(encoding="utf-8") == card


def test_the_card_s_example_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    exec(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1], {})
    assert capsys.readouterr().out.endswith("'it', '.', '</S>'] 3 (2, 9, 512)\n")


def test_it_computes_in_single_precision(model):
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_it_knows_english_word_order(model, tokenizer):
    words = [tokenizer.tokenize(sentence) for sentence in SENTENCES]
    mixed = [sorted(sentence) for sentence in words]
    in_order, out_of_order = (
        perplexity(score_sentences(model, tokenizer, given)).mean for given in (words, mixed)
    )
    assert in_order < 200 < 2000 < out_of_order


def test_it_is_the_same_through_the_original_format(tmp_path, tokenizer):
    convert_back(FOLDER, tmp_path / "original")
    convert(tmp_path / "original", tmp_path / "again")
    inputs = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        one, other = (
            AutoModel.from_pretrained(folder).eval()(**inputs, output_hidden_states=True)
            for folder in (FOLDER, tmp_path / "again")
        )
    for layer, again in zip(one.hidden_states, other.hidden_states, strict=True):
        assert torch.equal(layer, again)
