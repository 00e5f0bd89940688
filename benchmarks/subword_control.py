"""Pre-train a biLM that reads characters and one that reads WordPieces, on the very same words.

    python benchmarks/subword_control.py characters FOLDER --text 'text/*.txt' --valid valid.txt
    python benchmarks/subword_control.py pieces FOLDER --text 'text/*.txt' --valid valid.txt

The question is what characters buy, so all else is equal: the words, the sentences of a step, the
LSTMs and the recipe. The table of pieces is so wide that it has as many parameters as the character
encoder, projections included; the softmax, which vectors do not need, is not counted. Both models
are trained by examples/pretrain.py, which takes all other options, such as --max_steps or --bf16,
and resumes a run that was interrupted. benchmarks/masked_control.py trains a BERT on the same text.
`python benchmarks/robustness.py --subwords FOLDER` and `python benchmarks/controls.py FOLDER`
measure the models.
"""

import argparse
import itertools
import json
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import numpy as np
import torch

from elmo_hf import ElmoConfig, ElmoModel, ElmoTokenizer
from elmo_hf.analysis.sources import ElmoVectors, TransformerVectors, Vectors, Words
from elmo_hf.pretraining.corpora import find_files, read_files
from elmo_hf.text_files import make_splitter

# isort: split
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.trainers import WordPieceTrainer
from transformers import AutoConfig, AutoModel

SPECIALS = ["<S>", "</S>", "<UNK>"]
LETTERS = 256  # words with rarer letters become <UNK>, so that it is learned
UNKNOWN = "\ufffd"
WINDOW = 128
LINES_AT_ONCE = 10_000
MODELS = ("characters", "pieces")
MASKED = "bert"  # the model of benchmarks/masked_control.py
WEIGHTS = "model.safetensors"
# The size of elmo-mini-en, see benchmarks/pretraining.md.
CONFIG = {
    "projection_dim": 256,
    "cell_dim": 512,
    "filters": [[1, 32], [2, 32], [3, 64], [4, 128], [5, 256]],
    "num_highway_layers": 1,
    "num_sampled_words": 2048,
    "dropout": 0.0,
}
RECIPE = {
    "num_train_epochs": 1,
    "warmup_steps": 100,
    "save_steps": 100,
    "save_total_limit": 1,
    "logging_steps": 25,
}


# --- Vectors ---


class PieceVectors:
    """
    Class that gives the layers of a biLM of WordPieces; a word's vector is the mean of its pieces.

    Args:
        folder: the folder `pieces` of this script.
        name: name in tables.
    """

    def __init__(self, folder: Path, name: str = "WordPiece") -> None:
        self._elmo, self.name = ElmoVectors(folder), name
        self.layers = self._elmo.layers
        self._splitter = load_splitter(folder.parent)

    def __call__(self, sentences: Iterable[Words]) -> Iterator[np.ndarray]:
        """Yield `(layers, words, dimension)` for each sentence."""
        owners: deque[list[int]] = deque()

        def split() -> Iterator[list[str]]:
            for words in sentences:
                encoding = encode(self._splitter, words)
                owners.append(encoding.word_ids)
                yield encoding.tokens

        for layers in self._elmo(split()):
            starts = np.flatnonzero(np.diff(owners.popleft(), prepend=-1))
            if not len(starts):
                yield layers
                continue
            lengths = np.diff([*starts, layers.shape[1]])[:, None].astype(np.float32)
            yield np.add.reduceat(layers, starts, axis=1) / lengths


def load_sources(folder: Path) -> dict[str, Callable[[], Vectors]]:
    """Return functions that load the trained models, by the name of their folder."""
    settings = folder / "settings.json"
    trained = [name for name in (*MODELS, MASKED) if (folder / name / WEIGHTS).is_file()]
    if not trained or not settings.is_file():
        raise ValueError(
            f"{folder} has no trained model; make it with python benchmarks/subword_control.py "
            f"characters {folder} --text FILES --valid FILES, and the same with pieces"
        )
    words = f"{json.loads(settings.read_text())['words'] / 1e6:.1f} million words"
    sources: dict[str, Callable[[], Vectors]] = {
        "characters": lambda: ElmoVectors(folder / "characters", name=f"characters, {words}"),
        "pieces": lambda: PieceVectors(folder / "pieces", f"WordPiece, {words}"),
        MASKED: lambda: TransformerVectors(folder / MASKED, name=f"masked BERT, {words}"),
    }
    return {name: sources[name] for name in trained}


