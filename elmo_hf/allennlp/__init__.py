# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""
AllenNLP's ELMo classes, with the same arguments, shapes and numbers: old code changes its import.

`from elmo_hf.allennlp import Elmo, ElmoEmbedder, batch_to_ids` replaces the imports from
`allennlp.modules.elmo` and `allennlp.commands.elmo`. One default differs: the LSTMs start every
call from zeros; `stateful=True` carries their states from batch to batch, as AllenNLP always did.
"""

from .bilm import _ElmoBiLm, batch_to_ids, remove_sentence_boundaries
from .elmo import Elmo, ElmoTokenEmbedder, ScalarMix
from .embedder import ElmoEmbedder

__all__ = [
    "Elmo",
    "ElmoEmbedder",
    "ElmoTokenEmbedder",
    "ScalarMix",
    "_ElmoBiLm",
    "batch_to_ids",
    "remove_sentence_boundaries",
]
