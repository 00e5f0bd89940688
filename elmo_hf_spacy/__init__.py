# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""
What spaCy imports of this project at every start: the names of a component and of a layer.

This package is outside of elmo_hf, because importing elmo_hf imports transformers, which takes
seconds: a pipeline without ELMo must not wait for it.
"""

from typing import Any

from spacy.language import Language
from spacy.util import registry


@Language.factory(
    "elmo",
    assigns=["doc.tensor"],
    default_config={
        "layers": "average",
        "use_sentences": True,
        "batch_words": 8192,
        "device": None,
    },
)
def make_elmo(
    nlp: Any,
    name: str,
    model: str,
    layers: Any,
    use_sentences: bool,
    batch_words: int,
    device: str | None,
) -> Any:
    """
    Make the component of `nlp.add_pipe("elmo", config={"model": folder})`.

    Args:
        nlp, name: given by spaCy.
        model: a folder, or the name of a Hub repository.
        layers: as in `ElmoEmbedder`; several layers are put side by side.
        use_sentences: compute each sentence of a document on its own. A component before this one
            must set sentence boundaries, for instance `sentencizer`. False: a document is computed
            as one sentence.
        batch_words: maximum number of words in a batch, padding included.
        device: such as "cpu"; default: the GPU if there is one.
    """
    from elmo_hf import ElmoEmbedder
    from elmo_hf.integrations.spacy import ElmoComponent

    embedder = ElmoEmbedder(model, layers=layers, batch_words=batch_words, device=device)
    return ElmoComponent(embedder, name, use_sentences=use_sentences)


@registry.architectures("elmo_hf.DocTensor.v1")
def make_doc_tensor(width: int) -> Any:
    """
    Make a tok2vec layer that returns `doc.tensor`, for spaCy's tagger, ner, parser and textcat.

    The component `elmo` must come earlier in the pipeline, and for training it must be among
    `annotating_components`. ELMo itself is not trained.

    Args:
        width: number of columns of `doc.tensor`: the model's `hidden_size`, times the number of
            layers if there are several.
    """
    from elmo_hf.integrations.spacy import doc_tensor

    return doc_tensor(width)


__all__ = ["make_doc_tensor", "make_elmo"]
