"""The CRF against the sum over all taggings, written out."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad

from elmo_hf.model.engine_choice import use_engine
from elmo_hf.model.layer_crf import ElmoCrf, make_constraints

BIO = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
BIOES = ("O", "B-X", "I-X", "E-X", "S-X", "B-Y", "I-Y", "E-Y", "S-Y")


def make(num_labels=3, seed=0):
    torch.manual_seed(seed)
    crf = ElmoCrf(num_labels).double()
    for parameter in crf.parameters():
        parameter.data.normal_()
    return crf


def taggings(crf, emissions):
    """Every tagging of one sentence `(words, labels)` with its score."""
    for tags in itertools.product(range(crf.num_labels), repeat=len(emissions)):
        score = crf.start[tags[0]] + crf.end[tags[-1]]
        score = score + sum(emissions[t, tag] for t, tag in enumerate(tags))
        score = score + sum(crf.transitions[pair] for pair in itertools.pairwise(tags))
        yield tags, score


def example(seed, num_labels=3):
    """Emissions of sentences with holes in front, inside and behind, and labels."""
    torch.manual_seed(seed)
    mask = torch.rand(4, 5) < 0.7
    mask[3] = False
    emissions = torch.randn(4, 5, num_labels, dtype=torch.float64) * 2
    return emissions, torch.randint(num_labels, (4, 5)), mask


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_likelihood_decoding_and_marginals_are_those_of_brute_force(seed):
    crf = make(seed=seed)
    emissions, labels, mask = example(seed)
    losses = crf(emissions, labels, mask)
    decoded = crf.decode(emissions, mask)
    marginals = crf.max_marginals(emissions, mask)
    probabilities = crf.log_marginals(emissions, mask).exp()
    for row in range(3):
        words = mask[row]
        if not words.any():
            continue
        scored = dict(taggings(crf, emissions[row, words]))
        gold = scored[tuple(labels[row, words].tolist())]
        total = torch.stack(list(scored.values())).logsumexp(0)
        torch.testing.assert_close(losses[row], total - gold)
        best = max(scored, key=scored.get)
        assert decoded[row, words].tolist() == list(best)
        for place, word in enumerate(words.nonzero()[:, 0]):
            for tag in range(3):
                score = max(s for tags, s in scored.items() if tags[place] == tag)
                torch.testing.assert_close(marginals[row, word, tag], score - scored[best])
                having = torch.stack([s for tags, s in scored.items() if tags[place] == tag])
                expected = (having.logsumexp(0) - total).exp()
                torch.testing.assert_close(probabilities[row, word, tag], expected)
    assert losses[3] == 0 and (decoded[~mask] == -100).all()
    assert torch.equal(marginals[~mask], emissions[~mask])


def test_words_without_a_label_are_summed_over():
    crf = make()
    emissions, labels, _ = example(1)
    labels[0, 1] = labels[0, 3] = -100
    mask = torch.ones(1, 5).bool()
    agreeing, everything = [], []
    for tags, score in taggings(crf, emissions[0]):
        everything.append(score)
        if all(label in (-100, tag) for tag, label in zip(tags, labels[0].tolist(), strict=True)):
            agreeing.append(score)
    expected = torch.stack(everything).logsumexp(0) - torch.stack(agreeing).logsumexp(0)
    torch.testing.assert_close(crf(emissions[:1], labels[:1], mask)[0], expected)


def test_gradients_are_right_and_finite_with_masks_and_missing_labels():
    crf = make()
    emissions, labels, mask = example(2)
    labels[1, 2] = -100
    assert torch.autograd.gradcheck(lambda e: crf(e, labels, mask), emissions.requires_grad_())
    crf(emissions, labels, mask).sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in crf.parameters())


def test_products_give_the_values_and_gradients_of_the_plain_sum():
    crf = make(5)
    emissions, labels, mask = example(3, num_labels=5)
    emissions *= 200  # beyond what e^x can hold
    labels[1, 2] = -100

    def run():
        given = emissions.clone().requires_grad_()
        losses = crf(given, labels, mask)
        return [losses, *torch.autograd.grad((losses**2).sum(), [given, *crf.parameters()])]

    found = run()
    with use_engine("reference"):
        expected = run()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


def test_every_gradient_passes_gradcheck():
    crf = make()
    emissions, labels, mask = example(2)

    def losses(emissions, *scores):
        parameters = dict(zip(("start", "transitions", "end"), scores, strict=True))
        return torch.func.functional_call(crf, parameters, (emissions, labels, mask))

    inputs = [emissions, *(p.detach() for p in crf.parameters())]
    assert torch.autograd.gradcheck(losses, [x.requires_grad_() for x in inputs])
    with pytest.raises(RuntimeError, match=r'use_engine\("reference"\)'):
        torch.autograd.grad(losses(*inputs).sum(), inputs, create_graph=True)
    with use_engine("reference"):
        assert torch.autograd.gradgradcheck(losses, inputs)


def test_transforms_of_torch_func_give_the_gradients_of_autograd():
    crf = make()
    emissions, labels, mask = example(2)

    def loss(emissions, labels, mask):
        return crf(emissions[None], labels[None], mask[None]).sum()

    found = torch.func.vmap(torch.func.grad(loss))(emissions, labels, mask)
    emissions.requires_grad_()
    (expected,) = torch.autograd.grad(crf(emissions, labels, mask).sum(), emissions)
    torch.testing.assert_close(found, expected)
    tangent = torch.ones_like(emissions)
    whole = lambda e: crf(e, labels, mask).sum()  # noqa: E731
    _, slope = torch.func.jvp(whole, (emissions.detach(),), (tangent,))
    torch.testing.assert_close(slope, (expected * tangent).sum())
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(emissions.detach(), tangent)
        torch.testing.assert_close(forward_ad.unpack_dual(whole(dual)).tangent, slope)


@pytest.mark.parametrize("part", ["transitions", "end"])
def test_scores_that_would_underflow_use_the_plain_sum(part):
    """Tag 0 wins by its word, tag 1 by what follows: a product would have lost tag 1."""
    crf = ElmoCrf(2)
    getattr(crf, part).data[..., 0] = -2000
    emissions = torch.tensor([[[0.0, -1000.0], [0.0, -1000.0]]])
    losses = crf(emissions, torch.tensor([[0, 1]]), torch.ones(1, 2).bool())
    assert losses.tolist() == [0]


@pytest.mark.parametrize(("labels", "scheme"), [(BIO, "BIO"), (BIOES, "BIOES")])
def test_constrained_decoding_is_the_best_of_the_valid_taggings(labels, scheme):
    constraints = make_constraints(labels, scheme)
    crf = make(len(labels))
    emissions = torch.randn(2, 4, len(labels), dtype=torch.float64) * 3
    mask = torch.ones(2, 4).bool()
    decoded = crf.decode(emissions, mask, constraints)
    assert torch.equal(crf.max_marginals(emissions, mask, constraints).argmax(-1), decoded)
    for row in range(2):
        valid = {
            tags: score
            for tags, score in taggings(crf, emissions[row])
            if is_valid([labels[tag] for tag in tags], scheme)
        }
        assert decoded[row].tolist() == list(max(valid, key=valid.get))


def is_valid(tags, scheme):
    """Read the spans as a person would: open them, continue them, close them."""
    open_kind = None
    for tag in tags:
        prefix, kind = tag[0], tag[2:]
        if prefix in "IE" and kind != open_kind:
            return False
        if scheme == "BIOES" and prefix not in "IE" and open_kind is not None:
            return False
        open_kind = kind if prefix in "BI" else None
    return scheme == "BIO" or open_kind is None


def test_constraints_hold_for_any_emissions_and_decoding_works_if_nothing_is_allowed():
    constraints = make_constraints(("O", "B-X", "I-X"), "BIO")
    emissions = torch.tensor([[[0.0, 0, 900], [0, 0, 900]]])
    mask = torch.ones(1, 2).bool()
    assert ElmoCrf(3).decode(emissions, mask, constraints).tolist() == [[1, 2]]
    impossible = make_constraints(("I-X",), "BIO")
    costs = ElmoCrf(1).max_marginals(torch.zeros(1, 2, 1), mask, impossible)
    assert costs.isfinite().all()


def test_constraints_have_values_in_a_model_that_is_being_loaded():
    with torch.device("meta"):
        start = make_constraints(("O", "I-LOADING"), "BIO").start
    assert start.tolist() == [True, False]


def test_label_names_must_belong_to_the_scheme():
    with pytest.raises(ValueError, match="'LABEL_0' does not belong to the tagging scheme BIO;"):
        make_constraints(("LABEL_0", "LABEL_1"), "BIO")
    with pytest.raises(ValueError, match="'E-X'"):
        make_constraints(("O", "E-X"), "BIO")


def test_half_precision_is_computed_in_single():
    emissions, labels, mask = example(3)
    exact = make().float()(emissions.bfloat16().float(), labels, mask)
    torch.testing.assert_close(make().float()(emissions.bfloat16(), labels, mask), exact)


def test_a_batch_without_words_has_no_loss_and_no_tags():
    crf, mask = make(), torch.zeros(2, 0).bool()
    emissions = torch.zeros(2, 0, 3)
    assert crf(emissions, mask.long(), mask).tolist() == [0, 0]
    assert crf.decode(emissions, mask).shape == (2, 0)
    assert crf.max_marginals(emissions, mask).shape == (2, 0, 3)
