"""Train ELMo to mark the words of a text that answer a question.

    python examples/train_qa.py --model FOLDER --train rajpurkar/squad:train \
        --dev rajpurkar/squad:validation --output_dir OUT

Rows have SQuAD's columns: question, context, and answers, which holds "text" and "answer_start"
lists (in a CSV file as JSON), empty where there is no answer. ELMo has no longest text, so contexts
are read whole. All of TrainingArguments may be given, too.
"""

import collections
import re
import string
from dataclasses import dataclass, field

import numpy as np
import torch
from task_data import read_answers
from transformers import AutoTokenizer, HfArgumentParser, Trainer, TrainingArguments, set_seed

from elmo_hf import ElmoForQuestionAnswering

DEFAULTS = {
    "learning_rate": 1e-3,
    "num_train_epochs": 5,
    "per_device_train_batch_size": 16,
    "eval_strategy": "epoch",
    "report_to": [],
}


@dataclass
class Arguments:
    model: str = field(metadata={"help": "folder or Hub name of an ELMo checkpoint"})
    train: str = field(metadata={"help": "file, or data set of the Hub as NAME:SPLIT"})
    dev: str = field(metadata={"help": "the same, to evaluate on"})
    lstm_dim: int = field(default=200, metadata={"help": "task biLSTM, each direction; 0: none"})
    max_answer_words: int = 30
    train_bilm: bool = field(default=False, metadata={"help": "train the biLM along"})
    layers: list[int] | None = field(
        default=None, metadata={"help": "layers to mix, 0: without context; default: all"}
    )


def make_collator(tokenizer):
    def collate(rows):
        texts = ([row[name] for row in rows] for name in ("question", "context"))
        inputs = tokenizer(*texts, padding=True, return_tensors="pt")
        positions = [(0, 0)] * len(rows)  # the first row stands for no answer
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
    """First and last row of the best answer behind row 0, and how much better it is than none."""
    scores = start[1:, None] + end[None, 1:]
    scores = np.where(np.triu(np.tri(*scores.shape, longest - 1)), scores, -np.inf)
    first, last = np.unravel_index(scores.argmax(), scores.shape)
    return first + 1, last + 1, scores.max() - start[0] - end[0]


def make_metrics(tokenizer, rows, longest):
    none_possible = any(not row["answers"] for row in rows)

    def compute(prediction):
        exact, overlap = [], []
        for row, start, end in zip(rows, *prediction.predictions[:2], strict=True):
            inputs = tokenizer(row["question"], row["context"], return_offsets_mapping=True)
            words = len(inputs["attention_mask"])
            start, end = start[:words].astype(np.float64), end[:words].astype(np.float64)
            first, last, margin = best_span(start, end, longest)
            places = inputs["offset_mapping"]
            found = row["context"][places[first][0] : places[last][1]]
            if none_possible and margin < 0:
                found = ""
            gold = [normalize(text) for text, _ in row["answers"]] or [[]]
            exact.append(max(normalize(found) == one for one in gold))
            overlap.append(max(token_f1(normalize(found), one) for one in gold))
        return {"exact_match": float(np.mean(exact)), "f1": float(np.mean(overlap))}

    return compute


def normalize(text):
    """Words without case, punctuation and articles, as SQuAD's evaluation compares them."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def token_f1(found, gold):
    common = sum((collections.Counter(found) & collections.Counter(gold)).values())
    return 2 * common / (len(found) + len(gold)) if found and gold else float(found == gold)


def make_trainer(argv=None):
    parser = HfArgumentParser((Arguments, TrainingArguments))
    parser.set_defaults(**DEFAULTS)
    arguments, training = parser.parse_args_into_dataclasses(argv)
    training.remove_unused_columns = False  # texts become ids batch by batch
    set_seed(training.seed)
    train, dev = read_answers(arguments.train), read_answers(arguments.dev)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model, padding_side="right")
    model = ElmoForQuestionAnswering.from_pretrained(
        arguments.model,
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
        compute_metrics=make_metrics(tokenizer, dev, arguments.max_answer_words),
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