def load_splitter(folder: Path) -> Tokenizer:
    """Return the splitter of words into pieces; "a<S>b" stays one word."""
    splitter = Tokenizer.from_file(str(folder / "pieces.json"))
    splitter.encode_special_tokens = True
    return splitter


def encode(splitter: Tokenizer, words: Words):
    """Return the encoding of words, with at least one piece for each."""
    return splitter.encode([word.strip() or UNKNOWN for word in words], is_pretokenized=True)


# --- The text ---


def prepare(folder: Path, text: list[str], valid: list[str], words: int, pieces: int) -> dict:
    """
    Write the words and the pieces of the text, once, and return what was written.

    Raises:
        ValueError: the folder holds another text.
        FileNotFoundError: there is no such text.
    """
    file = folder / "settings.json"
    wanted = {"text": text, "valid": valid, "asked_words": words, "asked_pieces": pieces}
    if file.is_file():
        settings = json.loads(file.read_text())
        for name, value in wanted.items():
            if settings[name] != value:
                raise ValueError(
                    f"{folder} was made with {name} {settings[name]}, not {value}; use the same "
                    "or another folder"
                )
        return settings
    find_files([*text, *valid])
    folder.mkdir(parents=True, exist_ok=True)
    counted = write_words(folder / "characters-train.txt", text, words)
    write_words(folder / "characters-valid.txt", valid, words)
    train_pieces(folder, pieces)
    counts = [write_pieces(folder, part) for part in ("train", "valid")]
    vocabulary = list_pieces(folder, counts[0])
    settings = wanted | {
        "words": counted,
        "pieces": len(vocabulary),
        "pieces_per_word": counts[0].total() / counted,
    }
    part = file.with_suffix(".part")
    part.write_text(json.dumps(settings, indent=1) + "\n")
    part.rename(file)
    return settings


def write_words(file: Path, patterns: list[str], count: int) -> int:
    """Write the first words of a text, up to the end of a sentence; return their number."""
    splitter, written = make_splitter(ElmoTokenizer()), 0
    lines = read_files(find_files(patterns))
    with file.open("w", encoding="utf-8") as opened:
        while block := [*itertools.islice(lines, LINES_AT_ONCE)]:
            for encoding in splitter.encode_batch(block, add_special_tokens=False):
                words = " ".join(encoding.tokens).split()
                opened.write(" ".join(words) + "\n")
                written += len(words)
                if written >= count:
                    return written
    return written


def train_pieces(folder: Path, size: int) -> None:
    """Learn the pieces from the training words."""
    splitter = Tokenizer(WordPiece(unk_token=SPECIALS[2]))
    splitter.pre_tokenizer = WhitespaceSplit()
    trainer = WordPieceTrainer(
        vocab_size=size, special_tokens=SPECIALS, limit_alphabet=LETTERS, show_progress=False
    )
    splitter.train([str(folder / "characters-train.txt")], trainer)
    splitter.save(str(folder / "pieces.json"))


def write_pieces(folder: Path, part: str) -> Counter[str]:
    """Write the pieces of the words, line by line; return how often each occurs."""
    splitter, counts = load_splitter(folder), Counter[str]()
    with (
        (folder / f"characters-{part}.txt").open(encoding="utf-8") as words,
        (folder / f"pieces-{part}.txt").open("w", encoding="utf-8") as opened,
    ):
        while block := [*itertools.islice(words, LINES_AT_ONCE)]:
            for encoding in splitter.encode_batch(block):
                opened.write(" ".join(encoding.tokens) + "\n")
                counts.update(encoding.tokens)
    return counts


