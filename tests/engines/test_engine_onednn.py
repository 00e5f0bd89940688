"""torch's private operators: tried on values, and replaced for every engine where they fail."""

import os
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import elmo_hf
from elmo_hf import ElmoConfig, ElmoModel, use_engine
from elmo_hf.model import engine_onednn, engine_training
from elmo_hf.model.engine_onednn import (
    add_product,
    find_int8_kind,
    find_operators,
    multiply,
    operators_info,
    prepare_map,
    without_python,
)

SIZES = {"cell_dim": 24, "projection_dim": 12, "filters": [[1, 4], [2, 8]]}
HAS_ONEDNN = find_operators(torch.float32) == "onednn"
FLOATS = ["plain", "onednn"] if HAS_ONEDNN else ["plain"]
LEVELS = ["plain int8", "int8", "split int8"] if "plain" not in find_int8_kind() else ["plain int8"]


def forget():
    """Let every trial and every compilation be made again."""
    engine_onednn._try_products.cache_clear()
    engine_onednn._try_int8.cache_clear()
    engine_onednn._log.cache_clear()
    engine_onednn._compiled.clear()
    engine_onednn._failures.clear()


@pytest.fixture
def untried():
    forget()
    yield
    forget()


@pytest.mark.parametrize("scripted", [True, False])
def test_a_default_device_of_the_caller_changes_nothing(untried, monkeypatch, scripted):
    if not scripted:
        monkeypatch.setattr(engine_onednn, "_find_script_obstacle", lambda: "off")
    torch.manual_seed(0)
    model = ElmoModel(ElmoConfig(**SIZES)).eval()
    tokenizer = elmo_hf.ElmoTokenizer()
    texts = ["The cat sat .", "It rains"]

    def compute():
        inputs = tokenizer(texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            found = [model(**inputs).last_hidden_state]
        model(**inputs).last_hidden_state.square().sum().backward()
        found += [parameter.grad for parameter in model.parameters()]
        model.zero_grad()
        return found + [torch.from_numpy(v) for v in elmo_hf.embed_corpus(model, tokenizer, texts)]

    expected = compute()
    forget()
    with torch.device("meta"):  # a default device "cuda" changes the same calls
        found = compute()
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def missing(real):
    return None


def changed(real):
    def operator(*given):
        raise RuntimeError("operator() is missing value for argument 'new'")

    return operator


def wrong(real):
    return lambda *given: real(*given) + 1


FAULTS = {
    "missing": (missing, "no attribute"),
    "changed": (changed, "missing value"),
    "wrong": (wrong, "its values were wrong"),
}


@pytest.fixture(params=FAULTS)
def fault(request, monkeypatch, untried):
    """Break the products of floating point and of 8 bits; yield a part of the reason."""
    if not HAS_ONEDNN:
        pytest.skip("oneDNN's products are not here")
    make, reason = FAULTS[request.param]
    for space, name in (("mkldnn", "_linear_pointwise"), ("onednn", "qlinear_pointwise")):
        real = getattr(torch.ops, space)
        others = {"mkldnn": "_reorder_linear_weight", "onednn": "qlinear_prepack"}
        fake = SimpleNamespace(**{others[space]: getattr(real, others[space])})
        if (operator := make(getattr(real, name))) is not None:
            setattr(fake, name, operator)
        monkeypatch.setattr(torch.ops, space, fake)
    return reason


def make_model():
    torch.manual_seed(0)
    model = ElmoModel(ElmoConfig(**SIZES)).eval()
    draw = torch.Generator().manual_seed(1)
    return model, torch.randint(1, 262, (3, 6, 50), generator=draw)


def test_inference_and_characters_do_without_operators_that_fail(fault):
    model, ids = make_model()
    with torch.no_grad():
        found = model(ids, output_hidden_states=True).hidden_states
        with use_engine("reference"):
            expected = model(ids, output_hidden_states=True).hidden_states
    for layer, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(layer, wanted, atol=2e-6, rtol=0)
    assert "float32 products: plain PyTorch (" in operators_info() and fault in operators_info()
    assert model.engine_info()["operators"] == operators_info()


def test_training_does_without_operators_that_fail(fault, monkeypatch):
    monkeypatch.setattr(engine_training, "PACKED_WEIGHTS", 0)
    monkeypatch.setattr(engine_training, "PACKED_PRODUCTS", 0)
    gradients = []
    for engine in ("reference", "cpu_training"):
        model, ids = make_model()
        with use_engine(engine):
            model(ids).last_hidden_state.square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_eight_bits_do_without_operators_that_fail(fault):
    assert find_int8_kind() == "plain int8" and "int8 products: plain" in operators_info()


def test_a_trial_is_the_same_whatever_mode_the_caller_is_in(untried):
    expected = operators_info()
    forget()
    with torch.device("meta"), torch.autocast("cpu"), torch.inference_mode():
        assert operators_info() == expected


def test_turning_onednn_off_turns_these_products_off(untried):
    with torch.backends.mkldnn.flags(enabled=False):
        assert find_operators(torch.float32) == "plain" and find_int8_kind() == "plain int8"
        assert "mkldnn is off" in operators_info()
    assert find_operators(torch.float32) == FLOATS[-1]
    assert find_operators(torch.float64) == "plain"


def test_a_model_that_has_run_does_without_onednn_once_it_is_off():
    model, ids = make_model()
    with torch.no_grad():
        expected = model(ids).last_hidden_state
        with torch.backends.mkldnn.flags(enabled=False):
            found = model(ids).last_hidden_state
        copies = [layer.forward_lstm._copies.peek() for layer in model.layers]
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
    assert all(copy.recurrent_map.kind == "plain" for copy in copies)


@pytest.mark.parametrize("then", ["none", "relu", "sigmoid"])
@pytest.mark.parametrize("kind", FLOATS + LEVELS)
def test_every_kind_of_map_gives_the_linear_map(kind, then):
    torch.manual_seed(0)
    weight, bias, x, gates = (torch.randn(*shape) for shape in ((40, 70), (40,), (9, 70), (9, 40)))
    functions = {"none": torch.clone, "relu": torch.relu, "sigmoid": torch.sigmoid}
    linear = prepare_map(kind, weight, bias, bound=5, single_rows=True)
    tolerance = 0.4 if kind in LEVELS else 1e-5
    for rows in (x, x[:1]):
        expected = functions[then](F.linear(rows, weight, bias)).clamp(-5, 5)
        torch.testing.assert_close(multiply(linear, rows, then), expected, atol=tolerance, rtol=0)
    unbiased = prepare_map(kind, weight, single_rows=True)
    for rows, start in ((x, gates), (x[:1], gates[:1])):
        expected = start + F.linear(rows, weight)
        found = add_product(start.clone(), unbiased, rows)
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("kind", LEVELS)
@pytest.mark.parametrize("width", [64, 1024])
def test_a_row_has_the_same_bits_in_every_product(kind, width):
    torch.manual_seed(0)
    linear = prepare_map(kind, torch.randn(128, width), torch.randn(128))
    x = torch.randn(40, width) * torch.rand(40, 1)
    together = multiply(linear, x)
    for rows in (1, 2, 3, 17):
        assert torch.equal(multiply(linear, x[:rows]), together[:rows])


SCRIPT = f"""
import sys, types
root = {str(Path(elmo_hf.__file__).parent)!r}
for name, folder in (("elmo_hf", root), ("elmo_hf.model", root + "/model")):
    sys.modules[name] = types.ModuleType(name)  # spares the import of transformers
    sys.modules[name].__path__ = [folder]
import torch
from elmo_hf.model.engine_onednn import find_int8_kind, multiply, operators_info, prepare_map
torch.manual_seed(0)
kind = find_int8_kind()
for weight in (torch.randn(64, 512), torch.rand(64, 512), torch.ones(64, 512)):
    for x in (torch.randn(33, 512), torch.rand(1, 512), torch.ones(4, 512)):
        found, expected = (multiply(prepare_map(k, weight), x) for k in (kind, "plain int8"))
        error = (found - expected).abs().max() / expected.abs().max()
        assert error < 1e-5, (kind, error)
print(kind, operators_info())
"""


@pytest.mark.parametrize(
    "isa", ["AVX2", pytest.param("AVX512_CORE", marks=pytest.mark.slow)], ids=str
)
def test_eight_bit_products_are_exact_on_processors_without_vnni(isa):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": isa},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    if find_int8_kind() == "int8" and torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        assert run.stdout.startswith("split int8") and "VNNI" in run.stdout


def double(x: torch.Tensor) -> torch.Tensor:
    return x + x


can_script = sys.version_info < (3, 14) and hasattr(torch.jit, "script")


@pytest.mark.skipif(not can_script, reason="there is no TorchScript here")
def test_functions_are_compiled_once_and_keep_the_warning_filters(untried, monkeypatch):
    monkeypatch.setattr(warnings, "catch_warnings", None)  # not safe among threads
    barrier = threading.Barrier(4, timeout=30)
    with ThreadPoolExecutor(4) as pool:
        compiled = [*pool.map(lambda _: barrier.wait() < 9 and without_python(double), range(4))]
    assert all(function is compiled[0] for function in compiled)
    assert isinstance(compiled[0], torch.jit.ScriptFunction)
    assert "loops: TorchScript" in operators_info()


@pytest.mark.skipif(not can_script, reason="there is no TorchScript here")
def test_functions_are_compiled_where_warnings_are_errors(untried):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(without_python(double), torch.jit.ScriptFunction)


def fail(*given):
    raise RuntimeError("no more TorchScript\nfor you")


@pytest.mark.parametrize("script", [None, fail])
def test_without_torchscript_the_same_values_come_from_python(untried, monkeypatch, caplog, script):
    if script is None:
        monkeypatch.delattr(torch.jit, "script", raising=False)
    else:
        monkeypatch.setattr(torch.jit, "script", script)
    model, ids = make_model()
    with torch.no_grad():
        found = [model(ids).last_hidden_state for _ in range(2)]
        with use_engine("reference"):
            expected = model(ids).last_hidden_state
    for layer in found:
        torch.testing.assert_close(layer, expected, atol=2e-6, rtol=0)
    assert "loops: Python (" in operators_info()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
