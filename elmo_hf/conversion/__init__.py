# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Converts original ELMo weights to verified Hub folders and back; downloads and uploads."""
