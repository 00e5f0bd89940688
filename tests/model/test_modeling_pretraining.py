"""ElmoForPreTraining: the losses of both directions, what each reads, and its softmax."""

import copy

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import Trainer, TrainingArguments

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoModel, use_engine
from elmo_hf.conversion.bilm_arrays import dump_arrays, load_arrays
from elmo_hf.conversion.bilm_options import config_from_options, options_from_config

TINY = {
    "cell_dim": 24,
    "projection_dim": 12,
    "filters": [[1, 4], [2, 5], [3, 6]],
    "char_embedding_dim": 4,
    "lm_vocab_size": 9,
    "dropout": 0.0,
}
TIED = {
    "filters": [],
    "num_highway_layers": 0,
    "word_vocab_size": 10,
    "word_embedding_dim": 12,
    "tie_word_embeddings": True,
}
NOTHING = -100


def make(seed=0, **changes):
    torch.manual_seed(seed)
    model = ElmoForPreTraining(ElmoConfig(**{**TINY, **changes})).eval()
    for name, parameter in model.named_parameters():
        if "input_map" in name or "projection" in name:
            parameter.data *= 4
    return model


def words(*lengths, seed=0):
    """Random character ids of sentences of the given lengths, padded on the right, and labels."""
    torch.manual_seed(seed)
    ids = torch.randint(1, 262, (len(lengths), max(lengths), 50))
    for row, length in zip(ids, lengths, strict=True):
        row[length:] = 0
    return ids, torch.randint(0, 9, ids.shape[:2])


def gradients(model, loss):
    return dict(
        zip(
            dict(model.named_parameters()),
            torch.autograd.grad(loss, list(model.parameters())),
            strict=True,
        )
    )


def check_close(first, second, tolerance=1e-5):
    assert first.keys() == second.keys()
    for name, a in first.items():
        assert (a - second[name]).abs().max() <= tolerance * a.abs().max(), name


def test_the_loss_is_the_mean_of_both_directions():
    model, (ids, labels) = make(), words(5, 3)
    output = model(ids, labels=labels)  # padding has labels here: they must not count
    pairs = [(0, t) for t in range(4)] + [(1, t) for t in range(2)]
    forward = [-output.forward_logits[b, t].log_softmax(-1)[labels[b, t + 1]] for b, t in pairs]
    backward = [-output.backward_logits[b, t + 1].log_softmax(-1)[labels[b, t]] for b, t in pairs]
    torch.testing.assert_close(output.forward_loss, torch.stack(forward).mean())
    torch.testing.assert_close(output.backward_loss, torch.stack(backward).mean())
    torch.testing.assert_close(output.loss, (output.forward_loss + output.backward_loss) / 2)


def test_ignored_labels_do_not_count_and_none_left_gives_zero():
    model, (ids, labels) = make(), words(5)
    labels[:] = NOTHING
    assert model(ids, labels=labels).loss == 0
    loss = model.train()(ids, labels=labels).loss
    loss.backward()
    assert loss == 0 and not model.lm_head.weight.grad.any()
    labels[0, 2] = 4
    output = model.eval()(ids, labels=labels)
    scores = output.forward_logits[0, 1], output.backward_logits[0, 3]
    expected = sum(-s.log_softmax(-1)[4] for s in scores) / 2
    torch.testing.assert_close(output.loss, expected)


def test_left_padding_gives_the_same_loss():
    model, (ids, labels) = make(), words(5, 3)
    labels = labels.masked_fill(~ids.any(-1), NOTHING)
    moved = [torch.stack([x[0], x[1].roll(2, 0)]) for x in (ids, labels)]
    expected = model(ids, labels=labels).loss
    torch.testing.assert_close(model(moved[0], labels=moved[1]).loss, expected)


def test_one_direction_has_no_backward_loss_and_logits():
    ids, labels = words(5)
    output = make(bidirectional=False)(ids, labels=labels)
    assert output.backward_logits is None and output.backward_loss is None
    assert output.loss == output.forward_loss > 0


def test_training_gives_the_loss_and_the_gradients_of_all_scores_without_keeping_them():
    ids, labels = words(6, 4, 1)
    model = make().train()
    with_logits = model(ids, labels=labels, output_logits=True)
    without = model(ids, labels=labels)
    assert with_logits.forward_logits.shape == (3, 6, 9)
    assert without.forward_logits is None and without.backward_logits is None
    torch.testing.assert_close(without.loss, with_logits.loss)
    check_close(gradients(model, with_logits.loss), gradients(model, without.loss))


