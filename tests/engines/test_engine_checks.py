"""User code that PyTorch runs on a module is run, and transforms see every operator."""

import sys
import threading

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import nn
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.modules import module as nn_module
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoModel, use_engine
from elmo_hf.model import engine_checks, engine_choice, engine_scan, engine_training
from elmo_hf.model.engine_choice import choose_engine

MAPS = [
    "layers.0.forward_lstm.input_map",
    "layers.1.backward_lstm.recurrent_map",
    "layers.0.backward_lstm.output_map",
    "layers.0.forward_lstm",
    "layers.1",
    "embeddings",
    "embeddings.char_embeddings",
    "embeddings.convolutions.1",
    "embeddings.highways.0",
    "embeddings.highways.1.gate",
    "embeddings.projection",
]


def make(**changes):
    torch.manual_seed(0)
    settings = {"cell_dim": 24, "projection_dim": 12, "filters": [[1, 4], [2, 12]], "dropout": 0.0}
    model = ElmoModel(ElmoConfig(**{**settings, **changes})).eval()
    for name, parameter in model.named_parameters():
        if "input_map" in name or "projection" in name:
            parameter.data *= 4
    return model


def words(batch=2, length=4):
    torch.manual_seed(1)
    return torch.randint(1, 262, (batch, length, 50))


def top(model, ids):
    return model(ids).last_hidden_state


def double(module, arguments, outputs):
    if isinstance(outputs, tuple):
        return (2 * outputs[0], *outputs[1:])
    return 2 * outputs


def replace_forward(module, calls):
    forward = module.forward

    def patched(*given, **options):
        calls.append(1)
        return double(module, given, forward(*given, **options))

    module.forward = patched


def register_forward_hook(module, calls):
    def hook(*given):
        calls.append(1)
        return double(*given)

    module.register_forward_hook(hook)


def register_forward_hook_with_kwargs(module, calls):
    def hook(module, arguments, options, outputs):
        calls.append(1)
        return double(module, arguments, outputs)

    module.register_forward_hook(hook, with_kwargs=True)


def register_forward_pre_hook(module, calls):
    module.register_forward_pre_hook(lambda *_: calls.append(1))


def change_class(module, calls):
    kind = type(module)

    class Patched(kind):
        def forward(self, *given, **options):
            calls.append(1)
            return double(self, given, kind.forward(self, *given, **options))

    module.__class__ = Patched


LISTENERS = [
    replace_forward,
    register_forward_hook,
    register_forward_hook_with_kwargs,
    register_forward_pre_hook,
    change_class,
]


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("listen", LISTENERS, ids=lambda listen: listen.__name__)
def test_hooks_and_replaced_forwards_are_run_on_every_module(listen, gradients):
    ids = words()
    for name in MAPS:
        model, calls = make(), []
        with torch.set_grad_enabled(gradients):
            top(model, ids)
            listen(model.get_submodule(name), calls)
            found = top(model, ids)
            assert calls, name
            with use_engine("reference"):
                expected = top(model, ids)
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    "register", ["register_full_backward_hook", "register_full_backward_pre_hook"]
)
def test_backward_hooks_are_run(register):
    ids = words()
    for name in MAPS:
        if name == "embeddings.char_embeddings" and "pre" not in register:
            continue  # its input has no gradient
        counts = []
        for engine in ("reference", None):
            model, calls = make(), []
            getattr(model.get_submodule(name), register)(lambda *_, calls=calls: calls.append(1))
            if engine is None:
                top(model, ids).sum().backward()
            else:
                with use_engine(engine):
                    top(model, ids).sum().backward()
            counts.append(len(calls))
        assert counts[1] > 0, name
        if not name.startswith("embeddings"):  # the reference calls convolutions batch by batch
            assert counts[0] == counts[1], name


@pytest.mark.parametrize("gradients", [False, True])
def test_global_hooks_are_run(gradients):
    model, ids, kinds = make(), words(), set()

    def hook(module, arguments, outputs):
        kinds.add(type(module).__name__)
        return 0.5 * outputs if isinstance(module, nn.Linear) else None

    with torch.set_grad_enabled(gradients):
        before = top(model, ids)
        handle = nn_module.register_module_forward_hook(hook)
        try:
            found = top(model, ids)
            with use_engine("reference"):
                expected = top(model, ids)
        finally:
            handle.remove()
        assert {"Linear", "Conv1d", "Embedding", "ElmoLstm", "ElmoHighway"} <= kinds
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
        assert not torch.allclose(found, before, atol=1e-3)
        torch.testing.assert_close(top(model, ids), before)


