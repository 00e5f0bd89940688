"""The full softmax in pieces and the sampled softmax, against their definitions."""

import math
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F

from elmo_hf import use_engine
from elmo_hf.model import loss_softmax
from elmo_hf.model.loss_softmax import (
    draw_words,
    expected_counts,
    full_softmax_loss,
    sample_words,
    sampled_softmax_loss,
)


def tensors(rows=7, width=5, words=30, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    hidden, weight, bias = (
        torch.randn(*shape, dtype=dtype, requires_grad=True)
        for shape in ((rows, width), (words, width), (words,))
    )
    return hidden, draw_words(rows, words), weight, bias


@pytest.fixture(params=[1, 3, 512])
def rows_at_once(request, monkeypatch):
    monkeypatch.setattr(loss_softmax, "ROWS_AT_ONCE", request.param)


def probabilities(words):
    """TensorFlow's log-uniform distribution."""
    return torch.tensor([math.log((k + 2) / (k + 1)) / math.log(words + 1) for k in range(words)])


# --- The full softmax ---


def test_pieces_add_up_to_the_cross_entropy(rows_at_once):
    hidden, targets, weight, bias = given = tensors()
    expected = F.cross_entropy(hidden @ weight.t() + bias, targets, reduction="sum")
    torch.testing.assert_close(full_softmax_loss(*given), expected)


def test_the_full_softmax_has_the_gradients_of_finite_differences(rows_at_once):
    hidden, targets, weight, bias = tensors()
    torch.autograd.gradcheck(
        lambda h, w, b: full_softmax_loss(h, targets, w, b), (hidden, weight, bias)
    )


def test_gradients_are_computed_only_where_required():
    hidden, targets, weight, bias = tensors()
    expected = torch.autograd.grad(full_softmax_loss(hidden, targets, weight, bias), hidden)
    frozen = full_softmax_loss(hidden, targets, weight.detach(), bias.detach())
    assert torch.equal(torch.autograd.grad(frozen, hidden)[0], expected[0])
    with torch.no_grad():
        assert full_softmax_loss(hidden, targets, weight, bias) == frozen


def test_large_scores_do_not_overflow():
    hidden, targets, weight, bias = tensors(dtype=torch.float32)
    loss = full_softmax_loss(1e4 * hidden, targets, weight, bias)
    expected = F.cross_entropy(1e4 * hidden @ weight.t() + bias, targets, reduction="sum")
    torch.testing.assert_close(loss, expected)
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, (hidden, weight, bias)))


def test_no_rows_have_no_loss():
    hidden, targets, weight, bias = tensors(rows=0)
    for loss in (
        full_softmax_loss(hidden, targets, weight, bias),
        sampled_softmax_loss(hidden, targets, weight, bias, 4),
    ):
        loss.backward()
        assert loss == 0 and not weight.grad.any()


@pytest.mark.parametrize("sampled", [0, 200])
def test_autocast_multiplies_in_its_precision_and_adds_up_in_single(sampled):
    given = tensors(rows=300, width=32, words=500, dtype=torch.float32)
    losses, gradients = [], []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = sampled_softmax_loss(*given, sampled) if sampled else full_softmax_loss(*given)
        assert loss.dtype == torch.float32
        losses.append(loss)
        gradients.append(torch.autograd.grad(loss, [x for x in given if x.requires_grad]))
    assert losses[0] != losses[1]
    torch.testing.assert_close(*losses, rtol=0.005, atol=0)
    for a, b in zip(*gradients, strict=True):
        assert b.dtype == torch.float32 and (a - b).norm() < 0.02 * a.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_tensors_work(dtype):
    single = tensors(rows=50, width=16, words=80, dtype=torch.float32)
    half = [x if x.dtype == torch.long else x.detach().to(dtype).requires_grad_() for x in single]
    expected, found = full_softmax_loss(*single), full_softmax_loss(*half)
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0)
    (a,), (b,) = (torch.autograd.grad(x, y[2]) for x, y in ((expected, single), (found, half)))
    assert b.dtype == dtype and (a - b).norm() < 0.05 * a.norm()


def test_a_gpu_computes_more_rows_at_once_if_the_vocabulary_is_small():
    gpu, usual = torch.device("cuda"), loss_softmax.ROWS_AT_ONCE
    assert loss_softmax.rows_at_once(gpu, 4096) == 16384
    assert loss_softmax.rows_at_once(gpu, 10**6) == usual
    assert loss_softmax.rows_at_once(torch.device("cpu"), 4096) == usual


@pytest.mark.slow
def test_second_derivatives_are_refused_except_by_the_reference():
    hidden, targets, weight, bias = tensors()
    with pytest.raises(RuntimeError, match=r'use_engine\("reference"\)'):
        torch.autograd.grad(
            full_softmax_loss(hidden, targets, weight, bias), weight, create_graph=True
        )

    def plain(h, w, b):
        torch.manual_seed(0)
        with use_engine("reference"):
            return full_softmax_loss(h, targets, w, b) + sampled_softmax_loss(h, targets, w, b, 9)

    torch.autograd.gradgradcheck(plain, (hidden, weight, bias))


def test_transforms_of_torch_func_give_the_gradients_of_autograd():
    hidden, targets, weight, bias = tensors()
    arguments = tuple(tensor.detach() for tensor in (hidden, weight, bias))

    def loss(hidden, weight, bias):
        return full_softmax_loss(hidden, targets, weight, bias)

    expected = torch.autograd.grad(loss(hidden, weight, bias), (hidden, weight, bias))
    found = torch.func.grad(loss, argnums=(0, 1, 2))(*arguments)
    torch.testing.assert_close(found, expected)
    one = lambda h, t: full_softmax_loss(h[None], t[None], weight, bias)  # noqa: E731
    per_row = torch.func.vmap(torch.func.grad(one))(arguments[0], targets)
    torch.testing.assert_close(per_row, expected[0])

    def sampled(hidden):
        torch.manual_seed(0)
        return sampled_softmax_loss(hidden, targets, weight, bias, 9)

    (expected,) = torch.autograd.grad(sampled(hidden), hidden)
    torch.testing.assert_close(torch.func.grad(sampled)(arguments[0]), expected)


