"""Compares the drop-in classes with what AllenNLP 0.9.0 computed, see gold/make_drop_in.py."""

import copy
import errno
import io
import json
import os
import pickle
import sys

import h5py
import numpy as np
import pytest
import torch
from helpers.gold import FETCHED, GOLD, needs_allennlp
from helpers.originals import options, random_arrays, write_original
from torch import nn

from elmo_hf.allennlp import (
    Elmo,
    ElmoEmbedder,
    ElmoTokenEmbedder,
    ScalarMix,
    _ElmoBiLm,
    batch_to_ids,
)
from elmo_hf.allennlp import embedder as embedder_module

FOLDER = GOLD / "allennlp/drop_in"
FILES = [GOLD / "allennlp/relu" / name for name in ("options.json", "weights.hdf5")]
CALLS = json.loads((GOLD / "allennlp/sentences.json").read_text(encoding="utf-8"))
SENTENCES = [*CALLS[0], *CALLS[1], CALLS[0][0]]
VOCABULARY = ["@@PADDING@@", "The", "bank", "of", "river", "."]
CLOSE = {"atol": 2e-6, "rtol": 0}


@pytest.fixture(scope="module")
def answers():
    with np.load(FOLDER / "answers.npz") as file:
        return dict(file)


def check(found, expected):
    found = found.detach().numpy() if isinstance(found, torch.Tensor) else found
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, **CLOSE)


def vectors(elmo, sentences=CALLS[0]):
    return elmo(batch_to_ids(sentences))["elmo_representations"][0].detach()


# The numbers of AllenNLP


def test_an_old_script_gives_the_recorded_numbers_after_its_imports_change(tmp_path, monkeypatch):
    script = (FOLDER / "old_script.py").read_text()
    for module in ("allennlp.commands.elmo", "allennlp.modules.elmo"):
        script = script.replace(f"from {module} import", "from elmo_hf.allennlp import")
    out = tmp_path / "old_script"
    sentences = str(FOLDER / "sentences.txt")
    monkeypatch.setattr(sys, "argv", ["script", *map(str, FILES), sentences, str(out)])
    exec(compile(script, "old_script.py", "exec"), {})
    ours, theirs = (np.load(folder / "old_script.npz") for folder in (tmp_path, FOLDER))
    for name in ("character_ids", "mask"):
        np.testing.assert_array_equal(ours[name], theirs[name])
    check(ours["first"], theirs["first"])
    check(ours["second"], theirs["second"])
    for kind in ("all", "top", "average"):
        name = f"old_script.{kind}.hdf5"
        with h5py.File(tmp_path / name) as mine, h5py.File(FOLDER / name) as old:
            assert set(mine) == set(old) == {*map(str, range(7)), "sentence_to_index"}
            assert mine["sentence_to_index"].shape == old["sentence_to_index"].shape
            assert mine["sentence_to_index"][0] == old["sentence_to_index"][0]
            for key in map(str, range(7)):
                assert mine[key].dtype == old[key].dtype
                check(mine[key][...], old[key][...])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("boundaries", {"keep_sentence_boundaries": True}),
        ("fixed", {"scalar_mix_parameters": [0.5, -1.0, 2.0]}),
        ("norm", {"do_layer_norm": True}),
    ],
)
def test_options_of_elmo(answers, name, arguments):
    elmo = Elmo(*FILES, 1, dropout=0.0, **arguments)
    output = elmo(batch_to_ids(CALLS[0]))
    check(output["elmo_representations"][0], answers[f"{name}, vectors"])
    np.testing.assert_array_equal(output["mask"], answers[f"{name}, mask"])
    assert elmo.scalar_mix_0.gamma.requires_grad == (name != "fixed")


def test_input_with_more_dimensions(answers):
    ids = batch_to_ids([*CALLS[0], *CALLS[1][:1]]).view(2, 2, -1, 50)
    output = Elmo(*FILES, 1, dropout=0.0)(ids)
    check(output["elmo_representations"][0], answers["4-D, vectors"])
    np.testing.assert_array_equal(output["mask"], answers["4-D, mask"])


