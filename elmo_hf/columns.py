# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Columns of a batch: a dict of `datasets` or Ray, a pandas DataFrame or a pyarrow Table."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def read_column(batch: Any, name: str) -> list[Any]:
    """Return a column as a list; raise ValueError if it is missing, or if this is one row."""
    names = batch.column_names if is_table(batch) else [*batch]
    if name not in names:
        raise ValueError(
            f"the batch has no column {name!r}, only {names}; pass text_column= to the embedder"
        )
    column = batch[name]
    if isinstance(column, str) or type(batch).__name__ == "LazyRow":  # that of `datasets`
        raise ValueError("got one row instead of a batch; call dataset.map(..., batched=True)")
    return column.to_pylist() if is_table(batch) else [*column]


def add_column(batch: Any, name: str, vectors: Sequence[np.ndarray], width: int) -> Any:
    """
    Return the batch with a column of arrays `(words, width)`; a column of this name is replaced.

    In a pyarrow Table its type is `list<fixed_size_list<float>[width]>`.
    """
    if is_table(batch):
        column = _to_arrow(vectors, width)
        if name in batch.column_names:
            batch = batch.drop_columns([name])
        return batch.append_column(name, column)
    if type(batch).__module__.startswith("pandas"):
        return batch.assign(**{name: [[*words] for words in vectors]})
    if isinstance(batch, dict):
        return {**batch, name: [*vectors]}
    batch[name] = [*vectors]  # the batch of `datasets`, whose other columns stay unread
    return batch


def is_table(batch: Any) -> bool:
    """Whether this is a pyarrow Table."""
    return type(batch).__module__.startswith("pyarrow")


def _to_arrow(vectors: Sequence[np.ndarray], width: int) -> Any:
    import pyarrow

    ends = np.cumsum([0, *map(len, vectors)], dtype=np.int32)
    values = np.concatenate([np.zeros((0, width), np.float32), *vectors])
    words = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values.reshape(-1)), width)
    return pyarrow.ListArray.from_arrays(pyarrow.array(ends), words)


__all__ = ["add_column", "is_table", "read_column"]
