"""ElmoScalarMix: the paper's formula, and both programs' layer norms."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError

from elmo_hf import ElmoConfig, ElmoForSequenceClassification, ElmoModel, ElmoScalarMix

MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
WORDS = torch.tensor([[0, 1, 1, 1, 0], [0, 1, 0, 0, 0]]).bool()


def layers(number=3, seed=0, **kwargs):
    torch.manual_seed(seed)
    return [torch.randn(2, 5, 4, **kwargs) * (k + 1) + k for k in range(number)]


def test_it_starts_as_the_average_of_the_layers():
    found = ElmoScalarMix(3)(layers())
    torch.testing.assert_close(found, torch.stack(layers()).mean(0))


def test_weights_and_gamma_are_those_of_the_formula():
    mix = ElmoScalarMix(3)
    mix.weights.data = torch.tensor([0.3, -1.0, 2.0])
    mix.gamma.data = torch.tensor([0.7])
    shares = torch.tensor([0.3, -1.0, 2.0]).exp() / torch.tensor([0.3, -1.0, 2.0]).exp().sum()
    expected = 0.7 * sum(share * layer for share, layer in zip(shares, layers(), strict=True))
    torch.testing.assert_close(mix(layers()), expected)
    mix(layers()).sum().backward()
    assert mix.weights.grad.abs().min() > 0 and mix.gamma.grad.abs() > 0


def test_some_layers_can_be_mixed_without_the_others():
    mix = ElmoScalarMix(3, layers=[-1, 0])
    mix.weights.data = torch.tensor([0.0, 50.0, 0.0])
    bottom, _, top = layers()
    torch.testing.assert_close(mix([bottom, None, top]), (bottom + top) / 2)
    top_only = ElmoScalarMix(3, layers=[2])  # bilm-tf's use_top_only
    torch.testing.assert_close(top_only(layers()), top)


@pytest.mark.parametrize(
    ("convention", "counted", "epsilon"), [("allennlp", MASK, 1e-13), ("bilm-tf", WORDS, 1e-12)]
)
def test_layer_norm_has_one_mean_and_variance_for_the_whole_batch(convention, counted, epsilon):
    mix = ElmoScalarMix(3, layer_norm=convention).double()
    given = layers(dtype=torch.float64)
    expected = []
    for layer in given:
        values = layer[counted]
        variance = ((values - values.mean()) ** 2).mean()
        expected.append((layer - values.mean()) / (variance + epsilon) ** 0.5)
    expected = torch.stack(expected).mean(0).masked_fill(~MASK[..., None], 0)
    torch.testing.assert_close(mix(given, MASK, WORDS), expected)


def test_a_layer_norm_over_nothing_is_zero():
    nothing = torch.zeros(2, 5).bool()
    mix = ElmoScalarMix(3, layer_norm="allennlp")
    assert not mix([torch.zeros(2, 5, 4)] * 3, nothing, nothing).any()


def test_half_precision_stays_half_beside_parameters_of_full_precision():
    given = layers(dtype=torch.bfloat16)
    assert ElmoScalarMix(3)(given).dtype == torch.bfloat16
    assert ElmoScalarMix(3, layer_norm="allennlp")(given, MASK).dtype == torch.bfloat16


def test_gradients_are_right():
    mix = ElmoScalarMix(2, layer_norm="allennlp").double()
    given = [layer.requires_grad_() for layer in layers(2, dtype=torch.float64)]
    assert torch.autograd.gradcheck(lambda *ls: mix(ls, MASK), given)


def test_errors_name_bad_layers():
    with pytest.raises(ValueError, match=r"layers is \[3\]; expected one or more of 0 to 2"):
        ElmoScalarMix(3, layers=[3])
    with pytest.raises(ValueError, match=r"layers is \[\]"):
        ElmoScalarMix(3, layers=[])
    with pytest.raises(ValueError, match="got 2 layers; expected 3"):
        ElmoScalarMix(3)(layers(2))
    with pytest.raises(ValueError, match=r"layer 1 .* output_hidden_states=\[0, 1, 2\]"):
        ElmoScalarMix(3)([layers()[0], None, None])
    with pytest.raises(StrictDataclassClassValidationError, match=r"mix_layers is \[3\]; expected"):
        ElmoConfig(mix_layers=[3])


def test_a_head_starts_from_the_checkpoints_mix_and_the_biLM_ignores_it(tmp_path, caplog):
    config = ElmoConfig(cell_dim=6, projection_dim=4, filters=[[1, 4]])
    base = ElmoModel(config)
    learned = {"scalar_mix.weights": torch.tensor([1.0, 2, 3]), "scalar_mix.gamma": torch.ones(1)}
    base.save_pretrained(tmp_path, state_dict={**base.state_dict(), **learned})
    with caplog.at_level("WARNING"):
        ElmoModel.from_pretrained(tmp_path)
    assert "scalar_mix" not in caplog.text
    head = ElmoForSequenceClassification.from_pretrained(tmp_path)
    assert head.scalar_mix.weights.tolist() == [1, 2, 3]
    base.save_pretrained(tmp_path)
    fresh = ElmoForSequenceClassification.from_pretrained(tmp_path).scalar_mix
    assert fresh.weights.tolist() == [0, 0, 0] and fresh.gamma.tolist() == [1]
