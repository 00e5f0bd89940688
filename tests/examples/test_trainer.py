"""Trainer on the task heads: right gradients in every setting, and what users switch on."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    DataCollatorForMultipleChoice,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    Trainer,
    TrainingArguments,
)

from elmo_hf import (
    ElmoConfig,
    ElmoForMultipleChoice,
    ElmoForQuestionAnswering,
    ElmoForSequenceClassification,
    ElmoForTokenClassification,
    ElmoTokenizer,
)

TINY = {"cell_dim": 12, "projection_dim": 6, "filters": [[1, 4], [2, 5]], "char_embedding_dim": 3}
STILL = {"dropout": 0.0, "mix_dropout": 0.0, "classifier_dropout": 0.0}
SENTENCES = [
    "rain fell",
    "the river does not stop",
    "no",
    "Ada slept well",
    "a hill",
    "who fell on the hill and slept ?",
    "the rain stopped",
    "yes it did",
]
TOKENIZER = ElmoTokenizer()
# Older transformers 5 have other names for the same.
CHECKPOINTING, GROUPING = "activation_checkpointing", {"train_sampling_strategy": "group_by_length"}
if CHECKPOINTING not in TrainingArguments.__dataclass_fields__:
    CHECKPOINTING = "gradient_checkpointing"
if "train_sampling_strategy" not in TrainingArguments.__dataclass_fields__:
    GROUPING = {"group_by_length": True}
HEADS = {
    "single": (ElmoForSequenceClassification, {"num_labels": 3}),
    "several": (ElmoForSequenceClassification, {"num_labels": 2}),
    "regression": (ElmoForSequenceClassification, {"num_labels": 1}),
    "words": (ElmoForTokenClassification, {"num_labels": 3}),
    "crf": (ElmoForTokenClassification, {"num_labels": 3, "use_crf": True}),
    "answers": (ElmoForQuestionAnswering, {}),
    "choice": (ElmoForMultipleChoice, {}),
}
QUICK = {"single"}
KINDS = [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in HEADS]


def make(kind="single", **changes):
    head, settings = HEADS[kind]
    torch.manual_seed(0)
    return head(ElmoConfig(**{**TINY, **STILL, **settings, **changes}))


def examples(kind="single", number=8):
    """Sentences of different lengths; the words of some have no label."""
    made = []
    for i in range(number):
        sentence = SENTENCES[i % len(SENTENCES)]
        one = dict(TOKENIZER(sentence))
        words = len(one["attention_mask"])
        if kind == "single":
            one["labels"] = i % 3
        elif kind == "choice":
            other = TOKENIZER("never")
            one = {name: [one[name], other[name]] for name in one}
            one["labels"] = i % 2
        elif kind == "several":
            one["labels"] = [float(i % 2), float(i % 3 == 0)]
        elif kind == "regression":
            one["labels"] = i / 4
        elif kind == "answers":
            one.update(start_positions=min(i, words - 2), end_positions=words - 2)
        else:
            labels = [(i + t) % 3 for t in range(words)]
            one["labels"] = [-100, *labels[1:-1], -100]
            one["labels"][1 : 1 + i % 2] = [-100] * (i % 2)
        made.append(one)
    return made


def collate(kind):
    if kind in ("words", "crf"):
        return DataCollatorForTokenClassification(TOKENIZER)
    if kind == "choice":
        collator = DataCollatorForMultipleChoice(TOKENIZER)
        return lambda rows: collator([dict(row) for row in rows])  # older ones empty the rows
    return DataCollatorWithPadding(TOKENIZER)


def trainer(model, folder, kind="single", data=None, callbacks=None, **changes):
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "max_steps": 3,
        "learning_rate": 1e-2,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "remove_unused_columns": False,
        **changes,
    }
    data = examples(kind) if data is None else data
    return Trainer(
        model=model,
        args=TrainingArguments(**settings),
        train_dataset=data,
        eval_dataset=data,
        data_collator=collate(kind),
        processing_class=TOKENIZER,
        callbacks=callbacks,
    )


def gradient(kind, folder, **changes):
    """What one optimizer step with SGD at rate 1 takes away from the parameters."""
    model = make(kind)
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    options = {"max_steps": 1, "learning_rate": 1.0, "optim": "sgd", "max_grad_norm": 0, **changes}
    run = trainer(model, folder, kind, lr_scheduler_type="constant", **options)
    run.train()
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    return before - after


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_accumulation_gives_the_gradient_of_the_whole_batch(kind, tmp_path):
    whole = gradient(kind, tmp_path, per_device_train_batch_size=8)
    parts = gradient(kind, tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    assert whole.norm() > 0.01
    ratio = torch.dot(parts, whole) / torch.dot(whole, whole)
    assert ratio == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_every_head_learns(kind, tmp_path):
    options = {"max_steps": 25, "learning_rate": 0.1, "per_device_train_batch_size": 8}
    run = trainer(make(kind), tmp_path, kind, **options)
    before = run.evaluate()["eval_loss"]
    run.train()
    assert run.evaluate()["eval_loss"] < before / 2


@pytest.mark.parametrize(
    "options",
    [
        {"bf16": True},
        {CHECKPOINTING: True},
        GROUPING,
        {"label_smoothing_factor": 0.1, "gradient_accumulation_steps": 2},
        {"optim": "adafactor", "weight_decay": 0.01, "neftune_noise_alpha": None},
    ],
    ids=lambda options: next(iter(options)),
)
@pytest.mark.parametrize("frozen", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_switches_of_trainer_work(options, frozen, tmp_path):
    model = make("words")
    model.elmo.requires_grad_(not frozen)
    run = trainer(model, tmp_path, "words", **options)
    assert math.isfinite(run.train().training_loss)
    assert math.isfinite(run.evaluate()["eval_loss"])


def test_predictions_are_one_array_and_those_of_a_crf_decode_it(tmp_path):
    model = make("crf")
    model.crf.transitions.data.normal_()
    found = trainer(model, tmp_path, "crf").predict(examples("crf"))
    assert isinstance(found.predictions, np.ndarray)
    alone = model.decode(**TOKENIZER(SENTENCES[0], return_tensors="pt"))[0, 1:-1]
    assert found.predictions[0].argmax(-1)[1 : 1 + len(alone)].tolist() == alone.tolist()


@pytest.mark.slow
def test_training_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    through = make(mix_dropout=0.5)
    trainer(through, tmp_path / "a", **options).train()
    resumed = make(mix_dropout=0.5)
    checkpoint = str(tmp_path / "a" / "checkpoint-2")
    trainer(resumed, tmp_path / "b", **options).train(resume_from_checkpoint=checkpoint)
    for name, tensor in through.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, msg=name)


@pytest.mark.slow
def test_training_stops_early_and_keeps_the_best(tmp_path):
    run = trainer(
        make(),
        tmp_path,
        callbacks=[EarlyStoppingCallback(1)],
        max_steps=20,
        learning_rate=30.0,  # so that it gets worse at once
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=1,
        save_steps=1,
        load_best_model_at_end=True,
    )
    run.train()
    assert run.state.global_step < 20
    losses = [entry["eval_loss"] for entry in run.state.log_history if "eval_loss" in entry]
    assert run.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-4)


@pytest.mark.slow
def test_two_processes_make_the_step_of_one(tmp_path):
    """DDP over gloo: two batches of 4 are one of 8, whichever of them has more labelled words."""
    script = Path(__file__)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node=2", str(script), str(tmp_path / "out.pt")]
    path = os.pathsep.join([str(script.parents[2]), str(script.parent)])
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    result = subprocess.run(command, capture_output=True, text=True, env=env)
    assert result.returncode == 0, result.stderr[-3000:]
    whole = gradient("words", tmp_path, per_device_train_batch_size=8)
    torch.testing.assert_close(torch.load(tmp_path / "out.pt"), whole, atol=1e-5, rtol=1e-3)


@pytest.mark.slow
def test_a_compiled_head_trains(tmp_path):
    run = trainer(make(), tmp_path, torch_compile=True, torch_compile_backend="aot_eager")
    assert math.isfinite(run.train().training_loss)


@pytest.mark.slow
def test_lora_is_trained_saved_merged_and_loaded(tmp_path):
    peft = pytest.importorskip("peft")
    model, base = make(), make()
    base.load_state_dict(model.state_dict())
    settings = peft.LoraConfig(task_type="SEQ_CLS", target_modules="all-linear", r=4)
    options = {"max_steps": 100, "learning_rate": 0.1, "per_device_train_batch_size": 8}
    run = trainer(peft.get_peft_model(model, settings), tmp_path, **options)
    before = run.evaluate()["eval_loss"]
    run.train()
    assert run.evaluate()["eval_loss"] < 0.8 * before
    run.model.save_pretrained(tmp_path / "lora")
    inputs = TOKENIZER(SENTENCES, padding=True, return_tensors="pt")
    merged = peft.PeftModel.from_pretrained(base, tmp_path / "lora").merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    again = ElmoForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        expected, found = run.model.eval()(**inputs).logits, again(**inputs).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_datasets_map_in_two_processes_tokenizes_as_one_does():
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"text": SENTENCES})
    settings = {"batched": True, "load_from_cache_file": False}
    one, two = (
        rows.map(lambda batch: dict(TOKENIZER(batch["text"])), num_proc=number, **settings)
        for number in (None, 2)
    )
    assert one[:] == two[:]


if __name__ == "__main__":  # one of the two processes
    target = Path(sys.argv[1])
    step = gradient("words", target.parent, ddp_backend="gloo")
    if os.environ["RANK"] == "0":
        torch.save(step, target)
    torch.distributed.destroy_process_group()
