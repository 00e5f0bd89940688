"""A source of word vectors for tests, in which every number is known."""

from collections.abc import Callable

import numpy as np


class Given:
    """Class that gives `compute(words)`, which has the shape (layers, words, dimension)."""

    name = "given"

    def __init__(self, layers: int, compute: Callable[[list[str]], np.ndarray]) -> None:
        self.layers = [f"layer {i}" for i in range(layers)]
        self._compute = compute

    def __call__(self, sentences):
        for words in sentences:
            found = np.asarray(self._compute([*words]), np.float32)
            yield found


def noisy(layers=2, dimension=6):
    """A source whose layer 0 depends on the word alone and whose others on the sentence, too."""

    def compute(words):
        rows = [
            vector(f"{word} {words if layer else ''} {layer}", dimension)
            for layer in range(layers)
            for word in words
        ]
        return np.array(rows).reshape(layers, len(words), dimension)

    return Given(layers, compute)


def vector(text, dimension):
    return np.random.default_rng([*text.encode()]).normal(size=dimension)
