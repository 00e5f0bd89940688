"""The sources of word vectors: ELMo, other transformers models, static vectors."""

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    T5Config,
    T5Model,
    T5Tokenizer,
)

from elmo_hf import ElmoConfig, ElmoEmbedder, ElmoModel, ElmoTokenizer
from elmo_hf.analysis.sources import (
    ElmoVectors,
    StaticVectors,
    TransformerVectors,
    WithAverages,
    unit,
)

SENTENCES = [["The", "bank", "rose", "."], [], ["unbanked", "."], ["\u200b", "rose"]]
TINY = {"filters": [[1, 8]], "projection_dim": 8, "cell_dim": 16}
SIZES = {"bert": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}}
SIZES["bert"] |= {"intermediate_size": 16, "vocab_size": 40, "max_position_embeddings": 16}


@pytest.fixture(scope="module")
def elmo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources") / "tiny"
    torch.manual_seed(0)
    ElmoModel(ElmoConfig(**TINY)).save_pretrained(folder)
    ElmoTokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    from transformers import BertTokenizer

    folder = tmp_path_factory.mktemp("sources") / "bert"
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "the",
        "bank",
        "rose",
        ".",
        "un",
        "##bank",
    ]
    words += ["##ed"]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(BertConfig(**SIZES["bert"])).save_pretrained(folder)
    return folder


def test_an_elmo_gives_all_layers_of_its_embedder(elmo):
    source = ElmoVectors(elmo)
    assert (source.name, source.layers) == ("tiny", ["layer 0", "layer 1", "layer 2"])
    expected = ElmoEmbedder(elmo, layers="all").embed(SENTENCES)
    embedder = ElmoEmbedder(elmo, layers="top")
    for found, same, wanted in zip(
        source(SENTENCES), ElmoVectors(embedder)(SENTENCES), expected, strict=True
    ):
        np.testing.assert_array_equal(found, wanted)
        np.testing.assert_array_equal(same, wanted)
    assert embedder.layers == "top"


def test_random_weights_depend_on_the_seed_alone(elmo):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one, same, other = (
        next(ElmoVectors(elmo, random=True, seed=seed)(SENTENCES)) for seed in (3, 3, 4)
    )
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other) and not np.allclose(one, next(ElmoVectors(elmo)(SENTENCES)))


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_the_pieces_of_a_word_are_pooled(bert, pooling):
    source = TransformerVectors(bert, pooling, batch_size=2)
    assert source.layers == ["layer 0", "layer 1", "layer 2"]
    found = [*source(SENTENCES)]
    assert [layers.shape for layers in found] == [(3, len(s), 16) for s in SENTENCES]
    model = BertModel.from_pretrained(bert).eval()
    ids = torch.tensor([[2, 9, 10, 11, 8, 3]])  # [CLS] un ##bank ##ed . [SEP]
    with torch.no_grad():
        states = torch.stack(model(ids, output_hidden_states=True).hidden_states, 1)[0].numpy()
    word = states[:, 1:4].mean(1) if pooling == "mean" else states[:, 1]
    np.testing.assert_allclose(found[2], np.stack([word, states[:, 4]], 1), atol=1e-6)


def test_a_sentence_that_is_too_long_is_named(bert):
    sentences = [["bank"], ["bank"] * 15, ["."]]
    with pytest.raises(ValueError, match="sentence 1 has 17 pieces; bert reads at most 16"):
        list(TransformerVectors(bert)(sentences))