def test_cached_words_have_the_same_vectors(answers):
    elmo = Elmo(*FILES, 1, dropout=0.0, vocab_to_cache=VOCABULARY)
    known = [["The", "bank", "of", "The", "river", "."], ["bank"]]
    words = torch.tensor([[1, 2, 3, 1, 4, 5], [2, 0, 0, 0, 0, 0]])
    ids = batch_to_ids(known)
    check(elmo(ids, words)["elmo_representations"][0], answers["cached, vectors"])
    check(vectors(elmo, known), answers["cached, vectors"])
    four = elmo(ids.view(2, 1, 6, 50), words.view(2, 1, 6))["elmo_representations"][0]
    check(four[:, 0], answers["cached, vectors"])
    assert torch.allclose(elmo(ids, words + 1)["elmo_representations"][0], vectors(elmo, known))


def test_cached_words_under_autocast(answers):
    elmo = Elmo(*FILES, 1, dropout=0.0, vocab_to_cache=VOCABULARY)
    words = torch.tensor([[1, 2, 3, 1, 4, 5], [2, 0, 0, 0, 0, 0]])
    ids = batch_to_ids([["The", "bank", "of", "The", "river", "."], ["bank"]])
    with torch.autocast("cpu", torch.bfloat16):
        found = elmo(ids, words)["elmo_representations"][0].float()
    wanted = torch.as_tensor(answers["cached, vectors"])
    assert (found - wanted).norm() < 0.02 * wanted.norm()


def test_states_are_carried_on_request(answers):
    embedder = ElmoEmbedder(*FILES, stateful=True)
    carried = [*embedder.embed_sentences(SENTENCES, batch_size=3), *embedder.embed_batch(SENTENCES)]
    for number, found in enumerate(carried):
        check(found, answers[f"carried {number}"])
    embedder.elmo_bilm._elmo_lstm.reset_states()
    check(embedder.embed_sentence(SENTENCES[0]), answers["carried 0"])
    embedder.elmo_bilm._elmo_lstm.stateful = False
    check(embedder.embed_sentence(SENTENCES[0]), answers["carried 0"])


def test_a_sentence_has_the_same_vectors_everywhere_by_default(answers):
    embedder = ElmoEmbedder(*FILES)
    first = embedder.embed_sentence(SENTENCES[0])
    check(first, answers["carried 0"])
    for found in (
        embedder.embed_batch(SENTENCES)[-1],
        list(embedder.embed_sentences(iter(SENTENCES), batch_size=2))[-1],
    ):
        check(found, first)


def test_an_old_checkpoint_of_a_users_model_loads_and_is_saved_under_the_same_names(answers):
    old = torch.load(FOLDER / "user_model.th", weights_only=True)
    user = nn.ModuleDict({"elmo": Elmo(*FILES, 2, dropout=0.0), "tagger": nn.Linear(24, 3)})
    user.load_state_dict(old)
    for number, found in enumerate(user["elmo"](batch_to_ids(CALLS[0]))["elmo_representations"]):
        check(found, answers[f"user, vectors {number}"])
    new = user.state_dict()
    assert set(new) == set(old)
    assert all(torch.equal(new[name], old[name]) for name in old)


def test_incomplete_checkpoints_name_what_is_missing_as_allennlp_does():
    elmo = Elmo(*FILES, 1)
    state = elmo.state_dict()
    del state["_elmo_lstm._token_embedder._projection.bias"], state["scalar_mix_0.gamma"]
    found = elmo.load_state_dict(state, strict=False)
    assert found.missing_keys == [
        "_elmo_lstm._token_embedder._projection.bias",
        "scalar_mix_0.gamma",
    ]
    with pytest.raises(RuntimeError, match=r"_elmo_lstm\._token_embedder\._projection\.bias"):
        elmo.load_state_dict(state)


