"""The checkpoints that come with the project: complete, small, trained, an original's equal."""

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForPreTraining, AutoTokenizer

from elmo_hf.conversion.convert import convert, convert_back
from elmo_hf.scoring import perplexity, score_sentences

ROOT = Path(__file__).parents[2]
ENGLISH = ["The old house stood on a hill above the town.", "She has not been seen since May."]
SENTENCES = {
    "elmo-mini-en": ENGLISH,
    "elmo-small-en": ENGLISH,
    "elmo-mini-pt": [
        "A velha casa ficava no alto de um monte, perto da aldeia.",
        "Nunca mais a viram desde o mês de maio.",
    ],
}
# The last word of the card's first sentence
LAST_WORD = {"elmo-mini-en": "it", "elmo-small-en": "it", "elmo-mini-pt": "mar"}
MEGABYTES = {"elmo-mini-en": 40, "elmo-small-en": 50, "elmo-mini-pt": 40}


@pytest.fixture(scope="module", params=SENTENCES)
def folder(request):
    return ROOT / "checkpoints" / request.param


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def model(folder):
    return AutoModelForPreTraining.from_pretrained(folder).eval()


def test_every_checkpoint_is_tested():
    assert SENTENCES.keys() == {path.name for path in (ROOT / "checkpoints").iterdir()}


def test_it_is_a_complete_and_small_folder(folder):
    files = {path.name: path.stat().st_size for path in folder.iterdir() if path.suffix != ".py"}
    assert sum(files.values()) <= MEGABYTES[folder.name] * 1e6
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json", "vocab.txt"} <= {
        *files
    }
    card = (ROOT / f"model_cards/{folder.name}.md").read_text(encoding="utf-8")
    card = card.replace(f"(../checkpoints/{folder.name}/", "(")  # the address of its picture
    assert (folder / "README.md").read_text(encoding="utf-8") == card


def test_the_card_s_example_runs(folder, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    card = (folder / "README.md").read_text(encoding="utf-8")
    exec(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1], {})
    end = f"'{LAST_WORD[folder.name]}', '.', '</S>'] 3 (2, 9, 512)\n"
    assert capsys.readouterr().out.endswith(end)


def test_it_computes_in_single_precision(model):
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_it_knows_its_language_s_word_order(folder, model, tokenizer):
    words = [tokenizer.tokenize(sentence) for sentence in SENTENCES[folder.name]]
    mixed = [sorted(sentence) for sentence in words]
    in_order, out_of_order = (
        perplexity(score_sentences(model, tokenizer, given)).mean for given in (words, mixed)
    )
    assert in_order < 200 < 2000 < out_of_order


@pytest.mark.slow
def test_it_is_the_same_through_the_original_format(folder, tmp_path, tokenizer):
    convert_back(folder, tmp_path / "original")
    convert(tmp_path / "original", tmp_path / "again")
    inputs = tokenizer(SENTENCES[folder.name], padding=True, return_tensors="pt")
    with torch.no_grad():
        one, other = (
            AutoModel.from_pretrained(path).eval()(**inputs, output_hidden_states=True)
            for path in (folder, tmp_path / "again")
        )
    for layer, again in zip(one.hidden_states, other.hidden_states, strict=True):
        assert torch.equal(layer, again)
