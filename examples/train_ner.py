r"""Train ELMo to tag words (names, chunks, parts of speech), or tag a file.

    python examples/train_ner.py --model FOLDER --train train.conll --dev dev.conll \
        --output_dir tagger
    python examples/train_ner.py --model tagger --predict raw.conll

The model is a frozen biLM, a biLSTM and a CRF, as in the paper; --train_bilm trains the biLM too.
Files are CoNLL columns, CoNLL-U or JSON lines. For parts of speech in CoNLL-U add `--scheme none
--tags_column upos`. The predicted tag is added as the last column (in CoNLL-U it replaces the tag);
spans are written as BIO.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from task_data import (
    label_id,
    label_names,
    predictions_path,
    read_tagged,
    recode_spans,
    write_tagged,
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
from transformers import DataCollatorForTokenClassification, Trainer

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
class Arguments(TaskArguments):
    words_column: str = field(
        default="tokens", metadata={"help": "column of words in JSON lines and Hub datasets"}
    )
    tags_column: str = field(
        default="ner_tags", metadata={"help": "column of tags in these and in CoNLL-U"}
    )
    scheme: Literal["BIOES", "BIO", "none"] = field(
        default="BIOES",
        metadata={"help": "scheme to which tags are converted for training; none: keep them"},
    )
    crf: bool = field(default=True, metadata={"help": "use a CRF, which decodes whole sentences"})


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
    pad = DataCollatorForTokenClassification(tokenizer)

    def collate(sentences):
        features = [dict(tokenizer(s["words"], is_split_into_words=True)) for s in sentences]
        for feature, sentence in zip(features, sentences, strict=True):
            if "labels" in sentence:
                feature["labels"] = [-100, *sentence["labels"], -100]  # <S> and </S>
        return pad(features)

    return collate


def make_metrics(names, scheme):
    def compute(prediction):
        from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score

        gold, predicted = [], []
        for labels, tags in zip(prediction.label_ids, prediction.predictions, strict=True):
            gold.append([names[label] for label in labels[labels != -100]])
            predicted.append([names[tag] for tag in tags[labels != -100]])
        if scheme == "none":
            return {"accuracy": accuracy_score(gold, predicted)}
        scores = {"precision": precision_score, "recall": recall_score, "f1": f1_score}
        return {name: score(gold, predicted, zero_division=0) for name, score in scores.items()}

    return compute


def scheme_of(names):
    """Return the scheme of a trained tagger's tags; tags that were kept have none."""
    sentences = [{"tags": names}]
    for scheme in ("BIOES", "BIO"):
        if {*make_labels(sentences, scheme)} == {*names}:
            return scheme
    return "none"


def predict(trainer, arguments, names, sentences):
    unlabelled = [{"words": sentence["words"]} for sentence in sentences]
    rows = trainer.predict(unlabelled).predictions
    tags = []
    for row, sentence in zip(rows, sentences, strict=True):
        predicted = [names[tag] for tag in row[1 : 1 + len(sentence["words"])]]  # row 0 is <S>
        if arguments.scheme != "none":
            predicted = recode_spans(predicted, "BIO", sentence["where"])
        tags.append(predicted)
    target = predictions_path(arguments.predict, trainer.args.output_dir, arguments.predictions)
    if trainer.is_world_process_zero():
        columns = arguments.words_column, arguments.tags_column
        write_tagged(arguments.predict, target, *columns, tags)
    return target


def make_job(arguments, training):
    prepare(arguments, training)
    if arguments.train and arguments.crf and training.label_smoothing_factor:
        raise ValueError("--label_smoothing_factor trains no CRF; leave it out, or add --crf False")
    if not arguments.train:
        names = trained_labels(arguments.model, "ElmoForTokenClassification")
        arguments.scheme = scheme_of(names)
    data, lines = read_data(arguments, lambda source: read(source, arguments))
    if arguments.predict:
        columns = arguments.words_column, arguments.tags_column
        sentences_to_tag = read_tagged(arguments.predict, *columns, with_tags=False)
    if arguments.train:
        names = make_labels(data["train"], arguments.scheme)
    for sentences in data.values():
        add_labels(sentences, names)
    tokenizer = make_tokenizer(arguments, padding_side="right")
    model = make_model(
        ElmoForTokenClassification,
        arguments,
        **name_labels(names),
        use_crf=arguments.crf,
        tagging_scheme=arguments.scheme if arguments.crf and arguments.scheme != "none" else None,
    )
    trainer = Trainer(
        model=model,
        args=training,
        train_dataset=data.get("train"),
        eval_dataset=data.get("dev"),
        data_collator=make_collator(tokenizer),
        processing_class=tokenizer,
        compute_metrics=make_metrics(names, arguments.scheme),
        preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1),
    )
    job = Job(trainer, "token-classification", usage(training.output_dir), lines, data.get("test"))
    if arguments.predict:
        job.predict = lambda: predict(trainer, arguments, names, sentences_to_tag)
    return job


def usage(folder):
    return [
        "import elmo_hf",
        "from transformers import pipeline",
        f'tagger = pipeline("token-classification", "{folder}", aggregation_strategy="simple")',
        'print(tagger("Ada Lovelace met Charles Babbage in London."))',
    ]


def make_trainer(argv: Sequence[str] | None = None) -> Trainer:
    return make_job(*parse_arguments(Arguments, DEFAULTS, argv)).trainer


def main(argv: Sequence[str] | None = None):
    return run_script(Arguments, DEFAULTS, make_job, argv, ("accelerate", "seqeval"))


if __name__ == "__main__":
    main()