@needs_allennlp
def test_ten_batches_match_allennlps_own_fixture():
    lists = json.loads((FETCHED / "sentences.json").read_text(encoding="utf-8"))
    files = [FETCHED / "options.json", FETCHED / "lm_weights.hdf5"]
    embedder = ElmoEmbedder(*files, stateful=True)
    tops = [h5py.File(FETCHED / f"lm_embeddings_{row}.hdf5") for row in range(3)]
    for number, batch in enumerate(zip(*lists, strict=True)):
        for row, found in enumerate(embedder.embed_batch([text.split() for text in batch])):
            check(found[-1], np.concatenate(tops[row][str(number)][...], -1))


# Use in a larger model


def test_only_the_mixes_are_trained_unless_requires_grad():
    for requires_grad in (False, True):
        elmo = Elmo(*FILES, 1, requires_grad=requires_grad, dropout=0.0)
        elmo(batch_to_ids(CALLS[0]))["elmo_representations"][0].square().sum().backward()
        with_gradient = {n for n, p in elmo.named_parameters() if p.grad is not None}
        assert {"scalar_mix_0.weights", "scalar_mix_0.gamma"} <= with_gradient
        inner = {n for n, _ in elmo.named_parameters() if n.startswith("_elmo_lstm.")}
        assert bool(inner & with_gradient) == requires_grad
        assert inner.isdisjoint(with_gradient) or inner <= with_gradient


def test_fine_tuning_with_carried_states_gives_the_recorded_vectors():
    elmo = Elmo(*FILES, 1, requires_grad=True, dropout=0.0, stateful=True)
    before = vectors(elmo)
    elmo._elmo_lstm._elmo_lstm.reset_states()
    optimizer = torch.optim.SGD(elmo.parameters(), lr=0.002)
    for step in range(5):
        found = elmo(batch_to_ids(CALLS[step % 2]))["elmo_representations"][0]
        optimizer.zero_grad()
        found.tanh().sum().backward()
        optimizer.step()
    elmo._elmo_lstm._elmo_lstm.reset_states()
    expected = np.load(FOLDER / "trained.npz")["vectors"]
    check(vectors(elmo), expected)
    assert np.abs(before.numpy() - expected).max() > 0.1


def test_dropout_applies_to_the_results_in_training_mode_only():
    elmo = Elmo(*FILES, 1)
    assert elmo.training
    dropped, kept = vectors(elmo), vectors(elmo.eval())
    is_kept = dropped.ne(0)
    assert torch.allclose(dropped[is_kept], 2 * kept[is_kept])
    assert 0.3 < is_kept[kept.ne(0)].float().mean() < 0.7


def test_copies_pickles_and_saved_modules_compute_the_same(tmp_path):
    elmo = Elmo(*FILES, 1, dropout=0.0)
    with torch.no_grad():
        elmo.scalar_mix_0.weights.copy_(torch.tensor([0.0, 1.0, 2.0]))
    torch.save(elmo, tmp_path / "elmo.pt")
    others = [copy.deepcopy(elmo), pickle.loads(pickle.dumps(elmo))]
    others.append(torch.load(tmp_path / "elmo.pt", weights_only=False))
    expected, state = vectors(elmo), elmo.state_dict()
    fresh = Elmo(*FILES, 1, dropout=0.0)
    fresh.load_state_dict(others[-1].state_dict())
    for other in [*others, fresh, elmo.to(torch.float64)]:
        assert torch.allclose(vectors(other), expected.to(vectors(other).dtype), atol=2e-6)
        assert other.state_dict().keys() == state.keys()


def test_a_token_embedder_projects_and_takes_the_same_checkpoints():
    embedder = ElmoTokenEmbedder(*FILES, dropout=0.0, projection_dim=5)
    assert embedder.get_output_dim() == 5
    assert embedder(batch_to_ids(CALLS[0])).shape == (3, 6, 5)
    assert "_elmo._elmo_lstm._elmo_lstm.forward_layer_0.state_projection.weight" in (
        embedder.state_dict()
    )


