"""ElmoEmbedder as a function of `datasets` and Ray, in pickles, forks and other processes."""

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from test_embedder import SENTENCES, make_model

import elmo_hf
from elmo_hf import ElmoEmbedder, ElmoTokenizer, loading

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "tiny"
    make_model().save_pretrained(path)
    ElmoTokenizer().save_pretrained(path)
    return path


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.array([*one]).reshape(other.shape), other, atol=1e-6)


def test_embedders_of_a_folder_share_one_model_and_have_small_pickles(folder):
    embedder = ElmoEmbedder(folder, layers=[0, 1])
    expected = list(embedder.embed(SENTENCES))
    stored = pickle.dumps(embedder)
    assert len(stored) < 10_000
    for other in (pickle.loads(stored), copy.copy(embedder), copy.deepcopy(embedder)):
        assert other.model is embedder.model and other.layers == [0, 1]
        assert_same(other.embed(SENTENCES), expected)
    assert ElmoEmbedder(folder, dtype=torch.bfloat16).model is not embedder.model


def test_the_pickle_of_a_model_in_memory_holds_its_weights():
    embedder = ElmoEmbedder(make_model(), ElmoTokenizer())
    for other in (pickle.loads(pickle.dumps(embedder)), copy.deepcopy(embedder)):
        assert other.model is not embedder.model
        assert_same(other.embed(SENTENCES), list(embedder.embed(SENTENCES)))


def test_a_folder_that_changed_after_pickling_is_refused(folder):
    embedder = ElmoEmbedder(folder)
    before, stored = embedder.encode(SENTENCES), pickle.dumps(embedder)
    (folder / "README.md").write_text("Not read by the model.")
    make_model(cell_clip=0.01).save_pretrained(folder)
    assert_same([embedder.encode(SENTENCES)], [before])  # what it has loaded
    assert np.abs(ElmoEmbedder(folder).encode(SENTENCES) - before).max() > 1e-3
    del embedder
    with pytest.raises(RuntimeError, match="have changed since"):
        pickle.loads(stored).encode(SENTENCES)


def test_weights_changed_in_memory_are_not_taken_for_those_of_the_folder(folder):
    embedder, other = ElmoEmbedder(folder), ElmoEmbedder(folder)
    before = other.encode(SENTENCES)
    with torch.no_grad():
        embedder.model.layers[0].forward_lstm.input_map.bias[0] = 1
    for changed in (embedder, other):
        with pytest.raises(RuntimeError, match="changed in memory"):
            changed.encode(SENTENCES)
    assert_same([ElmoEmbedder(folder).encode(SENTENCES)], [before])
    model = ElmoEmbedder(embedder._loaded.model, ElmoTokenizer())
    assert np.abs(model.encode(SENTENCES) - before).max() > 1e-3


def test_missing_weights_are_refused(folder):
    make_model(num_hidden_layers=1).save_pretrained(folder)
    config = make_model().config
    config.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"incomplete: elmo.layers.1"):
        elmo_hf.load(folder)


def test_a_repository_is_pinned_to_its_commit(folder, monkeypatch):
    asked = []

    def download(name, revision, allow_patterns):
        asked.append((name, revision))
        return str(folder)

    monkeypatch.setattr(loading, "snapshot_download", download)
    embedder = ElmoEmbedder("someone/elmo", revision="main")
    assert not asked
    with pytest.raises(ValueError, match="did you mean 'top'"):
        ElmoEmbedder("someone/elmo", layers="to")
    again = pickle.loads(pickle.dumps(embedder))
    assert_same([again.encode(SENTENCES)], [ElmoEmbedder(folder).encode(SENTENCES)])
    assert asked[0] == ("someone/elmo", "main") and asked[-1] == ("someone/elmo", folder.name)


