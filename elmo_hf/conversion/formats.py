# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The table of formats, and which of them a model's files are in."""

from . import allennlp, bilm_checkpoint, bilm_hdf5, manylangs, tfhub
from .originals import Format, Original
from .sources import HDF5, INDEX_PART, Files
from .tables import WeightsError

# Where files of several formats lie together, the first is taken: weights trained further come
# before those that they began with, and a checkpoint, which may hold the softmax, before its dump.
FORMATS: tuple[Format, ...] = (manylangs, allennlp, tfhub, bilm_checkpoint, bilm_hdf5)


def recognise(files: Files) -> tuple[Format, Original, list[str]]:
    """
    Find the model among files.

    Returns:
        Its format, its files, and notes on weights that are left out for it.

    Raises:
        WeightsError: there are no weights, several candidates, or no options where they are needed.
    """
    for known in FORMATS:
        original = known.recognise(files)
        if original is not None:
            taken = original.weights
            return (
                known,
                original,
                [
                    f"{path.name} is left out for {taken.name}, which may hold more (a softmax, or "
                    "further training); name it with --weights to convert it instead"
                    for path in files.of_kind(HDF5)
                    if path != taken
                ],
            )
    if parts := files.of_kind(INDEX_PART):
        raise WeightsError(f"{parts[0].name} is a part of a TensorFlow checkpoint; name its .index")
    raise files.unclear("weights", [])


__all__ = ["FORMATS", "recognise"]
