"""The GPU's training engine against the plain loop, in values and in gradients, here on the CPU:
with plain operators and, where Triton is installed, with its kernels in Triton's interpreter."""

import copy
import importlib.util
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from helpers.lstms import Recorder, describe, flatten, make_batch, make_lstms

from elmo_hf import ElmoConfig, ElmoModel, use_engine
from elmo_hf.model import (
    engine_choice,
    engine_gpu_training,
    engine_gpu_training_triton,
    engine_gpu_triton,
)
from elmo_hf.model.engine_gpu_training import GpuTrainer
from elmo_hf.model.engine_gpu_training_triton import FUSED, TrainingKernels, find_training_kernels
from elmo_hf.model.engine_gpu_trial import find_gpu_training_obstacle, try_training

INTERPRETED = engine_gpu_triton.INTERPRETED
HAS_TRITON = importlib.util.find_spec("triton") is not None
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
no_interpreter = pytest.mark.skipif(INTERPRETED, reason="the recorder does not see kernels")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]
CPU = torch.device("cpu")
VARIANTS = {
    "both clips": {},
    "no clips": {"cell_clip": None, "projection_clip": None},
    "no output map": {"projection_dim": 20, "lstm_projection": False},
    "more columns than a block": {"cell_dim": 260, "directions": 1},
}


@pytest.fixture(autouse=True)
def in_double_precision_too(monkeypatch):
    """Lets the interpreter run the kernels in float64, which the engine leaves to others."""
    if INTERPRETED:
        kernels = TrainingKernels(*FUSED, None, "for any dtype")
        monkeypatch.setattr(engine_gpu_training, "find_training_kernels", lambda *_: kernels)


def make(batch=5, words=4, dtype=torch.float64, **changes):
    """LSTMs, their inputs, masks and states, and all tensors that have gradients."""
    lstms = make_lstms(dtype=dtype, **{"cell_clip": 0.4, **changes})
    inputs, masks, states = make_batch(lstms, batch, words)
    sources = [*inputs, *(part for state in states for part in state)]
    for source in sources:
        source.requires_grad_()
    sources += [parameter for lstm in lstms for parameter in lstm.parameters()]
    return lstms, (inputs, masks, states), sources


def run(trainer, lstms, batch, **options):
    return flatten(trainer.run(*describe(lstms), *batch, **options))


def run_reference(lstms, batch):
    calls = zip(lstms, *batch, strict=True)
    return flatten([lstm.run_reference(*call) for lstm, *call in calls])


def share_clipped(results, cell_clip):
    """Of the final cell states."""
    return float((results[2].detach().abs() == cell_clip).double().mean())


def gradients(results, sources, **options):
    """Of a random weighting of all results."""
    draw = torch.Generator().manual_seed(0)
    weights = [torch.randn(part.shape, generator=draw).to(part) for part in results]
    return torch.autograd.grad(results, sources, weights, **options)


def errors(found, expected):
    """Relative to the norm of what is expected."""
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        one, other = one.detach().double(), other.detach().double()
        yield float((one - other).norm() / other.norm().clamp(min=1e-6))


def are_close(found, expected, tolerance):
    return all(error <= tolerance for error in errors(found, expected))  # not so if one is NaN


def assert_same(lstms, batch, sources, tolerance, trainer=None, **options):
    found = run(trainer or GpuTrainer(), lstms, batch, **options)
    expected = run_reference(lstms, batch)
    assert are_close(found, expected, tolerance)
    found, expected = gradients(found, sources), gradients(expected, sources)
    assert are_close(found, expected, tolerance)


# --- The same as the plain loop; all of these run again in Triton's interpreter ----------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["64", "32"]
)
@pytest.mark.parametrize("variant", VARIANTS)
def test_same_as_plain_loop(variant, dtype, tolerance, device):
    lstms, batch, sources = make(dtype=dtype, device=device, **VARIANTS[variant])
    if lstms[0].cell_clip is not None:
        assert 0.02 < share_clipped(run_reference(lstms, batch), 0.4) < 0.98
    trainer = GpuTrainer()
    for recompute in (False, True) if device == "cpu" else (False, True, False, True):
        assert_same(lstms, batch, sources, tolerance, trainer, recompute=recompute)


