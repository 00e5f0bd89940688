"""The training engine of the LSTM against the plain recurrence, in values and in gradients."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from elmo_hf import ElmoConfig
from elmo_hf.model import engine_training
from elmo_hf.model.engine_training import clipped_lstm
from elmo_hf.model.engine_training_compiled import find_kernels
from elmo_hf.model.layer_lstm import ElmoLstm

RAGGED = [
    [True, True, True, True, True],
    [True, True, False, False, False],  # padded right
    [False, False, True, True, True],  # padded left
    [True, False, True, False, True],  # holes
    [False, False, False, False, False],
]


def make_lstm(
    reverse=False, projected=True, cell_clip=0.5, projection_clip=0.4, sizes=(3, 5), scale=2
):
    """A recurrence whose states are often clipped; a larger scale multiplies rounding errors."""
    width, cell_dim = sizes if projected else (sizes[1], sizes[1])
    config = ElmoConfig(
        projection_dim=width,
        cell_dim=cell_dim,
        cell_clip=cell_clip,
        projection_clip=projection_clip,
        lstm_projection=projected,
    )
    lstm = ElmoLstm(config, reverse)
    for parameter in lstm.parameters():
        torch.nn.init.normal_(parameter, std=scale * parameter.shape[-1] ** -0.5)
    return lstm


def draw(lstm, mask, dtype=torch.float32):
    """Inputs and a state to start from, all with gradients."""
    gates, width = lstm.input_map.weight.shape
    batch, words = mask.shape
    shapes = [(batch, words, width), (batch, width), (batch, gates // 4)]
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


def weights_of(lstm):
    output_map = lstm.output_map
    return (
        lstm.input_map.weight,
        lstm.input_map.bias,
        lstm.recurrent_map.weight,
        None if output_map is None else output_map.weight,
    )


def run_fast(lstm, mask, inputs, hidden, cell, weights=None, recompute=False):
    outputs, state = clipped_lstm(
        inputs,
        mask,
        hidden,
        cell,
        *(weights or weights_of(lstm)),
        cell_clip=lstm.cell_clip,
        projection_clip=lstm.projection_clip,
        reverse=lstm.reverse,
        recompute=recompute,
    )
    return outputs, *state


def run_reference(lstm, mask, inputs, hidden, cell):
    outputs, state = lstm.run_reference(inputs, mask, (hidden, cell))
    return outputs, *state


def gradients(results, sources, seed=0, **options):
    """Of a random weighting of all results."""
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(part.shape, generator=generator).to(part) for part in results]
    return torch.autograd.grad(results, sources, weights, **options)


def assert_close(found, expected, tolerance):
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        error = (one.double() - other.double()).norm()
        assert error <= tolerance * other.double().norm().clamp(min=1e-6)


def assert_equals_plain(lstm, mask, given_tensors, tolerance, recompute=False):
    """Compare the values, and the gradients of all arguments and weights."""
    sources = [*given_tensors, *lstm.parameters()]
    fast = run_fast(lstm, mask, *given_tensors, recompute=recompute)
    plain = run_reference(lstm, mask, *given_tensors)
    assert_close(fast, plain, tolerance)
    assert_close(gradients(fast, sources), gradients(plain, sources), tolerance)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def packs_small_weights(monkeypatch):
    """Sends the small maps of these tests through oneDNN where the machine has it."""
    monkeypatch.setattr(engine_training, "PACKED_WEIGHTS", 0)
    monkeypatch.setattr(engine_training, "PACKED_PRODUCTS", 0)


@pytest.fixture(params=["compiled", "operators"])
def kernels(request, monkeypatch):
    """Runs a test with compiled kernels, if there is a compiler, and with PyTorch's operators."""
    if request.param == "operators":
        monkeypatch.setattr(engine_training, "find_kernels", lambda *_: None)
    elif find_kernels(torch.float32, torch.zeros(1)) is None:
        pytest.skip("there is no C compiler")


# Any two of the three choices meet in the quick ones.
@pytest.mark.parametrize(
    "reverse, projected, recompute",
    [
        pytest.param(*choice, marks=[pytest.mark.slow] * (sum(choice) % 2))
        for choice in itertools.product([False, True], repeat=3)
    ],
)
def test_finite_differences_confirm_every_gradient_with_both_clips_active(
    reverse, projected, recompute
):
    lstm = make_lstm(reverse, projected, scale=4).double()
    mask = torch.tensor(RAGGED)
    state = draw(lstm, mask, torch.float64)
    weights = [w.detach().requires_grad_() for w in weights_of(lstm) if w is not None]

    def function(inputs, hidden, cell, *weights):
        weights = [*weights, None][:4]
        return run_fast(lstm, mask, inputs, hidden, cell, weights, recompute)

    outputs, _, cell = function(*state, *weights)
    assert 0.05 < (cell.abs() == lstm.cell_clip).double().mean() < 0.95
    if projected:
        assert 0.05 < (outputs[mask].abs() == lstm.projection_clip).double().mean() < 0.95
    assert torch.autograd.gradcheck(function, (*state, *weights))