def test_logits_are_left_out_by_default_only_while_training_with_labels():
    ids, labels = words(4)
    model = make()
    assert model(ids, labels=labels).forward_logits is not None
    assert model(ids, labels=labels, output_logits=False).forward_logits is None
    assert model.train()(ids).forward_logits is not None


def test_training_samples_words_and_evaluation_uses_all():
    (ids, labels), settings = words(6, 4), {"lm_vocab_size": 400}
    sampled, full = make(num_sampled_words=30, **settings), make(**settings)
    assert torch.equal(sampled(ids, labels=labels).loss, full(ids, labels=labels).loss)
    torch.manual_seed(0)
    first, second = (sampled.train()(ids, labels=labels).loss for _ in range(2))
    torch.manual_seed(0)
    with_logits = sampled(ids, labels=labels, output_logits=True)
    assert first != second
    assert torch.equal(with_logits.loss, first) and with_logits.forward_logits.shape[-1] == 400


@pytest.mark.parametrize("sampled", [0, 4])
def test_the_reference_has_the_same_gradients_and_second_derivatives(sampled):
    (ids, labels), found = words(5, 3), []
    for engine in ("reference", "cpu_training", "gpu_training"):
        model = make(num_sampled_words=sampled).train()
        torch.manual_seed(0)
        with use_engine(engine):
            loss = model(ids, labels=labels).loss
        found.append(gradients(model, loss))
        if engine == "reference":
            torch.manual_seed(0)
            with use_engine(engine):
                (first,) = torch.autograd.grad(
                    model(ids, labels=labels).loss, model.lm_head.weight, create_graph=True
                )
            assert torch.autograd.grad(first.square().sum(), model.lm_head.weight)[0].any()
    check_close(found[0], found[1])
    check_close(found[0], found[2])


@pytest.mark.parametrize("sampled", [0, 4])
def test_autocast_trains_near_single_precision(sampled):
    (ids, labels), found = words(9, 7), []
    for enabled in (False, True):
        model = make(num_sampled_words=sampled).train()
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = model(ids, labels=labels).loss
        assert loss.dtype == torch.float32
        found.append(gradients(model, loss)["lm_head.weight"])
    assert (found[0] - found[1]).norm() < 0.05 * found[0].norm()


class Scaled(nn.Linear):
    def forward(self, x):
        return nn.functional.linear(x, 3 * self.weight, self.bias)


def test_a_replaced_or_hooked_softmax_is_called():
    ids, labels = words(5, 3)
    model = make(num_sampled_words=4).train()
    adapted = copy.deepcopy(model)
    adapted.lm_head.__class__ = Scaled
    full = make().train()
    full.lm_head.weight.data *= 3
    torch.testing.assert_close(adapted(ids, labels=labels).loss, full(ids, labels=labels).loss)
    calls = []
    model.lm_head.register_forward_hook(lambda *_: calls.append(1))
    assert model(ids, labels=labels).forward_logits is None and len(calls) == 2


# --- What each direction reads ---

# <S> w1 w2 w3 </S> <S> v1 v2 </S>
FORWARD = torch.tensor([[1, 1, 1, 1, 0, 1, 1, 1, 0]])
BACKWARD = torch.tensor([[0, 1, 1, 1, 1, 0, 1, 1, 1]])
MASK = torch.stack([FORWARD, BACKWARD], -1)