# --- The sampled softmax ---


def by_hand(hidden, targets, weight, bias, candidates, tries):
    """TensorFlow's sampled_softmax_loss, row by row in float64."""
    words, total = len(weight), 0
    counts = -torch.expm1(tries * torch.log1p(-probabilities(words).double()))
    for row, target in zip(hidden, targets, strict=True):
        scores = weight.double() @ row.double() + bias.double() - counts.log()
        others = [scores[c] for c in candidates if c != target]
        total = total + torch.stack([scores[target], *others]).logsumexp(0) - scores[target]
    return total


def test_the_sampled_loss_is_tensorflows_formula(rows_at_once):
    given = tensors()
    targets = given[1]
    torch.manual_seed(3)
    candidates, tries = sample_words(12, 30)
    assert set(candidates.tolist()) & set(targets.tolist())  # accidental hits are among them
    expected = by_hand(*given, candidates, tries)
    for engine in ("cpu_training", "reference"):
        torch.manual_seed(3)
        with use_engine(engine):
            found = sampled_softmax_loss(*given, 12)
        torch.testing.assert_close(found, expected)
        wanted = (given[0], given[2], given[3])
        pairs = (torch.autograd.grad(x, wanted, retain_graph=True) for x in (found, expected))
        for a, b in zip(*pairs, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.slow
def test_the_sampled_softmax_has_the_gradients_of_finite_differences(rows_at_once):
    hidden, targets, weight, bias = tensors()

    def loss(h, w, b):
        torch.manual_seed(3)
        return sampled_softmax_loss(h, targets, w, b, 12)

    torch.autograd.gradcheck(loss, (hidden, weight, bias))


def test_all_candidates_make_the_full_loss(monkeypatch):
    # When so many are drawn that each word is certain, no score is corrected.
    given = tensors()
    monkeypatch.setattr(loss_softmax, "sample_words", lambda *_: (torch.randperm(30), 10**9))
    torch.testing.assert_close(sampled_softmax_loss(*given, 30), full_softmax_loss(*given))


def test_in_expectation_the_candidates_weigh_as_much_as_all_words():
    torch.manual_seed(0)
    words, scores = 200, torch.randn(200, dtype=torch.float64)
    found = []
    for _ in range(2000):
        ids, tries = sample_words(40, words)
        found.append((scores[ids].exp() / expected_counts(ids, tries, words)).sum())
    assert torch.stack(found).mean().item() == pytest.approx(scores.exp().sum().item(), rel=0.02)


def test_all_rows_share_one_set_of_candidates():
    hidden, targets, weight, bias = tensors(rows=40, words=300)
    sampled_softmax_loss(hidden, targets, weight, bias, 20).backward()
    learned = weight.grad.any(1).sum().item()
    assert 20 <= learned <= 20 + len(targets.unique())


# --- The sampler ---


def test_words_are_drawn_from_the_log_uniform_distribution():
    torch.manual_seed(0)
    found = draw_words(400_000, 50).bincount(minlength=50) / 400_000
    expected = probabilities(50)
    assert expected.sum().item() == pytest.approx(1)
    deviations = (found - expected) / (expected * (1 - expected) / 400_000).sqrt()
    assert deviations.abs().max() < 4


def test_sets_of_words_are_as_probable_as_drawing_until_there_are_enough():
    torch.manual_seed(0)
    p, draws = probabilities(4).tolist(), 4000
    sets = [tuple(sample_words(2, 4)[0].tolist()) for _ in range(draws)]
    for first, second in permutations(range(4), 2):
        expected = p[first] * p[second] / (1 - p[first])
        spread = (expected * (1 - expected) / draws) ** 0.5
        assert abs(sets.count((first, second)) / draws - expected) < 4 * spread


def test_candidates_are_distinct_and_their_draws_are_counted():
    for words, count in ((30, 29), (30, 30), (5000, 700), (1, 1)):
        torch.manual_seed(1)
        ids, tries = sample_words(count, words)
        assert len(ids.unique()) == count and set(ids.tolist()) <= set(range(words))
        torch.manual_seed(1)
        draws = draw_words(2 * count, words)
        while len(draws) < tries:
            draws = torch.cat([draws, draw_words(max(2 * count, len(draws)), words)])
        *before, last = draws[:tries].tolist()
        assert [*dict.fromkeys(before), last] == ids.tolist() and last not in before


def test_expected_counts_are_exact_for_rare_words_of_large_vocabularies():
    words, tries = 793_471, 20_000
    found = expected_counts(torch.tensor([0, words - 1]), tries, words).tolist()
    rarest = math.log1p(1 / words) / math.log(words + 1)
    assert found[0] == pytest.approx(1)
    assert found[1] == pytest.approx(-math.expm1(tries * math.log1p(-rarest)), rel=1e-9)


def test_sampling_follows_torchs_generator():
    torch.manual_seed(5)
    first, state = sample_words(50, 1000), torch.get_rng_state()
    second = sample_words(50, 1000)
    torch.set_rng_state(state)
    again = sample_words(50, 1000)
    assert torch.equal(second[0], again[0]) and not torch.equal(first[0], second[0])


def test_more_samples_than_words_are_refused():
    with pytest.raises(ValueError, match="cannot draw 5 different words from a vocabulary of 4"):
        sample_words(5, 4)
