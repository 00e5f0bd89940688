"""Properties of the model on drawn sentences: invariance, and states split anywhere."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elmo_hf import ElmoConfig, ElmoModel, ElmoTokenizer

SENTENCE = st.lists(st.text(min_size=1, max_size=60), max_size=8)
BATCH = st.lists(SENTENCE, min_size=1, max_size=4)
CLOSE = {"atol": 1e-6, "rtol": 0}


@pytest.fixture(scope="module")
def elmo():
    torch.manual_seed(0)
    config = ElmoConfig(
        cell_dim=16, projection_dim=8, filters=[[1, 4], [2, 4], [3, 4]], char_embedding_dim=4
    )
    model = ElmoModel(config).eval()
    for name, parameter in model.named_parameters():
        if "input_map" in name or "projection" in name:
            parameter.data *= 10
    return model, ElmoTokenizer()


def layers(elmo, sentences, **options):
    """Each sentence's `(layers, words, hidden_size)`, padding cut off."""
    model, tokenizer = elmo
    inputs = tokenizer(
        sentences, is_split_into_words=True, padding=True, return_tensors="pt", **options
    )
    with torch.no_grad():
        found = torch.stack(model(**inputs, output_hidden_states=True).hidden_states, 1)
    masks = inputs["attention_mask"].bool()
    assert not found[~masks[:, None].expand(found.shape[:3])].any()
    return [rows[:, mask] for rows, mask in zip(found, masks, strict=True)]


def check_same(first, second):
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


@settings(max_examples=30, deadline=None)
@given(BATCH)
def test_batch_mates_and_padding_change_nothing(elmo, sentences):
    together = layers(elmo, sentences)
    check_same(together, [layers(elmo, [sentence])[0] for sentence in sentences])
    check_same(together, layers(elmo, sentences, padding_side="left"))
    check_same(together, layers(elmo, sentences, pad_to_multiple_of=16))


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(BATCH, st.randoms())
def test_order_and_repetition_change_nothing(elmo, sentences, random):
    first = layers(elmo, sentences)
    order = random.sample(range(len(sentences)), len(sentences))
    shuffled = layers(elmo, [sentences[i] for i in order])
    check_same(shuffled, [first[i] for i in order])
    check_same(layers(elmo, sentences + sentences)[len(sentences) :], first)


@settings(max_examples=30, deadline=None)
@given(SENTENCE, st.data())
def test_states_split_anywhere_give_the_same_forward_layers(elmo, sentence, data):
    model, tokenizer = elmo
    ids = tokenizer([sentence], is_split_into_words=True, return_tensors="pt")["input_ids"]
    cuts = sorted(data.draw(st.sets(st.integers(1, ids.shape[1] - 1))))
    states, pieces = None, []
    with torch.no_grad():
        for piece in ids.tensor_split(cuts, dim=1):
            output = model(piece, states=states, use_cache=True, output_hidden_states=True)
            states = output.states
            pieces.append(torch.stack(output.hidden_states))
    whole = layers(elmo, [sentence])[0]
    width = model.config.projection_dim
    torch.testing.assert_close(torch.cat(pieces, 2)[:, 0, :, :width], whole[..., :width], **CLOSE)