def test_a_class_whose_forward_was_replaced_is_called(monkeypatch):
    model, ids = make(), words()
    forward = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: 0.5 * forward(self, x))
    with torch.no_grad():
        found = top(model, ids)
        with use_engine("reference"):
            torch.testing.assert_close(found, top(model, ids), atol=2e-6, rtol=0)


def test_hooks_of_the_softmax_layer_are_run():
    settings = {"cell_dim": 8, "projection_dim": 6, "filters": [[1, 4]], "lm_vocab_size": 9}
    for register in ("register_forward_hook", "register_full_backward_pre_hook"):
        model, calls = ElmoForPreTraining(ElmoConfig(**settings)).train(), []
        getattr(model.lm_head, register)(lambda *_, calls=calls: calls.append(1))
        model(words(), labels=torch.ones(2, 4, dtype=torch.long)).loss.backward()
        assert calls


# --- use_engine ---


@pytest.mark.parametrize("engine", ["cpu", "gpu"])
def test_inference_engines_are_refused_if_gradients_are_required(engine):
    model, ids = make(), words()
    with use_engine(engine):
        with pytest.raises(RuntimeError, match=r"gradients are required; .* torch\.no_grad\(\)"):
            model(ids)
        assert model.engine_info()["training"].startswith("none: use_engine")
        with torch.no_grad():
            found = top(model, ids)
    torch.testing.assert_close(found, top(model, ids), atol=2e-6, rtol=0)


@pytest.mark.parametrize("engine", ["cpu", "cpu_training", "gpu", "gpu_training"])
def test_engines_that_would_skip_a_hook_are_refused(engine):
    model = make()
    model.layers[0].forward_lstm.recurrent_map.register_forward_hook(double)
    with use_engine(engine), torch.no_grad(), pytest.raises(RuntimeError, match="has a hook"):
        model(words())


def test_use_engine_applies_to_its_own_thread_only():
    model, inside, leave, chosen = make(), threading.Event(), threading.Event(), []
    lstm, state = model.layers[0].forward_lstm, (torch.zeros(1, 12), torch.zeros(1, 24))

    def other():
        with use_engine("scan"):
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with use_engine("reference"):
        thread.start()
        inside.wait(10)
        chosen.append(choose_engine(lstm, torch.zeros(1, 1, 12), state)[0])
        leave.set()
        thread.join()
    assert chosen == ["reference"]


# --- Transforms ---


@pytest.mark.parametrize("grad_mode", [torch.enable_grad, torch.no_grad])
def test_forward_mode_derivatives_equal_the_references(grad_mode):
    model = make().requires_grad_(False)
    embeds, tangent = torch.randn(2, 4, 12), torch.randn(2, 4, 12)
    results = []
    for engine in ("reference", None):
        with grad_mode(), forward_ad.dual_level():
            dual = forward_ad.make_dual(embeds, tangent)
            if engine is None:
                output = model(inputs_embeds=dual).last_hidden_state
            else:
                with use_engine(engine):
                    output = model(inputs_embeds=dual).last_hidden_state
            results.append(forward_ad.unpack_dual(output).tangent)
    assert results[1] is not None and results[1].abs().max() > 0.1
    torch.testing.assert_close(results[1], results[0])
    _, expected = jvp(lambda x: model(inputs_embeds=x).last_hidden_state, (embeds,), (tangent,))
    torch.testing.assert_close(results[1], expected)


def test_forward_mode_derivatives_of_weights_are_not_lost():
    model, ids, name = make(), words(), "embeddings.highways.0.gate.weight"
    weights = {key: value.detach() for key, value in model.named_parameters()}
    tangent = torch.randn_like(weights[name])

    def call(weight):
        return functional_call(model, {**weights, name: weight}, (ids,)).last_hidden_state

    _, expected = jvp(call, (weights[name],), (tangent,))
    with torch.no_grad(), forward_ad.dual_level():
        found = forward_ad.unpack_dual(call(forward_ad.make_dual(weights[name], tangent))).tangent
    torch.testing.assert_close(found, expected)


def test_vmap_gives_the_gradients_of_single_sentences():
    model, ids = make(), words(3)
    weights = {key: value.detach() for key, value in model.named_parameters()}

    def loss(weights, sentence):
        return functional_call(model, weights, (sentence[None],)).last_hidden_state.square().sum()

    together = vmap(grad(loss), (None, 0))(weights, ids)
    for row in range(3):
        model.zero_grad()
        top(model, ids[row : row + 1]).square().sum().backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(together[name][row], parameter.grad, atol=1e-4, rtol=1e-4)


def test_a_dispatch_mode_sees_the_references_operators():
    model, ids = make(), words()
    counts = []
    for engine in ("reference", None):
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            if engine is None:
                model(ids)
            else:
                with use_engine(engine):
                    model(ids)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


