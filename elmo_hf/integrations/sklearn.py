# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""ELMo's sentence vectors as features for scikit-learn (extra `sklearn`)."""

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from ..batches import Sentence, check_iterable
from ..embedder import ElmoEmbedder
from ..extras import require
from ..layers import Layers, Pooling

_base: Any = require("sklearn.base", "sklearn")
_last_used: list[ElmoEmbedder] = []  # keeps its weights loaded for the clones of a grid search


class ElmoVectorizer(
    _base.ClassNamePrefixFeaturesOutMixin, _base.TransformerMixin, _base.BaseEstimator
):
    """
    Class that turns texts into ELMo's sentence vectors, for scikit-learn pipelines.

    Nothing is learned: `transform` works without `fit`. The folder is loaded at first use, and the
    process keeps the model that it used last. A pickle holds the folder's name, the settings and a
    SHA-256 of the folder's files instead of the weights: if the files have changed when the
    unpickled vectorizer is used, that is an error.

    Args:
        model: a folder, or the name of a Hub repository.
        layers: as in `ElmoEmbedder`; several layers are put side by side.
        pooling: as in `ElmoEmbedder`.
        dtype: dtype of the computation; default: `dtype` in the folder's config.json.
        device: such as "cpu"; default: the GPU if there is one.
        batch_words: maximum number of words in a batch, padding included.
    """

    def __init__(
        self,
        model: str | os.PathLike,
        *,
        layers: Layers = "average",
        pooling: Pooling = "mean",
        dtype: torch.dtype | None = None,
        device: str | None = None,
        batch_words: int = 8192,
    ) -> None:
        self.model = model
        self.layers = layers
        self.pooling = pooling
        self.dtype = dtype
        self.device = device
        self.batch_words = batch_words

    def fit(self, X: Any, y: Any = None) -> "ElmoVectorizer":
        """
        Check the settings; X and y are not used.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: a setting is invalid.
        """
        self.__dict__.pop("_embedder", None)  # the folder may have changed
        self._use()
        return self

    def transform(self, X: Sequence[Sentence] | np.ndarray) -> np.ndarray:
        """
        Compute one vector per text.

        Args:
            X: texts, or lists of words: a list, a 1-D array or a pandas Series.

        Returns:
            `(texts, features)`, float32. The row of a text without words is zero.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: a setting or a text is invalid.
        """
        texts = _to_list(X)
        embedder = self._use()
        rows = np.asarray(embedder.encode(texts))
        _last_used[:] = [embedder]
        return rows

    def __setattr__(self, name: str, value: Any) -> None:
        """Change a setting, also for `set_params`; it holds from the next call on."""
        if name != "_embedder":
            self.__dict__.pop("_embedder", None)
        super().__setattr__(name, value)

    @property
    def _n_features_out(self) -> int:
        if "_embedder" not in self.__dict__ and not os.path.isdir(self.model):
            raise AttributeError("the model is not loaded yet; call fit or transform first")
        return self._use().joined_dimension

    def _use(self) -> ElmoEmbedder:
        if "_embedder" not in self.__dict__:
            self._embedder = ElmoEmbedder(**self.get_params())
        return self._embedder

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = {**super().__getstate__()}
        state.pop("_embedder", None)
        with suppress(FileNotFoundError):  # of a folder that is not here only the name is kept
            self._use().__getstate__()  # which holds the SHA-256 of the folder
            state["_embedder"] = self._embedder
        return state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags


def _to_list(X: Any) -> list[Sentence]:
    """Return the texts; raise ValueError for one text, or for a table."""
    if isinstance(X, (str, bytes)):
        raise ValueError(f"X is one string, {X!r:.60}; pass a list of texts: [text]")
    shape = getattr(X, "shape", None)
    if shape is not None and len(shape) != 1:
        raise ValueError(
            f"X is a {type(X).__name__} of shape {shape}; expected one column of texts: "
            'table["text"], array[:, 0], or in a ColumnTransformer the name "text" instead of the '
            'list ["text"]; lists of words as a list: array.tolist()'
        )
    return list(check_iterable(X))


__all__ = ["ElmoVectorizer"]
