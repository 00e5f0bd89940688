"""Layers that read both directions: exact, blind to padding, and clear about what they lack."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from elmo_hf import ElmoConfig, ElmoForTokenClassification, ElmoModel
from elmo_hf.conversion.bilm_options import options_from_config
from elmo_hf.conversion.tables import WeightsError

CONFIG = ElmoConfig(
    cell_dim=7,
    projection_dim=5,
    filters=[[1, 4], [2, 5]],
    char_embedding_dim=3,
    num_hidden_layers=1,
    num_mixed_lstms=2,
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ElmoModel(CONFIG).eval()


@pytest.fixture
def input_ids():
    return torch.randint(1, 262, (2, 6, 50), generator=torch.Generator().manual_seed(0))


def test_padding_on_either_side_changes_nothing(model, input_ids):
    alone = model(input_ids[:1, :4]).last_hidden_state
    for place in (slice(0, 4), slice(2, 6)):
        padded, mask = torch.zeros_like(input_ids), torch.zeros(2, 6)
        padded[0, place], mask[0, place] = input_ids[0, :4], 1
        padded[1], mask[1] = input_ids[1], 1
        found = model(padded, mask).last_hidden_state[0]
        torch.testing.assert_close(found[place], alone[0], atol=1e-6, rtol=0)
        assert not found[mask[0] == 0].any()


def test_each_half_depends_on_the_whole_sentence(model, input_ids):
    before = model(input_ids).last_hidden_state
    changed = input_ids.clone()
    changed[:, -1] = changed[:, 0]
    first_word = (model(changed).last_hidden_state - before)[:, 0].abs()
    assert first_word[:, :5].max() > 1e-6 and first_word[:, 5:].max() > 1e-6


def test_it_is_saved_trained_and_opened_as_a_head(model, input_ids, tmp_path):
    model.save_pretrained(tmp_path)
    tagger = ElmoForTokenClassification.from_pretrained(tmp_path, num_labels=3)
    output = tagger(input_ids, labels=torch.ones(2, 6, dtype=torch.long))
    output.loss.backward()
    assert all(p.grad is not None for p in tagger.elmo.layers.parameters())
    again = ElmoModel.from_pretrained(tmp_path).eval()
    assert torch.equal(again(input_ids)[0], model(input_ids)[0])
    assert again.engine_info()["inference"].startswith("torch")


def test_unsupported_arguments_are_refused(model, input_ids):
    with pytest.raises(ValueError, match="no states to carry"):
        model(input_ids, use_cache=True)
    mask = torch.ones(2, 6, 2)
    mask[0, 0, 1] = 0
    with pytest.raises(ValueError, match="differs between the directions"):
        model(input_ids, mask)
    with pytest.raises(WeightsError, match="the HDF5 format has no LSTMs that mix the directions"):
        options_from_config(CONFIG)
    with pytest.raises(StrictDataclassError, match="num_hidden_layers=1"):
        ElmoConfig(num_mixed_lstms=2)
