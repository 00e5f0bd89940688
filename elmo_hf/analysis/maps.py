# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Maps of the occurrences of words: a dot per occurrence, near those in similar contexts."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from ..extras import require
from .similarity import WordInSentence
from .sources import Vectors, Words, unit

Method = Literal["pca", "tsne"]
MAX_CLUSTERS = 5
COMPONENTS = 50  # in which K-means searches clusters
NO_VARIANCE = 1e-6  # of vectors of length 1; equal vectors of two batches differ by rounding
UNLABELLED = "no sense given"


class Occurrence(NamedTuple):
    """
    A word in a sentence of a text.

    Attributes:
        sentence: number of the sentence.
        place: the sentence's words and the word's position.
        sense: what the word means there; "": not known.
    """

    sentence: int
    place: WordInSentence
    sense: str = ""


@dataclass(frozen=True)
class SenseMap:
    """
    The occurrences of words as points in a plane, layer by layer.

    Attributes:
        layers: names of the layers.
        occurrences: the occurrences.
        groups: the sense, word or cluster of each occurrence, by which the points are coloured.
        kind: what the groups are.
        vectors: `(layers, occurrences, dimension)`, of length 1.
        points: `(layers, occurrences, 2)`.
        shown: for each layer, the share of the vectors' variance that the plane of the PCA shows;
            NaN if all vectors of the layer are equal.
        method: how the points were computed.
    """

    layers: Sequence[str]
    occurrences: Sequence[Occurrence]
    groups: Sequence[str]
    kind: Literal["sense", "word", "cluster"]
    vectors: np.ndarray
    points: np.ndarray
    shown: np.ndarray
    method: Method

    def members(self) -> dict[str, list[int]]:
        """Return the indices of the occurrences of each group, largest group first."""
        ordered = [group for group, _ in Counter(self.groups).most_common()]
        return {
            group: [i for i, other in enumerate(self.groups) if other == group] for group in ordered
        }

    def typical(self) -> dict[str, int]:
        """Return the occurrence of each group that is nearest to the group's mean, top layer."""
        top, found = self.vectors[-1], {}
        for group, members in self.members().items():
            cosines = top[members] @ top[members].mean(0)
            found[group] = members[int(cosines.argmax())]
        return found

    def nearest(self, index: int, count: int) -> list[list[tuple[float, int]]]:
        """Return, for each layer, cosine and index of the occurrences nearest to one of them."""
        found = []
        for layer in self.vectors:
            cosines = layer @ layer[index]
            order = np.argsort(-cosines, kind="stable")
            found.append([(float(cosines[i]), int(i)) for i in order if i != index][:count])
        return found

    def self_similarity(self, word: str) -> list[float]:
        """Return the mean cosine of a word's different occurrences, for each layer."""
        chosen = [i for i, one in enumerate(self.occurrences) if one.place.word == word]
        count, totals = len(chosen), self.vectors[:, chosen].sum(1, dtype=np.float64)
        return ((np.square(totals).sum(-1) - count) / (count * (count - 1))).tolist()


def find_occurrences(
    sentences: Iterable[tuple[int, Words]],
    words: Sequence[str],
    senses: Sequence[str] | None = None,
) -> list[Occurrence]:
    """
    Find words in a text.

    Args:
        sentences: the sentences, each with its number.
        words: the words to find, exactly as they are written.
        senses: `senses[i]` is the sense that the words have in sentence i + 1; or, separated by
            tabs, the sense of each of its occurrences; "": not known.

    Returns:
        The occurrences, in the order of the text.

    Raises:
        ValueError: a word occurs less than twice, `words` is no list, or the senses do not
            belong to the sentences.
    """
    if isinstance(words, str):
        raise ValueError(f"words is one string, {words!r}; pass a list of words, [{words!r}]")
    found: list[Occurrence] = []
    forms: Counter[str] = Counter()
    for number, sentence in sentences:
        positions = [i for i, word in enumerate(sentence) if word in words]
        labels = _labels(senses, number, len(positions))
        for i, label in zip(positions, labels, strict=True):
            found.append(Occurrence(number, WordInSentence(sentence, i), label))
        forms.update(sentence)
    for word in words:
        _check_count(word, forms)
    return found


def draw_occurrences(
    occurrences: Sequence[Occurrence], limit: int, seed: int = 0
) -> list[Occurrence]:
    """Draw at most `limit` occurrences of each word at random; they stay in order."""
    by_word: dict[str, list[int]] = {}
    for i, one in enumerate(occurrences):
        by_word.setdefault(one.place.word, []).append(i)
    sample = random.Random(seed).sample
    drawn = (i for found in by_word.values() for i in sample(found, min(limit, len(found))))
    return [occurrences[i] for i in sorted(drawn)]


