"""gensim and sentence-transformers take the vectors of words on their own."""

import numpy as np
import pytest
import torch

from elmo_hf import ElmoConfig, ElmoEmbedder, ElmoModel, ElmoTokenizer
from elmo_hf.analysis import ElmoVectors
from elmo_hf.integrations.static import to_keyed_vectors, to_static

WORDS = ["river", "<UNK>", "The", "n't", "river", "do", "New York"]


@pytest.fixture(scope="module")
def embedder():
    torch.manual_seed(0)
    sizes = {"filters": [[1, 4], [2, 5]], "projection_dim": 6, "cell_dim": 8}
    return ElmoEmbedder(ElmoModel(ElmoConfig(**sizes)).eval(), ElmoTokenizer())


@pytest.mark.parametrize("layers", [0, "average", [0, 2]])
def test_gensim_has_the_vector_of_every_word_as_its_own_sentence(embedder, layers, tmp_path):
    gensim = pytest.importorskip("gensim")
    keyed = to_keyed_vectors(embedder, WORDS * 10, layers=layers)
    assert keyed.index_to_key == list(dict.fromkeys(WORDS))
    chosen = ElmoEmbedder(embedder.model, embedder.tokenizer, layers=layers)
    for word in WORDS:
        expected = next(chosen.embed([[word]], join=True))[0]
        np.testing.assert_allclose(keyed[word], expected, atol=1e-6)
    keyed.save(str(tmp_path / "words"))
    again = gensim.models.KeyedVectors.load(str(tmp_path / "words"))
    assert again.most_similar("river") == keyed.most_similar("river")
    assert embedder.layers == "average"


def test_layer_0_is_the_same_in_every_sentence_and_the_others_are_not(embedder):
    pytest.importorskip("gensim")
    sentence = ["The", "river", "rose"]
    for layers, same in ((0, True), ("top", False)):
        keyed = to_keyed_vectors(embedder, sentence, layers=layers)
        chosen = ElmoEmbedder(embedder.model, embedder.tokenizer, layers=layers)
        vectors = next(chosen.embed([sentence]))
        assert np.allclose(vectors, keyed[sentence], atol=1e-6) == same


def test_a_static_folder_means_the_vectors_of_the_words_of_a_text(embedder, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    to_static(embedder, WORDS, tmp_path / "static")
    model = library.SentenceTransformer(str(tmp_path / "static"), device="cpu")
    vectors = ElmoEmbedder(embedder.model, embedder.tokenizer, layers=0)
    the, river, do, not_ = next(vectors.embed([["The", "river", "do", "n't"]]))
    texts = ["The river don't", "river", "unknown river", "unknown", ""]
    expected = [(the + river + do + not_) / 4, river, river / 2, river * 0, river * 0]
    np.testing.assert_allclose(model.encode(texts), expected, atol=1e-6)
    files = {path.name for path in (tmp_path / "static").iterdir()}
    assert {"modules.json", "tokenizer.json", "model.safetensors"} <= files


@pytest.mark.parametrize(
    "words, message",
    [
        ("river", "one string"),
        ([], "empty"),
        (["a", ""], "''"),
        (["a", None], "None"),
        ([["a"]], "strings"),
    ],
)
def test_other_words_are_refused_and_nothing_is_written(embedder, tmp_path, words, message):
    pytest.importorskip("gensim")
    pytest.importorskip("sentence_transformers")
    with pytest.raises(ValueError, match=message):
        to_keyed_vectors(embedder, words)
    with pytest.raises(ValueError, match=message):
        to_static(embedder, words, tmp_path / "static")
    assert not [*tmp_path.iterdir()]


def test_an_existing_folder_is_kept(embedder, tmp_path):
    pytest.importorskip("sentence_transformers")
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(Exception, match="exists already"):
        to_static(embedder, WORDS, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_settings_of_the_embedder_that_are_not_used_do_no_harm(embedder):
    pytest.importorskip("gensim")
    mixed = ElmoEmbedder(embedder.model, embedder.tokenizer, layers="mix", mix=[1.0, 2, 3])
    expected = to_keyed_vectors(embedder, ["river"], layers=[0, 2])
    for layers in ((0, 2), np.array([0, 2])):
        found = to_keyed_vectors(mixed, ["river"], layers=layers)
        np.testing.assert_array_equal(found["river"], expected["river"])
    (layers,) = ElmoVectors(mixed)([["river"]])
    assert layers.shape[0] == 3