@pytest.mark.parametrize(
    "engine",
    [
        *("reference", "cpu", "cpu_training", "gpu_training"),
        pytest.param("scan", marks=pytest.mark.slow),
    ],
)
def test_a_direction_skips_masked_words(engine):
    model, (ids, _) = make(bidirectional=True), words(9)
    with use_engine("reference"), torch.no_grad():
        by_hand = [
            model.elmo(ids[:, mask[0].bool()], output_hidden_states=True, use_cache=True)
            for mask in (FORWARD, BACKWARD)
        ]
    with use_engine(engine), torch.set_grad_enabled(engine != "cpu"):
        found = model.elmo(ids, attention_mask=MASK, output_hidden_states=True, use_cache=True)
    for layer in (1, 2):
        halves = found.hidden_states[layer].chunk(2, -1)
        for side, (half, mask) in enumerate(zip(halves, (FORWARD, BACKWARD), strict=True)):
            expected = by_hand[side].hidden_states[layer].chunk(2, -1)[side]
            torch.testing.assert_close(half[:, mask[0].bool()], expected, atol=2e-6, rtol=0)
            assert not half[:, ~mask[0].bool()].any()
    for side in (0, 1):
        for part, expected in zip(found.states, by_hand[side].states, strict=True):
            torch.testing.assert_close(
                part.chunk(2, -1)[side], expected.chunk(2, -1)[side], atol=2e-6, rtol=0
            )


@pytest.mark.parametrize("output_logits", [True, False])
def test_a_skipped_word_predicts_nothing_but_is_predicted(output_logits):
    model, (ids, labels) = make(), words(9)
    output = model(ids, MASK, labels=labels)
    found = model(ids, MASK, labels=labels, output_logits=output_logits)
    pairs = [(t, t + 1) for t in range(8) if FORWARD[0, t]]
    forward = [-output.forward_logits[0, t].log_softmax(-1)[labels[0, u]] for t, u in pairs]
    pairs = [(t, t - 1) for t in range(1, 9) if BACKWARD[0, t]]
    backward = [-output.backward_logits[0, t].log_softmax(-1)[labels[0, u]] for t, u in pairs]
    assert len(forward) == len(backward) == 7  # w1 w2 w3 </S> v1 v2 </S>, and the mirror image
    torch.testing.assert_close(found.forward_loss, torch.stack(forward).mean())
    torch.testing.assert_close(found.backward_loss, torch.stack(backward).mean())


def test_a_word_that_all_directions_skip_is_predicted_if_it_has_a_label():
    model, (ids, labels) = make(), words(5)
    mask = torch.tensor([[1, 1, 1, 1, 0]])
    ended = model(ids, mask, labels=labels)
    window = model(ids, mask[..., None].expand(-1, -1, 2), labels=labels)
    scores = window.forward_logits[0, 3].log_softmax(-1)
    torch.testing.assert_close(
        4 * window.forward_loss, 3 * ended.forward_loss - scores[labels[0, 4]]
    )
    torch.testing.assert_close(window.backward_loss, ended.backward_loss)
    assert not window.forward_logits[0, 4].sub(model.lm_head.bias).any()


def test_the_same_mask_for_both_directions_is_a_mask_of_words():
    model, (ids, labels) = make(), words(5, 3)
    mask = ids.any(-1)
    labels = labels.masked_fill(~mask, NOTHING)
    expected = model(ids, mask, labels=labels)
    found = model(ids, mask[..., None].expand(-1, -1, 2), labels=labels)
    assert torch.equal(found.loss, expected.loss)


def test_a_mask_for_other_directions_is_refused():
    ids, _ = words(5)
    with pytest.raises(ValueError, match=r"\(1, 5, 2\).* = \(1, 5\) and 1 directions"):
        make(bidirectional=False)(ids, torch.ones(1, 5, 2))


# --- The softmax ---


