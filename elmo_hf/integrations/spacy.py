# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""
ELMo's word vectors in spaCy pipelines: a component, and a layer for components that are trained.

The package elmo_hf_spacy registers both with spaCy.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..embedder import ElmoEmbedder
from ..extras import require

_spacy: Any = require("spacy", "spacy")
_thinc: Any = require("thinc.api", "spacy")
Doc, Token = _spacy.tokens.Doc, _spacy.tokens.Token


class ElmoComponent(_spacy.pipeline.Pipe):
    """
    Class that stores the vectors of all tokens in `doc.tensor`, `(tokens, width)`.

    Whitespace tokens have zero vectors, and the model does not see them. `token.vector`,
    `span.vector`, `doc.vector` (means of rows) and their similarities are then those of ELMo. A
    saved pipeline holds a SHA-256 of the weights instead of the weights: using it with others is an
    error.
    """

    def __init__(self, embedder: ElmoEmbedder, name: str = "elmo", *, use_sentences: bool) -> None:
        self.embedder = embedder
        self.name = name
        self.use_sentences = use_sentences
        self._saved_with: str | None = None

    @property
    def width(self) -> int:
        """Number of columns of `doc.tensor`."""
        return self.embedder.joined_dimension

    def __call__(self, doc: Any) -> Any:
        """
        Set the tensor and the vectors of a document.

        Raises:
            ValueError: the document has no sentence boundaries.
            RuntimeError: the weights are not those that the pipeline was saved with.
        """
        self._set_vectors([doc])
        return doc

    def pipe(self, stream: Iterable[Any], *, batch_size: int = 128) -> Iterator[Any]:
        """Set the tensors of a stream of documents, `batch_size` documents at a time."""
        handle_error = self.get_error_handler()
        for docs in _spacy.util.minibatch(stream, size=batch_size):
            try:
                self._set_vectors(docs)
            except Exception as error:
                handle_error(self.name, self, docs, error)
            else:
                yield from docs

    def _set_vectors(self, docs: Sequence[Any]) -> None:
        self._check_weights()
        sentences = [(i, rows) for i, doc in enumerate(docs) for rows in self._find_sentences(doc)]
        words = [[docs[i][row].text for row in rows] for i, rows in sentences]
        tensors = [np.zeros((len(doc), self.width), np.float32) for doc in docs]
        vectors = self.embedder.embed(words, join=True)
        for (i, rows), found in zip(sentences, vectors, strict=True):
            tensors[i][rows] = found
        for doc, tensor in zip(docs, tensors, strict=True):
            doc.tensor = _thinc.get_current_ops().asarray(tensor)
            set_hooks(doc)

    def _find_sentences(self, doc: Any) -> list[list[int]]:
        """Return the positions of the words of every sentence, whitespace tokens left out."""
        if self.use_sentences and len(doc) and not doc.has_annotation("SENT_START"):
            raise ValueError(
                f"the document {doc.text!r:.60} has no sentence boundaries; set them before "
                f'{self.name!r}, for instance with nlp.add_pipe("sentencizer", before="{self.name}"'
                '), or pass config={"use_sentences": False} to compute each document as one '
                "sentence; for training, list the component that sets them in annotating_components"
            )
        spans = doc.sents if self.use_sentences and len(doc) else [doc]
        return [[token.i for token in span if not token.is_space] for span in spans]

    # --- Saving ---

    def _check_weights(self) -> None:
        if self._saved_with is None:
            return
        if self._saved_with != self.embedder.fingerprint():
            raise RuntimeError(
                f"the pipeline was saved with other weights or settings than {self.embedder!r} has "
                "now, so the components trained on its vectors would fail; pass the folder of then:"
                f' spacy.load(path, config={{"components.{self.name}.model": folder}})'
            )
        self._saved_with = None  # checked once

    def to_bytes(self, *, exclude: Iterable[str] = ()) -> bytes:
        """Return the SHA-256 of the weights and settings; the configuration has the folder."""
        return json.dumps({"fingerprint": self._saved_with or self.embedder.fingerprint()}).encode()

    def from_bytes(self, data: bytes, *, exclude: Iterable[str] = ()) -> "ElmoComponent":
        """Remember the weights that the pipeline was saved with; they are checked at first use."""
        self._saved_with = json.loads(data)["fingerprint"]
        return self

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        """Write what `to_bytes` returns."""
        Path(path).mkdir(parents=True, exist_ok=True)
        Path(path, "weights.json").write_bytes(self.to_bytes())

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> "ElmoComponent":
        """Read what `to_disk` has written."""
        return self.from_bytes(Path(path, "weights.json").read_bytes())


