r"""Train sentence vectors that are similar if the meanings are, with sentence-transformers.

    python examples/train_sentence_embeddings.py --model FOLDER --train pairs.csv --dev sts.csv \
        --output_dir embedder

Training data have the columns anchor and positive: two texts of similar meaning. The positives of
the other pairs in a batch serve as negatives. Development data have the columns sentence1,
sentence2 and score; the metric is Spearman's correlation with the scores. All weights are trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from task_data import WHERE, read_examples, read_number
from training_script import Job, ScriptArguments, check_model, run_script

# isort: split
from transformers import set_seed

DEFAULTS = {
    "learning_rate": 1e-4,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 64,
    "report_to": [],
}


@dataclass
class Arguments(ScriptArguments):
    model: str = field(metadata={"help": "folder or Hub name of an ELMo checkpoint"}, kw_only=True)
    train: str = field(
        metadata={"help": "text pairs: a file, or a Hub dataset as NAME:SPLIT"}, kw_only=True
    )
    dev: str | None = field(default=None, metadata={"help": "sentence pairs with scores"})
    anchor_column: str = field(default="anchor", metadata={"help": "column of the first text"})
    positive_column: str = field(default="positive", metadata={"help": "column of the second text"})


def read_pairs(source, arguments):
    from datasets import Dataset

    columns = [arguments.anchor_column, arguments.positive_column]
    rows = read_examples(source, columns)
    anchors, positives = ([row[column] for row in rows] for column in columns)
    return Dataset.from_dict({"anchor": anchors, "positive": positives})


def read_evaluator(source):
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    rows = read_examples(source, ["sentence1", "sentence2", "score"])
    sentences = ([row[name] for row in rows] for name in ("sentence1", "sentence2"))
    scores = [read_number(row["score"], row[WHERE]) for row in rows]
    return EmbeddingSimilarityEvaluator(*sentences, scores, name="dev", write_csv=False)


def make_job(arguments, training):
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    check_model(arguments.model)
    set_seed(training.seed)
    train = read_pairs(arguments.train, arguments)
    evaluator = read_evaluator(arguments.dev) if arguments.dev else None
    model = SentenceTransformer(arguments.model, device="cpu" if training.use_cpu else None)
    trainer = SentenceTransformerTrainer(
        model=model,
        args=training,
        train_dataset=train,
        loss=MultipleNegativesRankingLoss(model),
        evaluator=evaluator,
    )
    usage = [
        "import elmo_hf",
        "from sentence_transformers import SentenceTransformer",
        f'model = SentenceTransformer("{training.output_dir}")',
        'print(model.similarity(*model.encode(["It rains.", "Rain falls."])))',
    ]
    data = [f"train: `{arguments.train}`, {len(train):,} pairs"]
    data += [f"dev: `{arguments.dev}`"] if evaluator else []
    job = Job(trainer, "sentence-similarity", usage, data, library="sentence-transformers")
    if evaluator:
        job.evaluate = lambda: evaluator(model)
    return job


def main(argv: Sequence[str] | None = None):
    return run_script(
        Arguments,
        DEFAULTS,
        make_job,
        argv,
        ("datasets", "accelerate", "sentence_transformers"),
        "sentences",
        "sentence_transformers.SentenceTransformerTrainingArguments",
    )


if __name__ == "__main__":
    main()
