# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""
What the layers of a model know: measures on word vectors in context (extra `analysis`).

Every measure takes a source of vectors: `ElmoVectors`, `TransformerVectors` or `StaticVectors`; and
it returns an `Estimate` for each layer, with a 95 % interval and, where there is one, a floor.

- A word in two contexts: `pair_cosines`, then `same_sense_accuracy`, `same_sense_auc`,
  `rating_correlation` or `rating_change_correlation`.
- How much the context changes a word: `measure_geometry`.
- Word senses by the nearest mean vector: `disambiguate`.
- Linear probes with control tasks: `probe`.
- Nearest contexts: `nearest_contexts`.
- Two languages: `find_anchors`, `learn_alignment`, `translate`, `AlignedVectors`.
- Maps of senses: `find_occurrences`, `map_senses`; drawn by `figures`, `page` and `exports`.
- Noise: `MisspellWords`, `ReplaceCharacters`, `ChangeCase`; `measure_noise`.
- Bias: the modules `bias`, `bias_associations`, `bias_sentences` and `bias_mitigation`.
"""

from .crosslingual import AlignedVectors, Anchors, find_anchors, learn_alignment, translate
from .estimates import Estimate
from .geometry import Geometry, measure_geometry
from .maps import Occurrence, SenseMap, draw_occurrences, find_occurrences, map_senses
from .neighbors import Nearest, Neighbor, nearest_contexts
from .noise import (
    ChangeCase,
    MisspellWords,
    Noise,
    NoiseEffect,
    ReplaceCharacters,
    measure_noise,
    read_misspellings,
)
from .probes import Labelled, Probe, probe
from .senses import SenseSentence, SenseTagged, SenseVectors, disambiguate, score_senses
from .similarity import (
    Cosines,
    Pair,
    PairVectors,
    WordInSentence,
    embed_pairs,
    pair_cosines,
    rating_change_correlation,
    rating_correlation,
    same_sense_accuracy,
    same_sense_auc,
)
from .sources import ElmoVectors, StaticVectors, TransformerVectors, Vectors, WithAverages

__all__ = [
    "AlignedVectors",
    "Anchors",
    "ChangeCase",
    "Cosines",
    "ElmoVectors",
    "Estimate",
    "Geometry",
    "Labelled",
    "MisspellWords",
    "Nearest",
    "Neighbor",
    "Noise",
    "NoiseEffect",
    "Occurrence",
    "Pair",
    "PairVectors",
    "Probe",
    "ReplaceCharacters",
    "SenseMap",
    "SenseSentence",
    "SenseTagged",
    "SenseVectors",
    "StaticVectors",
    "TransformerVectors",
    "Vectors",
    "WithAverages",
    "WordInSentence",
    "disambiguate",
    "draw_occurrences",
    "embed_pairs",
    "find_anchors",
    "find_occurrences",
    "learn_alignment",
    "map_senses",
    "measure_geometry",
    "measure_noise",
    "nearest_contexts",
    "pair_cosines",
    "probe",
    "rating_change_correlation",
    "rating_correlation",
    "read_misspellings",
    "same_sense_accuracy",
    "same_sense_auc",
    "score_senses",
    "translate",
]
