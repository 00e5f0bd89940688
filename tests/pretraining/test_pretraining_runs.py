"""Runs of pre-training: resumption that loses nothing, and weights to start from."""

from pathlib import Path

import pytest
import torch
from helpers.pretraining import TINY, losses
from safetensors.torch import load_file
from transformers import TrainerCallback

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoModel, ElmoTokenizer, use_engine
from elmo_hf.pretraining.runs import check_run, last_checkpoint, load_for_pretraining
from elmo_hf.pretraining.windows import PackedWindows, RowStreams


class Stop(TrainerCallback):
    """Break off after a step, as a crash does."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("feed", [pytest.param(PackedWindows, marks=pytest.mark.slow), RowStreams])
@pytest.mark.parametrize("steps", [pytest.param(3, marks=pytest.mark.slow), 9])  # epoch 1, later
def test_a_run_resumed_after_a_crash_has_the_losses_of_one_that_was_not(make_trainer, feed, steps):
    shape = {"feed": feed, "rows": 8, "window": 12, "max_steps": 13, "muon": 0.02}
    whole = make_trainer(**shape, name="whole")
    whole.train()
    broken = make_trainer(**shape, callbacks=[Stop(steps + 2)])
    assert len(broken.get_train_dataloader()) < 9
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    resumed = make_trainer(**shape)
    checkpoint = last_checkpoint(resumed.args.output_dir)
    assert checkpoint.endswith(f"checkpoint-{steps}")
    resumed.train(resume_from_checkpoint=checkpoint)
    assert losses(resumed) == losses(whole)
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("feed", [PackedWindows, RowStreams])
def test_processes_that_prepare_the_batches_change_nothing(make_trainer, feed):
    """As a GPU needs them; more steps than an epoch has, and the states of row streams carried."""
    found = []
    for workers in (0, 2):
        trainer = make_trainer(
            feed, rows=8, max_steps=9, dataloader_num_workers=workers, save_strategy="no"
        )
        assert len(trainer.get_train_dataloader()) < 9
        trainer.train()
        found.append([losses(trainer), [weight.tolist() for weight in trainer.model.parameters()]])
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True])
def test_the_engine_for_a_gpu_trains_as_the_one_for_any_device(make_trainer, half):
    """With states that are carried from step to step, and under autocast."""
    found = []
    for engine in ("cpu_training", "gpu_training"):
        trainer = make_trainer(RowStreams, max_steps=4, bf16=half, save_strategy="no")
        with use_engine(engine):
            assert trainer.model.elmo.engine_info()["training"].startswith(engine)
            trainer.train()
        found.append(losses(trainer))
    assert found[1] == pytest.approx(found[0], rel=2e-3 if half else 1e-5)


@pytest.mark.slow
def test_a_write_that_is_cut_off_costs_no_earlier_checkpoint(make_trainer, monkeypatch):
    whole = make_trainer(name="whole")
    whole.train()
    trainer = make_trainer(save_total_limit=1)
    save = torch.save

    def cut_off(*args, **kwargs):
        if trainer.state.global_step == 6:
            raise KeyboardInterrupt
        save(*args, **kwargs)

    monkeypatch.setattr(torch, "save", cut_off)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    monkeypatch.undo()
    assert Path(trainer.args.output_dir, "checkpoint-6", "model.safetensors").exists()
    resumed = make_trainer(save_total_limit=1)
    checkpoint = last_checkpoint(resumed.args.output_dir)
    assert checkpoint.endswith("checkpoint-3")
    resumed.train(resume_from_checkpoint=checkpoint)
    assert losses(resumed) == losses(whole)
    assert last_checkpoint(resumed.args.output_dir).endswith("checkpoint-8")


def test_incomplete_checkpoints_are_passed_over(tmp_path):
    assert last_checkpoint(tmp_path / "nowhere") is None
    for name, state in (("2", "{}"), ("10", "{}"), ("20", '{"half'), ("30", None), ("x", "{}")):
        (tmp_path / f"checkpoint-{name}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{name}" / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


def test_a_folder_of_another_run_is_refused(tmp_path):
    check_run(tmp_path / "run", {"seed": 1, "filters": [(1, 2)]})
    check_run(tmp_path / "run", {"seed": 1, "filters": [[1, 2]]})
    with pytest.raises(ValueError, match=r"other settings:\n  seed: 1 there, 2 now\n.*output_dir"):
        check_run(tmp_path / "run", {"seed": 2, "filters": [[1, 2]]})
    (tmp_path / "other" / "checkpoint-5").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"checkpoint-5 but no pretraining\.json"):
        check_run(tmp_path / "other", {"seed": 1})


# --- Checkpoints to continue ---


class Spoil(TrainerCallback):
    """Write a NaN into the weights after a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            model.lm_head.weight.data[0, 0] = torch.nan


