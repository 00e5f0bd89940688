r"""Train ELMo to find the answer to a question in a text, or answer a file of questions.

    python examples/train_qa.py --model FOLDER --train rajpurkar/squad:train \
        --dev rajpurkar/squad:validation --output_dir reader
    python examples/train_qa.py --model reader --predict questions.jsonl

Data have the columns of SQuAD: question, context and answers. answers has the lists "text" and
"answer_start" (as JSON in a CSV file), which are empty if there is no answer. Contexts are never
truncated.
"""

import collections
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from task_data import check_text, predictions_path, read_answers, read_examples, write_rows
from training_script import (
    Job,
    TaskArguments,
    make_model,
    make_tokenizer,
    parse_arguments,
    prepare,
    read_data,
    run_script,
    trained_labels,
)

# isort: split
from transformers import Trainer

from elmo_hf import ElmoForQuestionAnswering

DEFAULTS = {
    "learning_rate": 1e-3,
    "num_train_epochs": 5,
    "per_device_train_batch_size": 16,
    "eval_strategy": "epoch",
    "report_to": [],
}


@dataclass
class Arguments(TaskArguments):
    max_answer_words: int = field(default=30, metadata={"help": "most words in an answer"})


def make_collator(tokenizer):
    def collate(rows):
        texts = ([row[name] for row in rows] for name in ("question", "context"))
        inputs = tokenizer(*texts, padding=True, return_tensors="pt")
        if "answers" not in rows[0]:
            return dict(inputs)
        positions = [(0, 0)] * len(rows)  # position 0, <S>, means no answer
        for number, row in enumerate(rows):
            if row["answers"]:
                text, start = row["answers"][0]
                start += len(text) - len(text.lstrip())
                ends = (start, start + len(text.strip()) - 1)
                positions[number] = tuple(inputs.char_to_token(number, end, 1) for end in ends)
        starts, ends = torch.tensor(positions).T
        return {**inputs, "start_positions": starts, "end_positions": ends}

    return collate


def best_span(start, end, longest):
    """Return first and last position of the best answer, and its score minus that of no answer."""
    scores = start[1:, None] + end[None, 1:]
    scores = np.where(np.triu(np.tri(*scores.shape, longest - 1)), scores, -np.inf)
    first, last = np.unravel_index(scores.argmax(), scores.shape)
    return first + 1, last + 1, scores.max() - start[0] - end[0]


def find_answer(tokenizer, row, start, end, longest):
    """Return the best answer in the context, and its score minus that of no answer."""
    inputs = tokenizer(row["question"], row["context"], return_offsets_mapping=True)
    words = len(inputs["attention_mask"])
    start, end = start[:words].astype(np.float64), end[:words].astype(np.float64)
    first, last, margin = best_span(start, end, longest)
    places = inputs["offset_mapping"]
    return row["context"][places[first][0] : places[last][1]], float(margin)


def make_metrics(tokenizer, rows, longest):
    none_possible = any(not row["answers"] for row in rows)

    def compute(prediction):
        exact, overlap = [], []
        for row, start, end in zip(rows, *prediction.predictions[:2], strict=True):
            predicted, margin = find_answer(tokenizer, row, start, end, longest)
            if none_possible and margin < 0:
                predicted = ""
            gold = [normalize(text) for text, _ in row["answers"]] or [[]]
            exact.append(max(normalize(predicted) == one for one in gold))
            overlap.append(max(token_f1(normalize(predicted), one) for one in gold))
        return {"exact_match": float(np.mean(exact)), "f1": float(np.mean(overlap))}

    return compute


def normalize(text):
    """Return the words without case, punctuation and articles, as SQuAD's evaluation does."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def token_f1(predicted, gold):
    common = sum((collections.Counter(predicted) & collections.Counter(gold)).values())
    return (
        2 * common / (len(predicted) + len(gold))
        if predicted and gold
        else float(predicted == gold)
    )


class AnswerTrainer(Trainer):
    """Class that computes SQuAD's metrics, which compare the answers as texts."""

    longest = 30  # words in an answer

    def evaluate(self, eval_dataset=None, **kwargs):
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        self.compute_metrics = make_metrics(self.processing_class, rows, self.longest)
        return super().evaluate(eval_dataset, **kwargs)


def read(source):
    rows = read_examples(source, ["question", "context"])
    for row in rows:
        check_text(row, ["question", "context"])
    return rows


def predict(trainer, arguments, rows):
    texts = [{name: row[name] for name in ("question", "context")} for row in rows]
    predicted = []
    for row, *scores in zip(rows, *trainer.predict(texts).predictions[:2], strict=True):
        answer = find_answer(trainer.processing_class, row, *scores, trainer.longest)
        predicted.append(dict(zip(("predicted", "better_than_none_by"), answer, strict=True)))
    target = predictions_path(arguments.predict, trainer.args.output_dir, arguments.predictions)
    if trainer.is_world_process_zero():
        write_rows(target, rows, predicted)
    return target


def make_job(arguments, training):
    prepare(arguments, training)
    if not arguments.train:
        trained_labels(arguments.model, "ElmoForQuestionAnswering")
    data, lines = read_data(arguments, read_answers)
    unlabelled = read(arguments.predict) if arguments.predict else []
    tokenizer = make_tokenizer(arguments, padding_side="right")
    trainer = AnswerTrainer(
        model=make_model(ElmoForQuestionAnswering, arguments),
        args=training,
        train_dataset=data.get("train"),
        eval_dataset=data.get("dev"),
        data_collator=make_collator(tokenizer),
        processing_class=tokenizer,
    )
    trainer.longest = arguments.max_answer_words
    job = Job(trainer, "question-answering", usage(training.output_dir), lines, data.get("test"))
    if arguments.predict:
        job.predict = lambda: predict(trainer, arguments, unlabelled)
    return job


def usage(folder):
    return [
        "import elmo_hf",
        "from transformers import AutoModelForQuestionAnswering, AutoTokenizer",
        f'model = AutoModelForQuestionAnswering.from_pretrained("{folder}")',
        f'tokenizer = AutoTokenizer.from_pretrained("{folder}")',
        'out = model(**tokenizer("Who slept?", "Ada slept.", return_tensors="pt"))',
        "print(out.start_logits, out.end_logits)  # or: train_qa.py --model ... --predict FILE",
    ]


def make_trainer(argv: Sequence[str] | None = None) -> Trainer:
    return make_job(*parse_arguments(Arguments, DEFAULTS, argv)).trainer


def main(argv: Sequence[str] | None = None):
    return run_script(Arguments, DEFAULTS, make_job, argv)


if __name__ == "__main__":
    main()
