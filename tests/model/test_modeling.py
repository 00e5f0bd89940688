"""ElmoModel: what it promises beside the original programs' numbers."""

import copy

import pytest
import torch
from accelerate import dispatch_model

from elmo_hf import ElmoConfig, ElmoModel, use_engine

TINY = {
    "cell_dim": 24,
    "projection_dim": 12,
    "filters": [[1, 4], [2, 5], [3, 6]],
    "char_embedding_dim": 4,
    "cell_clip": 0.3,
    "projection_clip": 0.2,
}


def make(model_class=ElmoModel, seed=0, **changes):
    torch.manual_seed(seed)
    model = model_class(ElmoConfig(**{**TINY, **changes})).eval()
    for name, parameter in model.named_parameters():  # initial weights would not reach the clips
        if "input_map" in name or "projection" in name:
            parameter.data *= 10
    return model


def words(*lengths, seed=0):
    """Random character ids of sentences of the given lengths, padded on the right."""
    torch.manual_seed(seed)
    ids = torch.randint(1, 262, (len(lengths), max(lengths), 50))
    for row, length in zip(ids, lengths, strict=True):
        row[length:] = 0
    return ids


def layers(model, *args, **kwargs):
    with torch.no_grad():
        return torch.stack(model(*args, output_hidden_states=True, **kwargs).hidden_states)


def test_parameter_counts_are_the_published_ones():
    # 16 more than published: the row of zeros that stands for padding.
    sizes = {(4096, 512, 2): 93_600_848, (1024, 128, 1): 13_593_296, (2048, 256, 1): 28_027_728}
    for (cell_dim, projection_dim, highways), published in sizes.items():
        config = ElmoConfig(
            cell_dim=cell_dim, projection_dim=projection_dim, num_highway_layers=highways
        )
        with torch.device("meta"):
            assert ElmoModel(config).num_parameters() == published + 16


def test_a_sentence_has_the_same_vectors_alone_and_in_a_padded_batch():
    model, ids = make(), words(7, 3, 1)
    batch = layers(model, ids)
    for row, length in enumerate((7, 3, 1)):
        alone = layers(model, ids[row : row + 1, :length])
        torch.testing.assert_close(batch[:, row : row + 1, :length], alone, atol=1e-6, rtol=0)
        assert not batch[:, row, length:].any()


def test_padding_may_be_on_either_side():
    model, ids = make(), words(6, 4)
    left = torch.stack([ids[0], ids[1].roll(2, 0)])
    right, moved = layers(model, ids), layers(model, left)
    torch.testing.assert_close(moved[:, 1, 2:], right[:, 1, :4], atol=1e-6, rtol=0)


def test_calls_do_not_depend_on_earlier_calls():
    model, ids = make(), words(5, 2)
    first = layers(model, ids)
    layers(model, words(9, 9, seed=1))
    assert torch.equal(first, layers(model, ids))


def test_the_mask_defaults_to_the_words_that_are_not_padding():
    model, ids = make(), words(5, 2)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    assert torch.equal(layers(model, ids), layers(model, ids, attention_mask=mask))


def test_rows_of_padding_and_sentences_without_words_give_zeros():
    model = make()
    assert not layers(model, torch.zeros(2, 3, 50, dtype=torch.long)).any()
    assert layers(model, torch.zeros(2, 0, 50, dtype=torch.long)).shape == (3, 2, 0, 24)
    assert layers(model, torch.zeros(0, 4, 50, dtype=torch.long)).shape == (3, 0, 4, 24)


def test_a_sentence_of_3000_words_goes_through():
    assert layers(make(), words(3000)).isfinite().all()


def test_states_continue_a_sentence_in_the_forward_direction():
    model, ids = make(), words(8)
    whole = layers(model, ids)
    first = model(ids[:, :3], use_cache=True)
    rest = layers(model, ids[:, 3:], states=first.states)
    torch.testing.assert_close(rest[..., :12], whole[:, :, 3:, :12], atol=1e-6, rtol=0)


def test_padding_leaves_the_states_as_they_were():
    model, ids = make(), words(6, 4)
    together = model(ids, use_cache=True).states
    alone = model(ids[1:, :4], use_cache=True).states
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[:, 1:], b, atol=1e-6, rtol=0)


