r"""Train ELMo to classify texts or pairs of texts, or to predict a number; or label a file.

    python examples/train_classifier.py --model FOLDER --train train.csv --dev dev.csv \
        --output_dir classifier
    python examples/train_classifier.py --model classifier --predict texts.csv

The biLM is frozen, as in the paper, unless --train_bilm is given. Data are CSV, TSV, JSON lines or
Hub datasets, such as `--train nyu-mll/glue,sst2:train --text_column sentence`. Predictions are
added as columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from task_data import (
    WHERE,
    DataError,
    check_text,
    label_id,
    label_names,
    predictions_path,
    read_examples,
    read_number,
    write_rows,
)
from training_script import (
    Job,
    TaskArguments,
    make_model,
    make_tokenizer,
    name_labels,
    parse_arguments,
    prepare,
    read_data,
    run_script,
    trained_labels,
)

# isort: split
from transformers import Trainer

from elmo_hf import ElmoForSequenceClassification

DEFAULTS = {
    "learning_rate": 1e-3,
    "num_train_epochs": 10,
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "eval_strategy": "epoch",
    "report_to": [],
}


@dataclass
class Arguments(TaskArguments):
    text_column: str = field(default="text", metadata={"help": "column of the text"})
    pair_column: str | None = field(
        default=None, metadata={"help": "column of the second text, for pairs"}
    )
    label_column: str = field(default="label", metadata={"help": "column of the label"})
    regression: bool = field(default=False, metadata={"help": "the labels are numbers"})
    pooling: Literal["mean", "max", "mean+max", "ends"] = field(
        default="mean+max", metadata={"help": "how to combine the words' vectors"}
    )
    lstm_dim: int = field(
        default=0, metadata={"help": "size of each direction of the task's biLSTM; 0: no biLSTM"}
    )


def text_columns(arguments):
    return [one for one in (arguments.text_column, arguments.pair_column) if one is not None]


def add_labels(rows, arguments, names):
    for row in rows:
        label = row[arguments.label_column]
        if arguments.regression:
            row["labels"] = read_number(label, row[WHERE])
        else:
            row["labels"] = label_id(str(label), names, row[WHERE])


def make_collator(tokenizer, arguments):
    def collate(rows):
        texts = [[row[column] for row in rows] for column in text_columns(arguments)]
        inputs = tokenizer(*texts, padding=True, return_tensors="pt")
        if "labels" in rows[0]:
            inputs["labels"] = torch.tensor([row["labels"] for row in rows])
        return dict(inputs)

    return collate


def classification_metrics(prediction):
    predicted, gold = prediction.predictions.argmax(-1), prediction.label_ids
    scores = []
    for label in np.union1d(gold, predicted):
        hits = np.sum((predicted == label) & (gold == label))
        scores.append(2 * hits / (np.sum(predicted == label) + np.sum(gold == label)))
    return {"accuracy": float(np.mean(predicted == gold)), "macro_f1": float(np.mean(scores))}


def regression_metrics(prediction):
    predicted, gold = prediction.predictions[:, 0], prediction.label_ids
    correlation = np.corrcoef(predicted, gold)[0, 1] if predicted.std() and gold.std() else 0.0
    error = float(np.mean((predicted - gold) ** 2))
    return {"pearson": float(correlation), "mean_squared_error": error}


def read(source, arguments, columns=()):
    rows = read_examples(source, [*text_columns(arguments), *columns])
    for row in rows:
        check_text(row, text_columns(arguments))
    return rows


def predict(trainer, arguments, names, rows):
    texts = [{column: row[column] for column in text_columns(arguments)} for row in rows]
    logits = torch.from_numpy(trainer.predict(texts).predictions)
    if arguments.regression:
        predicted = [{"predicted": value} for value in logits[:, 0].tolist()]
    else:
        best = logits.softmax(-1).max(-1)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        predicted = [{"predicted": names[label], "probability": p} for label, p in pairs]
    target = predictions_path(arguments.predict, trainer.args.output_dir, arguments.predictions)
    if trainer.is_world_process_zero():
        write_rows(target, rows, predicted)
    return target


def make_job(arguments, training):
    prepare(arguments, training)
    label_column = arguments.label_column
    if not arguments.train:
        names = trained_labels(arguments.model, "ElmoForSequenceClassification")
        arguments.regression = len(names) == 1
    data, lines = read_data(arguments, lambda source: read(source, arguments, [label_column]))
    unlabelled = read(arguments.predict, arguments) if arguments.predict else []
    if arguments.train:
        labels = (str(row[label_column]) for row in data["train"])
        names = ["score"] if arguments.regression else label_names(labels)
        if len(names) == 1 and not arguments.regression:
            raise DataError(f"{arguments.train}: all labels are {names[0]!r}; expected several")
    for rows in data.values():
        add_labels(rows, arguments, names)
    tokenizer = make_tokenizer(arguments)
    problem = "regression" if arguments.regression else "single_label_classification"
    model = make_model(
        ElmoForSequenceClassification,
        arguments,
        **name_labels(names),
        problem_type=problem,
        classifier_pooling=arguments.pooling,
    )
    trainer = Trainer(
        model=model,
        args=training,
        train_dataset=data.get("train"),
        eval_dataset=data.get("dev"),
        data_collator=make_collator(tokenizer, arguments),
        processing_class=tokenizer,
        compute_metrics=regression_metrics if arguments.regression else classification_metrics,
    )
    job = Job(trainer, "text-classification", usage(training.output_dir), lines, data.get("test"))
    if arguments.predict:
        job.predict = lambda: predict(trainer, arguments, names, unlabelled)
    return job


def usage(folder):
    return [
        "import elmo_hf",
        "from transformers import pipeline",
        f'print(pipeline("text-classification", "{folder}")("A film to remember."))',
    ]


def make_trainer(argv: Sequence[str] | None = None) -> Trainer:
    return make_job(*parse_arguments(Arguments, DEFAULTS, argv)).trainer


def main(argv: Sequence[str] | None = None):
    return run_script(Arguments, DEFAULTS, make_job, argv)


if __name__ == "__main__":
    main()
