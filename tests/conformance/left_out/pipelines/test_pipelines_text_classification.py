from .task_tests import TextClassificationPipelineTests  # noqa: F401
