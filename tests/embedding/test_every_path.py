"""The vectors of the same sentences are equal in every way to compute them."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.documents import ROOT

import elmo_hf_cli
from elmo_hf import ElmoEmbedder, ElmoModel, ElmoTokenizer, embed_corpus, load, use_engine
from elmo_hf.storage import open_vectors

FOLDER = str(ROOT / "checkpoints/elmo-mini-en")
SENTENCES = [
    "The bank of the river was steep .",
    "The bank lent him money , and he did n't pay it back .",
    "Naïve łódź 日本 " + "w" * 60,
    "Rain",
]
WORDS = [sentence.split() for sentence in SENTENCES]
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def expected():
    """The mean of the model's layers, each sentence on its own, by the plain implementation."""
    model, tokenizer = ElmoModel.from_pretrained(FOLDER), ElmoTokenizer.from_pretrained(FOLDER)
    with torch.no_grad(), use_engine("reference"):
        outputs = [
            model(**tokenizer(sentence, return_tensors="pt"), output_hidden_states=True)
            for sentence in SENTENCES
        ]
    return [torch.stack(output.hidden_states).mean(0)[0, 1:-1].numpy() for output in outputs]


def model_in_a_padded_batch(place):
    model, tokenizer = ElmoModel.from_pretrained(FOLDER), ElmoTokenizer.from_pretrained(FOLDER)
    inputs = tokenizer(WORDS, is_split_into_words=True, padding=True, return_tensors="pt")
    with torch.no_grad():
        layers = model(**inputs, output_hidden_states=True).hidden_states
    return without_padding(torch.stack(layers).mean(0))


def without_padding(batch):
    """Cut words out of a batch that is padded on the right, without boundaries."""
    return [np.asarray(row[1:][: len(words)]) for row, words in zip(batch, WORDS, strict=True)]


def corpus(place):
    model, tokenizer = ElmoModel.from_pretrained(FOLDER), ElmoTokenizer.from_pretrained(FOLDER)
    return [layers.mean(0) for layers in embed_corpus(model, tokenizer, SENTENCES)]


def embedder(place):
    return load(FOLDER).embed(WORDS)


def embedder_in_chunks(place):
    return load(FOLDER, chunk_words=3).embed(SENTENCES)


def embed_command(ending):
    def embed(place):
        text, output = place / "text.txt", place / f"vectors{ending}"
        text.write_text("\n".join(SENTENCES) + "\n", encoding="utf-8")
        assert elmo_hf_cli.main(["embed", str(text), str(output), "--model", FOLDER]) == 0
        with open_vectors(output) as vectors:
            return [vectors[i] for i in range(len(vectors))]

    embed.__name__ = f"command{ending}"
    return embed


def write_original(place):
    pytest.importorskip("h5py")
    from elmo_hf.conversion.convert import convert_back

    convert_back(FOLDER, place / "original")
    return [str(place / "original" / name) for name in ("options.json", "weights.hdf5")]


def allennlp_embedder(place):
    from elmo_hf.allennlp import ElmoEmbedder

    old = ElmoEmbedder(*write_original(place))
    return [layers.mean(0) for layers in old.embed_sentences(WORDS)]


def allennlp_module(place):
    from elmo_hf.allennlp import Elmo, batch_to_ids

    elmo = Elmo(*write_original(place), 1, dropout=0, scalar_mix_parameters=[0, 0, 0])
    with torch.no_grad():
        (batch,) = elmo(batch_to_ids(WORDS))["elmo_representations"]
    return [row[: len(words)].numpy() for row, words in zip(batch, WORDS, strict=True)]


def datasets_map(place):
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"text": SENTENCES})
    return data.map(ElmoEmbedder(FOLDER), batched=True, batch_size=3)["vector"]


def ray_data(place):
    pytest.importorskip("ray")
    parquet = pytest.importorskip("pyarrow.parquet")
    (place / "text.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    script = ROOT / "examples/embed_with_ray.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": "local"}
    command = [sys.executable, script, FOLDER, "text.txt", "vectors"]
    subprocess.run(command, cwd=place, env=environment, check=True, timeout=300)
    return parquet.read_table(place / "vectors").sort_by("id").to_pydict()["vector"]


def spacy_component(place):
    spacy = pytest.importorskip("spacy")
    import elmo_hf_spacy  # noqa: F401

    nlp = spacy.blank("en")
    nlp.add_pipe("elmo", config={"model": FOLDER, "use_sentences": False})
    return [doc.tensor for doc in nlp.pipe(spacy.tokens.Doc(nlp.vocab, words) for words in WORDS)]


def sentence_transformers_tokens(place):
    library = pytest.importorskip("sentence_transformers")
    from elmo_hf.integrations.sentences import to_sentence_transformers

    to_sentence_transformers(FOLDER, place / "folder")
    model = library.SentenceTransformer(str(place / "folder"), device="cpu")
    return without_padding(model.encode(SENTENCES, output_value="token_embeddings"))


def onnx_graph(place):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    from elmo_hf.integrations.onnx import export_onnx

    export_onnx(FOLDER, place / "exported")
    inputs = ElmoTokenizer.from_pretrained(place / "exported")(
        WORDS, is_split_into_words=True, padding=True, return_tensors="np"
    )
    session = runtime.InferenceSession(place / "exported/model.onnx")
    return without_padding(session.run(["average"], dict(inputs))[0])


PATHS = [
    model_in_a_padded_batch,
    corpus,
    embedder,
    embedder_in_chunks,
    embed_command(""),
    embed_command(".hdf5"),
    embed_command(".parquet"),
    embed_command(".npz"),
    allennlp_embedder,
    allennlp_module,
    spacy_component,
]
SLOW_PATHS = [datasets_map, ray_data, sentence_transformers_tokens, onnx_graph]


@pytest.mark.parametrize(
    "path",
    [*PATHS, *(pytest.param(path, marks=pytest.mark.slow) for path in SLOW_PATHS)],
    ids=lambda path: path.__name__,
)
def test_the_vectors_of_words_are_equal(path, expected, tmp_path):
    found = [*path(tmp_path)]
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        one = np.array([*one], np.float32)
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, atol=TOLERANCE, rtol=0)


def test_the_vectors_of_sentences_are_equal(expected):
    pytest.importorskip("sklearn")
    from elmo_hf.integrations.sklearn import ElmoVectorizer

    means = [words.mean(0) for words in expected]
    for rows in (load(FOLDER).encode(SENTENCES), ElmoVectorizer(FOLDER).transform(WORDS)):
        np.testing.assert_allclose(rows, means, atol=TOLERANCE, rtol=0)
