"""ElmoConfig: saved, loaded, and strict about contradictions."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.hub_server import HubServer
from huggingface_hub.errors import StrictDataclassError

from elmo_hf import ElmoConfig
from elmo_hf.model.configuration_elmo import AUTO_MAP, logger

ROOT = Path(__file__).parents[2]


def test_the_default_is_the_published_original():
    config = ElmoConfig()
    assert (config.hidden_size, config.num_filters, config.vocab_size) == (1024, 2048, 262)
    assert config.has_embedding_projection and config.has_lstm_projection


def test_saved_settings_are_loaded(tmp_path):
    config = ElmoConfig(cell_dim=64, projection_dim=64, cell_clip=None, filters=[[1, 4]])
    config.save_pretrained(tmp_path)
    assert ElmoConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


def test_saving_a_config_copies_the_code_of_its_auto_map(tmp_path):
    config = ElmoConfig()
    config.save_pretrained(tmp_path)
    for reference in config.auto_map.values():
        module, class_name = reference.split(".")
        assert f"class {class_name}" in (tmp_path / f"{module}.py").read_text()


def test_a_folder_of_other_source_files_is_saved_with_the_map_of_these(tmp_path):
    config = ElmoConfig(auto_map={"AutoModel": "another_file.ElmoModel"})
    config.save_pretrained(tmp_path)
    assert ElmoConfig.from_pretrained(tmp_path).auto_map == AUTO_MAP


@pytest.mark.slow
def test_pushing_a_config_uploads_the_code_of_its_auto_map(tmp_path):
    script = (
        "from elmo_hf import ElmoConfig\n"
        "ElmoConfig().save_pretrained('saved', push_to_hub=True, repo_id='me/new')"
    )
    with HubServer() as hub:
        environment = {**os.environ, **hub.environment(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", script]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
        _, files = hub.repositories["me/new"].at("main")
    modules = {f"{reference.split('.')[0]}.py" for reference in AUTO_MAP.values()}
    assert {"config.json", *modules} <= set(files)


def test_misspelled_fields_are_warned_of_and_custom_fields_are_not(monkeypatch):
    logs = []
    monkeypatch.setattr(logger, "warning", logs.append)
    assert ElmoConfig(projection_dims=5, dataset="mine").dataset == "mine"
    assert len(logs) == 1 and "'projection_dims'" in logs[0] and "'projection_dim'?" in logs[0]
    ElmoConfig(id2label={0: "O"}, architectures=["ElmoModel"], hidden_size=4)
    assert len(logs) == 1


def test_hidden_size_follows_the_directions_and_cannot_be_set():
    assert ElmoConfig(projection_dim=8, bidirectional=False).hidden_size == 8
    assert ElmoConfig(projection_dim=8, hidden_size=3).hidden_size == 16
    with pytest.raises(AttributeError):
        ElmoConfig().hidden_size = 3


def test_projections_are_added_only_if_widths_differ_or_by_request():
    equal = {"cell_dim": 8, "projection_dim": 8, "filters": [[1, 8]]}
    assert not ElmoConfig(**equal).has_lstm_projection
    assert not ElmoConfig(**equal).has_embedding_projection
    assert ElmoConfig(**equal, lstm_projection=True).has_lstm_projection
    assert ElmoConfig(**equal, embedding_projection=True).has_embedding_projection


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"filters": []}, "the model has no input"),
        ({"filters": [[1, 2, 3]]}, "expected \\[width, count\\]"),
        ({"filters": [[7, 8]], "max_characters_per_token": 5}, "at least 7"),
        ({"cell_clip": 0}, "expected a positive bound, or None"),
        ({"dropout": 1.5}, "expected a probability"),
        ({"cell_dim": 0}, "cell_dim is 0; expected at least 1"),
        ({"cell_dim": "4096"}, "expected int, got str"),
        ({"num_highway_layers": -1}, "expected 0 or more"),
        ({"activation": "gelu"}, "relu"),
        ({"lstm_projection": False}, "cell_dim equal to projection_dim"),
        ({"embedding_projection": False}, "projection_dim=512, but they are 2048 wide"),
        ({"word_vocab_size": 5}, "word_embedding_dim is 0"),
    ],
)
def test_errors_name_contradictory_settings(fields, complaint):
    with pytest.raises(StrictDataclassError, match=complaint):
        ElmoConfig(**fields)
