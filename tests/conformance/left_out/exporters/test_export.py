"""Replaces transformers' tests of torch.export; ours are in tests/model/test_export.py."""


class ExportTesterMixin:
    """Holds no tests."""
