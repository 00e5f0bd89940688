"""The GPU engine against the plain loop, here on the CPU: with plain operators and, where Triton
is installed, with its kernels in Triton's interpreter; graphs are played by a recorder."""

import copy
import importlib.util
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from helpers.lstms import Recorder, describe, flatten, make_batch, make_lstms
from torch import nn

from elmo_hf import ElmoConfig, ElmoModel, use_engine
from elmo_hf.model import engine_gpu, engine_gpu_graphs, engine_gpu_triton
from elmo_hf.model.engine_gpu import GpuRunner, find_gpu_obstacle, read_once

HAS_TRITON = importlib.util.find_spec("triton") is not None
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]
TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 2e-2, torch.float64: 1e-12}
CPU = torch.device("cpu")


@torch.no_grad()
def assert_same(results, lstms, batch):
    expected = [lstm.run_reference(*call) for lstm, *call in zip(lstms, *batch, strict=True)]
    inputs = batch[0][0]
    tolerance = TOLERANCES[inputs.dtype] * (5 if inputs.is_cuda else 1)
    for found, wanted in zip(flatten(results), flatten(expected), strict=True):
        torch.testing.assert_close(found, wanted, atol=tolerance, rtol=0)


# --- The same as the plain loop; all of these run again in Triton's interpreter ----------------

