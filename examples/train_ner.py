"""Train ELMo to tag words: names, chunks, parts of speech.

    python examples/train_ner.py --model FOLDER --train train.conll --dev dev.conll --output_dir OUT

As in the paper the biLM is frozen, below a biLSTM and a CRF. Data are read as examples/task_data.py
says; parts of speech in CoNLL-U take `--scheme none --tags_column upos`. All of TrainingArguments
may be given, too.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score
from task_data import label_id, label_names, read_tagged, recode_spans
from transformers import AutoTokenizer, HfArgumentParser, Trainer, TrainingArguments, set_seed

from elmo_hf import ElmoForTokenClassification

DEFAULTS = {
    "learning_rate": 1e-3,
    "num_train_epochs": 20,
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
    words_column: str = field(default="tokens", metadata={"help": "in JSON lines and on the Hub"})
    tags_column: str = field(default="ner_tags", metadata={"help": "the same, and in CoNLL-U"})
    scheme: Literal["BIOES", "BIO", "none"] = field(
        default="BIOES", metadata={"help": "how to learn spans; none: tags stand for themselves"}
    )
    crf: bool = field(default=True, metadata={"help": "tag whole sentences by a CRF"})
    lstm_dim: int = field(default=200, metadata={"help": "task biLSTM, each direction; 0: none"})
    train_bilm: bool = field(default=False, metadata={"help": "train the biLM along"})
    layers: list[int] | None = field(
        default=None, metadata={"help": "layers to mix, 0: without context; default: all"}
    )


def read(source, arguments):
    sentences = read_tagged(source, arguments.words_column, arguments.tags_column)
    if arguments.scheme != "none":
        for sentence in sentences:
            where = sentence["where"]
            sentence["tags"] = recode_spans(sentence["tags"], arguments.scheme, where)
    return sentences


def make_labels(train, scheme):
    names = label_names(tag for sentence in train for tag in sentence["tags"])
    if scheme == "none":
        return names
    kinds = sorted({name[2:] for name in names} - {""})
    return ["O", *(f"{prefix}-{kind}" for kind in kinds for prefix in scheme.replace("O", ""))]


def add_labels(sentences, names):
    for sentence in sentences:
        pairs = zip(sentence["tags"], sentence["where"], strict=True)
        sentence["labels"] = [label_id(tag, names, where) for tag, where in pairs]


def make_collator(tokenizer):
    def collate(sentences):
        words = [sentence["words"] for sentence in sentences]
        inputs = tokenizer(words, is_split_into_words=True, padding=True, return_tensors="pt")
        labels = torch.full_like(inputs["attention_mask"], -100)
        for row, sentence in enumerate(sentences):
            places = [t for t, word in enumerate(inputs.word_ids(row)) if word is not None]
            labels[row, places] = torch.tensor(sentence["labels"])
        return {**inputs, "labels": labels}

    return collate


def make_metrics(names, scheme):
    def compute(prediction):
        gold, found = [], []
        for labels, tags in zip(prediction.label_ids, prediction.predictions, strict=True):
            gold.append([names[label] for label in labels[labels != -100]])
            found.append([names[tag] for tag in tags[labels != -100]])
        if scheme == "none":
            return {"accuracy": accuracy_score(gold, found)}
        scores = {"precision": precision_score, "recall": recall_score, "f1": f1_score}
        return {name: score(gold, found, zero_division=0) for name, score in scores.items()}

    return compute


def make_trainer(argv=None):
    parser = HfArgumentParser((Arguments, TrainingArguments))
    parser.set_defaults(**DEFAULTS)
    arguments, training = parser.parse_args_into_dataclasses(argv)
    training.remove_unused_columns = False  # words become ids batch by batch
    set_seed(training.seed)
    train, dev = read(arguments.train, arguments), read(arguments.dev, arguments)
    names = make_labels(train, arguments.scheme)
    add_labels(train, names)
    add_labels(dev, names)

    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = ElmoForTokenClassification.from_pretrained(
        arguments.model,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
        use_crf=arguments.crf,
        tagging_scheme=arguments.scheme if arguments.crf and arguments.scheme != "none" else None,
        classifier_lstm_dim=arguments.lstm_dim,
        mix_layers=arguments.layers,
    )
    model.elmo.requires_grad_(arguments.train_bilm)
    return Trainer(
        model=model,
        args=training,
        train_dataset=train,
        eval_dataset=dev,
        data_collator=make_collator(tokenizer),
        processing_class=tokenizer,
        compute_metrics=make_metrics(names, arguments.scheme),
        preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1),
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
