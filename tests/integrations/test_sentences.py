"""A sentence-transformers folder gives the documented vectors, also without elmo_hf."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.documents import ROOT

from elmo_hf import ElmoConfig, ElmoEmbedder, ElmoModel, ElmoTokenizer
from elmo_hf.integrations.sentences import to_sentence_transformers

SENTENCES = ["The river rose .", "", "I don't know"]
STRANGER = """
import importlib.abc, json, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "elmo_hf":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], trust_remote_code=True, device="cpu")
assert {type(module).__module__.split(".")[0] for module in model} == {"sentence_transformers"}
print("VECTORS", json.dumps(model.encode(json.loads(sys.argv[2])).tolist()))
"""


@pytest.fixture(scope="module")
def library():
    """sentence-transformers; importing it takes seconds."""
    return pytest.importorskip("sentence_transformers")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"filters": [[1, 4], [2, 5]], "projection_dim": 6, "cell_dim": 8}
    return ElmoModel(ElmoConfig(**sizes)).eval()


def layers_with_boundaries(model):
    """All layers of each sentence with <S> and </S>, `(layers, words + 2, width)`."""
    for sentence in SENTENCES:
        inputs = ElmoTokenizer()([sentence], return_tensors="pt")
        with torch.no_grad():
            output = model(**inputs, output_hidden_states=True)
        yield torch.cat(output.hidden_states).numpy()


MIX = (0.5, 0, 1.5)
CHOICES = {
    "average": [1 / 3] * 3,
    "top": [0, 0, 1],
    "mix": [0.25, 0, 0.75],
    0: [1, 0, 0],
    -2: [0, 1, 0],
}


@pytest.mark.parametrize(
    "layers, pooling", [*((layers, "mean") for layers in CHOICES), ("average", "max")]
)
def test_vectors_are_pooled_over_words_and_boundaries(library, model, layers, pooling, tmp_path):
    mix = MIX if layers == "mix" else None
    embedder = ElmoEmbedder(model, ElmoTokenizer(), layers=layers, mix=mix, pooling=pooling)
    to_sentence_transformers(embedder, tmp_path / "folder")
    sentences = library.SentenceTransformer(str(tmp_path / "folder"), device="cpu")
    found = sentences.encode(SENTENCES)
    words = sentences.encode(SENTENCES, output_value="token_embeddings")
    scale = sum(MIX) if layers == "mix" else 1
    for row, inner, outer, plain in zip(
        found, words, layers_with_boundaries(model), embedder.embed(SENTENCES), strict=True
    ):
        positions = np.tensordot(CHOICES[layers], outer, 1)
        expected = positions.mean(0) if pooling == "mean" else positions.max(0)
        np.testing.assert_allclose(row, expected, atol=1e-6)
        np.testing.assert_allclose(inner[1:-1] * scale, plain, atol=1e-6)


@pytest.mark.slow
def test_the_folder_opens_without_elmo_hf(model, tmp_path):
    to_sentence_transformers(ElmoEmbedder(model, ElmoTokenizer()), tmp_path / "folder")
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, str(tmp_path / "folder"), json.dumps(SENTENCES)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("VECTORS "))
    expected = [layers.mean((0, 1)) for layers in layers_with_boundaries(model)]
    np.testing.assert_allclose(json.loads(line.removeprefix("VECTORS ")), expected, atol=1e-6)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"layers": "all"}, "side by side"),
        ({"layers": [0, 1]}, "side by side"),
        ({"pooling": "ends"}, "no pooling 'ends'"),
        ({"layers": "mix", "mix": [1, -1, 0]}, "must be positive"),
    ],
)
def test_what_the_modules_cannot_do_is_refused(model, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        to_sentence_transformers(
            ElmoEmbedder(model, ElmoTokenizer(), **settings), tmp_path / "folder"
        )
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_a_checkpoint_of_this_project_needs_only_its_name(library, tmp_path):
    folder = ROOT / "checkpoints/elmo-mini-en"
    to_sentence_transformers(folder, tmp_path / "folder")
    sentences = library.SentenceTransformer(str(tmp_path / "folder"), device="cpu")
    words = sentences.encode(SENTENCES, output_value="token_embeddings")
    for inner, plain in zip(words, ElmoEmbedder(folder).embed(SENTENCES), strict=True):
        np.testing.assert_allclose(inner[1:-1], plain, atol=1e-5)
    assert (tmp_path / "folder/modeling_elmo.py").is_file()
