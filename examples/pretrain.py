r"""Pre-train ELMo's biLM on text files or a Hub dataset, from scratch or from a checkpoint.

    python examples/pretrain.py --output_dir runs/small \
        --train_files 'text/train-*.txt.xz' --valid_files text/valid.txt.xz \
        --vocabulary_size 50000 --window 128 \
        --config '{"projection_dim": 256, "cell_dim": 1024, "num_sampled_words": 4096}' \
        --per_device_train_batch_size 64 --warmup_steps 500 --max_steps 20000 \
        --eval_strategy steps --eval_steps 1000 --save_steps 500 --save_total_limit 2

Text has one sentence per line and an empty line after each document; files may be compressed (.gz,
.xz, .bz2, .zst). If a run is interrupted, the same command resumes it from its last complete
checkpoint. `torchrun --nproc_per_node N` and `accelerate launch` run it in several processes. The
result is a Hub folder.
"""

import difflib
import gc
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from training_script import (
    Job,
    ScriptArguments,
    check_model,
    one_line_errors,
    parse_arguments,
    run,
)

# isort: split
import torch
from transformers import set_seed

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoTokenizer

DEFAULTS = {"per_device_train_batch_size": 32, "report_to": []}
# From scratch: the best of benchmarks/pretraining_trials.md. A checkpoint would forget too much.
RATE, RATE_OF_CHECKPOINT = 8e-3, 4e-3


@dataclass
class PreTrainingArguments(ScriptArguments):
    train_files: list[str] = field(
        default_factory=list, metadata={"help": "text files, or patterns such as 'text/*.txt'"}
    )
    valid_files: list[str] = field(
        default_factory=list, metadata={"help": "held-out text for evaluation"}
    )
    dataset: str | None = field(default=None, metadata={"help": "Hub dataset, instead of files"})
    dataset_config: str | None = field(
        default=None, metadata={"help": "configuration of --dataset"}
    )
    dataset_column: str = field(default="text", metadata={"help": "column with the text"})
    dataset_split: str = field(default="train", metadata={"help": "split for training"})
    dataset_valid_split: str | None = field(default=None, metadata={"help": "split for evaluation"})
    dataset_limit: int | None = field(
        default=None, metadata={"help": "number of entries to read; default: all"}
    )
    cache_dir: str | None = field(
        default=None, metadata={"help": "folder for the split text; default: the cache of datasets"}
    )
    vocabulary_size: int | None = field(
        default=50_000, metadata={"help": "words in the softmax, <S>, </S> and <UNK> included"}
    )
    vocabulary_file: str | None = field(
        default=None, metadata={"help": "one word per line, instead of the most frequent words"}
    )
    min_count: int = field(
        default=1, metadata={"help": "words that occur less often are not in the vocabulary"}
    )
    word_splitter: str = field(
        default="treebank",
        metadata={"help": "treebank, billion-words or whitespace; --init_from keeps its own"},
    )
    config: str = field(
        default="{}", metadata={"help": "fields of ElmoConfig, as JSON or as a JSON file"}
    )
    init_from: str | None = field(
        default=None, metadata={"help": "checkpoint with the starting weights"}
    )
    new_vocabulary: bool = field(
        default=False,
        metadata={"help": "with --init_from: a softmax for the words of this text"},
    )
    feed: Literal["windows", "streams"] = field(
        default="windows",
        metadata={"help": "windows: whole sentences; streams: LSTM states carried, as in bilm-tf"},
    )
    window: int | None = field(
        default=None, metadata={"help": "words in a window; default: 128, with streams 20"}
    )
    muon_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "rate of Muon, which trains the matrices; AdamW trains the other weights with "
            "--learning_rate; default: 4 times that; 0: --optim trains all weights"
        },
    )