def test_a_causal_model_reads_words_with_their_blanks(tmp_path):
    from transformers import GPT2Tokenizer

    words = ["<|endoftext|>", "Ġ", "b", "a", "n", "k", "Ġb", "Ġba", "Ġban", "Ġbank"]
    merges = [("Ġ", "b"), ("Ġb", "a"), ("Ġba", "n"), ("Ġban", "k")]
    vocab = {word: i for i, word in enumerate(words)}
    GPT2Tokenizer(vocab=vocab, merges=merges).save_pretrained(tmp_path)
    torch.manual_seed(0)
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 10, "n_positions": 8}
    model = GPT2Model(GPT2Config(**sizes)).eval()
    model.save_pretrained(tmp_path)
    short, long = TransformerVectors(tmp_path)([["bank"], ["bank", "bank", "bank"]])
    with torch.no_grad():
        states = model(torch.tensor([[9, 9, 9]]), output_hidden_states=True).hidden_states
    np.testing.assert_allclose(long, torch.stack(states, 1)[0], atol=1e-6)
    np.testing.assert_allclose(short[:, 0], long[:, 0], atol=1e-6)


def test_of_an_encoder_decoder_model_the_encoder_is_used(tmp_path):
    pieces = ["<pad>", "</s>", "<unk>", "▁bank", "▁rose"]
    vocab = [(piece, float(-i)) for i, piece in enumerate(pieces)]
    T5Tokenizer(vocab=vocab, extra_ids=0).save_pretrained(tmp_path)
    torch.manual_seed(0)
    sizes = {"vocab_size": 5, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    model = T5Model(T5Config(**sizes)).eval()
    model.save_pretrained(tmp_path)
    (found,) = TransformerVectors(tmp_path)([["bank", "rose"]])
    with torch.no_grad():
        states = model.encoder(torch.tensor([[3, 4, 1]]), output_hidden_states=True).hidden_states
    np.testing.assert_allclose(found, torch.stack(states, 1)[0, :, :2], atol=1e-6)


def test_elmo_is_a_transformers_model_as_well(elmo):
    for one, same in zip(
        TransformerVectors(elmo)(SENTENCES), ElmoVectors(elmo)(SENTENCES), strict=True
    ):
        np.testing.assert_allclose(one, same, atol=1e-5)


def test_static_vectors_know_a_word_or_its_lower_case():
    gensim = pytest.importorskip("gensim.models")
    keyed = gensim.KeyedVectors(2)
    keyed.add_vectors(["bank", "."], np.array([[1.0, 2.0], [3.0, 0.0]], np.float32))
    found = [*StaticVectors(keyed)([["Bank", "river"], []])]
    np.testing.assert_array_equal(found[0], [[[1, 2], [2, 1]]])
    assert found[1].shape == (1, 0, 2)


def test_a_static_embedding_means_the_pieces():
    models = pytest.importorskip("sentence_transformers.models")
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers import models as kinds

    tokenizer = Tokenizer(kinds.WordPiece({"[UNK]": 0, "un": 1, "##bank": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    table = np.array([[9, 9], [1, 2], [3, 0]], np.float32)
    (found,) = StaticVectors(models.StaticEmbedding(tokenizer, table))([["unbank", "\u200b"]])
    np.testing.assert_allclose(found[0, 0], [2, 1])


def test_averages_are_added(elmo):
    source = WithAverages(ElmoVectors(elmo), {"mix": [2, 0, -1]})
    assert source.layers[3:] == ["average", "average, unit length", "mix"]
    layers = next(source(SENTENCES))
    np.testing.assert_allclose(layers[3], layers[:3].mean(0), atol=1e-6)
    np.testing.assert_allclose(layers[4], unit(layers[:3]).mean(0), atol=1e-6)
    np.testing.assert_allclose(layers[5], 2 * layers[0] - layers[2], atol=1e-5)
    assert np.isfinite(unit(np.zeros(3))).all()


def test_what_is_no_source_or_no_words_is_refused(elmo):
    with pytest.raises(ValueError, match=r"vectors is a list; expected .*KeyedVectors"):
        StaticVectors([1])
    with pytest.raises(ValueError, match="pooling is 'max'; expected 'mean' or 'first'"):
        TransformerVectors(elmo, "max")
    with pytest.raises(ValueError, match="sentence 1 is 'a text'; expected a list of words"):
        list(ElmoVectors(elmo)([["fine"], "a text"]))
    with pytest.raises(ValueError, match="sentences is one string"):
        list(ElmoVectors(elmo)("a text"))
