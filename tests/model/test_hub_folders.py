"""Saved folders open through the auto classes, with and without elmo_hf installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoTokenizer

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoModel, ElmoTokenizer
from elmo_hf.model.configuration_elmo import AUTO_MAP

TASKS = ["SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice"]
SENTENCES = ["The river don't stop .", "Naïve 日本語 !"]
STRANGER = """
import json, sys
import torch, transformers
from transformers import AutoModel, AutoModelForPreTraining, AutoTokenizer
assert "elmo_hf" not in sys.modules
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
tag = transformers.pipeline("ner", model=copy + "TokenClassification", trust_remote_code=True,
                            tokenizer=tokenizer, ignore_labels=[])
assert type(tag).__name__ == "ElmoTokenClassificationPipeline"
words = sentences[0].split()
assert [one["word"] for one in tag([words], is_split_into_words=True)[0]] == words
features = transformers.pipeline("feature-extraction", model=copy, trust_remote_code=True)
assert len(features("a b")[0]) == 4
print("VECTORS", json.dumps(vectors.tolist()))
"""


NEWCOMER = """
import sys
from transformers import AutoModel, AutoTokenizer, pipeline
folder = sys.argv[1]
hide()
for auto in (AutoTokenizer, AutoModel):
    try:
        auto.from_pretrained(folder, trust_remote_code=True)
    except ImportError as error:
        print(error)
    else:
        raise AssertionError("no error")
show()
made = [auto.from_pretrained(folder, trust_remote_code=True) for auto in (AutoTokenizer, AutoModel)]
made.append(pipeline("token-classification", model=folder, trust_remote_code=True))
made[2]("A tagger without training.")
print(*(type(one).__name__ for one in made))
"""
HIDE = """
import importlib.abc, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("elmo_hf", "conversion"):
            raise ModuleNotFoundError(name)
def hide():
    sys.meta_path.insert(0, Refuse())
def show():
    del sys.meta_path[0]
"""
ROOT = Path(__file__).parents[2]
CONFIGS = ("config.json", "tokenizer_config.json")


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


def run_alone(script, argument, folder):
    """Run a script that may hide elmo_hf by `hide()` in a process of its own; return its output."""
    result = subprocess.run(
        [sys.executable, "-c", HIDE + script, argument],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "HF_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_the_vectors_are_equal_without_elmo_hf_installed(folder, tmp_path):
    arguments = json.dumps([str(folder), str(tmp_path / "copy"), SENTENCES, TASKS])
    output = run_alone("hide()\n" + STRANGER, arguments, tmp_path)
    line = next(line for line in output.splitlines() if line.startswith("VECTORS "))
    found = torch.tensor(json.loads(line.removeprefix("VECTORS ")))
    torch.testing.assert_close(found, expected_vectors(folder))


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "checkpoints").iterdir()))
def test_the_checkpoints_of_this_project_are_opened_by_the_same_code(name):
    code = {"import_elmo_hf.ElmoConfig", "import_elmo_hf.ElmoTokenizer"}
    folder = ROOT / "checkpoints" / name
    maps = [json.loads((folder / file).read_text())["auto_map"] for file in CONFIGS]
    assert maps[0].keys() == AUTO_MAP.keys()
    assert {maps[0]["AutoConfig"], maps[1]["AutoTokenizer"][0]} == code
    for key, reference in maps[0].items():
        assert reference == f"import_elmo_hf.{AUTO_MAP[key].split('.')[1]}"
    stub = (folder / "import_elmo_hf.py").read_bytes()
    assert stub == (ROOT / "checkpoints/elmo-mini-en/import_elmo_hf.py").read_bytes()


@pytest.mark.slow
def test_the_checkpoints_of_this_project_open_without_an_import_or_say_what_to_install(tmp_path):
    output = run_alone(NEWCOMER, str(ROOT / "checkpoints/elmo-mini-en"), tmp_path)
    assert "This checkpoint needs the package elmo_hf: pip install elmo-hf" in output
    assert "ElmoTokenizer ElmoModel ElmoTokenClassificationPipeline" in output
