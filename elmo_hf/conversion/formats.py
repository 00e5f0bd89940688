# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The list of supported formats, and the detection of a model's format."""

from . import allennlp, bilm_checkpoint, bilm_hdf5, manylangs, tfhub
from .originals import Format, Original
from .sources import HDF5, INDEX_PART, Files
from .tables import WeightsError

# If a source holds files of several formats, the first format wins: further trained weights precede
# the weights that they started from, and a checkpoint, which may hold the softmax, its HDF5 dump.
FORMATS: tuple[Format, ...] = (manylangs, allennlp, tfhub, bilm_checkpoint, bilm_hdf5)


def recognise(files: Files) -> tuple[Format, Original, list[str]]:
    """
    Find the model among files.

    Returns:
        Its format, its files, and notes about other weights that are left out.

    Raises:
        WeightsError: there are no weights, several candidates, or no options but a need for them.
    """
    for known in FORMATS:
        original = known.recognise(files)
        if original is not None:
            taken = original.weights
            return (
                known,
                original,
                [
                    f"{path.name} is ignored: {taken.name} may hold more (a softmax, or further "
                    f"training); pass --weights {path.name} to convert it instead"
                    for path in files.of_kind(HDF5)
                    if path != taken
                ],
            )
    if parts := files.of_kind(INDEX_PART):
        raise WeightsError(f"{parts[0].name} is a part of a TensorFlow checkpoint; pass its .index")
    raise files.unclear("weights", [])


__all__ = ["FORMATS", "recognise"]
