"""ElmoEmbedder: vectors of words and of sentences, equal to those of the model."""

import json
import re
import shutil

import numpy as np
import pandas
import pytest
import torch

import elmo_hf
from elmo_hf import (
    ElmoConfig,
    ElmoEmbedder,
    ElmoForSequenceClassification,
    ElmoModel,
    ElmoScalarMix,
    ElmoTokenizer,
    embed_corpus,
)

SENTENCES = ["The river rose .", "", "I don't know", "It rained for days and days ."]
WIDTH = 12


def make_model(kind=ElmoModel, **changes):
    torch.manual_seed(0)
    sizes = {"filters": [[1, 4], [2, 5]], "projection_dim": 6, "cell_dim": 8}
    return kind(ElmoConfig(**{**sizes, **changes})).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny"
    make_model().save_pretrained(path)
    ElmoTokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def layers(folder):
    """All layers of each sentence, `(layers, words, width)`."""
    model = ElmoModel.from_pretrained(folder)
    return list(embed_corpus(model, ElmoTokenizer.from_pretrained(folder), SENTENCES))


def assert_close(found, expected):
    found, expected = list(found), list(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, atol=1e-6, rtol=0)


MIX = (0.5, 0, 2)
CHOICES = {
    "average": lambda all_layers: all_layers.mean(0),
    "top": lambda all_layers: all_layers[2],
    "all": lambda all_layers: all_layers,
    "mix": lambda all_layers: 0.5 * all_layers[0] + 2 * all_layers[2],
    1: lambda all_layers: all_layers[1],
    (2, 0): lambda all_layers: all_layers[[2, 0]],
}


@pytest.mark.parametrize("chunk_words", [None, 1, 2, 3])
@pytest.mark.parametrize("choice", CHOICES)
def test_word_vectors_are_made_of_the_chosen_layers(folder, layers, choice, chunk_words):
    mix = MIX if choice == "mix" else None
    embedder = elmo_hf.load(folder, layers=choice, mix=mix, chunk_words=chunk_words)
    expected = [CHOICES[choice](one) for one in layers]
    assert_close(embedder.embed(SENTENCES), expected)
    joined = [np.concatenate([*one], -1) if one.ndim == 3 else one for one in expected]
    assert_close(embedder.embed(SENTENCES, join=True), joined)
    assert embedder.dimension == WIDTH and embedder.joined_dimension == joined[0].shape[1]


@pytest.mark.parametrize("changes", [{}, {"bidirectional": False}, {"num_hidden_layers": 1}])
@pytest.mark.parametrize("side", ["left", "right"])
def test_chunks_do_not_change_vectors(changes, side):
    model, tokenizer = make_model(**changes), ElmoTokenizer(padding_side=side)
    sentences = [[f"w{i}" for i in range(length)] for length in (40, 0, 1, 17, 5)]
    whole = ElmoEmbedder(model, tokenizer, layers="all").embed(sentences)
    chunked = ElmoEmbedder(model, tokenizer, layers="all", chunk_words=7)
    assert_close(chunked.embed(sentences), whole)


