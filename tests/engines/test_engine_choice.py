"""Which engine runs the LSTMs, and that all of them compute the same."""

import copy

import pytest
import torch
from torch import nn

from elmo_hf import ElmoConfig, ElmoModel, use_engine
from elmo_hf.model.engine_cpu import CpuLstm
from elmo_hf.model.layer_lstm import ElmoLstm


def make(**changes):
    torch.manual_seed(0)
    settings = {"cell_dim": 24, "projection_dim": 12, "filters": [[1, 4], [2, 8]], "dropout": 0.0}
    model = ElmoModel(ElmoConfig(**{**settings, **changes})).eval()
    for name, parameter in model.named_parameters():
        if "input_map" in name or "projection" in name:
            parameter.data *= 4
    return model


def words(*lengths, seed=0):
    torch.manual_seed(seed)
    ids = torch.randint(1, 262, (len(lengths), max(lengths), 50))
    for row, length in zip(ids, lengths, strict=True):
        row[length:] = 0
    return ids


def chosen(model):
    return {purpose: why.split(":")[0] for purpose, why in model.engine_info().items()}


def top(model, ids):
    with torch.no_grad():
        return model(ids).last_hidden_state


def test_fast_engines_are_chosen_by_default():
    info = chosen(make())
    assert (info["inference"], info["training"]) == ("cpu", "cpu_training")


def test_a_frozen_model_keeps_no_activations():
    model = make().requires_grad_(False)
    assert chosen(model)["training"] == "cpu"
    assert model(words(4)).last_hidden_state.grad_fn is None


def test_hooked_and_replaced_maps_are_called():
    model = make()
    expected = top(model, words(5, 3))
    calls = []
    for layer in model.layers:
        layer.forward_lstm.recurrent_map.register_forward_hook(lambda *_: calls.append(1))
    assert chosen(model)["inference"] == "reference"
    torch.testing.assert_close(top(model, words(5, 3)), expected)
    assert len(calls) == 10

    class Halved(nn.Linear):
        def forward(self, x):
            return super().forward(x) / 2

    model = make()
    for layer in model.layers:
        for lstm in (layer.forward_lstm, layer.backward_lstm):
            lstm.output_map.__class__ = Halved
    assert chosen(model)["inference"] == "reference"
    assert not torch.allclose(top(model, words(5, 3)), expected)


@pytest.mark.parametrize(
    ("engine", "changes"),
    [
        pytest.param(
            engine, changes, marks=[pytest.mark.slow] * (engine == "scan" and changes != {})
        )
        for engine in ("cpu", "cpu_training", "gpu_training", "scan")
        for changes in ({}, {"bidirectional": False}, {"cell_clip": None})
    ],
)
def test_every_engine_computes_the_same_as_the_reference(engine, changes):
    model, ids = make(**changes), words(9, 4, 1)
    with torch.no_grad():
        with use_engine("reference"):
            expected = model(ids, use_cache=True)
        with use_engine(engine):
            found = model(ids, use_cache=True)
    for a, b in zip((expected[0], *expected.states), (found[0], *found.states), strict=True):
        torch.testing.assert_close(b, a, atol=2e-6, rtol=0)


def test_training_has_the_gradients_of_the_reference():
    gradients = []
    for engine in ("reference", "cpu_training"):
        model = make()
        with use_engine(engine):
            model(words(9, 4, 1)).last_hidden_state.square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert (a - b).abs().max() <= 1e-5 * a.abs().max()


def test_inference_follows_every_change_of_the_weights():
    model, ids = make(), words(6, 2)
    before = top(model, ids)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(ids).last_hidden_state.square().sum().backward()
    optimizer.step()
    for change in (
        lambda: None,
        lambda: model.layers[0].forward_lstm.recurrent_map.weight.data.mul_(1.1),
        lambda: model.load_state_dict(make().state_dict()),
        lambda: setattr(model.layers[1].forward_lstm, "output_map", nn.Linear(24, 12, bias=False)),
    ):
        change()
        after = top(model, ids)
        assert not torch.equal(after, before)
        with use_engine("reference"):
            torch.testing.assert_close(after, top(model, ids), atol=2e-6, rtol=0)
        before = after


def test_a_copy_of_a_used_model_is_independent():
    model, ids = make(), words(6, 2)
    expected = top(model, ids)
    clone = copy.deepcopy(model)
    clone.layers[0].forward_lstm.recurrent_map.weight.data.zero_()
    assert not torch.equal(top(clone, ids), expected)
    assert torch.equal(top(model, ids), expected)


def test_the_first_layer_maps_each_distinct_word_once(monkeypatch):
    told, run = [], CpuLstm.run
    monkeypatch.setattr(
        CpuLstm,
        "run",
        lambda *given, unique=None: told.append(unique) or run(*given, unique=unique),
    )
    model, ids = make(), words(4, 4)
    ids[1] = ids[0]
    expected = top(model, ids)
    vectors, places = told[0]
    assert vectors.shape == (4, 12) and torch.equal(places[0], places[1])
    assert told[1] is told[0] and told[2:] == [None, None]
    model.embeddings.register_forward_hook(lambda *_: None)
    torch.testing.assert_close(top(model, ids), expected)
    assert told[4:] == [None] * 4


def test_an_unknown_engine_is_refused_and_use_engine_ends_with_its_block():
    with pytest.raises(ValueError, match="expected one of reference, cpu"), use_engine("warp"):
        pass
    with use_engine("reference"):
        assert chosen(make())["inference"] == "reference"
    assert chosen(make())["inference"] == "cpu"


def test_maps_stay_visible_as_linear_modules():
    lstm = ElmoLstm(ElmoConfig(cell_dim=24, projection_dim=12))
    assert [type(module) for module in lstm.children()] == [nn.Linear] * 3