VARIANTS = {
    "both clips": {},
    "no clips": {"cell_clip": None, "projection_clip": None},
    "clips that are whole numbers": {"cell_clip": 1, "projection_clip": 1},
    "no output map": {"projection_dim": 20, "lstm_projection": False},
    "more columns than a block": {"cell_dim": 300},
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_same_as_plain_loop(variant, dtype, device):
    lstms = make_lstms(dtype=dtype, device=device, **VARIANTS[variant])
    batch = make_batch(lstms)
    assert_same(GpuRunner().run(*describe(lstms), *batch), lstms, batch)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize(("batch", "words"), [(0, 3), (3, 0), (1, 1), (1, 7), (9, 2), (2, 75)])
def test_same_as_plain_loop_for_any_shape(directions, batch, words):
    lstms = make_lstms(directions)
    call = make_batch(lstms, batch, words)
    assert_same(GpuRunner().run(*describe(lstms), *call), lstms, call)


def test_same_as_plain_loop_with_nan():
    lstms = make_lstms()
    inputs, masks, states = make_batch(lstms)
    inputs[0][4, masks[0][4].nonzero()[2]] = float("nan")
    (output, _), (other, _) = GpuRunner().run(*describe(lstms), inputs, masks, states)
    (expected, _) = lstms[0].run_reference(inputs[0], masks[0], states[0])
    assert expected.isnan().any()
    assert torch.equal(output.isnan(), expected.isnan())
    assert not other.isnan().any()


@needs_triton
@pytest.mark.slow
@pytest.mark.skipif(engine_gpu_triton.INTERPRETED, reason="this is the interpreter")
def test_kernels_in_the_interpreter_pass_the_tests_of_plain_operators():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    found = subprocess.run(
        [*command, "-k", "(same_as_plain_loop and not shape) or interpreter_is_used"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout[-3000:]


@pytest.mark.skipif(not engine_gpu_triton.INTERPRETED, reason="needs TRITON_INTERPRET=1")
def test_the_interpreter_is_used():
    kernels = engine_gpu_triton.find_kernels(CPU)
    assert "fused kernels" in kernels.why
    assert kernels.update is not engine_gpu_triton.update_plain


@needs_triton
@pytest.mark.skipif(engine_gpu_triton.INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_kernels_compile_without_a_gpu(capability, dtype):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    for kernel in (engine_gpu_triton._update_kernel, engine_gpu_triton._settle_kernel):
        names = {"cell": "*fp32", "valid": "*u8", "clip": "constexpr", "block": "constexpr"}
        names |= {"width": "i32", "valid_stride": "i32", "gates_stride": "i32"}
        names |= {"outputs_stride": "i32"}
        signature = {name: names.get(name, f"*{dtype}") for name in kernel.arg_names}
        source = ASTSource(kernel, signature, {"clip": 3.0, "block": 256})
        compiled = compile(source, target=GPUTarget("cuda", capability, 32))
        assert compiled.asm["cubin"]


# --- Graphs, weights, memory ---------------------------------------------------------------------

no_interpreter = pytest.mark.skipif(
    engine_gpu_triton.INTERPRETED, reason="the recorder does not see kernels"
)


@no_interpreter
def test_graphs_are_replayed_for_every_length_and_number_of_sentences():
    lstms, recorder = make_lstms(), Recorder()
    runner = GpuRunner(recorder)
    for seed, (sentences, words) in enumerate([(5, 11), (5, 11), (8, 11), (3, 70), (7, 6), (1, 1)]):
        batch = make_batch(lstms, sentences, words, seed)
        assert_same(runner.run(*describe(lstms), *batch), lstms, batch)
    # Pieces of 1, 2, 8 at the second call; of 32 and 4 when they come again.
    assert recorder.captures == 5
    assert recorder.replays == 3 + 3 + 2 + 2 + 1


@no_interpreter
def test_graphs_follow_every_change_of_the_weights():
    lstms, recorder = make_lstms(), Recorder()
    runner, batch = GpuRunner(recorder), make_batch(lstms, words=8)

    def change_in_place():
        with torch.no_grad():
            lstms[0].recurrent_map.weight[3, 4] += 1

    for change in (
        lambda: None,
        change_in_place,
        lambda: lstms[1].output_map.weight.data.mul_(1.5),
        lambda: lstms[0].load_state_dict(lstms[1].state_dict()),
        lambda: setattr(lstms[1], "input_map", nn.Linear(12, 80)),
    ):
        change()
        for _ in range(3):
            assert_same(runner.run(*describe(lstms), *batch), lstms, batch)
    assert recorder.captures == 5


@no_interpreter
def test_graphs_made_in_inference_mode_work_outside_of_it():
    lstms, runner = make_lstms(), GpuRunner(Recorder())
    batch = make_batch(lstms)
    for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode):
        with mode():
            results = runner.run(*describe(lstms), *batch)
        assert_same(results, lstms, batch)
    assert not any(tensor.is_inference() for tensor in flatten(results))


def test_few_workspaces_are_kept():
    lstms, runner = make_lstms(), GpuRunner()
    for sentences in (1, 9, 17, 25, 33, 41, 1):
        batch = make_batch(lstms, sentences, 2)
        assert_same(runner.run(*describe(lstms), *batch), lstms, batch)
    assert len(runner.peek().workspaces.values()) == engine_gpu_graphs.WORKSPACES


def test_a_capture_that_fails_is_not_tried_again():
    lstms, tries = make_lstms(), []

    def fail(read):
        tries.append(read)
        raise RuntimeError("operation not permitted when stream is capturing")

    runner, batch = GpuRunner(fail), make_batch(lstms, words=8)
    runner.run(*describe(lstms), *batch)
    with pytest.warns(UserWarning, match="no CUDA graph could be captured: operation not"):
        runner.run(*describe(lstms), *batch)
    assert_same(runner.run(*describe(lstms), *batch), lstms, batch)
    assert len(tries) == 1


def test_threads_take_turns():
    lstms, runner = make_lstms(), GpuRunner()
    batches = [make_batch(lstms, seed % 3 * 8 + 1, 6, seed) for seed in range(12)]
    with ThreadPoolExecutor(4) as threads:
        results = threads.map(lambda batch: runner.run(*describe(lstms), *batch), batches)
        for found, batch in zip(results, batches, strict=True):
            assert_same(found, lstms, batch)


def test_large_batches_are_read_in_small_pieces(monkeypatch):
    monkeypatch.setattr(engine_gpu, "PIECE_BYTES", 30_000)
    lstms, runner = make_lstms(), GpuRunner()
    batch = make_batch(lstms)
    assert_same(runner.run(*describe(lstms), *batch), lstms, batch)
    assert [space.longest for space in runner.peek().workspaces.values()] == [4]


def test_a_single_direction_does_not_copy_its_weights():
    for lstm in make_lstms(dtype=torch.float64):
        (weights,), (settings,) = describe([lstm])
        (inputs,), (mask,), (state,) = make_batch([lstm])
        found = read_once(weights, settings, inputs, mask, state)
        assert_same([found], [lstm], ([inputs], [mask], [state]))
        stack = engine_gpu._stack([weights])
        assert stack.recurrent.data_ptr() == weights.recurrent_weight.data_ptr()


def test_copies_and_pickles_of_a_runner_are_empty():
    lstms, runner = make_lstms(), GpuRunner()
    runner.run(*describe(lstms), *make_batch(lstms))
    for other in (copy.deepcopy(runner), pickle.loads(pickle.dumps(runner))):
        assert other.peek() is None


# --- Which engine runs -------------------------------------------------------------------------


def test_missing_triton_is_reported(monkeypatch):
    monkeypatch.setattr(engine_gpu_triton, "triton", None)
    engine_gpu_triton._try_once.cache_clear()
    assert engine_gpu_triton.find_kernels(CPU).why == "Triton is not installed: plain operators"
    engine_gpu_triton._try_once.cache_clear()


def test_kernels_that_compute_something_else_are_not_used(monkeypatch):
    monkeypatch.setattr(engine_gpu_triton, "triton", object())
    monkeypatch.setattr(engine_gpu_triton, "INTERPRETED", True)
    monkeypatch.setattr(engine_gpu_triton, "_settle", engine_gpu_triton.settle_plain)
    for update, why in (
        (lambda *_: None, "Triton's kernels give other values here"),
        (None, "Triton fails here (TypeError"),
    ):
        monkeypatch.setattr(engine_gpu_triton, "_update", update)
        engine_gpu_triton._try_once.cache_clear()
        assert engine_gpu_triton.find_kernels(CPU).why.startswith(why)
    engine_gpu_triton._try_once.cache_clear()


def test_obstacles_are_named():
    lstm = make_lstms(1)[0]
    (inputs,), _, (state,) = make_batch([lstm])
    assert find_gpu_obstacle((inputs, *state), lstm.weights()) == "the tensors are not on one GPU"


def make_model(device="cpu", **changes):
    torch.manual_seed(0)
    sizes = {"cell_dim": 24, "projection_dim": 12, "filters": [[1, 4], [2, 8]], "dropout": 0.0}
    return ElmoModel(ElmoConfig(**{**sizes, **changes})).eval().to(device)


def make_ids(*lengths, device="cpu"):
    ids = torch.randint(1, 262, (len(lengths), max(lengths), 50))
    for row, length in zip(ids, lengths, strict=True):
        row[length:] = 0
    return ids.to(device)


@pytest.mark.parametrize("changes", [{}, {"bidirectional": False}, {"cell_clip": None}])
@torch.no_grad()
def test_a_model_runs_on_the_gpu_engine_and_reports_it(changes):
    model, ids = make_model(**changes), make_ids(9, 4, 1)
    with use_engine("reference"):
        expected = model(ids, use_cache=True)
    with use_engine("gpu"):
        found = model(ids, use_cache=True)
        assert model.engine_info()["inference"].startswith("gpu: set by use_engine; ")
    for a, b in zip((expected[0], *expected.states), (found[0], *found.states), strict=True):
        torch.testing.assert_close(b, a, atol=1e-6, rtol=0)


@torch.no_grad()
def test_directions_run_together_unless_one_has_a_hook(monkeypatch):
    model, ids, together = make_model(), make_ids(4, 2), []
    run = GpuRunner.run
    monkeypatch.setattr(GpuRunner, "run", lambda *args: (together.append(1), run(*args))[1])
    with use_engine("gpu"):
        expected = model(ids).last_hidden_state
        assert len(together) == 2
        model.layers[0].forward_lstm.register_forward_hook(lambda *_: together.append("heard"))
        model.layers[1]._hf_hook = object()  # accelerate's: what is offloaded must not be kept
        torch.testing.assert_close(model(ids).last_hidden_state, expected, atol=1e-6, rtol=0)
    assert together == [1, 1, "heard"]


@torch.no_grad()
def test_moving_a_model_drops_its_copies():
    model = make_model()
    with use_engine("gpu"):
        model(make_ids(3))
    assert model.layers[0]._copies.peek() is not None
    model.bfloat16()
    assert model.layers[0]._copies.peek() is None


@needs_gpu
@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gpu_engine_is_chosen_on_a_gpu_and_its_graphs_are_right(dtype):
    model = make_model("cuda", cell_clip=0.5, projection_clip=0.2).to(dtype)
    info = model.engine_info()
    assert info["inference"].startswith("gpu: no gradients are required, on a GPU; ")
    assert info["training"].startswith("cpu_training")
    for lengths in [(9, 4, 1), (9, 9, 2), (33, 5), (1, 1, 1), (9, 4, 1)]:
        ids = make_ids(*lengths, device="cuda")
        with use_engine("reference"):
            expected = model(ids).last_hidden_state
        for _ in range(3):
            found = model(ids).last_hidden_state
            torch.testing.assert_close(found, expected, atol=5 * TOLERANCES[dtype], rtol=0)


# --- The benchmark -----------------------------------------------------------------------------

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_benchmark_refuses_a_machine_without_a_gpu(capsys):
    import speed_gpu

    assert speed_gpu.main([]) == 1
    assert "error: this benchmark needs a GPU" in capsys.readouterr().err


@pytest.mark.slow
def test_the_benchmark_measures_and_checks(monkeypatch, tmp_path):
    import speed_gpu
    import speed_gpu_clock
    import speed_gpu_training

    monkeypatch.setattr(speed_gpu_clock, "SECONDS", 0)
    monkeypatch.setattr(speed_gpu_clock, "LARGE", 256)
    monkeypatch.setattr(speed_gpu_training, "VOCABULARY", 50)
    monkeypatch.setattr(speed_gpu_training, "SAMPLED", 9)
    arguments = CPU, ["tiny"], (2,), (2,), 1, tmp_path
    page, complaints = speed_gpu.run(*arguments, speed_gpu_clock.Limit(600))
    assert page.count("| tiny | ") == 4 and "–" not in page and not complaints
    page, _ = speed_gpu.run(*arguments, speed_gpu_clock.Limit(0))
    assert "Not measured, because the time was over: inference, tiny, bfloat16, batch 2;" in page
    # What computes something else is not measured.
    monkeypatch.setitem(speed_gpu.LIMITS, "bfloat16", 1e-9)
    page, complaints = speed_gpu.run(*arguments, speed_gpu_clock.Limit(600))
    assert page.count("| tiny | ") == 2 and "## Training" in page and "## Inference" not in page
    assert len(complaints) == 1 and "Inference was not measured" in complaints[0]
