# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""ELMo's vectors in other libraries: one module for each, imported only by who uses it."""