POOLINGS = {
    "mean": lambda words: words.mean(0),
    "max": lambda words: words.max(0),
    "ends": lambda words: np.concatenate([words[-1, : WIDTH // 2], words[0, WIDTH // 2 :]]),
}


@pytest.mark.parametrize("pooling", POOLINGS)
def test_sentence_vectors_are_pooled_without_boundaries(folder, layers, pooling):
    for choice in ("average", "all"):
        embedder = ElmoEmbedder(folder, layers=choice, pooling=pooling)
        found = embedder.encode(SENTENCES)
        for row, one in zip(found, layers, strict=True):
            chosen = [*one] if choice == "all" else [one.mean(0)]
            pooled = [POOLINGS[pooling](words) for words in chosen] if one.size else [row * 0]
            np.testing.assert_allclose(row, np.concatenate(pooled), atol=1e-6)


def test_encode_takes_what_sentence_transformers_takes(folder):
    embedder = ElmoEmbedder(folder)
    rows = embedder.encode(SENTENCES, batch_size=2, show_progress_bar=False)
    assert rows.shape == (4, WIDTH) and not rows[1].any() and rows[[0, 2, 3]].any(1).all()
    np.testing.assert_allclose(embedder.encode(SENTENCES[0]), rows[0], atol=1e-6)
    np.testing.assert_allclose(embedder.encode([SENTENCES[0].split()]), rows[:1], atol=1e-6)
    np.testing.assert_allclose(embedder.encode(np.array(SENTENCES)), rows, atol=1e-6)
    assert embedder.encode([]).shape == (0, WIDTH) and embedder.encode("").shape == (WIDTH,)
    tensor = embedder.encode(SENTENCES, convert_to_tensor=True)
    torch.testing.assert_close(tensor, torch.from_numpy(rows))
    alone = embedder.encode(SENTENCES[0], convert_to_numpy=False)
    assert torch.is_tensor(alone) and alone.shape == (embedder.joined_dimension,)
    parts = embedder.encode(SENTENCES, convert_to_numpy=False)
    assert all(map(torch.equal, parts, tensor))
    lengths = np.linalg.norm(embedder.encode(SENTENCES, normalize_embeddings=True), axis=1)
    np.testing.assert_allclose(lengths, [1, 0, 1, 1], atol=1e-6)
    with pytest.raises(TypeError, match="prompt"):
        embedder.encode(SENTENCES, prompt="query: ")


def test_a_progress_bar_counts_sentences_and_words(folder, capsys):
    embedder = ElmoEmbedder(folder)
    list(embedder.embed(SENTENCES)), embedder.encode(SENTENCES)
    assert "sentences" not in capsys.readouterr().err
    list(embedder.embed(iter(SENTENCES), progress=True))
    assert "4 sentences [" in capsys.readouterr().err
    embedder.encode(SENTENCES, show_progress_bar=True)
    bar = capsys.readouterr().err.split("\r")[-1]
    assert "4/4 [" in bar and re.search(r"[1-9][\d,]* words/s", bar)


def test_a_learned_mix_comes_from_a_head_or_from_an_argument(folder, layers, tmp_path):
    head = make_model(ElmoForSequenceClassification, num_labels=2)
    with torch.no_grad():
        head.elmo.load_state_dict(ElmoModel.from_pretrained(folder).state_dict())
        head.scalar_mix.weights.copy_(torch.tensor([1.0, -1, 0.5]))
        head.scalar_mix.gamma.fill_(1.5)
    head.save_pretrained(tmp_path)
    ElmoTokenizer().save_pretrained(tmp_path)
    with torch.no_grad():
        expected = [head.scalar_mix([*torch.from_numpy(one)[:, None]])[0].numpy() for one in layers]
    for embedder in (
        ElmoEmbedder(tmp_path, layers="mix"),
        ElmoEmbedder(head, ElmoTokenizer(), layers="mix"),
        ElmoEmbedder(folder, layers="mix", mix=head.scalar_mix),
    ):
        assert_close(embedder.embed(SENTENCES), expected)
    assert_close(ElmoEmbedder(tmp_path, layers="top").embed(SENTENCES), [o[2] for o in layers])
    with pytest.raises(ValueError, match="no learned mix"):
        elmo_hf.load(folder, layers="mix")
    with pytest.raises(ValueError, match="normalizes"):
        ElmoEmbedder(folder, layers="mix", mix=ElmoScalarMix(3, layer_norm="allennlp"))


def test_a_learned_mix_comes_from_the_record_of_a_conversion(folder, layers, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "converted")
    mixes = [{"weights": [0.0, 0, 0], "gamma": 3}, {"weights": [0, 0, 99], "gamma": 0.5}]
    record = copied / "conversion.json"
    record.write_text(json.dumps({"scalar_mixes": mixes[1:]}))
    top = [one[2] / 2 for one in layers]
    assert_close(ElmoEmbedder(copied, layers="mix").embed(SENTENCES), top)
    record.write_text(json.dumps({"scalar_mixes": mixes}))
    assert_close(ElmoEmbedder(copied, layers="mix", mix=1).embed(SENTENCES), top)
    total = [one.sum(0) for one in layers]
    assert_close(ElmoEmbedder(copied, layers="mix", mix=0).embed(SENTENCES), total)
    for number in (None, 2):
        with pytest.raises(ValueError, match=r"2 learned mixes.* mix=1$"):
            ElmoEmbedder(copied, layers="mix", mix=number).encode("It rained .")


def test_the_fingerprint_tells_what_changes_vectors(folder):
    model, tokenizer = ElmoModel.from_pretrained(folder), ElmoTokenizer()
    same = ElmoEmbedder(folder).fingerprint()
    embedder = ElmoEmbedder(folder, window=7, workers=2, vector_column="v")
    embedder.encode(SENTENCES)
    assert same == embedder.fingerprint() == ElmoEmbedder(model, tokenizer).fingerprint()
    others = [
        ElmoEmbedder(folder, layers="top"),
        ElmoEmbedder(folder, layers=[0, 1, 2]),
        ElmoEmbedder(folder, layers="mix", mix=MIX),
        ElmoEmbedder(folder, pooling="max"),
        ElmoEmbedder(folder, dtype=torch.bfloat16),
        ElmoEmbedder(model, ElmoTokenizer(word_splitter="whitespace")),
        ElmoEmbedder(make_model(cell_clip=2.0), tokenizer),
    ]
    with torch.no_grad():
        model.layers[1].forward_lstm.input_map.bias[3] += 1e-3
    others.append(ElmoEmbedder(model, tokenizer))
    prints = [other.fingerprint() for other in others]
    assert len({same, *prints}) == 1 + len(others)
    assert ElmoEmbedder(folder, layers="all").fingerprint() == prints[1]
    assert ElmoEmbedder(folder, layers=-1).fingerprint() == prints[0]


def test_errors_are_one_clear_line(folder):
    load, mixed = elmo_hf.load, make_model(num_mixed_lstms=2, num_hidden_layers=1)
    cases = [
        (lambda: load(folder.parent / "tin"), "did you mean .*tiny"),
        (lambda: load("tiny"), "no folder tiny"),
        (lambda: load(folder / "config.json"), "is a file"),
        (lambda: load(folder.parent), "no config.json"),
        (lambda: load(folder, revision="v1"), "revision"),
        (lambda: load(folder, layers="averge"), "did you mean 'average'"),
        (lambda: load(folder, layers=3), "layers 0 to 2"),
        (lambda: load(folder, layers=[]), r"layers is \[\]"),
        (lambda: load(folder, layers=True), "layers is True"),
        (lambda: load(folder, layers=[0.5]), "layers is"),
        (lambda: load(folder, pooling="men"), "pooling is 'men'"),
        (lambda: load(folder, chunk_words=0), "chunk_words is 0"),
        (lambda: ElmoEmbedder(mixed, ElmoTokenizer(), chunk_words=9), "leave out chunk_words"),
        (lambda: load(folder, mix=MIX), "mix is given, but layers is 'average'"),
        (lambda: load(folder, layers="mix", mix=[1, 2]).encode("a"), "2 factors"),
        (lambda: ElmoEmbedder(make_model()), "needs its tokenizer"),
        (lambda: ElmoEmbedder(make_model(), ElmoTokenizer(), device="cpu"), "model.to"),
        (lambda: ElmoEmbedder(None), "NoneType"),
        (lambda: load(folder, batch_words=0).encode("a"), "batch_words is 0"),
        (lambda: load(folder).embed("a text"), "one string"),
        (lambda: load(folder).encode("a", batch_size=0), "batch_size is 0"),
        (lambda: load(folder, dtype="bfloat16"), r"torch\.bfloat16"),
        (lambda: load(folder).embed(None), "sentences is a NoneType"),
        (lambda: load(folder).encode({"text": ["a"]}), "sentences is a dict"),
        (lambda: load(folder).encode(pandas.DataFrame({"a": ["b"]})), "is a DataFrame"),
        (lambda: load(folder).encode({"a", "b"}), "sentences is a set"),
        (lambda: load(folder).encode(["a", None]), "sentence 1 is None"),
        (lambda: load(folder).encode([["a"], "b"]), "sentence 1 is a str"),
        (lambda: load(folder).encode(["a", ["b"]]), "sentence 1 is a list"),
        (lambda: load(folder).encode([["a"], ["b", 3]]), "sentence 1, .* is 3, a int"),
        (lambda: load(folder)({"txt": ["a"]}), "no column 'text', only \\['txt'\\]"),
    ]
    for call, message in cases:
        with pytest.raises((ValueError, OSError, RuntimeError), match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
