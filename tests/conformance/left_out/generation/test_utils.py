"""Replaces transformers' tests of text generation, which ELMo does not do."""


class GenerationTesterMixin:
    """Holds no tests; the common tests only ask whether a class inherits it."""
