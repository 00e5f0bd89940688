"""The original programs' own answers, through the public API."""

import json

import h5py
import numpy as np
import pytest
import torch
from helpers.originals import GOLD

from elmo_hf import ElmoForPreTraining, ElmoModel, ElmoTokenizer
from elmo_hf.conversion.bilm_arrays import load_arrays
from elmo_hf.conversion.bilm_options import config_from_options
from elmo_hf.conversion.convert import convert

pytestmark = pytest.mark.skipif(
    not GOLD.is_dir(), reason="gold vectors of the original programs are not beside this checkout"
)
CLOSE = {"atol": 2e-6, "rtol": 1e-5}


@pytest.fixture(scope="module")
def fixture_folder(tmp_path_factory):
    """bilm-tf's own fixture, converted by the command."""
    folder = tmp_path_factory.mktemp("bilm") / "converted"
    convert(GOLD / "bilm_tf_fixture", folder)
    return folder


def batches():
    """The fixture's ten batches: the i-th sentence of each of three lists."""
    lists = json.loads((GOLD / "bilm_tf_fixture/lm_embeddings_sentences.json").read_text())
    return [[sentence.split() for sentence in batch] for batch in zip(*lists, strict=True)]


def test_ten_batches_with_carried_states_match_bilm_tf_in_every_layer(fixture_folder):
    model = ElmoModel.from_pretrained(fixture_folder)
    tokenizer = ElmoTokenizer.from_pretrained(fixture_folder)
    gold = np.load(GOLD / "bilm_tf_fixture/layers.npz")
    tops = [h5py.File(GOLD / f"bilm_tf_fixture/lm_embeddings_{k}.hdf5") for k in range(3)]
    states = None
    for number, batch in enumerate(batches()):
        inputs = tokenizer(batch, is_split_into_words=True, padding=True, return_tensors="pt")
        with torch.no_grad():
            output = model(**inputs, states=states, use_cache=True, output_hidden_states=True)
        states = output.states
        found = torch.stack(output.hidden_states, 1).numpy()
        for row, sentence in enumerate(batch):
            ours = found[row, :, 1 : len(sentence) + 1]
            theirs = gold[f"{number}/lm"][row][:, : len(sentence)]
            np.testing.assert_allclose(ours, theirs, **CLOSE)
            top = tops[row][str(number)][...]  # (direction, words, width)
            np.testing.assert_allclose(ours[-1], np.concatenate(top, -1), **CLOSE)


def test_the_first_batch_matches_bilm_tf_in_its_mixes(fixture_folder):
    model = ElmoModel.from_pretrained(fixture_folder)
    tokenizer = ElmoTokenizer.from_pretrained(fixture_folder)
    gold = np.load(GOLD / "bilm_tf_fixture/layers.npz")
    batch = batches()[0]
    inputs = tokenizer(batch, is_split_into_words=True, padding=True, return_tensors="pt")
    with torch.no_grad():
        found = torch.stack(model(**inputs, output_hidden_states=True).hidden_states, 1)
    inner = [found[row, :, 1 : len(sentence) + 1] for row, sentence in enumerate(batch)]
    every_word = torch.cat(inner, 1)  # the layer norm's statistics are over the whole batch
    variance, mean = torch.var_mean(every_word, (1, 2), correction=0)
    for row, layers in enumerate(inner):
        words = layers.shape[1]
        normed = (layers - mean[:, None, None]) / (variance[:, None, None] + 1e-12).sqrt()
        for name, ours in {
            "a": layers.mean(0),
            "b": normed.mean(0),
            "c": layers[-1],
            "d": layers,
        }.items():
            theirs = gold[f"weight_layers/{name}"][row][..., :words, :]
            np.testing.assert_allclose(ours, theirs, **CLOSE, err_msg=name)


def test_awkward_words_have_allennlps_character_ids():
    words = json.loads((GOLD / "char_words.json").read_text())
    ids = ElmoTokenizer()(words, is_split_into_words=True, add_special_tokens=False)["input_ids"]
    np.testing.assert_array_equal(ids, np.load(GOLD / "char_ids.npz")["ids"])


def language_model(name):
    """A TensorFlow checkpoint's weights.hdf5 with the softmax that its dump leaves out."""
    folder = GOLD / name
    options = json.loads((folder / "options.json").read_text())
    variables = np.load(folder / "vars.npz")
    with h5py.File(folder / "weights.hdf5") as file:
        arrays = {}
        file.visititems(
            lambda n, d: arrays.update({n: d[...]}) if isinstance(d, h5py.Dataset) else None
        )
    arrays |= {f"softmax/{part}": variables[f"lm/softmax/{part}"] for part in ("W", "b")}
    config, _ = config_from_options(options, arrays)
    model = ElmoForPreTraining(config).eval()
    model.load_state_dict(load_arrays(config, arrays)[0])
    return model, np.load(folder / "lm_gold.npz")


def check_language_model(model, gold, forward_ids, backward_ids):
    """The directions read different texts, so each is one row, the backward one turned round."""
    with torch.no_grad():
        forward = model(forward_ids[None]).forward_logits[0]
        backward = model(backward_ids.flip(0)[None]).backward_logits[0].flip(0)
    for direction, (logits, targets) in enumerate(
        ((forward, gold["next"]), (backward, gold["next_rev"]))
    ):
        np.testing.assert_allclose(logits, gold["logits"][:, direction, 0], **CLOSE)
        losses = torch.nn.functional.cross_entropy(
            logits, torch.from_numpy(targets).long(), reduction="none"
        )
        np.testing.assert_allclose(losses, gold["losses"][:, direction], **CLOSE)


def test_a_token_checkpoint_matches_tensorflow_in_logits_and_losses():
    model, gold = language_model("tfckpt_tok")
    ids = [torch.from_numpy(gold[name]).long() + 1 for name in ("tokens", "tokens_rev")]
    check_language_model(model, gold, *ids)


def test_a_character_checkpoint_matches_tensorflow_in_logits_and_losses():
    model, gold = language_model("tfckpt_chars")
    lines = [line.split() for line in (GOLD / "bilm_tf_train/data.txt").read_text().splitlines()]
    streams = [
        [word for line in lines * 2 for word in ("<S>", *line)],
        [word for line in lines * 2 for word in ("</S>", *reversed(line))],
    ]
    tokenizer = ElmoTokenizer(max_characters_per_token=10)
    ids = tokenizer(
        [stream[:200] for stream in streams],
        is_split_into_words=True,
        add_special_tokens=False,
        return_tensors="pt",
    )["input_ids"]
    check_language_model(model, gold, *ids)
