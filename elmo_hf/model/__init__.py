# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The model's code: exactly the files that `save_pretrained` copies beside weights."""
