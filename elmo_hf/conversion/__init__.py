# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Original ELMo weights to Hub folders and back, verified; download and upload."""
