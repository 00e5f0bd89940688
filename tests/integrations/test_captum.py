"""captum's attributions are those of the reference, with engines and with hooks."""

import pytest
import torch

from elmo_hf import ElmoConfig, ElmoForSequenceClassification, ElmoTokenizer, use_engine

attr = pytest.importorskip("captum.attr")
TINY = {"cell_dim": 12, "projection_dim": 6, "filters": [[1, 4], [2, 5]], "char_embedding_dim": 3}
INPUTS = ElmoTokenizer()(["the river rose", "rain"], padding=True, return_tensors="pt")


@pytest.fixture
def model():
    torch.manual_seed(0)
    # Without ids, as with inputs_embeds, <S> and </S> cannot be left out.
    return ElmoForSequenceClassification(ElmoConfig(**TINY, pool_boundaries=True)).eval()


def attribute(model, baselines=None):
    """Attributions of every word's vector, `(batch, words, projection_dim)`, and their errors."""
    gradients = attr.IntegratedGradients(
        lambda embeds, mask: model(None, mask, embeds).logits[:, 1]
    )
    return gradients.attribute(
        word_vectors(model, INPUTS.input_ids),
        baselines,
        additional_forward_args=(INPUTS.attention_mask,),
        n_steps=32,
        return_convergence_delta=True,
    )


def word_vectors(model, input_ids):
    return model.elmo.embeddings(input_ids).detach()


def test_attributions_add_up_to_the_change_of_the_logit(model):
    found, missing = attribute(model)
    assert found.abs().sum() > 1e-3 and missing.abs().max() < 1e-4
    assert not found[1, 3:].any()  # padding


@pytest.mark.parametrize("engine", ["reference", "cpu_training"])
def test_every_engine_gives_the_same_attributions(model, engine):
    expected, _ = attribute(model)
    with use_engine(engine):
        found, _ = attribute(model)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_hooks_see_every_call_and_change_no_attribution(model):
    expected, _ = attribute(model)
    seen = []
    for layer in model.elmo.layers:
        layer.forward_lstm.recurrent_map.register_forward_hook(lambda *call: seen.append(call[2]))
    found, _ = attribute(model)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
    assert len(seen) >= 10  # word by word


def test_the_attributions_of_the_embedding_layer_are_those_of_its_output(model):
    nothing = torch.zeros_like(INPUTS.input_ids)
    expected, _ = attribute(model, word_vectors(model, nothing))
    gradients = attr.LayerIntegratedGradients(
        lambda ids, mask: model(ids, mask).logits[:, 1], model.elmo.embeddings
    )
    given = {"additional_forward_args": (INPUTS.attention_mask,), "n_steps": 32}
    found = gradients.attribute(INPUTS.input_ids, nothing, **given)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
