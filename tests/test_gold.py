"""The original programs' own answers, through the public API."""

import json

import h5py
import numpy as np
import pytest
import torch
from originals import GOLD

from conversion.convert import convert
from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoModel, ElmoTokenizer
from elmo_hf.hdf5 import load_arrays
from elmo_hf.options import config_from_options

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


def dictionary(name):
    """An ELMoForManyLangs .dic file; an entry that strips away is the ideographic space."""
    lines = (GOLD / "efml_cnn_word" / name).read_text(encoding="utf-8").splitlines()
    pairs = [line.strip().split("\t") for line in lines]
    return {pair[0] if len(pair) == 2 else "\u3000": int(pair[-1]) for pair in pairs}


def manylangs_model():
    settings = json.loads((GOLD / "efml_cnn_word/model_config.json").read_text())
    encoder, embedder = settings["encoder"], settings["token_embedder"]
    characters, words = dictionary("char.dic"), dictionary("word.dic")
    config = ElmoConfig(
        vocab_size=len(characters) + 1,
        max_characters_per_token=embedder["max_characters_per_token"],
        char_embedding_dim=embedder["char_dim"],
        filters=embedder["filters"],
        activation=embedder["activation"],
        num_highway_layers=embedder["n_highway"],
        word_vocab_size=len(words) + 1,
        word_embedding_dim=embedder["word_dim"],
        embedding_projection=True,
        projection_dim=encoder["projection_dim"],
        cell_dim=encoder["dim"],
        lstm_projection=True,
        num_hidden_layers=encoder["n_layers"],
        cell_clip=encoder["cell_clip"],
        projection_clip=encoder["proj_clip"],
        bos_token_id=characters["<bos>"] + 1,
        eos_token_id=characters["<eos>"] + 1,
    )
    model = ElmoModel(config).eval()
    model.load_state_dict(manylangs_weights(encoder["n_layers"], len(embedder["filters"])))
    # A word begins with the entry <eow> and ends with <bow>: the original's swap, kept.
    roles = {"<eow>": "<BOW>", "<bow>": "<EOW>", "<pad>": "<PADC>", "<oov>": "<OOV>"}
    tokenizer = ElmoTokenizer.from_characters(
        {roles.get(entry, entry): number + 1 for entry, number in characters.items()},
        max_characters_per_token=config.max_characters_per_token,
        bos_token="<bos>",
        eos_token="<eos>",
        use_word_ids=True,
        lm_vocab=sorted(words, key=words.get),
        word_unk_token="<oov>",
    )
    return model, tokenizer


def manylangs_weights(layers, filters):
    def load(name):
        return torch.load(GOLD / "efml_cnn_word" / name, weights_only=True)

    def padded(table):
        return torch.cat([torch.zeros(1, table.shape[1]), table])

    theirs, encoder, ours = load("token_embedder.pkl"), load("encoder.pkl"), {}
    for kind in ("char", "word"):
        table = theirs[f"{kind}_emb_layer.embedding.weight"]
        ours[f"embeddings.{kind}_embeddings.weight"] = padded(table)
    for part in ("weight", "bias"):
        for i in range(filters):
            ours[f"embeddings.convolutions.{i}.{part}"] = theirs[f"convolutions.{i}.{part}"]
        for k in range(2):
            transform, carry = theirs[f"highways._layers.{k}.{part}"].chunk(2)
            ours[f"embeddings.highways.{k}.transform.{part}"] = transform
            ours[f"embeddings.highways.{k}.gate.{part}"] = -carry
        ours[f"embeddings.projection.{part}"] = theirs[f"projection.{part}"]
    for direction in ("forward", "backward"):
        for layer in range(layers):
            source, target = f"{direction}_layer_{layer}", f"layers.{layer}.{direction}_lstm"
            ours[f"{target}.input_map.weight"] = encoder[f"{source}.input_linearity.weight"]
            ours[f"{target}.input_map.bias"] = encoder[f"{source}.state_linearity.bias"]
            ours[f"{target}.recurrent_map.weight"] = encoder[f"{source}.state_linearity.weight"]
            ours[f"{target}.output_map.weight"] = encoder[f"{source}.state_projection.weight"]
    return ours


def test_elmo_for_many_langs_matches_with_carried_states():
    model, tokenizer = manylangs_model()
    gold = np.load(GOLD / "efml_cnn_word/gold.npz")
    sentences = json.loads((GOLD / "efml_sents.json").read_text())
    inputs = tokenizer(sentences, is_split_into_words=True, padding=True, return_tensors="pt")
    states = None
    for call in ("call1", "call2"):
        with torch.no_grad():
            output = model(**inputs, states=states, use_cache=True, output_hidden_states=True)
        states = output.states
        found = torch.stack(output.hidden_states, 1).numpy()
        for row, sentence in enumerate(sentences):
            ours = found[row, :, 1 : len(sentence) + 1]
            np.testing.assert_allclose(ours, gold[f"{call}/{row}"], **CLOSE)
            if call == "call1":
                np.testing.assert_allclose(ours.mean(0), gold[f"avg/{row}"], **CLOSE)