@pytest.mark.parametrize(("cell_clip", "projection_clip"), [(None, None), (0.5, None), (None, 0.4)])
def test_finite_differences_confirm_the_gradients_without_a_clip(cell_clip, projection_clip):
    lstm = make_lstm(cell_clip=cell_clip, projection_clip=projection_clip).double()
    mask = torch.tensor(RAGGED)
    weights = [w.detach().requires_grad_() for w in weights_of(lstm)]

    def function(inputs, hidden, cell, *weights):
        return run_fast(lstm, mask, inputs, hidden, cell, weights)

    assert torch.autograd.gradcheck(function, (*draw(lstm, mask, torch.float64), *weights))


masks = st.tuples(st.integers(1, 5), st.integers(1, 7)).flatmap(
    lambda shape: st.lists(
        st.lists(st.booleans(), min_size=shape[1], max_size=shape[1]),
        min_size=shape[0],
        max_size=shape[0],
    )
)


# Single precision without clips: rounding next to a bound would switch a gradient on or off.
precisions = st.sampled_from([(torch.float64, 0.5, 0.4, 1e-11), (torch.float32, None, None, 1e-5)])


@settings(max_examples=60, deadline=None)
@given(
    rows=masks,
    precision=precisions,
    reverse=st.booleans(),
    projected=st.booleans(),
    recompute=st.booleans(),
)
def test_any_mask_gives_the_values_and_gradients_of_the_plain_recurrence(
    rows, precision, reverse, projected, recompute
):
    torch.manual_seed(0)
    dtype, cell_clip, projection_clip, tolerance = precision
    lstm = make_lstm(reverse, projected, cell_clip, projection_clip, sizes=(8, 16)).to(dtype)
    mask = torch.tensor(rows)
    given_tensors = draw(lstm, mask, dtype)
    assert_equals_plain(lstm, mask, given_tensors, tolerance, recompute)
    assert not run_fast(lstm, mask, *given_tensors)[0][~mask].any()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_single_precision_equals_the_plain_recurrence_with_both_clips_active(
    reverse, projected, packed, kernels, monkeypatch
):
    monkeypatch.setattr(engine_training, "PACKED_WEIGHTS", 0 if packed else 10**9)
    monkeypatch.setattr(engine_training, "PACKED_PRODUCTS", 0)
    lstm = make_lstm(reverse, projected, sizes=(8, 16))
    mask = torch.tensor(RAGGED)
    _, _, cell = run_reference(lstm, mask, *draw(lstm, mask))
    assert 0.05 < (cell.abs() == 0.5).float().mean() < 0.95
    for recompute in (False, True):
        assert_equals_plain(lstm, mask, draw(lstm, mask), 1e-5, recompute)