@pytest.mark.parametrize("directions", [1, 2])
def test_same_as_plain_loop_by_finite_differences(directions):
    sizes = {"cell_dim": 3, "projection_dim": 2, "cell_clip": 0.5, "projection_clip": 0.4}
    sentences, words = (1, 2) if INTERPRETED else (3, 3)
    lstms, batch, sources = make(sentences, words, directions=directions, **sizes)

    def function(*_):  # gradcheck changes the tensors in place
        return tuple(run(GpuTrainer(), lstms, batch))

    assert 0.02 < share_clipped(function(), 0.5) < 0.98
    options = {"fast_mode": True, "check_undefined_grad": not INTERPRETED}
    if directions == 1 and not INTERPRETED:
        options = {}
    assert torch.autograd.gradcheck(function, sources, **options)


def test_same_as_plain_loop_in_several_pieces(monkeypatch):
    monkeypatch.setattr(engine_gpu_training, "PIECE_BYTES", 40_000)  # two steps of float64
    lstms, batch, sources = make(words=5)
    trainer = GpuTrainer()
    assert_same(lstms, batch, sources, 1e-12, trainer)
    assert [space.longest for space in trainer._workspaces.values()] == [2]


def test_same_as_plain_loop_whatever_is_at_padding():
    lstms, (inputs, masks, states), sources = make()
    for values, mask in zip(inputs, masks, strict=True):
        values.data[~mask] = 0
    expected = run_reference(lstms, (inputs, masks, states))
    expected = [*expected, *gradients(expected, sources)]
    for values, mask in zip(inputs, masks, strict=True):
        values.data[~mask] = float("nan")
    found = run(GpuTrainer(), lstms, (inputs, masks, states))
    assert are_close([*found, *gradients(found, sources)], expected, 1e-12)


@pytest.mark.parametrize("scale", [0.999, 1.0, 1.001])
def test_same_as_plain_loop_exactly_at_a_bound(scale):
    lstms, (inputs, _, _), _ = make(1, 1, directions=1, cell_clip=0.5, projection_clip=0.25)
    lstm, mask = lstms[0], torch.ones(1, 1, dtype=torch.bool)
    for parameter in lstm.parameters():
        torch.nn.init.zeros_(parameter)
    # All gates are 1/2 and the candidate 0, so that the cell state is half of what it was.
    cell = torch.full((1, 20), 1.0 * scale, dtype=torch.float64, requires_grad=True)
    memory = 0.5 * torch.tensor(min(0.5 * scale, 0.5), dtype=torch.float64).tanh()
    with torch.no_grad():
        lstm.output_map.weight[:, 0] = 0.25 * scale / memory
    hidden = torch.zeros(1, 12, dtype=torch.float64, requires_grad=True)
    batch, sources = (inputs, [mask], [(hidden, cell)]), [hidden, cell, *lstm.parameters()]
    assert_same(lstms, batch, sources, 1e-12)
    gradient = gradients(run(GpuTrainer(), lstms, batch), [cell])[0]
    assert gradient.any() == (scale <= 1)


# --- Lower precision -------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["bfloat16", "float16", "autocast"])
def test_same_as_plain_loop_within_the_error_of_half_precision(way):
    # Without clips: rounding next to a bound would switch a gradient on or off.
    dtype = torch.float32 if way == "autocast" else getattr(torch, way)
    (lstms, batch, sources), (exact_lstms, exact_batch, exact_sources) = (
        make(dtype=kind, cell_clip=None, projection_clip=None) for kind in (dtype, torch.float64)
    )
    with torch.no_grad():
        for source, exact in zip(sources, exact_sources, strict=True):
            exact.copy_(source)
    results = run_reference(exact_lstms, exact_batch)
    expected = [*results, *gradients(results, exact_sources)]
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
        ours, theirs = run(GpuTrainer(), lstms, batch), run_reference(lstms, batch)
    ours, theirs = ([*results, *gradients(results, sources)] for results in (ours, theirs))
    # The interpreter cuts numbers to bfloat16 instead of rounding them.
    factor = 4 if INTERPRETED else 1.5
    for one, other, exact in zip(ours, theirs, expected, strict=True):
        assert one.dtype == other.dtype
        error, usual = (next(errors([part.double()], [exact])) for part in (one, other))
        assert error <= max(factor * usual, 1e-3) and error < 0.05


