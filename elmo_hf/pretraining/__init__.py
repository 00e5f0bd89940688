# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Pre-training of a biLM on text: corpora, windows, Trainer, resumable runs. Extra: `train`."""

from ..extras import require

for _package in ("accelerate", "datasets", "pyarrow"):
    require(_package, "train")