def test_a_longer_text_at_a_middle_size_equals_the_plain_recurrence(kernels):
    lstm = make_lstm(cell_clip=3.0, projection_clip=3.0, sizes=(64, 512))
    mask = torch.arange(40) < torch.tensor([[40], [3], [21], [1], [17]])
    assert_equals_plain(lstm, mask, draw(lstm, mask), 1e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_many_sentences_equal_the_plain_recurrence(packed, kernels, monkeypatch):
    monkeypatch.setattr(engine_training, "PACKED_WEIGHTS", 0 if packed else 10**9)
    lstm = make_lstm(reverse=packed, cell_clip=3.0, projection_clip=3.0, sizes=(16, 24))
    lengths = torch.arange(37)[:, None] % 23  # the number of running sentences is seldom round
    mask = torch.arange(23) < lengths
    assert_equals_plain(lstm, mask, draw(lstm, mask), 1e-5)


def test_up_to_128_sentences_need_few_numbers_of_rows():
    table = torch.empty(1000)
    sizes = [len(table[engine_training._round_up(slice(5, 5 + n))]) for n in range(1, 129)]
    assert all(0 <= size - n < 8 for n, size in enumerate(sizes, 1))
    assert len(set(sizes)) == 8 + 15
    assert engine_training._round_up(slice(0, 9), end=11) == slice(0, 11)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("values", [1, 100, 200])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_blocks_of_one_and_of_several_steps_equal_the_plain_recurrence(
    values, dtype, tolerance, recompute, kernels, monkeypatch
):
    monkeypatch.setattr(engine_training, "BLOCK_VALUES", values)
    lstm = make_lstm(reverse=True).to(dtype)
    mask = torch.tensor(RAGGED)
    assert_equals_plain(lstm, mask, draw(lstm, mask, dtype), tolerance, recompute)


@pytest.mark.parametrize("scale", [0.999, 1.0, 1.001])
def test_a_value_exactly_at_a_bound_passes_its_gradient_as_clamp_does(scale):
    lstm = make_lstm(cell_clip=0.5, projection_clip=0.25).double()
    torch.nn.init.zeros_(lstm.input_map.weight)
    torch.nn.init.zeros_(lstm.recurrent_map.weight)
    torch.nn.init.zeros_(lstm.input_map.bias)
    # All gates are 1/2 and the candidate 0, so that the memory is half of what it was.
    mask = torch.ones(1, 1, dtype=torch.bool)
    inputs, hidden, _ = draw(lstm, mask, torch.float64)
    cell = torch.full((1, 5), 1.0 * scale, dtype=torch.float64).requires_grad_()
    memory = 0.5 * torch.tensor(min(0.5 * scale, 0.5), dtype=torch.float64).tanh()
    torch.nn.init.zeros_(lstm.output_map.weight)
    with torch.no_grad():
        lstm.output_map.weight[:, 0] = 0.25 * scale / memory
    sources = [inputs, hidden, cell, *lstm.parameters()]
    fast = run_fast(lstm, mask, inputs, hidden, cell)
    plain = run_reference(lstm, mask, inputs, hidden, cell)
    if scale == 1.0:
        assert (plain[0] == 0.25).all() and (plain[2] == 0.5).all()
    found, expected = gradients(fast, sources), gradients(plain, sources)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
    assert found[2].any() == (scale <= 1)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_retained_graph_gives_the_same_gradients_again(recompute):
    lstm = make_lstm()
    mask = torch.tensor(RAGGED)
    given_tensors = draw(lstm, mask)
    sources = [*given_tensors, *lstm.parameters()]
    results = run_fast(lstm, mask, *given_tensors, recompute=recompute)
    first = gradients(results, sources, retain_graph=True)
    assert all(map(torch.equal, gradients(results, sources), first))


@pytest.mark.parametrize("frozen", ["weights", "inputs", "all but the bias", "all but the output"])
def test_frozen_weights_get_no_gradient_and_the_others_the_same(frozen, monkeypatch):
    lstm = make_lstm()
    mask = torch.tensor(RAGGED)
    given_tensors = draw(lstm, mask)
    everything = [*given_tensors, *lstm.parameters()]
    expected = gradients(run_reference(lstm, mask, *given_tensors), everything)
    trained = {
        "weights": given_tensors,
        "inputs": list(lstm.parameters()),
        "all but the bias": [lstm.input_map.bias],
        "all but the output": [lstm.output_map.weight],
    }[frozen]
    for source in everything:
        source.requires_grad_(any(source is one for one in trained))
    products = []
    whole = engine_training._weight_gradient
    monkeypatch.setattr(
        engine_training, "_weight_gradient", lambda *a: products.append(1) or whole(*a)
    )
    found = gradients(run_fast(lstm, mask, *given_tensors), trained)
    for source, gradient in zip(everything, expected, strict=True):
        for one, other in zip(trained, found, strict=True):
            if one is source:
                assert_close([other], [gradient], 1e-5)
    matrices = [w for w in lstm.parameters() if w.ndim == 2 and w.requires_grad]
    assert len(products) == len(matrices)


def test_second_derivatives_are_refused_with_an_alternative():
    lstm = make_lstm()
    mask = torch.tensor(RAGGED)
    inputs, hidden, cell = draw(lstm, mask)
    outputs, *_ = run_fast(lstm, mask, inputs, hidden, cell)
    (gradient,) = torch.autograd.grad(outputs.sum(), inputs, create_graph=True)
    (expected,) = torch.autograd.grad(
        run_reference(lstm, mask, inputs, hidden, cell)[0].sum(), inputs
    )
    assert_close([gradient], [expected], 1e-5)
    with pytest.raises(RuntimeError, match=r"second derivatives .* reference engine"):
        gradient.square().sum().backward()


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_changes_no_gradient(reentrant):
    lstm = make_lstm()
    mask = torch.tensor(RAGGED)
    given_tensors = draw(lstm, mask)
    sources = [*given_tensors, *lstm.parameters()]

    def function(*tensors):
        return run_fast(lstm, mask, *tensors)

    found = []
    for results in (
        function(*given_tensors),
        checkpoint(function, *given_tensors, use_reentrant=reentrant),
    ):
        # The reentrant kind knows .backward() alone.
        for source in sources:
            source.grad = None
        sum(part.square().sum() for part in results).backward()
        found.append([source.grad for source in sources])
    assert all(map(torch.equal, *found))


def half_precision_errors(lstm, mask, given_tensors, fast):
    """Relative errors of outputs, then of all gradients, against double precision."""
    exact_lstm = make_lstm(sizes=(32, 64), cell_clip=None, projection_clip=None).double()
    exact_lstm.load_state_dict(lstm.state_dict())
    exact = [part.detach().double().requires_grad_() for part in given_tensors]
    plain = run_reference(exact_lstm, mask, *exact)
    expected = [plain[0], *gradients(plain, [*exact, *exact_lstm.parameters()])]
    results = (run_fast if fast else run_reference)(lstm, mask, *given_tensors)
    assert results[2].dtype == torch.float32
    found = [results[0], *gradients(results, [*given_tensors, *lstm.parameters()])]
    return [
        ((one.double() - other).norm() / other.norm()).item()
        for one, other in zip(found, expected, strict=True)
    ]


@pytest.mark.parametrize("way", ["bfloat16", "float16", "autocast"])
def test_half_precision_is_as_near_to_double_as_the_plain_recurrence_is(
    way, packs_small_weights, kernels
):
    # Without clips: rounding next to a bound would switch a gradient on or off.
    lstm = make_lstm(cell_clip=None, projection_clip=None, sizes=(32, 64), scale=1)
    mask = torch.tensor(RAGGED)
    inputs, hidden, cell = draw(lstm, mask)
    if way != "autocast":
        dtype = getattr(torch, way)
        lstm = lstm.to(dtype)
        inputs, hidden = (x.detach().to(dtype).requires_grad_() for x in (inputs, hidden))
    with torch.autocast("cpu", enabled=way == "autocast"):
        options = (lstm, mask, (inputs, hidden, cell))
        fast = half_precision_errors(*options, fast=True)
        plain = half_precision_errors(*options, fast=False)
    for ours, theirs in zip(fast, plain, strict=True):
        assert ours <= max(1.5 * theirs, 1e-3)
        assert ours < 0.05


def test_autocast_gives_the_types_of_the_plain_recurrence():
    lstm = make_lstm()
    mask = torch.tensor(RAGGED)
    inputs, hidden, cell = draw(lstm, mask)
    with torch.autocast("cpu", torch.bfloat16):
        for start in (hidden, hidden.bfloat16()):
            fast, plain = (
                run(lstm, mask, inputs, start, cell) for run in (run_fast, run_reference)
            )
            assert [part.dtype for part in fast] == [part.dtype for part in plain]
    assert torch.equal(fast[1][4], hidden[4].bfloat16())
    (outputs, *_) = fast
    outputs.float().sum().backward()
    assert lstm.input_map.weight.grad.dtype == inputs.grad.dtype == torch.float32


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (2, 3)])
def test_empty_input_keeps_the_state_and_its_gradient(shape, reverse):
    lstm = make_lstm(reverse)
    mask = torch.zeros(shape, dtype=torch.bool)
    inputs, hidden, cell = draw(lstm, mask)
    results = run_fast(lstm, mask, inputs, hidden, cell)
    assert results[0].shape == inputs.shape and not results[0].any()
    assert torch.equal(results[1], hidden) and torch.equal(results[2], cell)
    sources = [inputs, hidden, cell, *lstm.parameters()]
    found = torch.autograd.grad([part.sum() for part in results], sources)
    assert not found[0].any() and found[1].eq(1).all() and found[2].eq(1).all()
    assert not any(gradient.any() for gradient in found[3:])


def test_without_onednn_the_results_are_the_same(packs_small_weights, monkeypatch):
    lstm = make_lstm()
    mask = torch.tensor(RAGGED)
    given_tensors = draw(lstm, mask)
    sources = [*given_tensors, *lstm.parameters()]
    results = run_fast(lstm, mask, *given_tensors)
    found = gradients(results, sources)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert engine_training._prepare(lstm.recurrent_map.weight, 10).kind == "plain"
    others = run_fast(lstm, mask, *given_tensors)
    assert_close(results, others, 1e-6)
    assert_close(found, gradients(others, sources), 1e-5)


def test_an_initial_state_beyond_the_clips_is_not_clipped(kernels):
    lstm = make_lstm()
    mask = torch.tensor(RAGGED)
    inputs, hidden, cell = draw(lstm, mask)
    with torch.no_grad():
        hidden.mul_(5)
        cell.mul_(5)
    assert_equals_plain(lstm, mask, (inputs, hidden, cell), 1e-5)