# --- Vectors of documents, spans and tokens ---


def set_hooks(doc: Any) -> None:
    """
    Make `vector` and `similarity` of a document, its spans and its tokens use `doc.tensor`.

    The component does this itself. spaCy does not store it: call this for documents that were read
    by `from_bytes` or came from `nlp.pipe(..., n_process=2)`, if the pipeline has static vectors,
    which spaCy would use instead.
    """
    for hooks in (doc.user_hooks, doc.user_span_hooks, doc.user_token_hooks):
        hooks["has_vector"] = _has_vector
        hooks["similarity"] = _similarity
        hooks["vector"] = _vector
    for hooks in (doc.user_hooks, doc.user_token_hooks):  # for spans spaCy 3.8 calls a wrong hook
        hooks["vector_norm"] = _norm


def _vector(item: Any) -> Any:
    """Return the row of a token; of a span or a document the mean of rows, as spaCy does."""
    if isinstance(item, Token):
        return item.doc.tensor[item.i]
    rows = item.tensor if isinstance(item, Doc) else item.doc.tensor[item.start : item.end]
    return rows.mean(0) if len(rows) else rows.sum(0)


def _norm(item: Any) -> float:
    return _length(_vector(item))


def _length(vector: Any) -> float:
    return float((vector**2).sum() ** 0.5)


def _has_vector(item: Any) -> bool:
    return bool(_vector(item).any())


def _similarity(item: Any, other: Any) -> float:
    """Return the cosine of two vectors, 0 for a zero vector."""
    one, two = item.vector, other.vector
    lengths = _length(one) * _length(two)
    return float((one * two).sum()) / lengths if lengths else 0.0


# --- The layer for trained components ---


def doc_tensor(width: int) -> Any:
    """Return the layer `elmo_hf.DocTensor.v1`, which has no gradient."""
    return _thinc.Model(
        "elmo_doc_tensor",
        _forward,
        init=_initialize,
        dims={"nO": width},
        attrs={"is_initializing": False},
    )


def _initialize(model: Any, X: Any = None, Y: Any = None) -> None:
    model.attrs["is_initializing"] = True


def _forward(model: Any, docs: Sequence[Any], is_train: bool) -> tuple[list, Callable]:
    width = model.get_dim("nO")
    # To find its sizes, spaCy passes documents through the layer that no component has seen.
    if model.attrs["is_initializing"] and not is_train and not any(d.tensor.size for d in docs):
        return [model.ops.alloc2f(len(doc), width) for doc in docs], _backprop
    model.attrs["is_initializing"] = False
    for doc in docs:
        _check_tensor(doc, width)
    return [doc.tensor.reshape(-1, width) for doc in docs], _backprop


def _check_tensor(doc: Any, width: int) -> None:
    if not len(doc) or doc.tensor.shape == (len(doc), width):
        return
    if not doc.tensor.size:
        raise ValueError(
            f"the document {doc.text!r:.60} has no ELMo vectors; the component elmo must come "
            "earlier in the pipeline and, in training, stand in annotating_components"
        )
    raise ValueError(
        f"doc.tensor has the shape {doc.tensor.shape}, but elmo_hf.DocTensor.v1 expects "
        f"{(len(doc), width)}; set its width to the number of columns of doc.tensor"
    )


def _backprop(gradients: Any) -> list:
    return []


__all__ = ["ElmoComponent", "doc_tensor", "set_hooks"]
