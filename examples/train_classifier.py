"""Train ELMo to classify texts or pairs of texts, or to give them a number.

    python examples/train_classifier.py --model FOLDER --train train.csv --dev dev.csv \
        --output_dir OUT

As in the paper the biLM is frozen. Data are read as examples/task_data.py says, such as
`--train nyu-mll/glue,sst2:train --text_column sentence`; all of TrainingArguments may be given.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from task_data import label_id, label_names, read_examples, read_number
from transformers import AutoTokenizer, HfArgumentParser, Trainer, TrainingArguments, set_seed

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
class Arguments:
    model: str = field(metadata={"help": "folder or Hub name of an ELMo checkpoint"})
    train: str = field(metadata={"help": "file, or data set of the Hub as NAME:SPLIT"})
    dev: str = field(metadata={"help": "the same, to evaluate on"})
    text_column: str = "text"
    pair_column: str | None = field(default=None, metadata={"help": "second text, if there is one"})
    label_column: str = "label"
    regression: bool = field(default=False, metadata={"help": "labels are numbers"})
    pooling: Literal["mean", "max", "mean+max", "ends"] = "mean+max"
    lstm_dim: int = field(default=0, metadata={"help": "task biLSTM, each direction; 0: none"})
    train_bilm: bool = field(default=False, metadata={"help": "train the biLM along"})
    layers: list[int] | None = field(
        default=None, metadata={"help": "layers to mix, 0: without context; default: all"}
    )


def read(source, arguments):
    columns = [arguments.text_column, arguments.label_column]
    if arguments.pair_column is not None:
        columns.append(arguments.pair_column)
    return read_examples(source, columns)


def add_labels(rows, arguments, names):
    for row in rows:
        label = row[arguments.label_column]
        if names is None:
            row["labels"] = read_number(label, row["where"])
        else:
            row["labels"] = label_id(str(label), names, row["where"])


def make_collator(tokenizer, arguments):
    def collate(rows):
        texts = [[row[arguments.text_column] for row in rows]]
        if arguments.pair_column is not None:
            texts.append([row[arguments.pair_column] for row in rows])
        inputs = tokenizer(*texts, padding=True, return_tensors="pt")
        return {**inputs, "labels": torch.tensor([row["labels"] for row in rows])}

    return collate


def classification_metrics(prediction):
    found, gold = prediction.predictions.argmax(-1), prediction.label_ids
    scores = []
    for label in np.unique(gold):
        hits = np.sum((found == label) & (gold == label))
        scores.append(2 * hits / (np.sum(found == label) + np.sum(gold == label)))
    return {"accuracy": float(np.mean(found == gold)), "macro_f1": float(np.mean(scores))}


def regression_metrics(prediction):
    found, gold = prediction.predictions[:, 0], prediction.label_ids
    correlation = np.corrcoef(found, gold)[0, 1] if found.std() and gold.std() else 0.0
    error = float(np.mean((found - gold) ** 2))
    return {"pearson": float(correlation), "mean_squared_error": error}


def make_trainer(argv=None):
    parser = HfArgumentParser((Arguments, TrainingArguments))
    parser.set_defaults(**DEFAULTS)
    arguments, training = parser.parse_args_into_dataclasses(argv)
    training.remove_unused_columns = False  # texts become ids batch by batch
    set_seed(training.seed)
    train, dev = read(arguments.train, arguments), read(arguments.dev, arguments)
    names = None
    if not arguments.regression:
        names = label_names(str(row[arguments.label_column]) for row in train)
    add_labels(train, arguments, names)
    add_labels(dev, arguments, names)

    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    labels = ["score"] if names is None else names
    model = ElmoForSequenceClassification.from_pretrained(
        arguments.model,
        id2label=dict(enumerate(labels)),
        label2id={name: i for i, name in enumerate(labels)},
        problem_type="regression" if names is None else "single_label_classification",
        classifier_pooling=arguments.pooling,
        classifier_lstm_dim=arguments.lstm_dim,
        mix_layers=arguments.layers,
    )
    model.elmo.requires_grad_(arguments.train_bilm)
    return Trainer(
        model=model,
        args=training,
        train_dataset=train,
        eval_dataset=dev,
        data_collator=make_collator(tokenizer, arguments),
        processing_class=tokenizer,
        compute_metrics=regression_metrics if names is None else classification_metrics,
    )


def main(argv=None):
    trainer = make_trainer(argv)
    trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    trainer.save_model()
    metrics = trainer.evaluate()
    trainer.log_metrics("eval", metrics)
    trainer.save_metrics("eval", metrics)
    return metrics


if __name__ == "__main__":
    main()
