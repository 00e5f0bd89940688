# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Pre-training of a biLM on text: corpora, windows, Trainer, resumable runs."""
