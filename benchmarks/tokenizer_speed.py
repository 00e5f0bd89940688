"""Measure the tokenizer's words per second on one thread; writes benchmarks/tokenizer_speed.md.

    python benchmarks/tokenizer_speed.py [TEXT]

TEXT has one sentence per line, plain or .xz. The words of the output count, without boundaries and
padding; the last column has their number, from which the time for the whole text follows.
"""

import argparse
import lzma
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers

from elmo_hf.model.tokenization_elmo import ElmoTokenizer

HERE = Path(__file__).parent
DEFAULT_TEXT = HERE.parents[1] / "shared/data/pretrain_wiki_en_core/valid.txt.xz"
BATCH = 256  # sentences


def main() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    options = read_options()
    sentences = read_sentences(options.text, options.sentences)
    split = [sentence.split() for sentence in sentences]
    treebank, whitespace = ElmoTokenizer(), ElmoTokenizer(word_splitter="whitespace")
    tensors = {"padding": True, "return_tensors": "pt"}
    words = {"is_split_into_words": True}
    ways: dict[str, tuple[list, Callable]] = {
        "raw text, treebank, pt": (sentences, lambda b: treebank(b, **tensors)),
        "raw text, whitespace, pt": (sentences, lambda b: whitespace(b, **tensors)),
        "word lists, pt": (split, lambda b: treebank(b, **words, **tensors)),
        "word lists, truncated to 64, pt": (
            split,
            lambda b: treebank(b, **words, **tensors, truncation=True, max_length=64),
        ),
        "word lists, lists": (split, lambda b: treebank(b, **words)),
        "words_to_ids": (split, lambda b: treebank.words_to_ids([w for s in b for w in s])),
    }
    lines = [measured(name, *way, runs=options.runs) for name, way in ways.items()]
    report = "\n".join([heading(options, sentences), *lines, ""])
    print(report)
    if options.output:
        options.output.write_text(report, encoding="utf-8")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", nargs="?", type=Path, default=DEFAULT_TEXT)
    parser.add_argument("--sentences", type=int, default=10_240)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--output", type=Path, default=HERE / "tokenizer_speed.md")
    return parser.parse_args()


def read_sentences(path: Path, count: int) -> list[str]:
    opened = lzma.open if path.suffix == ".xz" else open
    with opened(path, "rt", encoding="utf-8") as lines:
        return [line.strip() for line in lines if line.strip()][:count]


def measured(name: str, data: list, run: Callable, runs: int) -> str:
    batches = [data[i : i + BATCH] for i in range(0, len(data), BATCH)]
    words = sum(count_words(run(batch), batch) for batch in batches)  # also warms up
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        for batch in batches:
            run(batch)
        seconds.append(time.perf_counter() - start)
    speeds = sorted(words / s for s in seconds)
    spread = f"{speeds[0]:,.0f} to {speeds[-1]:,.0f}"
    return f"| {name} | {statistics.median(speeds):,.0f} | {spread} | {words:,} |"


def count_words(output: object, batch: list) -> int:
    if isinstance(output, np.ndarray):
        return len(output)
    return sum(int(sum(mask)) for mask in output["attention_mask"]) - 2 * len(batch)


def heading(options: argparse.Namespace, sentences: list[str]) -> str:
    versions = ", ".join(
        f"{module.__name__} {module.__version__}"
        for module in (torch, transformers, tokenizers, np)
    )
    return f"""# Tokenizer speed

Words per second on one thread: {len(sentences):,} sentences of {options.text.name}
in batches of {BATCH} in the order of the text, median of {options.runs} runs.
Written by `python benchmarks/tokenizer_speed.py`.

{processor()}, Python {platform.python_version()}, {versions}.

| way | words/s | slowest to fastest | words |
| --- | --- | --- | --- |"""


def processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