def read_texts(args, tokenizer):
    """Return the training text and, if given, the held-out text."""
    from elmo_hf.pretraining.corpora import WordStream, read_corpus, read_hub_corpus

    if bool(args.dataset) == bool(args.train_files):
        raise ValueError("expected either --train_files or --dataset, not both or neither")
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
    """
    Return the fields of --config, which is JSON or the name of a JSON file.

    Raises:
        ValueError: the text is not a JSON object, or ElmoConfig lacks a field.
        OSError: the file cannot be read.
    """
    is_json = text.lstrip().startswith("{")
    try:
        fields = json.loads(text if is_json else Path(text).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"--config {'' if is_json else text} is no valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError(f"--config {text} holds no JSON object; expected fields of ElmoConfig")
    known = ElmoConfig.__dataclass_fields__.keys() | ElmoConfig().to_dict().keys()
    for name in fields.keys() - known:
        near = difflib.get_close_matches(name, known, n=1)
        advice = f"did you mean {near[0]}?" if near else "see the docstring of ElmoConfig"
        raise ValueError(f"--config has no field {name!r}; {advice}")
    if "lm_vocab_size" in fields:
        raise ValueError("--config sets lm_vocab_size; leave it out and use --vocabulary_size")
    return fields


def make_model(args, fields, tokenizer, train_text):
    """Return the model, new or from --init_from, and the tokenizer with its vocabulary."""
    from elmo_hf.pretraining.corpora import build_vocabulary
    from elmo_hf.pretraining.runs import load_for_pretraining

    if args.init_from and not args.new_vocabulary:
        return load_for_pretraining(args.init_from, **fields)
    if args.vocabulary_file:
        words = ElmoTokenizer(lm_vocab_file=args.vocabulary_file).lm_vocab
    else:
        specials = [tokenizer.bos_token, tokenizer.eos_token, tokenizer.word_unk_token]
        words = build_vocabulary(train_text, args.vocabulary_size, args.min_count, specials)
    if args.init_from:
        return load_for_pretraining(args.init_from, words, **fields)
    config = ElmoConfig(**word_table(fields, words), lm_vocab_size=len(words))
    tokenizer = ElmoTokenizer(
        lm_vocab=words,
        max_characters_per_token=config.max_characters_per_token,
        word_splitter=args.word_splitter,
        use_characters=config.uses_characters,
        use_word_ids=config.uses_characters and config.word_vocab_size > 0,
    )
    return ElmoForPreTraining(config), tokenizer


def word_table(fields, words):
    """Return the fields; `word_embedding_dim` adds a table with the words of the vocabulary."""
    if not fields.get("word_embedding_dim"):
        return fields
    table = {"word_vocab_size": len(words) + 1}  # row 0 is padding
    if fields.get("filters") == []:
        table |= {"bos_token_id": words.index("<S>") + 1, "eos_token_id": words.index("</S>") + 1}
    return table | fields


def describe_run(args, training, train_text):
    """Return the settings, besides the model's, that a resumed run must not change."""
    return {
        "text": f"{len(train_text)} words in {train_text.sentence_lengths.size} lines",
        "feed": [args.feed, args.window],
        "init_from": args.init_from,
        "seed": training.seed,
        "rates": [training.learning_rate, args.muon_learning_rate, training.weight_decay],
        "optimizer": training.optim if args.muon_learning_rate == 0 else "muon",
        "batch": [
            training.world_size,
            training.train_batch_size,
            training.gradient_accumulation_steps,
        ],
    }


def print_sizes(model, tokenizer, train_text, windows):
    """Print the sizes before training, so that a wrong setting is noticed early."""
    config = model.config
    print(
        f"model: cell {config.cell_dim}, projection {config.projection_dim}, "
        f"{config.num_hidden_layers} layers, {model.num_parameters():,} parameters\n"
        f"vocabulary: {tokenizer.lm_vocab_size:,} words\n"
        f"text: {len(train_text):,} words with boundaries, {windows:,} windows an epoch",
        flush=True,
    )


def check_options(args, training):
    """Raise ValueError for options that would have no effect."""
    if training.resume_from_checkpoint is not None:
        raise ValueError(
            "a run in --output_dir is resumed without --resume_from_checkpoint; leave it out"
        )
    if args.dataset and args.valid_files:
        raise ValueError(
            "--valid_files is for --train_files; with --dataset: --dataset_valid_split"
        )
    if args.init_from and args.vocabulary_file and not args.new_vocabulary:
        raise ValueError(
            "--vocabulary_file with --init_from needs --new_vocabulary; without it the checkpoint "
            "keeps its own vocabulary"
        )


def make_job(args, training):
    from elmo_hf.pretraining.runs import check_run, describe_model, last_checkpoint
    from elmo_hf.pretraining.trainer import ElmoPreTrainer
    from elmo_hf.pretraining.windows import PackedWindows, RowStreams

    set_seed(training.seed)
    fields = read_config(args.config)
    check_options(args, training)
    if args.muon_learning_rate is None:
        args.muon_learning_rate = 4 * training.learning_rate
    args.window = args.window or (20 if args.feed == "streams" else 128)
    if args.init_from:
        check_model(args.init_from, "--init_from")
        tokenizer = ElmoTokenizer.from_pretrained(args.init_from)
    else:
        tokenizer = ElmoTokenizer(word_splitter=args.word_splitter)
    with training.main_process_first(desc="splitting text into words"):
        train_text, *valid_text = read_texts(args, tokenizer)
    model, tokenizer = make_model(args, fields, tokenizer, train_text)
    settings = describe_model(model, tokenizer) | describe_run(args, training, train_text)
    check_run(training.output_dir, settings)

    if args.feed == "streams":
        rows = training.train_batch_size * training.world_size
        train_feed = RowStreams(train_text, args.window, rows, training.seed)
    else:
        train_feed = PackedWindows(train_text, args.window, training.seed)
    checkpoint = last_checkpoint(training.output_dir)
    if training.process_index == 0:
        print_sizes(model, tokenizer, train_text, len(train_feed))
        if checkpoint:
            print(f"resumed from step {checkpoint.rpartition('-')[2]}", flush=True)
    training.resume_from_checkpoint = checkpoint
    trainer = ElmoPreTrainer(
        model=model,
        args=training,
        train_dataset=train_feed,
        eval_dataset=PackedWindows(valid_text[0]) if valid_text else None,
        processing_class=tokenizer,
        muon_learning_rate=args.muon_learning_rate or None,
    )
    return Job(trainer, "feature-extraction", usage(training.output_dir), describe_data(args))


def describe_data(args):
    """Return lines about the text for the model card."""
    if args.dataset:
        return [f"train: `{args.dataset}`, {args.dataset_split}"]
    files = {"train": args.train_files, "held out": args.valid_files}
    return [f"{name}: `{' '.join(some)}`" for name, some in files.items() if some]


def usage(folder):
    return [
        "import elmo_hf",
        "from transformers import AutoModel, AutoTokenizer",
        f'tokenizer = AutoTokenizer.from_pretrained("{folder}")',
        f'model = AutoModel.from_pretrained("{folder}")',
        'print(model(**tokenizer("A sentence.", return_tensors="pt")).last_hidden_state)',
    ]


def make_defaults(argv: Sequence[str]) -> dict:
    """Return the defaults of Trainer's options, which depend on whether a checkpoint is trained."""
    continues = any(word.partition("=")[0] == "--init_from" for word in argv)
    return DEFAULTS | {"learning_rate": RATE_OF_CHECKPOINT if continues else RATE}


def main(argv: Sequence[str] | None = None):
    argv = sys.argv[1:] if argv is None else argv
    packages = ("accelerate", "datasets", "pyarrow")
    arguments, training = parse_arguments(PreTrainingArguments, make_defaults(argv), argv, packages)
    with one_line_errors():
        job = make_job(arguments, training)
    run(job, arguments)
    job.trainer.save_state()
    if torch.distributed.is_initialized():
        # DDP refers to the process group; unless it is deleted first, gloo may hang at the end.
        del job
        gc.collect()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
