r"""Pre-train ELMo's biLM on text files or a Hub dataset, or go on with a checkpoint.

    python examples/pretrain.py --output_dir runs/small \
        --train_files 'text/train-*.txt.xz' --valid_files text/valid.txt.xz \
        --vocabulary_size 50000 --window 128 \
        --config '{"projection_dim": 256, "cell_dim": 1024, "num_sampled_words": 4096}' \
        --per_device_train_batch_size 64 --learning_rate 1e-3 --warmup_steps 500 --max_steps 20000 \
        --eval_strategy steps --eval_steps 1000 --save_steps 500 --save_total_limit 2

Text has one sentence a line and an empty line after each document; files may be compressed (.gz,
.xz, .bz2, .zst). When a run was interrupted, the same command resumes it from its last complete
checkpoint. `torchrun --nproc_per_node N` and `accelerate launch` run it on several processes. The
result is a Hub folder.
"""

import difflib
import gc
import json
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

DEFAULTS = {"learning_rate": 1e-3, "per_device_train_batch_size": 32, "report_to": []}


@dataclass
class PreTrainingArguments(ScriptArguments):
    train_files: list[str] = field(
        default_factory=list, metadata={"help": "files of text, or patterns such as 'text/*.txt'"}
    )
    valid_files: list[str] = field(
        default_factory=list, metadata={"help": "held-out text, to evaluate on"}
    )
    dataset: str | None = field(default=None, metadata={"help": "Hub dataset, instead of files"})
    dataset_config: str | None = field(default=None, metadata={"help": "its configuration"})
    dataset_column: str = field(default="text", metadata={"help": "its column of text"})
    dataset_split: str = field(default="train", metadata={"help": "its split to train on"})
    dataset_valid_split: str | None = field(default=None, metadata={"help": "to evaluate on"})
    dataset_limit: int | None = field(
        default=None, metadata={"help": "number of its entries to read; default: all"}
    )
    cache_dir: str | None = field(
        default=None, metadata={"help": "where the split text is kept; default: datasets' cache"}
    )
    vocabulary_size: int | None = field(
        default=50_000, metadata={"help": "words of the softmax, <S>, </S> and <UNK> included"}
    )
    vocabulary_file: str | None = field(
        default=None, metadata={"help": "a word a line, instead of the text's most frequent ones"}
    )
    min_count: int = field(
        default=1, metadata={"help": "least occurrences of a word of the vocabulary"}
    )
    word_splitter: str = field(
        default="treebank", metadata={"help": "how lines become words: treebank or whitespace"}
    )
    config: str = field(
        default="{}", metadata={"help": "fields of ElmoConfig: JSON, or the name of a JSON file"}
    )
    init_from: str | None = field(
        default=None, metadata={"help": "checkpoint whose weights are trained further"}
    )
    new_vocabulary: bool = field(
        default=False,
        metadata={"help": "with --init_from: vocabulary of this text; known words keep their rows"},
    )
    feed: Literal["windows", "streams"] = field(
        default="windows",
        metadata={"help": "windows of sentences, or streams that carry states, as in bilm-tf"},
    )
    window: int | None = field(
        default=None, metadata={"help": "words in a window; default: 128, of streams 20"}
    )


def read_texts(args, tokenizer):
    """Return the training text and, if there is any, the held-out text."""
    from elmo_hf.pretraining.corpora import WordStream, read_corpus, read_hub_corpus

    if bool(args.dataset) == bool(args.train_files):
        raise ValueError("use either --train_files or --dataset")
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
    Return the fields of --config, which are JSON or in a JSON file.

    Raises:
        ValueError: it is no JSON object, or ElmoConfig has no such field.
        OSError: there is no such file.
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
    config = ElmoConfig(**fields, lm_vocab_size=len(words))
    tokenizer = ElmoTokenizer(
        lm_vocab=words,
        max_characters_per_token=config.max_characters_per_token,
        word_splitter=args.word_splitter,
    )
    return ElmoForPreTraining(config), tokenizer


def describe_run(args, training, train_text):
    """Return what else must stay the same for a run to be resumed."""
    return {
        "text": f"{len(train_text)} words in {train_text.sentence_lengths.size} lines",
        "feed": [args.feed, args.window],
        "init_from": args.init_from,
        "seed": training.seed,
        "batch": [
            training.world_size,
            training.train_batch_size,
            training.gradient_accumulation_steps,
        ],
    }


def print_sizes(model, tokenizer, train_text, windows):
    """Show what is about to be trained, so that a wrong setting is seen at once."""
    config = model.config
    print(
        f"model: cell {config.cell_dim}, projection {config.projection_dim}, "
        f"{config.num_hidden_layers} layers, {model.num_parameters():,} parameters\n"
        f"vocabulary: {tokenizer.lm_vocab_size:,} words\n"
        f"text: {len(train_text):,} words with boundaries, {windows:,} windows an epoch",
        flush=True,
    )


def make_job(args, training):
    from elmo_hf.pretraining.runs import check_run, describe_model, last_checkpoint
    from elmo_hf.pretraining.trainer import ElmoPreTrainer
    from elmo_hf.pretraining.windows import PackedWindows, RowStreams

    set_seed(training.seed)
    fields = read_config(args.config)
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
    )
    return Job(trainer, "feature-extraction", usage(training.output_dir), describe_data(args))


def describe_data(args):
    """Lines about the text, for the model card."""
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


def main(argv: Sequence[str] | None = None):
    packages = ("accelerate", "datasets", "pyarrow")
    arguments, training = parse_arguments(PreTrainingArguments, DEFAULTS, argv, packages)
    with one_line_errors():
        job = make_job(arguments, training)
    run(job, arguments)
    job.trainer.save_state()
    if torch.distributed.is_initialized():
        # What DDP holds of the process group must go first, or gloo may hang at the end.
        del job
        gc.collect()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
