"""Read the sentences to measure, as lists of words."""

import lzma
import random
from pathlib import Path

from speed_peers import BenchmarkError

TEXT = Path(__file__).resolve().parents[2] / "shared/data/pretrain_wiki_en_core/valid.txt.xz"
LONGEST = 390  # words; BERT cannot read longer sentences


class Pool:
    """Class that returns each sentence once, so that no program has cached its words' vectors."""

    def __init__(self, sentences: list[list[str]]) -> None:
        self.sentences = sentences
        self.taken = 0

    def take(self, count: int) -> list[list[str]]:
        """Return the next sentences."""
        self.taken += count
        if self.taken > len(self.sentences):
            raise BenchmarkError(
                f"the text has {len(self.sentences):,} sentences, but at least "
                f"{self.taken:,} are needed; use a longer --text, or --quick"
            )
        return self.sentences[self.taken - count : self.taken]

    def take_words(self, count: int) -> list[str]:
        """Return `count` words of running text as one sentence."""
        words: list[str] = []
        while len(words) < count:
            words += self.take(1)[0]
        return words[:count]

    def take_variety(self, distinct: int, count: int, length: int) -> list[list[str]]:
        """Return sentences of equal length that have at most `distinct` different words."""
        words: dict[str, None] = {}
        while len(words) < distinct:
            words.update(dict.fromkeys(self.take(1)[0]))
        draw = random.Random(self.taken)
        kept = list(words)[:distinct]
        drawn = [kept[i % distinct] for i in range(count * length)]
        draw.shuffle(drawn)
        return [drawn[i : i + length] for i in range(0, len(drawn), length)]


def read(file: Path | None) -> list[list[str]]:
    """Return the words of a text with one sentence per line, split with "treebank"."""
    from elmo_hf.model.tokenization_splitter import word_splitter

    file = TEXT if file is None else file
    if not file.exists():
        raise BenchmarkError(
            f"{file} does not exist; name a text (a sentence per line) with --text"
        )
    opened = lzma.open if file.suffix == ".xz" else open
    split = word_splitter("treebank").pre_tokenize_str
    with opened(file, "rt", encoding="utf-8") as lines:
        sentences = [[word for word, _ in split(line.strip())] for line in lines if line.strip()]
    return [sentence for sentence in sentences if len(sentence) <= LONGEST]
