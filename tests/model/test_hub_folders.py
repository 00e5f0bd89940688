"""Saved folders open through the auto classes, with and without elmo_hf installed."""

import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoTokenizer

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoModel, ElmoTokenizer

TASKS = ["SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice"]
SENTENCES = ["The river don't stop .", "Naïve 日本語 !"]
STRANGER = """
import importlib.util, json, sys
import torch, transformers
from transformers import AutoModel, AutoModelForPreTraining, AutoTokenizer
assert importlib.util.find_spec("elmo_hf") is None, "elmo_hf can be imported here"
folder, copy, sentences, tasks = json.loads(sys.argv[1])
def top(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    inputs = tokenizer(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        return tokenizer, model, model(**inputs).last_hidden_state
tokenizer, model, vectors = top(folder)
head = AutoModelForPreTraining.from_pretrained(folder, trust_remote_code=True)
tokenizer.save_pretrained(copy)
head.save_pretrained(copy)
assert torch.equal(top(copy)[2], vectors), "saved again, it gives other vectors"
for task in tasks:
    auto = getattr(transformers, "AutoModelFor" + task)
    head = auto.from_pretrained(folder, trust_remote_code=True)
    inputs = tokenizer(sentences, padding=True, return_tensors="pt")
    if task == "MultipleChoice":
        inputs = {name: value[None] for name, value in inputs.items()}
    logits = head(**inputs)[0]
    head.save_pretrained(copy + task)
    again = auto.from_pretrained(copy + task, trust_remote_code=True)(**inputs)[0]
    torch.testing.assert_close(logits, again)
print("VECTORS", json.dumps(vectors.tolist()))
"""


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    config = ElmoConfig(cell_dim=16, projection_dim=8, filters=[[1, 4], [2, 8]], lm_vocab_size=5)
    ElmoForPreTraining(config).save_pretrained(tmp_path / "saved")
    ElmoTokenizer().save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def expected_vectors(folder):
    inputs = ElmoTokenizer()(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        return ElmoModel.from_pretrained(folder)(**inputs).last_hidden_state


def test_importing_elmo_hf_is_enough_for_the_auto_classes(folder):
    assert type(AutoConfig.from_pretrained(folder)) is ElmoConfig
    assert type(AutoModel.from_pretrained(folder)) is ElmoModel
    assert type(AutoModelForPreTraining.from_pretrained(folder)) is ElmoForPreTraining
    assert type(AutoTokenizer.from_pretrained(folder)) is ElmoTokenizer


def test_a_saved_folder_holds_safetensors_a_complete_auto_map_and_the_code(folder):
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    heads = {f"AutoModelFor{task}" for task in ("PreTraining", *TASKS)}
    assert set(auto_map) == {"AutoConfig", "AutoModel", *heads}
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())["auto_map"]
    assert tokenizer["AutoTokenizer"][0] == "tokenization_elmo.ElmoTokenizer"
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "modeling_elmo.py", "tokenization_elmo.py"} <= names


def test_a_stranger_without_elmo_hf_gets_equal_vectors(folder, tmp_path):
    arguments = json.dumps([str(folder), str(tmp_path / "copy"), SENTENCES, TASKS])
    # -S and -I would hide the installed stack too: hide elmo_hf alone by a finder that refuses it.
    block = "import sys, importlib.abc\nclass Refuse(importlib.abc.MetaPathFinder):\n" + (
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('elmo_hf', 'conversion'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
    )
    script = block + STRANGER.replace(
        'importlib.util.find_spec("elmo_hf") is None', '"elmo_hf" not in sys.modules'
    )
    result = subprocess.run(
        [sys.executable, "-c", script, arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    line = next(line for line in result.stdout.splitlines() if line.startswith("VECTORS "))
    found = torch.tensor(json.loads(line.removeprefix("VECTORS ")))
    torch.testing.assert_close(found, expected_vectors(folder))
