"""The compiled kernels of training: their values, odd numbers, and machines without a compiler."""

import math
import subprocess

import pytest
import torch

from elmo_hf.model import engine_training_compiled as compiled
from elmo_hf.model.engine_training_compiled import Kernels, compiler_info, find_kernels

STATE = torch.zeros(1)
WIDTH = 37  # no multiple of a vector register


@pytest.fixture
def untried():
    """Forget what was compiled, before and after the test."""
    forget()
    yield
    forget()


def forget():
    compiled._compile_once.cache_clear()
    compiled._load_once.cache_clear()


def kernels_for(dtype):
    kernels = find_kernels(dtype, STATE)
    return kernels or pytest.skip(compiler_info())


def run_forward(z, before, bound=None, first=False):
    kernels, after = kernels_for(z.dtype), torch.empty(len(z), z.shape[1] // 4)
    kept = torch.empty_like(z)
    memory = kernels.forward(z, kept, before, after, first, bound)
    assert torch.equal(kept.nan_to_num(7), z.nan_to_num(7))
    return after, memory


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gates_of_any_size_are_those_of_torch(dtype):
    z = torch.linspace(-200, 200, 4 * WIDTH * 50).view(50, -1).to(dtype)
    z = torch.cat([z, z / 20, z / 1e4, torch.zeros_like(z[:1])])
    before = torch.randn(len(z), WIDTH)
    i, f, g, o = (part.double() for part in z.chunk(4, 1))
    raw = i.sigmoid() * g.tanh() + f.sigmoid() * before.double()
    after, memory = run_forward(z, before)
    torch.testing.assert_close(after.double(), raw, rtol=1e-6, atol=5e-7)
    expected = (o.sigmoid() * raw.tanh()).to(dtype)
    torch.testing.assert_close(memory, expected, rtol=8e-3 if z.itemsize == 2 else 1e-6, atol=5e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_no_number_is_passed_on(dtype):
    odd = torch.tensor([math.nan, math.inf, -math.inf])
    z = torch.zeros(1, 4 * 3)
    z[0, :3] = odd
    before = torch.ones(1, 3)
    after, memory = run_forward(z.to(dtype), before)
    torch.testing.assert_close(after, torch.tensor([[math.nan, 0.5, 0.5]]), equal_nan=True)
    assert memory.isnan().tolist() == [[True, False, False]]
    after, _ = run_forward(torch.zeros(1, 12).to(dtype), odd[None].clone(), bound=3.0)
    torch.testing.assert_close(after, torch.tensor([[math.nan, 1.5, -1.5]]), equal_nan=True)
    kernels, zeros = kernels_for(dtype), torch.zeros(1, 12).to(dtype)
    d_cell, d_z, m, d_bias = odd[None].clone(), zeros.clone(), zeros[:, :3].clone(), torch.zeros(12)
    given = (zeros[:, :3].contiguous(), d_cell, d_z, m, d_bias)
    kernels.backward(zeros, before, torch.full((1, 3), math.nan), False, 3.0, *given)
    assert d_cell.isnan().all() and m.isnan().all() and d_z[0, 6:9].isnan().all()


def test_a_cell_at_its_bound_passes_its_gradient_and_one_beyond_does_not():
    kernels = kernels_for(torch.float32)
    after = torch.tensor([[0.5, -0.5, math.nextafter(0.5, 1), math.nextafter(-0.5, -1), 0.6]])
    after[0, 2:4] = torch.nextafter(after[0, :2], 2 * after[0, :2])
    z, before = torch.zeros(1, 20), torch.ones(1, 5)
    d_cell, d_z, m, d_bias = (
        torch.ones(1, 5),
        torch.empty(1, 20),
        torch.empty(1, 5),
        torch.zeros(20),
    )
    given = (torch.zeros(1, 5), d_cell, d_z, m, d_bias)
    kernels.backward(z, before, after, True, 0.5, *given)
    assert d_cell.tolist() == [[0.5, 0.5, 0.0, 0.0, 0.0]]
    assert torch.equal(d_bias, d_z[0])


def test_a_tensor_that_is_not_contiguous_is_refused():
    z = torch.zeros(4, 8).t()[:4]
    with pytest.raises(RuntimeError, match="not contiguous"):
        run_forward(z, torch.zeros(4, 1))


def test_only_float32_states_on_a_cpu_are_compiled():
    assert find_kernels(torch.float64, STATE) is None and find_kernels(torch.float16, STATE) is None
    assert find_kernels(torch.float32, STATE.double()) is None
    assert find_kernels(torch.float32, STATE.to("meta")) is None


@pytest.mark.parametrize(
    "name, value, reason",
    [
        ("ELMO_HF_COMPILE", "0", "ELMO_HF_COMPILE is 0"),
        ("CC", "no-such-compiler", "there is no C compiler"),
        ("CC", "false", "false failed: CalledProcessError"),
    ],
)
def test_without_a_compiler_the_operators_are_used(name, value, reason, untried, monkeypatch):
    monkeypatch.setenv(name, value)
    assert find_kernels(torch.float32, STATE) is None
    assert compiler_info() == f"PyTorch's operators ({reason})"


def test_a_compiler_that_hangs_is_stopped(untried, monkeypatch):
    def hang(*_, timeout, **__):
        raise subprocess.TimeoutExpired("cc", timeout)

    monkeypatch.setenv("CC", "true")
    monkeypatch.setattr(compiled.subprocess, "run", hang)
    assert find_kernels(torch.float32, STATE) is None and "TimeoutExpired" in compiler_info()


def test_kernels_with_wrong_values_are_not_used(untried, monkeypatch, caplog):
    kernels_for(torch.float32)
    forget()
    wrong = compiled._SHARED.replace("1.66666657e-1f", "1.7e-1f")
    assert wrong != compiled._SHARED
    monkeypatch.setattr(compiled, "_SHARED", wrong)
    assert find_kernels(torch.float32, STATE) is None
    assert "wrong values in a trial" in caplog.text


def test_a_trial_is_the_same_whatever_mode_the_caller_is_in(untried):
    kernels_for(torch.bfloat16)
    forget()
    with torch.device("meta"), torch.autocast("cpu"), torch.inference_mode():
        assert isinstance(find_kernels(torch.bfloat16, STATE), Kernels)
