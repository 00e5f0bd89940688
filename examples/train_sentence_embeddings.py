"""Train ELMo to give sentences that mean the same near vectors, with sentence-transformers.

    python examples/train_sentence_embeddings.py --model FOLDER --train pairs.csv --dev sts.csv \
        --output_dir OUT

Training data have the columns anchor and positive: two texts that belong together. The others of
a batch are the negatives. Development data, if any, have sentence1, sentence2 and score; the result
is Spearman's correlation. Data are read as examples/task_data.py says.
"""

from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from task_data import read_examples, read_number
from transformers import HfArgumentParser, set_seed

import elmo_hf  # noqa: F401  registers ELMo with the auto classes

DEFAULTS = {
    "learning_rate": 1e-4,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 64,
    "report_to": [],
}


@dataclass
class Arguments:
    model: str = field(metadata={"help": "folder or Hub name of an ELMo checkpoint"})
    train: str = field(metadata={"help": "file, or data set of the Hub as NAME:SPLIT"})
    dev: str | None = field(default=None, metadata={"help": "the same, with scores"})
    anchor_column: str = "anchor"
    positive_column: str = "positive"


def read_pairs(source, arguments):
    columns = [arguments.anchor_column, arguments.positive_column]
    rows = read_examples(source, columns)
    anchors, positives = ([row[column] for row in rows] for column in columns)
    return Dataset.from_dict({"anchor": anchors, "positive": positives})


def read_evaluator(source):
    if source is None:
        return None
    rows = read_examples(source, ["sentence1", "sentence2", "score"])
    sentences = ([row[name] for row in rows] for name in ("sentence1", "sentence2"))
    scores = [read_number(row["score"], row["where"]) for row in rows]
    return EmbeddingSimilarityEvaluator(*sentences, scores, name="dev")


def main(argv=None):
    parser = HfArgumentParser((Arguments, SentenceTransformerTrainingArguments))
    parser.set_defaults(**DEFAULTS)
    arguments, training = parser.parse_args_into_dataclasses(argv)
    set_seed(training.seed)
    train, evaluator = read_pairs(arguments.train, arguments), read_evaluator(arguments.dev)
    model = SentenceTransformer(arguments.model, device="cpu" if training.use_cpu else None)
    trainer = SentenceTransformerTrainer(
        model=model,
        args=training,
        train_dataset=train,
        loss=MultipleNegativesRankingLoss(model),
        evaluator=evaluator,
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    model.save_pretrained(training.output_dir)
    if evaluator is None:
        return {}
    results = Path(training.output_dir) / "eval"
    results.mkdir(exist_ok=True)
    metrics = evaluator(model, output_path=str(results))
    print(metrics)
    return metrics


if __name__ == "__main__":
    main()