@pytest.mark.parametrize("format", [None, "arrow", "numpy", "pandas"])
def test_a_dataset_of_any_format_gains_a_column(folder, format):
    embedder = ElmoEmbedder(folder, layers="all", text_column="lines", vector_column="elmo")
    data = datasets.Dataset.from_dict({"lines": SENTENCES, "number": [1, 2, 3, 4]})
    mapped = data.with_format(format).map(embedder, batched=True, batch_size=3).with_format(None)
    assert mapped["number"][:] == [1, 2, 3, 4] and mapped["lines"][:] == SENTENCES
    assert_same(mapped["elmo"], list(embedder.embed(SENTENCES, join=True)))
    if format == "arrow":
        type_of_cells = mapped.data.schema.field("elmo").type
        assert str(type_of_cells.value_type).startswith("fixed_size_list<item: float>[36]")
        again = mapped.with_format("arrow").map(embedder, batched=True)  # replaces the column
        assert again.column_names == mapped.column_names


@pytest.mark.parametrize("column", [["It rained ."], [["It", "rained"]]])
def test_single_rows_are_refused(folder, column):
    with pytest.raises(ValueError, match="batched=True"):
        datasets.Dataset.from_dict({"text": column}).map(ElmoEmbedder(folder))


def test_columns_may_hold_lists_of_words(folder):
    embedder, words = ElmoEmbedder(folder), [["It", "rained"], [], ["No", "."]]
    arrays = [np.array(sentence, object) for sentence in words]  # what Ray passes
    found = embedder({"text": np.array([*arrays, None], object)[:3], "id": np.arange(3)})
    assert_same(found["vector"], list(embedder.embed(words)))
    assert [*found] == ["text", "id", "vector"]


@pytest.mark.slow
@pytest.mark.parametrize("origin", ["folder", "memory"])
def test_forked_workers_compute_after_the_parent_has(folder, origin):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        embedder = ElmoEmbedder(folder, workers=2)
        if origin == "memory":
            embedder = ElmoEmbedder(make_model(), ElmoTokenizer())
        torch.randn(500, 500) @ torch.randn(500, 500)  # starts OpenMP's threads
        lines = SENTENCES * 20
        expected = list(embedder.embed(lines))
        unfinished = embedder.embed(lines)  # its threads hold locks at any time
        next(unfinished)
        data = datasets.Dataset.from_dict({"text": lines})

        def work(batch):
            threads = [torch.get_num_threads()]
            return {"vector": embedder(batch)["vector"], "threads": threads * len(batch["text"])}

        mapped = data.map(work, batched=True, batch_size=10, num_proc=2)
        assert_same(mapped["vector"], expected)
        assert mapped["threads"][-1] == 1
        assert_same(unfinished, expected[1:])
    finally:
        torch.set_num_threads(threads)


SHOW = """
import sys
from datasets.fingerprint import Hasher
from elmo_hf import ElmoEmbedder
embedder = ElmoEmbedder(sys.argv[1])
before, tokenizer = Hasher.hash(embedder), Hasher.hash(embedder.tokenizer)
embedder.encode(["It rained ."])
assert Hasher.hash(embedder) == before and Hasher.hash(embedder.tokenizer) == tokenizer
print(before, Hasher.hash(lambda batch: embedder.encode(batch["text"])), embedder.fingerprint())
"""


@pytest.mark.slow
def test_hash_and_fingerprint_are_the_same_in_two_processes(folder):
    found = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", SHOW, str(folder)]
        found.append(subprocess.run(command, capture_output=True, text=True, env=environment))
        assert found[-1].returncode == 0, found[-1].stderr
    assert found[0].stdout == found[1].stdout != ""


def test_a_second_run_of_datasets_map_finds_the_first_in_the_cache(folder):
    data = datasets.Dataset.from_dict({"text": SENTENCES})

    def run(embedder):
        return data.map(embedder, batched=True)._fingerprint

    first, used = run(ElmoEmbedder(folder)), ElmoEmbedder(folder)
    used.encode(SENTENCES)
    assert run(used) == first != run(ElmoEmbedder(folder, layers="top"))
    make_model(cell_clip=0.01).save_pretrained(folder)
    assert run(ElmoEmbedder(folder)) != first
