"""Compares the public API with stored outputs of the original programs."""

import json

import h5py
import numpy as np
import pytest
import torch
from helpers.gold import BESIDE, CLOSE, FETCHED, GOLD, needs_allennlp, needs_bilm_tf

from elmo_hf import ElmoForPreTraining, ElmoModel, ElmoScalarMix, ElmoTokenizer
from elmo_hf.conversion import reference
from elmo_hf.conversion.convert import convert


def layers_of(folder, batches):
    """Compute every layer of batches of sentences, carrying states from batch to batch."""
    model, tokenizer = ElmoModel.from_pretrained(folder), ElmoTokenizer.from_pretrained(folder)
    states = None
    for batch in batches:
        inputs = tokenizer(batch, is_split_into_words=True, padding=True, return_tensors="pt")
        with torch.no_grad():
            output = model(**inputs, states=states, use_cache=True, output_hidden_states=True)
        states = output.states
        yield torch.stack(output.hidden_states, 1).numpy()  # (batch, layers, words, width)


# AllenNLP


@pytest.fixture(scope="module", params=["relu", "tanh"])
def allennlp(request, tmp_path_factory):
    """A model's original folder, its converted folder, and AllenNLP's outputs."""
    original = GOLD / "allennlp" / request.param
    folder = tmp_path_factory.mktemp("allennlp") / "converted"
    convert(original, folder)
    with np.load(original / "answers.npz") as answers:
        return original, folder, dict(answers)


CALLS = json.loads((GOLD / "allennlp/sentences.json").read_text(encoding="utf-8"))


def test_two_batches_with_carried_states_match_allennlp_in_every_layer(allennlp):
    _, folder, answers = allennlp
    for call, (batch, found) in enumerate(zip(CALLS, layers_of(folder, CALLS), strict=True)):
        assert sum(f"call {call}," in name for name in answers) == found.shape[1]
        for row, sentence in enumerate(batch):
            for layer in range(found.shape[1]):
                theirs = answers[f"call {call}, layer {layer}"][row, : len(sentence) + 2]
                ours = found[row, layer, : len(sentence) + 2]
                np.testing.assert_allclose(ours, theirs, **CLOSE)


def test_the_reference_of_the_verification_matches_allennlp_too(allennlp):
    original, _, answers = allennlp
    options = json.loads((original / "options.json").read_text())
    with h5py.File(original / "weights.hdf5") as weights:
        rows, _ = reference.forward(options, weights, CALLS[0])
    for row, layers in enumerate(rows):
        for layer, ours in enumerate(layers):
            theirs = answers[f"call 0, layer {layer}"][row, : len(ours)]
            np.testing.assert_allclose(ours, theirs, **CLOSE)


@pytest.mark.parametrize("norm", [None, "allennlp"])
def test_the_scalar_mix_matches_allennlp_with_and_without_layer_norm(allennlp, norm):
    _, folder, answers = allennlp
    (found,) = layers_of(folder, CALLS[:1])
    mix = ElmoScalarMix(found.shape[1], layer_norm=norm)
    mask = torch.zeros(found[:, 0, :, 0].shape, dtype=torch.bool)
    for row, sentence in enumerate(CALLS[0]):
        mask[row, : len(sentence) + 2] = True
    with torch.no_grad():
        mix.weights.copy_(torch.tensor([0.3, -0.2, 0.5, 0.1][: found.shape[1]]))
        mix.gamma.fill_(1.5)
        ours = mix(torch.from_numpy(found).unbind(1), mask).numpy()
    theirs = answers[f"mix, layer norm {norm is not None}"]
    for row, sentence in enumerate(CALLS[0]):
        words = len(sentence)
        np.testing.assert_allclose(ours[row, 1 : words + 1], theirs[row, :words], **CLOSE)


def test_awkward_words_have_allennlps_character_ids():
    words = json.loads((GOLD / "char_words.json").read_text(encoding="utf-8"))
    ids = ElmoTokenizer()(words, is_split_into_words=True, add_special_tokens=False)["input_ids"]
    np.testing.assert_array_equal(ids, np.load(GOLD / "char_ids.npz")["ids"])


# bilm-tf


def test_a_token_checkpoint_matches_tensorflow_in_logits_and_losses(tmp_path):
    # Except for the first three, words of the table can have any name: word 7 is "7".
    vocab = ["<S>", "</S>", "<UNK>", *map(str, range(3, 32))]
    (tmp_path / "vocab.txt").write_text("\n".join(vocab) + "\n")
    convert(
        GOLD / "tfckpt_tok",
        tmp_path / "ours",
        vocab=tmp_path / "vocab.txt",
        weights=GOLD / "tfckpt_tok/model.ckpt-300.index",
    )
    gold = np.load(GOLD / "tfckpt_tok/lm_gold.npz")
    streams = ([vocab[number] for number in gold[name]] for name in ("tokens", "tokens_rev"))
    check_language_model(tmp_path / "ours", gold, *streams)