def test_saved_weights_come_back_bit_for_bit(tmp_path):
    model, (ids, _) = make(), words(4)
    model.save_pretrained(tmp_path)
    again = ElmoForPreTraining.from_pretrained(tmp_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    base = ElmoModel.from_pretrained(tmp_path)
    torch.testing.assert_close(base(ids)[0], model.elmo(ids)[0])


def test_the_initial_softmax_is_that_of_bilm_tf():
    head = ElmoForPreTraining(ElmoConfig(**{**TINY, "lm_vocab_size": 500})).lm_head
    assert head.weight.std().item() == pytest.approx(12**-0.5, rel=0.05)
    assert not head.bias.any()


def test_a_tied_softmax_is_the_word_table_and_a_bias(tmp_path):
    model = make(**TIED)
    nn.init.normal_(model.lm_head.bias)
    ids = torch.tensor([[1, 4, 9, 2], [3, 2, 0, 0]])
    output = model(ids, labels=(ids - 1).clamp(min=0))
    table = model.elmo.embeddings.word_embeddings.weight
    top = model.elmo(ids).last_hidden_state[..., :12]
    torch.testing.assert_close(output.forward_logits, top @ table[1:].t() + model.lm_head.bias)
    model.save_pretrained(tmp_path)
    again, notes = ElmoForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(notes.values())
    assert {name for name in again.state_dict() if "lm_head" in name} == {"lm_head.bias"}
    assert torch.equal(again(ids).forward_logits, model(ids).forward_logits)
    assert ElmoModel.from_pretrained(tmp_path)(ids)[0].shape == (2, 4, 24)


def test_a_tied_softmax_goes_through_the_original_format_and_back():
    model = make(**TIED, vocab_size=10)
    arrays = {name: array for name, array, _ in dump_arrays(model.config, model.state_dict())}
    assert "softmax/b" in arrays and "softmax/W" not in arrays
    config, _ = config_from_options(options_from_config(model.config), arrays)
    assert config.tie_word_embeddings and config.lm_vocab_size == 9
    again = ElmoForPreTraining(config).eval()
    again.load_state_dict(load_arrays(config, arrays)[0])
    ids = torch.tensor([[1, 4, 9, 2]])
    torch.testing.assert_close(again(ids).forward_logits, model(ids).forward_logits)


@pytest.mark.parametrize("sampled", [0, 4])
def test_a_tied_table_learns_from_both_its_uses_and_padding_never(sampled):
    model = make(**TIED, num_sampled_words=sampled).train()
    ids = torch.tensor([[1, 4, 9, 2], [3, 2, 0, 0]])
    torch.manual_seed(0)
    loss = model(ids, labels=(ids - 1).clamp(min=0)).loss
    loss.backward()
    found = model.elmo.embeddings.word_embeddings.weight.grad
    untied = make(**{**TIED, "tie_word_embeddings": False}, num_sampled_words=sampled).train()
    untied.load_state_dict(model.state_dict(), strict=False)
    untied.lm_head.weight.data = model.elmo.embeddings.word_embeddings.weight[1:].detach().clone()
    torch.manual_seed(0)
    untied(ids, labels=(ids - 1).clamp(min=0)).loss.backward()
    expected = untied.elmo.embeddings.word_embeddings.weight.grad.clone()
    expected[1:] += untied.lm_head.weight.grad
    torch.testing.assert_close(found, expected)
    assert not found[0].any()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"tie_word_embeddings": True}, "encodes words as characters"),
        ({**TIED, "word_vocab_size": 9}, "word_vocab_size=10, one more than lm_vocab_size"),
        ({**TIED, "word_embedding_dim": 5}, "word_embedding_dim=12, the projection_dim"),
        ({"num_sampled_words": 9}, "expected fewer than lm_vocab_size=9"),
        ({"num_sampled_words": -1}, "expected 0 or more"),
    ],
)
def test_errors_name_invalid_settings_of_the_softmax(changes, complaint):
    with pytest.raises(StrictDataclassError, match=complaint):
        ElmoConfig(**{**TINY, **changes})


def test_a_language_model_needs_a_vocabulary():
    with pytest.raises(ValueError, match="lm_vocab_size is 0"):
        make(lm_vocab_size=0)


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        (torch.zeros(2, 3, dtype=torch.long), "return_lm_labels=True"),
        (torch.full((2, 4), 9), "expected 0 to 8"),
    ],
)
def test_bad_labels_are_named(labels, complaint):
    with pytest.raises(ValueError, match=complaint):
        make()(words(4, 2)[0], labels=labels)


# --- Trainer ---


def train(folder, batch_size, accumulation):
    model, (ids, labels) = make(), words(*[5] * 8)
    rows = [{"input_ids": i, "labels": label} for i, label in zip(ids, labels, strict=True)]
    arguments = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        max_steps=1,
        optim="sgd",
        learning_rate=1.0,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer = Trainer(model=model, args=arguments, train_dataset=rows)
    loss = trainer.train().training_loss
    return loss, {name: before[name] - p.detach() for name, p in model.named_parameters()}


@pytest.mark.slow
def test_accumulated_batches_make_the_step_of_one_large_batch(tmp_path):
    (one_loss, one), (four_loss, four) = train(tmp_path, 8, 1), train(tmp_path, 2, 4)
    assert four_loss == pytest.approx(one_loss, rel=1e-5)
    check_close(one, four, 1e-4)
