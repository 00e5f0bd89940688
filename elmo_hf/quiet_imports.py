# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Hides four harmless log lines of torchao, if installed, when transformers is imported.

torchao looks for CUDA kernels, which a machine without a GPU cannot load, and registers two enums
with torch in a deprecated way. Import this module before transformers.
"""

import logging
import re

HARMLESS = {
    "torchao": re.compile(r"Failed to load \S*torchao/_C_(mxfp8|cutlass_90a)\."),
    "torch.utils._pytree": re.compile(
        r"<enum '(KernelPreference|ScaleCalculationMode)'> is an Enum subclass"
    ),
}


class _HideMatching(logging.Filter):
    """Class that drops log records that match a pattern."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        super().__init__()
        self.pattern = pattern

    def filter(self, record: logging.LogRecord) -> bool:
        return self.pattern.match(record.getMessage()) is None


for _name, _pattern in HARMLESS.items():
    logging.getLogger(_name).addFilter(_HideMatching(_pattern))

__all__ = ["HARMLESS"]
