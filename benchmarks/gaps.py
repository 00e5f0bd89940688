"""Measure how well `fill_gaps` finds the words that were taken out of a text.

    python benchmarks/gaps.py CHECKPOINT TEXT.. [--sentences N]

From N sentences per text, one word is taken out, then two. Only words of letters that are in the
vocabulary are taken. Printed are, in two Markdown tables: the percentage of gaps whose true word is
the best or among the best ten, the mean of 1 / rank, and the perplexity (exp of the mean loss).
"""

import argparse
import random
from collections import defaultdict
from collections.abc import Container, Sequence

import numpy as np
import torch

from elmo_hf import ElmoForPreTraining, ElmoTokenizer
from elmo_hf.gaps import Filler
from elmo_hf.text_files import read_sentences

DISTANCES = (1, 2, 4)  # between two gaps
Results = dict[str, list[tuple[int, float]]]  # rank and log-probability of the true word


def choose(words: list[str], known: Container[str], distance: int) -> list[int]:
    """Places where this word and the one at this distance are known words of letters."""
    can = [word in known and word.isalpha() for word in words]
    return [i for i in range(len(words) - distance) if can[i] and can[i + distance]]


class Ranker:
    """Class that ranks true words."""

    def __init__(self, folder: str) -> None:
        self.model = ElmoForPreTraining.from_pretrained(folder).eval()
        self.tokenizer = ElmoTokenizer.from_pretrained(folder)
        self.vocabulary = self.tokenizer.lm_vocab or []
        self.filler = Filler(self.model, self.tokenizer, "both", None, sorted_by_frequency=True)
        self.numbers = {self.vocabulary[i]: number for number, i in enumerate(self.filler.ids)}

    def rank(self, scores: torch.Tensor, word: str) -> tuple[int, float]:
        """Rank and log-probability of a word."""
        scores = scores.log_softmax(-1)
        truth = scores[self.numbers[word]]
        return int((scores > truth).sum()) + 1, truth.item()

    def one_gap(self, words: list[str], place: int, results: Results) -> None:
        (scores,) = self.filler.fill(words, [place])
        for name, side in {
            "the left side": scores.forward,
            "the right side": scores.backward,
            "both, without word frequencies": scores.forward + scores.backward,
            "both": scores.both,
        }.items():
            results[name].append(self.rank(side, words[place]))

    def two_gaps(self, words: list[str], places: list[int], results: Results) -> None:
        filled = self.filler.fill(words, places)
        for place, other, scores in zip(places, places[::-1], filled, strict=True):
            unknown = list(words)
            unknown[other] = self.tokenizer.word_unk_token
            for name, found in {
                "the true word": self.filler.fill(words, [place])[0],
                "the unknown word": self.filler.fill(unknown, [place])[0],
                "its ten best words": scores,
            }.items():
                results[name].append(self.rank(found.both, words[place]))


def table(title: str, results: Results) -> str:
    lines = [
        f"| {title} | first | first ten | 1 / rank | perplexity |",
        "| --- " + "| ---: " * 4 + "|",
    ]
    for name, found in results.items():
        ranks, losses = np.array(found).T
        lines.append(
            f"| {name} | {100 * (ranks == 1).mean():.1f} | {100 * (ranks <= 10).mean():.1f} | "
            f"{(1 / ranks).mean():.3f} | {np.exp(-losses.mean()):.1f} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--sentences", type=int, default=200)
    options = parser.parse_args(argv)
    ranker, generator = Ranker(options.checkpoint), random.Random(0)
    single: Results = defaultdict(list)
    double: dict[int, Results] = {distance: defaultdict(list) for distance in DISTANCES}
    for path in options.texts:
        texts = [text for text in read_sentences(path) if text]
        sentences = [
            ranker.tokenizer(text, add_special_tokens=False).tokens()
            for text in generator.sample(texts, min(len(texts), options.sentences))
        ]
        for number, words in enumerate(sentences):
            if places := choose(words, ranker.numbers, 0):
                ranker.one_gap(words, generator.choice(places), single)
            distance = DISTANCES[number % len(DISTANCES)]
            if places := choose(words, ranker.numbers, distance):
                place = generator.choice(places)
                ranker.two_gaps(words, [place, place + distance], double[distance])
    print(f"{len(single['both'])} gaps\n\n{table('one gap, seen from', single)}\n")
    for distance, results in double.items():
        title = f"two gaps, {distance} apart; the other gap is read as"
        print(f"{len(results['the true word'])} gaps\n\n{table(title, results)}\n")


if __name__ == "__main__":
    main()
