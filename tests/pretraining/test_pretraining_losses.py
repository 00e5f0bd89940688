"""Pre-training: exact losses and perplexity, and carried states."""

import inspect
import math

import pytest
import torch
from helpers.pretraining import losses
from transformers import Trainer

from elmo_hf.pretraining.windows import PreTrainingCollator, RowStreams


@pytest.mark.slow
def test_a_step_is_the_mean_over_its_words_however_they_are_batched(make_trainer):
    whole = make_trainer(rows=4, dropout=0.0, name="whole")
    whole.train()
    parts = make_trainer(rows=1, dropout=0.0, gradient_accumulation_steps=4, name="parts")
    parts.train()
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-5)
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_logs_show_each_direction_and_words_per_second(make_trainer):
    trainer = make_trainer(max_steps=2)
    trainer.train()
    for log in trainer.state.log_history[:2]:
        assert log["loss"] == pytest.approx((log["forward_loss"] + log["backward_loss"]) / 2)
        assert log["words_per_second"] > 0


def test_perplexity_is_that_of_all_words_whatever_the_batch(make_trainer, texts, tokenizer):
    trainer = make_trainer(per_device_eval_batch_size=5)
    metrics = trainer.evaluate()
    model, collator = trainer.model.eval(), PreTrainingCollator(tokenizer)
    sums, counts, words, unknown = [0.0, 0.0], [0, 0], 0, 0
    for i in range(len(trainer.eval_dataset)):
        window = trainer.eval_dataset[i]
        batch = collator([window])
        with torch.no_grad():
            out = model(**{k: v for k, v in batch.items() if k != "labels"})
        ids = batch["labels"][0]
        for t, word in enumerate(window):
            words += word not in ("<S>", "</S>")
            unknown += int(ids[t] == collator.unknown)
            for side, logits, stop, step in (
                (0, out.forward_logits, "</S>", 1), (1, out.backward_logits, "<S>", -1)
            ):  # fmt: skip
                if word != stop and 0 <= t + step < len(window):
                    sums[side] -= float(logits[0, t].log_softmax(-1)[ids[t + step]])
                    counts[side] += 1
    forward, backward = (s / c for s, c in zip(sums, counts, strict=True))
    assert metrics["eval_forward_perplexity"] == pytest.approx(math.exp(forward), rel=1e-5)
    assert metrics["eval_backward_perplexity"] == pytest.approx(math.exp(backward), rel=1e-5)
    assert metrics["eval_perplexity"] == pytest.approx(math.exp((forward + backward) / 2), rel=1e-5)
    assert metrics["eval_words"] == words
    assert metrics["eval_unknown_rate"] == pytest.approx(unknown / words) and unknown


@pytest.mark.slow
def test_row_streams_carry_states_so_that_short_windows_read_like_one_long_one(make_trainer):
    short = make_trainer(RowStreams, window=5, rows=2, dropout=0.0, learning_rate=0.0, max_steps=-1,
                         num_train_epochs=1, save_strategy="no")  # fmt: skip
    long = make_trainer(RowStreams, window=5 * short.train_dataset.steps, rows=2, dropout=0.0,
                        learning_rate=0.0, max_steps=1, save_strategy="no")  # fmt: skip
    sums = {}
    for name, trainer in (("short", short), ("long", long)):
        sums[name] = torch.zeros(2, 2, dtype=torch.float64)
        add = trainer._add
        trainer._add = lambda losses, counts, name=name, add=add: (
            sums[name].add_(torch.stack([losses.detach() * counts, counts])), add(losses, counts)
        )  # fmt: skip
        trainer.train()
    torch.testing.assert_close(sums["short"], sums["long"], rtol=1e-5, atol=0)


def test_a_forward_model_has_a_forward_perplexity_only(make_trainer):
    trainer = make_trainer(bidirectional=False, max_steps=2)
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_perplexity"] == metrics["eval_forward_perplexity"]
    assert "eval_backward_perplexity" not in metrics
    assert "backward_loss" not in trainer.state.log_history[0]


@pytest.mark.slow
def test_bf16_follows_float32(make_trainer):
    single, half = make_trainer(dropout=0.0), make_trainer(dropout=0.0, bf16=True, name="half")
    single.train(), half.train()
    assert losses(half) == pytest.approx(losses(single), rel=0.01)
    assert losses(half) != losses(single)


@pytest.mark.slow
def test_training_learns(make_trainer):
    trainer = make_trainer(max_steps=40, save_strategy="no")
    before = trainer.evaluate()["eval_perplexity"]
    trainer.train()
    assert trainer.evaluate()["eval_perplexity"] < 0.9 * before


def test_what_is_private_in_trainer_is_still_there():
    """`ElmoPreTrainer` overrides these, and examples/training_script.py uses the last."""
    parameters = {
        "_get_train_sampler": ["self", "train_dataset"],
        "_save_checkpoint": ["self", "model", "trial"],
        "_save_rng_state": ["self", "output_dir"],
        "_load_rng_state": ["self", "checkpoint"],
        "_get_output_dir": ["self", "trial"],
        "save_model": ["self", "output_dir", "_internal_call"],
    }
    for name, expected in parameters.items():
        assert list(inspect.signature(getattr(Trainer, name)).parameters) == expected, name
