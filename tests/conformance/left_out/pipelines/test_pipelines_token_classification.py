from .task_tests import TokenClassificationPipelineTests  # noqa: F401
