# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""What the layers of a model know: measures on word vectors in context (extra `analysis`)."""
