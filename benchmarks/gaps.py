"""Measure how well `fill_gaps` finds the words that were taken out of a text.

    python benchmarks/gaps.py CHECKPOINT TEXT.. [--sentences N]

From N sentences per text, one word is taken out, then two. Only words of letters that are in the
vocabulary are taken. Printed are, in two Markdown tables: the percentage of gaps whose true word is
the best or among the best ten, the mean of 1 / rank, and the perplexity (exp of the mean loss).
"""

import argparse
import random
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from elmo_hf import ElmoForPreTraining, ElmoTokenizer, fill_gaps
from elmo_hf.text_files import read_sentences

GAP = "___"
DISTANCES = (1, 2, 4)  # between two gaps
Results = dict[str, list[tuple[int, float]]]  # rank and log-probability of the true word


def choose(words: list[str], known: set[str], distance: int) -> list[int]:
    """Places where this word and the one at this distance are known words of letters."""
    can = [word in known and word.isalpha() for word in words]
    return [i for i in range(len(words) - distance) if can[i] and can[i + distance]]


class Filler:
    """Class that ranks true words."""

    def __init__(self, folder: str) -> None:
        self.model = ElmoForPreTraining.from_pretrained(folder).eval()
        self.tokenizer = ElmoTokenizer.from_pretrained(folder)
        self.known = set(self.tokenizer.lm_vocab or [])

    def scores(self, words: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Ids `(candidates,)` and scores `(3, candidates)` of each gap: forward, backward, both."""
        gaps = fill_gaps(self.model, self.tokenizer, words, top=len(self.known))
        return [
            (
                np.array([one.id for one in gap.candidates]),
                np.array([(one.forward, one.backward, one.both) for one in gap.candidates]).T,
            )
            for gap in gaps
        ]

    def one_gap(self, words: list[str], place: int, results: Results) -> None:
        ((ids, (forward, backward, both)),) = self.scores(blank(words, place))
        truth = self.find(ids, words[place])
        results["forward"].append(rank(forward, truth))
        results["backward"].append(rank(backward, truth))
        results["both, without word frequencies"].append(rank(forward + backward, truth))
        results["both"].append(rank(both, truth))

    def two_gaps(self, words: list[str], places: tuple[int, int], results: Results) -> None:
        filled = self.scores(blank(words, *places))
        for i, place in enumerate(places):
            other = places[1 - i]
            unknown = [
                self.tokenizer.word_unk_token if j == other else w for j, w in enumerate(words)
            ]
            for name, (ids, scores) in (
                ("the true word", self.scores(blank(words, place))[0]),
                ("the unknown word", self.scores(blank(unknown, place))[0]),
                ("its ten best words", filled[i]),
            ):
                results[name].append(rank(scores[2], self.find(ids, words[place])))

    def find(self, ids: np.ndarray, word: str) -> int:
        return int(np.flatnonzero(ids == self.tokenizer._vocabulary.ids([word])[0])[0])


def blank(words: list[str], *places: int) -> list[str]:
    return [GAP if i in places else word for i, word in enumerate(words)]


def rank(scores: np.ndarray, truth: int) -> tuple[int, float]:
    loss = np.logaddexp.reduce(scores) - scores[truth]
    return int((scores > scores[truth]).sum()) + 1, -float(loss)


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
    filler, generator = Filler(options.checkpoint), random.Random(0)
    single: Results = defaultdict(list)
    double: dict[int, Results] = {distance: defaultdict(list) for distance in DISTANCES}
    for path in options.texts:
        texts = [text for text in read_sentences(path) if text]
        sentences = [
            filler.tokenizer(text, add_special_tokens=False).tokens()
            for text in generator.sample(texts, min(len(texts), options.sentences))
        ]
        for number, words in enumerate(sentences):
            if places := choose(words, filler.known, 0):
                filler.one_gap(words, generator.choice(places), single)
            distance = DISTANCES[number % len(DISTANCES)]
            if places := choose(words, filler.known, distance):
                place = generator.choice(places)
                filler.two_gaps(words, (place, place + distance), double[distance])
    print(f"{len(single['both'])} sentences with one gap\n\n{table('one gap', single)}\n")
    for distance, results in double.items():
        title = f"two gaps, {distance} apart; the other gap is read as"
        print(f"{len(results['the true word'])} gaps\n\n{table(title, results)}\n")


if __name__ == "__main__":
    main()