def test_a_state_that_is_only_passed_on_keeps_its_precision():
    lstms, (inputs, masks, states), _ = make(dtype=torch.float32)
    assert not masks[0][2].any()
    with torch.autocast("cpu", torch.bfloat16):
        hidden = run(GpuTrainer(), lstms, (inputs, masks, states))[1]
    assert torch.equal(hidden[2], states[0][0][2])


# --- The kernels -----------------------------------------------------------------------------


@needs_triton
@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter")
def test_kernels_in_the_interpreter_pass_the_tests_of_plain_operators():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    found = subprocess.run(
        [*command, "-k", "same_as_plain_loop or interpreter_is_used"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout[-3000:]


@pytest.mark.skipif(not INTERPRETED, reason="needs TRITON_INTERPRET=1")
def test_the_interpreter_is_used():
    kernels = find_training_kernels(CPU)
    assert kernels.why.startswith("fused kernels") and kernels[:4] == FUSED


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_kernels_compile_without_a_gpu(capability, dtype):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    types = {"valid": "*u8", "width": "i32", "clip": "constexpr", "block": "constexpr"}
    states = dict.fromkeys(["held", "d_output", "d_cell"], "*fp32")
    for name in ("update", "settle", "settle_backward", "update_backward"):
        kernel = getattr(engine_gpu_training_triton, f"_{name}_kernel")
        table = f"*{dtype}" if name == "settle" else "*fp32"
        types |= states | {"before": table, "after": table}
        strides = {arg: "i32" for arg in kernel.arg_names if arg.endswith("stride")}
        signature = {arg: (types | strides).get(arg, f"*{dtype}") for arg in kernel.arg_names}
        source = ASTSource(kernel, signature, {"clip": 3.0, "block": 256})
        assert compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]


@no_interpreter
def test_kernels_that_compute_something_else_are_not_used(monkeypatch):
    monkeypatch.setattr(engine_gpu_triton, "triton", object())
    monkeypatch.setattr(engine_gpu_triton, "INTERPRETED", True)
    plain = engine_gpu_training_triton.PLAIN
    for fused, why in (
        ((*plain[:3], lambda *_: None), "Triton's kernels give other values here"),
        ((None, *plain[1:]), "Triton fails here (TypeError"),
    ):
        monkeypatch.setattr(engine_gpu_training_triton, "FUSED", fused)
        engine_gpu_triton._try_once.cache_clear()
        assert find_training_kernels(CPU).why.startswith(why)
        assert find_training_kernels(CPU)[:4] == plain
    engine_gpu_triton._try_once.cache_clear()


def test_the_whole_engine_is_tried_once(monkeypatch):
    """Graphs included; on a GPU this decides whether it is used."""
    try_training.cache_clear()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert try_training(CPU) is None
    for wrong, why in (
        (lambda *_: None, "a trial of the engine gives other values"),
        (lambda *_: [][0], "a trial of the engine fails (IndexError: list index"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(engine_gpu_training._Workspace, "_read_backward", wrong)
            assert try_training(CPU) is None  # the first answer stays
            try_training.cache_clear()
            assert try_training(CPU).startswith(why)
        try_training.cache_clear()
        assert try_training(CPU) is None


# --- Graphs, buffers, autograd -----------------------------------------------------------------


@no_interpreter
def test_graphs_are_replayed_and_follow_the_weights(monkeypatch):
    monkeypatch.setattr(engine_gpu_training, "PIECE_BYTES", 80_000)  # four steps of float64
    lstms, batch, sources = make(words=6)
    recorder = Recorder()
    trainer = GpuTrainer(recorder)
    for _ in range(4):  # pieces of 4 and 2 steps
        assert_same(lstms, batch, sources, 1e-12, trainer)
        with torch.no_grad():
            for lstm in lstms:
                lstm.recurrent_map.weight.mul_(1.1)
                lstm.input_map.bias.data += 0.1
    assert recorder.captures == 4 and recorder.replays == 3 * 4
    assert_same(*make(7, 6), 1e-12, trainer)
    assert recorder.replays == 4 * 4  # seven sentences fill the same buffers as five


@no_interpreter
def test_a_backward_pass_may_follow_other_calls_and_be_repeated():
    lstms, batch, sources = make()
    _, other, _ = make(4, 6)
    trainer = GpuTrainer(Recorder())
    expected = gradients(run_reference(lstms, batch), sources)
    for recompute in (False, True):
        results = run(trainer, lstms, batch, recompute=recompute)
        run(trainer, lstms, other)
        for _ in range(3):
            found = gradients(results, sources, retain_graph=True)
            assert are_close(found, expected, 1e-12)


@pytest.mark.parametrize("frozen", ["weights", "all but the bias", "all but the output", "states"])
def test_what_is_frozen_gets_no_gradient_and_the_rest_the_same(frozen, monkeypatch):
    lstms, batch, sources = make()
    expected = gradients(run_reference(lstms, batch), sources)
    trained = {
        "weights": sources[:6],
        "all but the bias": [lstms[1].input_map.bias],
        "all but the output": [lstms[0].output_map.weight],
        "states": [*sources[:2], *sources[6:]],
    }[frozen]
    for source in sources:
        source.requires_grad_(any(source is one for one in trained))
    products = []
    whole = engine_gpu_training._sum_products
    monkeypatch.setattr(
        engine_gpu_training, "_sum_products", lambda *a: products.append(1) or whole(*a)
    )
    found = iter(gradients(run(GpuTrainer(), lstms, batch), trained))
    for source, gradient in zip(sources, expected, strict=True):
        if source.requires_grad:
            assert are_close([next(found)], [gradient], 1e-12)
    assert len(products) == {"weights": 0, "all but the bias": 0}.get(frozen, len(products))


def test_second_derivatives_are_refused_with_an_alternative():
    lstms, batch, sources = make()
    (gradient, *_) = gradients(run(GpuTrainer(), lstms, batch), sources, create_graph=True)
    with pytest.raises(RuntimeError, match=r"second derivatives .* reference engine"):
        gradient.square().sum().backward()


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (9, 2)])
@pytest.mark.parametrize("directions", [1, 2])
def test_batches_of_any_shape(directions, shape):
    lstms, batch, sources = make(*shape, directions=directions)
    results = run(GpuTrainer(), lstms, batch)
    expected = run_reference(lstms, batch)
    assert are_close(results, expected, 1e-12)
    found = gradients(results, sources)
    if 0 in shape:
        assert not any(gradient.any() for gradient in found[-4 * directions :])
        assert found[directions].shape == expected[1].shape
    else:
        assert are_close(found, gradients(expected, sources), 1e-12)


# --- Which engine runs -------------------------------------------------------------------------


def make_model(**changes):
    torch.manual_seed(0)
    sizes = {"cell_dim": 24, "projection_dim": 12, "filters": [[1, 4], [2, 8]], "dropout": 0.0}
    return ElmoModel(ElmoConfig(**{**sizes, **changes})).train()


def train(model, engine, **mask):
    """Gradients of one step on sentences of 5 and 3 words."""
    ids = torch.randint(1, 262, (2, 5, 50), generator=torch.Generator().manual_seed(0))
    ids[1, 3:] = 0
    model.zero_grad()
    with use_engine(engine):
        model(ids, **mask).last_hidden_state.square().sum().backward()
    return [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize(
    "changes", [{}, {"bidirectional": False}, {"cell_clip": 0.1}, {"use_skip_connections": False}]
)
def test_a_model_trains_on_the_engine_and_reports_it(changes):
    model = make_model(**changes)
    expected, found = train(model, "reference"), train(model, "gpu_training")
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
    with use_engine("gpu_training"):
        assert model.engine_info()["training"].startswith("gpu_training: set by use_engine; ")


@pytest.mark.parametrize("options", [None, {"use_reentrant": False}])
def test_directions_run_together_and_checkpointing_recomputes_the_gates(options, monkeypatch):
    model, calls, whole = make_model(), [], GpuTrainer.run
    expected = train(model, "reference")

    def spy(self, weights, *given, recompute=False):
        calls.append((len(weights), recompute))
        return whole(self, weights, *given, recompute=recompute)

    monkeypatch.setattr(GpuTrainer, "run", spy)
    if options is not None:
        model.gradient_checkpointing_enable(options)
    found = train(model, "gpu_training")
    assert calls == [(2, options is not None)] * 2
    model.layers[0].forward_lstm.register_forward_hook(lambda *_: calls.append("hook"))
    for gradients in (found, train(model, "gpu_training")):
        for a, b in zip(gradients, expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
    assert "hook" in calls


def test_moving_or_copying_a_model_drops_its_buffers():
    model = make_model()
    for drop in (model.reset_engines, lambda: model.to(torch.float64).float()):
        train(model, "gpu_training")
        trainer = model.layers[0]._copies.trainer
        assert trainer._workspaces.values()
        assert not copy.deepcopy(model).layers[0]._copies.trainer._workspaces.values()
        drop()
        assert not trainer._workspaces.values()


def test_the_engine_for_any_device_is_chosen_if_this_one_cannot_train(monkeypatch):
    lstms, (inputs, _, (state, _)), _ = make()
    weights = lstms[0].weights()
    assert find_gpu_training_obstacle((inputs[0], *state), weights) == (
        "the tensors are not on one GPU"
    )
    on_gpu, choose = SimpleNamespace(is_cuda=True, device=CPU), engine_choice._choose_for_training
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(engine_choice, "find_gpu_training_obstacle", lambda *_: "reasons")
    why = "gradients are required, on a GPU; "
    assert choose((on_gpu,), weights) == ("cpu_training", why + "reasons")
    monkeypatch.setattr(engine_choice, "find_gpu_training_obstacle", lambda *_: None)
    assert choose((on_gpu,), weights) == ("gpu_training", why + find_training_kernels(CPU).why)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert choose((on_gpu,), weights)[0] == "reference"


@needs_gpu
@pytest.mark.parametrize("way", ["float32", "bfloat16", "autocast"])
def test_the_engine_is_chosen_on_a_gpu_and_its_graphs_are_right(way):
    pytest.importorskip("triton")
    model = make_model(cell_clip=0.5, projection_clip=0.2).cuda()
    model = model.bfloat16() if way == "bfloat16" else model
    tolerance = 1e-4 if way == "float32" else 0.1
    with torch.autocast("cuda", torch.bfloat16, enabled=way == "autocast"):
        info = model.engine_info()["training"]
        assert info.startswith("gpu_training: gradients are required, on a GPU; fused kernels")
        for words in (9, 9, 9, 33, 1):
            ids, found = torch.randint(1, 262, (4, words, 50), device="cuda"), []
            for engine in ("reference", None):
                model.zero_grad()
                if engine is None:
                    loss = model(ids).last_hidden_state.square().sum()
                else:
                    with use_engine(engine):
                        loss = model(ids).last_hidden_state.square().sum()
                loss.backward()
                found.append([parameter.grad.double() for parameter in model.parameters()])
            for a, b in zip(*found, strict=True):
                assert (a - b).norm() <= tolerance * a.norm().clamp(min=1e-6)
