"""Pre-train ELMo's biLM on text files or a Hub dataset, or go on with a checkpoint.

    python examples/pretrain.py --output_dir runs/small \
        --train_files 'text/train-*.txt.xz' --valid_files text/valid.txt.xz \
        --vocabulary_size 50000 --window 128 \
        --config '{"projection_dim": 256, "cell_dim": 1024, "num_sampled_words": 4096}' \
        --per_device_train_batch_size 64 --learning_rate 1e-3 --warmup_steps 500 --max_steps 20000 \
        --eval_strategy steps --eval_steps 1000 --save_steps 500 --save_total_limit 2

Text has one sentence a line and an empty line after each document; files may be compressed (.gz,
.xz, .bz2, .zst). All of TrainingArguments may be given beside the arguments below. The same command
given again goes on after the last complete checkpoint; `torchrun --nproc_per_node N` and
`accelerate launch` run it on several processes. The result is a Hub folder.
"""

import gc
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from transformers import HfArgumentParser, TrainingArguments, set_seed

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoTokenizer
from elmo_hf.pretraining.corpora import WordStream, build_vocabulary, read_corpus, read_hub_corpus
from elmo_hf.pretraining.runs import (
    check_run,
    describe_model,
    last_checkpoint,
    load_for_pretraining,
)
from elmo_hf.pretraining.trainer import ElmoPreTrainer
from elmo_hf.pretraining.windows import PackedWindows, RowStreams


@dataclass
class PreTrainingArguments:
    train_files: list[str] = field(default_factory=list, metadata={"help": "paths or patterns"})
    valid_files: list[str] = field(default_factory=list, metadata={"help": "held-out text"})
    dataset: str | None = field(default=None, metadata={"help": "Hub dataset, instead of files"})
    dataset_config: str | None = None
    dataset_column: str = "text"
    dataset_split: str = "train"
    dataset_valid_split: str | None = None
    dataset_limit: int | None = field(default=None, metadata={"help": "most entries to read"})
    cache_dir: str | None = field(default=None, metadata={"help": "where split words are kept"})
    vocabulary_size: int | None = field(default=50_000, metadata={"help": "specials included"})
    vocabulary_file: str | None = field(default=None, metadata={"help": "instead of building one"})
    min_count: int = field(default=1, metadata={"help": "how often a word of it occurs at least"})
    word_splitter: str = field(default="treebank", metadata={"help": "or whitespace"})
    config: str = field(default="{}", metadata={"help": "ElmoConfig's fields: JSON, or a file"})
    init_from: str | None = field(default=None, metadata={"help": "checkpoint to go on with"})
    new_vocabulary: bool = field(
        default=False, metadata={"help": "with --init_from: of this text; old words keep their row"}
    )
    feed: Literal["windows", "streams"] = field(
        default="windows", metadata={"help": "or streams: rows that carry their states, bilm-tf's"}
    )
    window: int | None = field(default=None, metadata={"help": "words; default 128, streams 20"})


def read_texts(args, tokenizer):
    """Return the training text and, where given, the held-out text."""
    if bool(args.dataset) == bool(args.train_files):
        raise SystemExit("give either --train_files or --dataset")
    if args.dataset:
        splits = [args.dataset_split, args.dataset_valid_split]
        options = (args.dataset_column, args.dataset_limit, args.cache_dir)
        corpora = [
            read_hub_corpus(args.dataset, tokenizer, args.dataset_config, split, *options)
            for split in splits
            if split
        ]
    else:
        files = [args.train_files, args.valid_files]
        corpora = [read_corpus(some, tokenizer, args.cache_dir) for some in files if some]
    return [WordStream(corpus) for corpus in corpora]


def read_config(text):
    """Return the fields given as JSON or as the name of a JSON file."""
    return json.loads(text if text.lstrip().startswith("{") else Path(text).read_text())


def make_model(args, fields, tokenizer, train_text):
    """Return the model, new or to go on with, and the tokenizer with its vocabulary."""
    if args.init_from and not args.new_vocabulary:
        return load_for_pretraining(args.init_from, **fields)
    if args.vocabulary_file:
        words = ElmoTokenizer(lm_vocab_file=args.vocabulary_file).lm_vocab
    else:
        specials = [tokenizer.bos_token, tokenizer.eos_token, tokenizer.word_unk_token]
        words = build_vocabulary(train_text, args.vocabulary_size, args.min_count, specials)
    if args.init_from:
        return load_for_pretraining(args.init_from, words, **fields)
    config = ElmoConfig(**fields, lm_vocab_size=len(words))
    tokenizer = ElmoTokenizer(
        lm_vocab=words,
        max_characters_per_token=config.max_characters_per_token,
        word_splitter=args.word_splitter,
    )
    return ElmoForPreTraining(config), tokenizer


def describe_run(args, training_args, train_text):
    """Return what else must be the same for a run to go on."""
    return {
        "text": f"{len(train_text)} words in {train_text.sentence_lengths.size} lines",
        "feed": [args.feed, args.window],
        "init_from": args.init_from,
        "seed": training_args.seed,
        "batch": [
            training_args.world_size,
            training_args.train_batch_size,
            training_args.gradient_accumulation_steps,
        ],
    }


def train(args, training_args):
    set_seed(training_args.seed)
    fields = read_config(args.config)
    args.window = args.window or (20 if args.feed == "streams" else 128)
    if args.init_from:
        tokenizer = ElmoTokenizer.from_pretrained(args.init_from)
    else:
        tokenizer = ElmoTokenizer(word_splitter=args.word_splitter)
    with training_args.main_process_first(desc="splitting text into words"):
        train_text, *valid_text = read_texts(args, tokenizer)
    model, tokenizer = make_model(args, fields, tokenizer, train_text)
    settings = describe_model(model, tokenizer) | describe_run(args, training_args, train_text)
    check_run(training_args.output_dir, settings)

    if args.feed == "streams":
        rows = training_args.train_batch_size * training_args.world_size
        train_feed = RowStreams(train_text, args.window, rows, training_args.seed)
    else:
        train_feed = PackedWindows(train_text, args.window, training_args.seed)
    valid_feed = PackedWindows(valid_text[0]) if valid_text else None
    if training_args.process_index == 0:
        print(f"{len(train_text):,} words, {tokenizer.lm_vocab_size:,} in the vocabulary")
        print(f"{model.num_parameters():,} parameters, {len(train_feed):,} windows an epoch")
    trainer = ElmoPreTrainer(
        model=model,
        args=training_args,
        train_dataset=train_feed,
        eval_dataset=valid_feed,
        processing_class=tokenizer,
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(training_args.output_dir))
    trainer.save_model()
    if valid_feed is not None:
        metrics = trainer.evaluate()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
    trainer.save_state()


def main():
    parser = HfArgumentParser((PreTrainingArguments, TrainingArguments))
    train(*parser.parse_args_into_dataclasses())
    if torch.distributed.is_initialized():
        # What DDP holds of the process group must go first, or gloo may hang at the end.
        gc.collect()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