class Top(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids):
        return top(self.model, ids)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace:")
@pytest.mark.parametrize("gradients", [False, True])
def test_a_model_can_be_traced_for_sentences_of_one_length(gradients):
    model, ids = make(), words()
    with torch.set_grad_enabled(gradients):
        traced = torch.jit.trace(Top(model), (ids,), check_trace=False)
        others = torch.randint(1, 262, (5, 4, 50))
        torch.testing.assert_close(traced(others), top(model, others), atol=2e-6, rtol=0)


def test_a_missing_private_check_selects_the_reference(monkeypatch):
    missing = engine_checks._private(torch._C, "no_such_function")
    for name in ("_has_global_hook", "_has_transforms", "_count_dispatch_modes", "_is_tracing"):
        with monkeypatch.context() as patch, torch.no_grad():
            patch.setattr(engine_checks, name, missing)
            info = make().engine_info()["inference"]
            assert info.startswith("reference: ")


# --- Activation checkpointing and graphs ---


def checkpointed_gradients(monkeypatch, prepare):
    """Gradients under activation checkpointing, and how each run of the engine recomputes."""
    recomputed = []

    def spy(*given, recompute, **options):
        recomputed.append(recompute)
        return engine_training.clipped_lstm(*given, recompute=recompute, **options)

    monkeypatch.setattr(engine_choice, "clipped_lstm", spy)
    model = make().train()
    prepare(model)
    top(model, words()).square().sum().backward()
    return [parameter.grad for parameter in model.parameters()], recomputed


@pytest.mark.parametrize("options", [{}, {"use_reentrant": True}, {"use_reentrant": False}])
def test_checkpointing_recomputes_the_gates_only(monkeypatch, options):
    expected, _ = checkpointed_gradients(monkeypatch, lambda model: None)
    found, recomputed = checkpointed_gradients(
        monkeypatch, lambda model: model.gradient_checkpointing_enable(options)
    )
    assert recomputed == [True] * 4
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_another_checkpoint_function_and_hooks_are_respected(monkeypatch):
    calls = []

    def count(forward, *given):
        calls.append("checkpoint")
        return checkpoint(forward, *given, use_reentrant=False)

    def prepare(model):
        model.gradient_checkpointing_enable()
        model.layers[0].forward_lstm._gradient_checkpointing_func = count
        hooked = model.layers[1].backward_lstm
        hooked.register_forward_pre_hook(lambda *_: calls.append("hook"))

    expected, _ = checkpointed_gradients(monkeypatch, lambda model: None)
    found, recomputed = checkpointed_gradients(monkeypatch, prepare)
    # A layer with a hook is called, and those that are called run twice.
    assert calls[:2] == ["checkpoint", "hook"] and sorted(recomputed) == [False] * 6 + [True]
    assert calls.count("checkpoint") == 1  # early transformers 5 recompute the hook, too
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_reentrant_checkpoints_keep_the_gradients_of_states():
    gradients = []
    for checkpointed in (False, True):
        lstm = make().train().layers[0].forward_lstm
        if checkpointed:
            lstm.gradient_checkpointing = True
            lstm._gradient_checkpointing_func = lambda *given: checkpoint(
                *given, use_reentrant=True
            )
        torch.manual_seed(2)
        given = [torch.randn(2, 3, 12), torch.randn(2, 12), torch.randn(2, 24)]
        given = [tensor.requires_grad_() for tensor in given]
        mask = torch.ones(2, 3, dtype=torch.bool)
        outputs, hidden, cell = lstm(given[0], mask, *given[1:])
        (outputs.sum() + hidden.square().sum() + cell.square().sum()).backward()
        gradients.append([tensor.grad for tensor in (*given, *lstm.parameters())])
    torch.testing.assert_close(gradients[1], gradients[0])


def test_without_the_scan_operator_graphs_unroll_the_loop_and_one_warning_says_so(monkeypatch):
    import torch._higher_order_ops.scan

    monkeypatch.delattr(sys.modules["torch._higher_order_ops.scan"], "scan")
    monkeypatch.setattr(engine_scan, "_warned", [])
    model, ids = make(num_hidden_layers=1), words(1, 3)
    with torch.no_grad(), pytest.warns(UserWarning, match="lacks the scan operator") as caught:
        exported = torch.export.export(model, (ids,), strict=False).module()
    assert len([one for one in caught if "scan operator" in str(one.message)]) == 1
    with torch.no_grad():
        found = exported(ids)[0]
        torch.testing.assert_close(found, top(model, ids), atol=2e-6, rtol=0)
        with use_engine("scan"):
            torch.testing.assert_close(top(model, ids), found, atol=2e-6, rtol=0)