def list_pieces(folder: Path, counts: Counter[str]) -> list[str]:
    """Write all pieces, the most frequent first, as the sampled softmax needs them."""
    known = load_splitter(folder).get_vocab()
    pieces = sorted(known.keys() - {*SPECIALS}, key=lambda piece: (-counts[piece], piece))
    vocabulary = [*SPECIALS, *pieces]
    (folder / "pieces.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return vocabulary


# --- The models ---


def piece_fields(fields: dict, pieces: int) -> dict:
    """Return the fields of a biLM of pieces whose input has at most as many parameters."""
    projection = fields["projection_dim"]
    room = count_parameters(encoder_config(fields))["input"] - projection  # without the bias
    return {
        **fields,
        "filters": [],
        "num_highway_layers": 0,
        "word_vocab_size": pieces + 1,  # row 0 is padding
        "word_embedding_dim": max(1, room // (pieces + 1 + projection)),
        "embedding_projection": True,
    }


def encoder_config(fields: dict) -> ElmoConfig:
    """Return the configuration without a softmax."""
    return ElmoConfig(**{**fields, "num_sampled_words": 0})


def count_parameters(config: ElmoConfig) -> dict[str, int]:
    """Return the number of parameters of the input and of the LSTMs."""
    with torch.device("meta"):
        model = ElmoModel(config)
    total = sum(weight.numel() for weight in model.parameters())
    inputs = sum(weight.numel() for weight in model.embeddings.parameters())
    return {"input": inputs, "LSTMs": total - inputs}


def describe(folder: Path) -> str:
    """Return a sentence on the models and what they were trained on."""
    settings = json.loads((folder / "settings.json").read_text())
    trained = [name for name in (*MODELS, MASKED) if (folder / name / WEIGHTS).is_file()]
    sizes = "; ".join(describe_size(folder / name) for name in trained)
    return (
        f"{settings['words']:,} words; {settings['pieces']:,} pieces, "
        f"{settings['pieces_per_word']:.2f} per word; parameters without the softmax: {sizes}"
    )


def describe_size(folder: Path) -> str:
    """Return a model's name and its parameters: "characters 5,374,624 (694,624 of the input)"."""
    config = AutoConfig.from_pretrained(folder)
    if not isinstance(config, ElmoConfig):
        with torch.device("meta"):
            model = AutoModel.from_config(config)
        return f"{folder.name.upper()} {model.num_parameters():,}"
    counts = count_parameters(config)
    width = "" if config.uses_characters else f", whose table is {config.word_embedding_dim} wide"
    return f"{folder.name} {sum(counts.values()):,} ({counts['input']:,} of the input{width})"


def make_command(given: argparse.Namespace, settings: dict, more: list[str]) -> list[str]:
    """Return the command that trains the model."""
    fields = CONFIG | json.loads(given.config)
    window, vocabulary = WINDOW, ["--vocabulary_size", str(given.vocabulary_size)]
    if given.model == "pieces":
        fields = piece_fields(fields, settings["pieces"])
        window = round(WINDOW * settings["pieces_per_word"])
        vocabulary = ["--vocabulary_file", str(given.folder / "pieces.txt")]
    counts = count_parameters(encoder_config(fields))
    parts = (f"{name} {number:,}" for name, number in counts.items())
    print(f"{given.model}: parameters: {', '.join(parts)}", flush=True)
    processes = ["-m", "torch.distributed.run", "--nproc_per_node", str(given.processes)]
    return [
        sys.executable,
        *(processes if given.processes > 1 else []),
        str(ROOT / "examples" / "pretrain.py"),
        *("--train_files", str(given.folder / f"{given.model}-train.txt")),
        *("--valid_files", str(given.folder / f"{given.model}-valid.txt")),
        *("--output_dir", str(given.folder / given.model), "--window", str(window)),
        *("--word_splitter", "whitespace", "--config", json.dumps(fields), *vocabulary),
        *(part for name, value in RECIPE.items() for part in (f"--{name}", str(value))),
        *more,
    ]


def parse_arguments(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog="All other options are those of examples/pretrain.py.",
    )
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("folder", type=Path, help="folder for the text and both models")
    parser.add_argument("--text", nargs="+", required=True, help="training text")
    parser.add_argument("--valid", nargs="+", required=True, help="held-out text")
    parser.add_argument("--words", type=int, default=5_000_000, help="words to train on")
    parser.add_argument("--pieces", type=int, default=8_000, help="size of the set of pieces")
    parser.add_argument(
        "--vocabulary_size", type=int, default=50_000, help="words in the characters' softmax"
    )
    parser.add_argument("--config", default="{}", help="fields of ElmoConfig for both, as JSON")
    parser.add_argument("--processes", type=int, default=1)
    return parser.parse_known_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    given, more = parse_arguments(arguments)
    try:
        settings = prepare(given.folder, given.text, given.valid, given.words, given.pieces)
        command = make_command(given, settings, more)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main())