def test_a_module_replaces_the_biLM():
    bilm = _ElmoBiLm(*FILES)
    elmo = Elmo(None, None, 1, dropout=0.0, module=bilm)
    assert elmo.get_output_dim() == bilm.get_output_dim() == 24
    assert torch.equal(vectors(elmo), vectors(Elmo(*FILES, 1, dropout=0.0)))
    with pytest.raises(ValueError, match="pass None for both files"):
        Elmo(*FILES, 1, module=bilm)
    settings = {"options_file": FILES[0], "weight_file": FILES[1], "dropout": 0.0}
    made = Elmo.from_params(settings, num_output_representations=1)
    assert torch.equal(vectors(made), vectors(elmo))


def test_states_are_refused_in_copies_of_data_parallel():
    replica = _ElmoBiLm(*FILES, stateful=True)._replicate_for_data_parallel()
    with pytest.raises(RuntimeError, match="use one device"):
        replica(batch_to_ids(CALLS[0]))


# Input


def test_ids_of_awkward_input():
    assert batch_to_ids([["a"], []]).shape == (2, 1, 50)
    assert batch_to_ids([[]]).shape == (1, 0, 50)
    # AllenNLP leaves out what has no UTF-8 form, and "<PAD>" is a word like any other.
    ids = batch_to_ids([["a", "<PAD>", "x\ud800y", ""], ["b"]])
    assert ids[0, :, :4].tolist() == [
        [259, 98, 260, 261],
        [259, 61, 81, 66],
        [259, 121, 122, 260],
        [259, 260, 261, 261],
    ]
    assert not ids[1, 1:].any()


def test_empty_sentences_have_no_vectors():
    embedder = ElmoEmbedder(*FILES)
    assert embedder.embed_sentence([]).shape == (3, 0, 24)
    assert [v.shape[1] for v in embedder.embed_batch([["a"], [], ["a", "b"]])] == [1, 0, 2]
    assert [v.shape[1] for v in embedder.embed_sentences([[], ["a"]])] == [0, 1]
    output = Elmo(*FILES, 1, dropout=0.0)(torch.zeros(2, 3, 50, dtype=torch.long))
    assert not output["mask"].any()
    assert not output["elmo_representations"][0].any()


def test_texts_and_left_padding_are_refused():
    embedder = ElmoEmbedder(*FILES)
    for call in (
        lambda: batch_to_ids(["a text"]),
        lambda: batch_to_ids("a text"),
        lambda: embedder.embed_sentence("a text"),
        lambda: embedder.embed_sentence(None),
        lambda: embedder.embed_batch(["a", "text"]),
        lambda: list(embedder.embed_sentences(["a text"])),
    ):
        with pytest.raises(ValueError, match="a sentence is a list of words"):
            call()
    with pytest.raises(ValueError, match="batch_size is 0"):
        list(ElmoEmbedder(*FILES, stateful=True).embed_sentences([["a"]], batch_size=0))
    with pytest.raises(ValueError, match="a word follows padding"):
        Elmo(*FILES, 1)(batch_to_ids(CALLS[0]).flip(1))
    with pytest.raises(ValueError, match=r"expected character ids \(batch, words, 50\)"):
        Elmo(*FILES, 1)(torch.zeros(2, 3, dtype=torch.long))
    with pytest.warns(UserWarning, match="without vocab_to_cache"):
        Elmo(*FILES, 1)(batch_to_ids([["a"]]), torch.tensor([[1]]))
    with pytest.raises(ValueError, match="num_output_representations is 0"):
        Elmo(*FILES, 0)
    with pytest.raises(ValueError, match="got 2 scalar mix parameters"):
        ScalarMix(3, initial_scalar_parameters=[1.0, 2.0])


# Files


def test_addresses_name_the_command_that_downloads_them():
    with pytest.raises(ValueError, match=r"elmo-hf fetch allennlp-original elmo --keep"):
        ElmoEmbedder()
    address = (
        "https://s3-us-west-2.amazonaws.com/allennlp/models/elmo/contributed/pt/"
        "elmo_pt_weights.hdf5"
    )
    with pytest.raises(ValueError, match=r"fetch portuguese .* elmo-original/elmo_pt_weights.hdf5"):
        Elmo(FILES[0], address, 1)
    with pytest.raises(ValueError, match="download the file and pass its path"):
        Elmo("https://example.org/options.json", FILES[1], 1)
    with pytest.raises(ValueError, match="weight_file is None"):
        Elmo(FILES[0], None, 1)
    with pytest.raises(ValueError, match="does not exist"):
        Elmo(FILES[0], "missing.hdf5", 1)


