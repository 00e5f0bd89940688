"""Continue a checkpoint on the training text of each data set of benchmarks/mixed_text.py.

    python benchmarks/mixed_training.py [TEXT ...]

Writes the text of the sets into --work, and runs examples/pretrain.py on it: one command for each
text, kept in command.txt beside its log. A text that has been trained on is not trained on again.
"""

import argparse
import json
import lzma
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from mixed_texts import TASKS, Item
from task_texts import DataError, read_lines

from elmo_hf import ElmoForPreTraining, ElmoTokenizer

DATA = ROOT.parent / "shared" / "data"
MEDICAL = "medquad/"  # these documents of pretrain_web_en answer questions about health


@dataclass(frozen=True)
class Run:
    """
    Class with the settings of a training.

    Args:
        base: the checkpoint of checkpoints/ that it starts from.
        steps: number of steps.
        batch, window: windows in a batch, and words in a window.
        learning_rate: the highest learning rate.
        sampled: negative samples of the softmax; 0: all words.
        muon: learning rate of Muon; 0: AdamW trains all weights.
    """

    base: str
    steps: int
    batch: int
    window: int
    learning_rate: float = 1e-3
    sampled: int = 0
    muon: float = 0


RUNS = {
    "sagt": Run("elmo-mini-en", 200, 8, 64),
    "arabizi": Run("elmo-mini-en", 200, 8, 64),
    "hinglish_ner": Run("elmo-mini-en", 200, 16, 64),
    "sentimix_hi": Run("elmo-mini-en", 100, 16, 96, sampled=2048, muon=4e-3),
    "sentimix_es": Run("elmo-mini-en", 100, 16, 64, sampled=2048),
    "biomedical": Run("elmo-mini-en", 100, 32, 96, sampled=2048),
}


def command(name: str, run: Run, work: Path) -> list[str]:
    """Return the command that trains."""
    config = {"num_sampled_words": run.sampled, "dropout": 0.1}
    return [
        "python",
        "examples/pretrain.py",
        *("--init_from", str(work / "bases" / run.base), "--new_vocabulary"),
        *("--train_files", str(work / "texts" / name / "train.txt")),
        *("--valid_files", str(work / "texts" / name / "dev.txt")),
        *("--vocabulary_size", "20000", "--min_count", "2", "--config", json.dumps(config)),
        *("--window", str(run.window), "--per_device_train_batch_size", str(run.batch)),
        *("--learning_rate", str(run.learning_rate), "--warmup_steps", "20"),
        *("--lr_scheduler_type", "linear", "--max_steps", str(run.steps), "--seed", "0"),
        *("--save_steps", "100", "--save_total_limit", "1", "--logging_steps", "20"),
        *("--use_cpu", "true", "--cache_dir", str(work / "words")),
        *("--muon_learning_rate", str(run.muon)),
        *("--output_dir", str(work / "continued" / name)),
    ]


def train(name: str, data: Path, work: Path) -> Path:
    """Train on a text, unless it has been done; return the folder."""
    folder = work / "continued" / name
    if (folder / "config.json").is_file():
        return folder
    write_base(RUNS[name].base, work / "bases")
    write_texts(name, data, work / "texts" / name)
    folder.mkdir(parents=True, exist_ok=True)
    line = command(name, RUNS[name], work)
    (folder / "command.txt").write_text(shlex.join(line) + "\n")
    with (folder / "log.txt").open("a") as log:
        done = subprocess.run([sys.executable, *line[1:]], cwd=ROOT, stdout=log, stderr=log)
    if done.returncode:
        raise DataError(f"training on {name} failed; see {folder / 'log.txt'}")
    return folder


def write_base(name: str, folder: Path) -> None:
    """Copy a checkpoint with a tokenizer that splits at white space: the sets are split already."""
    if not (folder / name / "config.json").is_file():
        source = ROOT / "checkpoints" / name
        splitter = {"word_splitter": "whitespace"}
        ElmoTokenizer.from_pretrained(source, **splitter).save_pretrained(folder / name)
        ElmoForPreTraining.from_pretrained(source).save_pretrained(folder / name)


def write_texts(name: str, data: Path, folder: Path) -> None:
    """Write the sentences of a text's tasks, without labels; test parts are not used."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = [task for task in TASKS.values() if task.text == name]
    parts = [task.read(data) for task in tasks]
    train = [*distinct(item for one in parts for item in one.train)]
    dev = [*distinct(item for one in parts for item in one.dev)]
    if name == "biomedical":
        train += medical_text(data / "pretrain_web_en")
    for part, lines in (("train", train), ("dev", dev)):
        (folder / f"{part}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = sum(len(line.split()) for line in train)
    (folder / "words.json").write_text(json.dumps({"words": words, "sentences": len(train)}))


def distinct(items: Iterable[Item]) -> Iterator[str]:
    """Yield each sentence once, in its order."""
    return iter(dict.fromkeys(" ".join(item.words) for item in items))


def medical_text(folder: Path) -> Iterator[str]:
    """Yield the sentences of the training documents about health, split into words."""
    rows = [line.split("\t") for line in read_lines(folder / "index.tsv")]
    documents = iter([row for row in rows if row[0] == "train"])
    tokenizer = ElmoTokenizer()
    with lzma.open(folder / "train-00.txt.xz", "rt", encoding="utf-8") as text:
        for document in split_documents(text):
            name, sentences = (row := next(documents))[2], int(row[5])
            if len(document) != sentences:
                raise DataError(f"{name} has {len(document)} sentences; the index has {sentences}")
            if name.startswith(MEDICAL):
                encoding = tokenizer(document, add_special_tokens=False)
                yield from (" ".join(encoding.tokens(i)) for i in range(len(document)))


def split_documents(lines: Iterable[str]) -> Iterator[list[str]]:
    """Yield the lines of each document; an empty line ends one."""
    document: list[str] = []
    for line in lines:
        if line.strip():
            document.append(line.strip())
        elif document:
            yield document
            document = []
    if document:
        yield document


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("texts", nargs="*", metavar="TEXT", help=f"of {', '.join(RUNS)}; all")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data sets")
    parser.add_argument("--work", type=Path, default=Path("mixed_work"))
    given = parser.parse_args(arguments)
    if unknown := {*given.texts} - RUNS.keys():
        parser.error(f"no text {', '.join(sorted(unknown))}; expected some of {', '.join(RUNS)}")
    try:
        for name in given.texts or RUNS:
            print(train(name, given.data, given.work), flush=True)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