def test_layer_zero_is_the_word_vector_twice_and_last_hidden_state_the_top_layer():
    model, ids = make(), words(4)
    output = model(ids, output_hidden_states=True)
    assert torch.equal(output.hidden_states[0][..., :12], output.hidden_states[0][..., 12:])
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [(True, [0, 1, 2]), (False, None), (1, [1]), (-1, [2]), ([0, -1], [0, 2]), ([], [])],
)
def test_single_hidden_states_can_be_requested(wanted, kept):
    found = make()(words(3), output_hidden_states=wanted).hidden_states
    if kept is None:
        assert found is None
    else:
        assert [i for i, layer in enumerate(found) if layer is not None] == kept


def test_the_config_can_request_hidden_states_and_tuples():
    model = make(output_hidden_states=True)
    assert len(model(words(3)).hidden_states) == 3
    top, hidden_states = model(words(3), return_dict=False)
    assert torch.equal(top, hidden_states[-1])


def test_embedded_characters_and_word_vectors_can_replace_ids():
    model, ids = make(), words(5, 3)
    mask = ids.any(-1)
    expected = layers(model, ids)
    characters = model.get_input_embeddings()(ids)
    by_characters = layers(model, inputs_embeds=characters, attention_mask=mask)
    by_words = layers(model, inputs_embeds=expected[0][..., :12], attention_mask=mask)
    torch.testing.assert_close(by_characters, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(by_words, expected, atol=1e-6, rtol=0)


def test_both_clips_take_effect_in_these_tests():
    output = make()(words(30), use_cache=True)
    hidden, cell = (state.abs().max().item() for state in output.states)
    assert (hidden, cell) == (pytest.approx(0.2), pytest.approx(0.3))


def gradients_and_kept_values(model, ids):
    """The gradients, and how many values were kept on the way to them."""
    kept = {}

    def keep(tensor):
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(ids)[0].square().sum()
    return torch.autograd.grad(loss, list(model.parameters())), sum(kept.values())


@pytest.mark.parametrize("engine", ["cpu_training", "reference"])
def test_activation_checkpointing_keeps_less_for_the_same_gradients(engine):
    model, ids = make(dropout=0.0).train(), words(25, 30)
    with use_engine(engine):
        expected, much = gradients_and_kept_values(model, ids)
        enable = "activation_checkpointing_enable"  # transformers before 5.23 has the older name
        getattr(model, enable, model.gradient_checkpointing_enable)()
        found, little = gradients_and_kept_values(model, ids)
    assert little < 0.8 * much
    for a, b in zip(expected, found, strict=True):
        assert (a - b).abs().max() < 1e-4 * a.abs().max()


def test_a_padding_row_never_learns():
    model, ids = make(), words(5, 3)
    model(ids).last_hidden_state.square().sum().backward()
    assert not model.get_input_embeddings().weight.grad[0].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_single_precision(tmp_path, dtype):
    model, ids = make(), words(9, 5)
    model.save_pretrained(tmp_path)
    half = ElmoModel.from_pretrained(tmp_path, dtype=dtype)
    output = half(ids, use_cache=True)
    assert output.last_hidden_state.dtype == dtype
    assert output.states[1].dtype == torch.float32
    expected = model(ids).last_hidden_state
    error = (output.last_hidden_state.float() - expected).norm() / expected.norm()
    assert error < (0.05 if dtype == torch.bfloat16 else 0.01)


def test_layers_on_disk_give_the_same_vectors(tmp_path):
    model, ids = make(), words(5, 3)
    expected = layers(model, ids)
    places = {"embeddings": "cpu", "layers.0": "cpu", "layers.1": "disk"}
    offloaded = dispatch_model(
        copy.deepcopy(model), places, main_device="cpu", offload_dir=str(tmp_path)
    )
    torch.testing.assert_close(layers(offloaded, ids), expected)


def test_initial_weights_are_those_of_bilm_tf():
    model = ElmoModel(ElmoConfig(**TINY))
    lstm = model.layers[1].backward_lstm
    assert lstm.input_map.bias.view(4, -1).mean(1).tolist() == [0, 1, 0, 0]
    bound = (6 / (2 * 12 + 4 * 24)) ** 0.5
    assert 0.9 * bound < lstm.recurrent_map.weight.abs().max() <= bound
    assert (model.embeddings.highways[0].gate.bias == -2).all()
    characters = model.embeddings.char_embeddings.weight
    assert not characters[0].any() and 0.9 < characters.abs().max() <= 1


def test_a_word_table_beside_characters_needs_both_inputs():
    model = make(word_vocab_size=7, word_embedding_dim=3)
    ids, word_ids = words(4), torch.tensor([[1, 2, 6, 0]])
    assert layers(model, ids, word_input_ids=word_ids).shape == (3, 1, 4, 24)
    with pytest.raises(ValueError, match="word_input_ids are missing"):
        model(ids)


def test_token_input_takes_word_ids_under_either_name():
    model = make(filters=[], word_vocab_size=7, word_embedding_dim=3, num_highway_layers=0)
    word_ids = torch.tensor([[1, 2, 6], [3, 0, 0]])
    expected = layers(model, word_ids)
    assert torch.equal(layers(model, word_input_ids=word_ids), expected)
    by_vectors = layers(
        model,
        inputs_embeds=model.get_input_embeddings()(word_ids),
        attention_mask=word_ids.ne(0),
    )
    assert torch.equal(by_vectors, expected)


IDS = words(4, 2)


def test_a_resized_word_table_is_used_and_saved(tmp_path):
    model = make(filters=[], word_vocab_size=5, word_embedding_dim=4)
    model.resize_token_embeddings(8)
    vectors = model(torch.tensor([[7, 1]])).last_hidden_state
    model.save_pretrained(tmp_path)
    again = ElmoModel.from_pretrained(tmp_path)
    assert again.config.word_vocab_size == 8
    torch.testing.assert_close(again(torch.tensor([[7, 1]])).last_hidden_state, vectors)


def test_a_word_table_that_is_the_softmax_s_weight_is_not_resized():
    sizes = {"word_vocab_size": 5, "word_embedding_dim": 4, "projection_dim": 4}
    model = make(filters=[], **sizes, lm_vocab_size=4, tie_word_embeddings=True)
    with pytest.raises(ValueError, match="tie_word_embeddings"):
        model.resize_token_embeddings(8)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({}, "got nothing; expected exactly one of input_ids, inputs_embeds"),
        ({"input_ids": IDS, "inputs_embeds": torch.zeros(2, 4, 12)}, "expected exactly one"),
        ({"input_ids": IDS[0]}, r"\(4, 50\); expected character ids \(batch, words, 50\)"),
        ({"input_ids": IDS[..., :9]}, "max_characters_per_token=50"),
        ({"input_ids": IDS.float()}, "torch.float32; expected integers"),
        ({"input_ids": IDS - 1}, "range from -1 to 260; expected 0 to 261"),
        ({"input_ids": IDS + 9}, "expected 0 to 261"),
        (
            {"input_ids": IDS, "attention_mask": torch.ones(2, 5)},
            r"attention_mask has shape \(2, 5",
        ),
        ({"input_ids": IDS, "word_input_ids": torch.ones(2, 4)}, "has no word table"),
        (
            {"inputs_embeds": torch.zeros(2, 4, 13)},
            r"\(batch, words, 50, 4\) or \(batch, words, 12",
        ),
        ({"input_ids": IDS, "output_hidden_states": [3]}, r"indices \[3\].* layer 0 .* to layer 2"),
        (
            {"input_ids": IDS, "states": (torch.zeros(2, 3, 24), torch.zeros(2, 3, 48))},
            "a batch of 2 need",
        ),
        (
            {"input_ids": IDS, "states": (torch.zeros(2, 2, 24), torch.zeros(2, 2, 48).long())},
            "states have dtype torch.int64 on cpu; expected floating point",
        ),
        (
            {"input_ids": IDS, "states": make()._zero_states(torch.zeros(2, 1, 12, device="meta"))},
            "on meta; expected floating point on cpu",
        ),
        (
            {"input_ids": IDS, "attention_mask": torch.tensor([[0.0, 0, 0, 0], [0, 0, 0, -1e9]])},
            "attention_mask has values from -1e\\+09 to 0; expected 1 at words and 0 at padding",
        ),
        (
            {"input_ids": IDS, "attention_mask": torch.tensor([[1, 1, 2, 2], [1, 1, 1, 0]])},
            "from 0 to 2; expected 1 at words",
        ),
    ],
)
def test_errors_name_bad_input_and_what_was_expected(given, complaint):
    with pytest.raises(ValueError, match=complaint):
        make()(**given)


def test_states_of_another_dtype_are_converted():
    model, ids = make(), words(4, 2)
    states = model(ids, use_cache=True).states
    expected = model(ids, states=states).last_hidden_state
    found = model(ids, states=tuple(part.double() for part in states)).last_hidden_state
    assert torch.equal(found, expected)


def test_there_are_no_attentions():
    assert make()(IDS).attentions is None


def test_unknown_arguments_are_refused():
    with pytest.raises(TypeError, match="token_type_ids"):
        make()(IDS, token_type_ids=None)