def map_senses(
    vectors: Vectors,
    occurrences: Sequence[Occurrence],
    *,
    method: Method = "pca",
    seed: int = 0,
) -> SenseMap:
    """
    Place the occurrences of words in a plane.

    The vectors are scaled to length 1 and centred in each layer. One PCA is fitted to those of all
    layers, so that a point moves from layer to layer only because its vector does. t-SNE begins
    each layer with these points; it shows who is near whom, but its distances have no unit.

    The points are coloured by sense if any is known, else by word, and if there is one word only,
    by the clusters of K-means on the first 50 principal components of all layers together; of 2 to
    5 clusters, as many as have the best silhouette.

    Args:
        vectors: the source of the vectors.
        occurrences: as `find_occurrences` returns them.
        method: "pca" or "tsne".
        seed: seed of the clusters and of t-SNE.

    Raises:
        ValueError: `method` is unknown, or there are fewer than two occurrences.
    """
    if method not in ("pca", "tsne"):
        raise ValueError(f"method is {method!r}; expected 'pca' or 'tsne'")
    if len(occurrences) < 2:
        raise ValueError(f"got {len(occurrences)} occurrences; a map needs two or more")
    rows = unit(_embed(vectors, occurrences))
    points, shown = _fit_plane(rows)
    if method == "tsne":
        points = np.stack([_spread(*one, seed) for one in zip(rows, points, strict=True)])
    groups, kind = _group(occurrences, rows, seed)
    return SenseMap(vectors.layers, occurrences, groups, kind, rows, points, shown, method)


def _labels(senses: Sequence[str] | None, number: int, count: int) -> list[str]:
    """Return the senses of the `count` occurrences in a sentence."""
    if senses is None:
        return [""] * count
    if number > len(senses):
        raise ValueError(
            f"there are {len(senses)} lines of senses, but sentence {number}; expected one line of "
            "senses per line of the text"
        )
    labels = [label.strip() for label in senses[number - 1].split("\t")]
    if len(labels) > 1 and len(labels) != count:
        raise ValueError(
            f"line {number} of the senses is {senses[number - 1]!r:.60}, but the words occur "
            f"{count} times in sentence {number}; expected one sense for all or one for each"
        )
    return labels if len(labels) > 1 else labels * count


def _check_count(word: str, forms: Counter[str]) -> None:
    if forms[word] > 1:
        return
    similar = [form for form in forms if word.casefold() in form.casefold() and form != word]
    near = sorted(similar, key=lambda form: -forms[form])[:5]
    hint = f"; it has {', '.join(map(repr, near))}" if near else ""
    occurs = "occurs only once" if forms[word] else "does not occur"
    raise ValueError(
        f"the word {word!r} {occurs} in the text{hint}; expected a word that occurs twice or "
        "more, written as in the text"
    )


def _embed(vectors: Vectors, occurrences: Sequence[Occurrence]) -> np.ndarray:
    """Return `(layers, occurrences, dimension)`."""
    places: dict[int, list[int]] = {}
    for i, one in enumerate(occurrences):
        places.setdefault(one.sentence, []).append(i)
    sentences = (occurrences[members[0]].place.words for members in places.values())
    found: list[Any] = [None] * len(occurrences)
    for members, layers in zip(places.values(), vectors(sentences), strict=True):
        for i in members:
            found[i] = layers[:, occurrences[i].place.position]
    return np.stack(found, axis=1)


def _fit_plane(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the points in the plane of all layers' first two components, and what it shows."""
    centred = rows - rows.mean(1, keepdims=True)
    pca = require("sklearn.decomposition", "analysis").PCA(2, svd_solver="covariance_eigh")
    points = centred @ pca.fit(np.concatenate(centred)).components_.T
    total = np.square(centred).sum((1, 2)) / rows.shape[1]
    part = np.square(points).sum((1, 2)) / rows.shape[1]
    return points, np.divide(part, total, np.full_like(total, np.nan), where=total > NO_VARIANCE)


def _spread(rows: np.ndarray, points: np.ndarray, seed: int) -> np.ndarray:
    """Return t-SNE's points of a layer, which begins with those of the PCA."""
    if rows.var(0).sum() <= NO_VARIANCE or len(rows) < 4:
        return points
    start = points / points.std() * 1e-4  # as t-SNE scales its own start
    tsne = require("sklearn.manifold", "analysis").TSNE(
        init=start, perplexity=min(30, (len(rows) - 1) / 3), random_state=seed
    )
    found = tsne.fit_transform(rows)
    return (found - found.mean(0)) / found.std()  # the same size in each layer


def _group(
    occurrences: Sequence[Occurrence], rows: np.ndarray, seed: int
) -> tuple[list[str], Literal["sense", "word", "cluster"]]:
    if any(one.sense for one in occurrences):
        return [one.sense or UNLABELLED for one in occurrences], "sense"
    words = [one.place.word for one in occurrences]
    if len({*words}) > 1:
        return words, "word"
    best = _cluster(np.concatenate([*rows], axis=-1), seed)
    return [f"cluster {number + 1}" for number in best], "cluster"


def _cluster(rows: np.ndarray, seed: int) -> list[int]:
    """Return the cluster of each row, cluster 0 being that of the first row."""
    score = require("sklearn.metrics", "analysis").silhouette_score
    means = require("sklearn.cluster", "analysis").KMeans
    pca = require("sklearn.decomposition", "analysis").PCA
    size = min(COMPONENTS, *rows.shape)
    rows = pca(size, svd_solver="randomized", random_state=seed).fit_transform(rows)
    most = min(MAX_CLUSTERS, len(rows) - 1, len(np.unique(rows.round(4), axis=0)))
    tried = [
        means(count, n_init=3, random_state=seed).fit_predict(rows) for count in range(2, most + 1)
    ]
    best = max(tried, key=lambda one: score(rows, one)) if tried else np.zeros(len(rows), int)
    order = {number: i for i, number in enumerate(dict.fromkeys(best.tolist()))}
    return [order[number] for number in best.tolist()]


__all__ = ["Method", "Occurrence", "SenseMap", "draw_occurrences", "find_occurrences", "map_senses"]