@pytest.mark.parametrize(
    ("step", "reason"), [(4, "the loss of step 5 is nan"), (6, "after step 6")]
)
def test_numbers_that_are_not_finite_end_a_run_and_are_not_saved(make_trainer, step, reason):
    trainer = make_trainer(callbacks=[Spoil(step)])
    with pytest.raises(FloatingPointError, match=rf"{reason}.* last good checkpoint is .*-3"):
        trainer.train()
    good = last_checkpoint(trainer.args.output_dir)
    assert good.endswith("checkpoint-3")
    assert all(w.isfinite().all() for w in load_file(f"{good}/model.safetensors").values())


@pytest.fixture
def saved(tokenizer, tmp_path):
    torch.manual_seed(1)
    model = ElmoForPreTraining(ElmoConfig(**TINY, lm_vocab_size=tokenizer.lm_vocab_size))
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    return model


def test_a_checkpoint_goes_on_with_its_own_vocabulary(saved, tokenizer, tmp_path):
    model, loaded = load_for_pretraining(tmp_path / "saved", dropout=0.3)
    assert loaded.lm_vocab == tokenizer.lm_vocab
    assert model.config.dropout == model.dropout.p == 0.3
    for name, weight in saved.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight)


def test_a_new_vocabulary_keeps_the_rows_of_known_words(saved, tokenizer, tmp_path):
    words = [*tokenizer.lm_vocab[:3], "neu", *tokenizer.lm_vocab[10:15]]
    model, loaded = load_for_pretraining(tmp_path / "saved", words)
    loaded.save_pretrained(tmp_path / "again")
    assert ElmoTokenizer.from_pretrained(tmp_path / "again").lm_vocab == words
    old, new = saved.lm_head, model.lm_head
    assert new.weight.shape == (len(words), 6)
    for rows, before in ((new.weight, old.weight), (new.bias, old.bias)):
        assert torch.equal(rows[:3], before[:3]) and torch.equal(rows[4:], before[10:15])
    for name, weight in saved.elmo.state_dict().items():
        assert torch.equal(model.elmo.state_dict()[name], weight)


def test_a_new_vocabulary_that_is_too_small_to_sample_from_has_the_full_softmax(saved, tmp_path):
    words = ["<S>", "</S>", "<UNK>", "a"]
    for sampled, left in ((3, 3), (4, 0), (2048, 0)):
        model, _ = load_for_pretraining(tmp_path / "saved", words, num_sampled_words=sampled)
        assert model.config.num_sampled_words == left
        model.train()(torch.ones(1, 3, 50, dtype=torch.long), labels=torch.tensor([[0, 3, 1]]))


def test_a_bilm_without_softmax_needs_a_new_vocabulary(tmp_path):
    bilm = ElmoModel(ElmoConfig(**TINY))
    bilm.save_pretrained(tmp_path)
    ElmoTokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"softmax over 0 words.*--new_vocabulary"):
        load_for_pretraining(tmp_path)
    words = ["<S>", "</S>", "<UNK>", "a"]
    model, tokenizer = load_for_pretraining(tmp_path, words, num_sampled_words=2)
    assert tokenizer.lm_vocab_size == model.config.lm_vocab_size == 4
    assert torch.equal(model.elmo.layers[0].forward_lstm.input_map.weight,
                       bilm.layers[0].forward_lstm.input_map.weight)  # fmt: skip


def test_the_vocabulary_of_a_model_that_reads_words_by_number_stays(tmp_path):
    words = ["<S>", "</S>", "<UNK>", "a"]
    config = ElmoConfig(**{**TINY, "filters": []}, word_vocab_size=5, word_embedding_dim=6,
                        lm_vocab_size=4)  # fmt: skip
    ElmoForPreTraining(config).save_pretrained(tmp_path)
    ElmoTokenizer(use_characters=False, lm_vocab=words).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cannot be replaced"):
        load_for_pretraining(tmp_path, words)


def test_a_wider_model_begins_with_the_same_predictions_and_learns(saved, make_trainer, tmp_path):
    model, _ = load_for_pretraining(tmp_path / "saved", cell_dim=20)
    assert model.config.cell_dim == 20
    ids = torch.randint(1, 262, (2, 5, 50))
    with torch.no_grad():
        before, after = saved.eval()(ids), model.eval()(ids)
    torch.testing.assert_close(before.forward_logits, after.forward_logits)
    torch.testing.assert_close(before.backward_logits, after.backward_logits)
    lstm = model.elmo.layers[1].backward_lstm
    model.train()(ids, labels=torch.zeros(2, 5, dtype=torch.long)).loss.backward()
    assert lstm.output_map.weight.grad[:, 12:].abs().min() > 0
    with pytest.raises(ValueError, match="expected more cells"):
        load_for_pretraining(tmp_path / "saved", cell_dim=8)