def test_models_that_allennlp_cannot_represent_are_refused(tmp_path):
    made = options(lstm__use_skip_connections=False)
    folder = write_original(tmp_path, made, random_arrays(made))
    with pytest.raises(ValueError, match="no skip connections"):
        Elmo(folder / "options.json", folder / "weights.hdf5", 1)
    made = options(char_cnn__max_characters_per_token=20)
    folder = write_original(tmp_path / "short", made, random_arrays(made))
    with pytest.raises(ValueError, match="AllenNLP reads 50 characters of a word, not 20"):
        ElmoEmbedder(folder / "options.json", folder / "weights.hdf5")


@pytest.mark.parametrize("dtype", [torch.bool, torch.long, torch.float])
def test_masks_may_be_numbers_and_ids_may_be_short(dtype):
    mask, layers = torch.tensor([[1, 1, 1], [1, 0, 0]]), [torch.randn(2, 3, 4) for _ in range(3)]
    mix = ScalarMix(3, do_layer_norm=True)
    torch.testing.assert_close(mix(layers, mask.to(dtype)), mix(layers, mask.bool()))
    elmo, ids = Elmo(*FILES, 1).eval(), batch_to_ids(CALLS[0])
    short = elmo(ids.int())["elmo_representations"][0]
    torch.testing.assert_close(short, elmo(ids)["elmo_representations"][0])


def test_embed_file_keys_and_refusals(tmp_path):
    embedder, out = ElmoEmbedder(*FILES), tmp_path / "out.hdf5"
    with pytest.raises(ValueError, match=r"blank lines, at the numbers \[1, 3\]"):
        embedder.embed_file(io.StringIO("a\n\nb\n \n"), out)
    with pytest.raises(ValueError, match="occurs 2 times"):
        embedder.embed_file(io.StringIO("a b\na b\n"), out, use_sentence_keys=True)
    with pytest.raises(ValueError, match="expected one of"):
        embedder.embed_file(io.StringIO("a\n"), out, output_format="mean")
    with pytest.raises(FileNotFoundError, match=r"no/out\.hdf5"):
        embedder.embed_file(io.StringIO("a\n"), tmp_path / "no" / "out.hdf5")
    assert list(tmp_path.iterdir()) == []
    text = io.StringIO("a b\nc\n")
    embedder.embed_file(text, out, use_sentence_keys=True)
    assert text.closed
    with h5py.File(out) as file:
        assert {key: file[key].shape for key in file} == {"a b": (3, 2, 24), "c": (3, 1, 24)}
    embedder.embed_file(FOLDER / "sentences.txt", out, "top", forget_sentences=True)
    with h5py.File(out) as file:  # the older file is replaced
        assert set(file) == {*map(str, range(7))}
    with pytest.warns(UserWarning, match="contain a slash"):
        embedder.embed_file(io.StringIO("a/b\n"), out, use_sentence_keys=True)


def test_a_failed_embed_file_keeps_the_file_before(tmp_path, monkeypatch):
    embedder, out = ElmoEmbedder(*FILES), tmp_path / "out.hdf5"
    out.write_bytes(b"before")
    monkeypatch.setattr(embedder, "embed_sentences", lambda *_: iter([]))
    with pytest.raises(ValueError, match="zip"):
        embedder.embed_file(io.StringIO("a\n"), out)

    def write_to_a_full_disk(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(embedder_module, "write_hdf5", write_to_a_full_disk)
    with pytest.raises(OSError, match=r"No space left on device: .*out\.hdf5"):
        embedder.embed_file(io.StringIO("a\n"), out)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [
        ("out.hdf5", b"before")
    ]