@needs_bilm_tf
def test_a_character_checkpoint_matches_tensorflow_in_logits_and_losses(tmp_path):
    text = BESIDE / "bilm_tf_train"
    convert(GOLD / "tfckpt_chars", tmp_path / "ours", vocab=text / "vocab.txt")
    lines = [line.split() for line in (text / "data.txt").read_text().splitlines()] * 2
    forward = [word for line in lines for word in ("<S>", *line)][:200]
    backward = [word for line in lines for word in ("</S>", *reversed(line))][:200]
    gold = np.load(GOLD / "tfckpt_chars/lm_gold.npz")
    check_language_model(tmp_path / "ours", gold, forward, backward)


def check_language_model(folder, gold, forward, backward):
    """The directions read different texts, so each is one row, the backward row reversed."""
    model = ElmoForPreTraining.from_pretrained(folder)
    inputs = ElmoTokenizer.from_pretrained(folder)(
        [forward, backward[::-1]],
        is_split_into_words=True,
        add_special_tokens=False,
        return_tensors="pt",
        return_lm_labels=True,
    )
    np.testing.assert_array_equal(inputs["labels"][0], gold["tokens"])
    np.testing.assert_array_equal(inputs["labels"][1].flip(0), gold["tokens_rev"])
    with torch.no_grad():
        output = model(**inputs)
    found = [output.forward_logits[0], output.backward_logits[1].flip(0)]
    for direction, (logits, targets) in enumerate(zip(found, ("next", "next_rev"), strict=True)):
        np.testing.assert_allclose(logits, gold["logits"][:, direction, 0], **CLOSE)
        ids = torch.from_numpy(gold[targets]).long()
        losses = torch.nn.functional.cross_entropy(logits, ids, reduction="none")
        np.testing.assert_allclose(losses, gold["losses"][:, direction], **CLOSE)


# Fixtures of the original programs, whose rows are the i-th sentences of three lists


@pytest.fixture(scope="module")
def bilm_tf(tmp_path_factory):
    """bilm-tf's own fixture, converted."""
    folder = tmp_path_factory.mktemp("bilm") / "converted"
    convert(BESIDE / "bilm_tf_fixture", folder)
    return folder


def batches_of(file):
    """The fixture's ten batches."""
    lists = json.loads(file.read_text(encoding="utf-8"))
    return [[sentence.split() for sentence in batch] for batch in zip(*lists, strict=True)]


def check_tops(fixture, batches, found):
    """The top layers of all batches equal the stored ones, forward and backward apart."""
    tops = [h5py.File(fixture / f"lm_embeddings_{k}.hdf5") for k in range(3)]
    for number, (batch, layers) in enumerate(zip(batches, found, strict=True)):
        for row, sentence in enumerate(batch):
            top = np.concatenate(tops[row][str(number)][...], -1)
            np.testing.assert_allclose(layers[row, -1, 1 : len(sentence) + 1], top, **CLOSE)


@needs_allennlp
def test_ten_batches_match_allennlps_own_fixture(tmp_path):
    convert(FETCHED, tmp_path / "ours")  # of its HDF5 files one holds LSTMs
    batches = batches_of(FETCHED / "sentences.json")
    check_tops(FETCHED, batches, layers_of(tmp_path / "ours", batches))


@needs_bilm_tf
def test_ten_batches_with_carried_states_match_bilm_tf_in_every_layer(bilm_tf):
    fixture = BESIDE / "bilm_tf_fixture"
    batches = batches_of(fixture / "lm_embeddings_sentences.json")
    found = list(layers_of(bilm_tf, batches))
    check_tops(fixture, batches, found)
    gold = np.load(fixture / "layers.npz")
    for number, (batch, layers) in enumerate(zip(batches, found, strict=True)):
        for row, sentence in enumerate(batch):
            ours = layers[row, :, 1 : len(sentence) + 1]
            theirs = gold[f"{number}/lm"][row][:, : len(sentence)]
            np.testing.assert_allclose(ours, theirs, **CLOSE)


@needs_bilm_tf
def test_the_first_batch_matches_bilm_tf_in_its_mixes(bilm_tf):
    fixture = BESIDE / "bilm_tf_fixture"
    gold = np.load(fixture / "layers.npz")
    batch = batches_of(fixture / "lm_embeddings_sentences.json")[0]
    (layers,) = layers_of(bilm_tf, [batch])
    inner = [layers[row, :, 1 : len(sentence) + 1] for row, sentence in enumerate(batch)]
    every_word = np.concatenate(inner, 1)  # the layer norm's statistics are over the whole batch
    mean, variance = every_word.mean((1, 2)), every_word.var((1, 2))
    for row, ours in enumerate(inner):
        normed = (ours - mean[:, None, None]) / np.sqrt(variance[:, None, None] + 1e-12)
        for name, mixed in {
            "a": ours.mean(0),
            "b": normed.mean(0),
            "c": ours[-1],
            "d": ours,
        }.items():
            theirs = gold[f"weight_layers/{name}"][row][..., : ours.shape[1], :]
            np.testing.assert_allclose(mixed, theirs, **CLOSE, err_msg=name)
