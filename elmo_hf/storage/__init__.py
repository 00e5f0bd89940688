# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Vectors on disk: `write_vectors` stores those of a corpus, `open_vectors` reads them by index."""

from .reading import VectorFile, open_vectors
from .writing import print_vectors, write_vectors

__all__ = ["VectorFile", "open_vectors", "print_vectors", "write_vectors"]
