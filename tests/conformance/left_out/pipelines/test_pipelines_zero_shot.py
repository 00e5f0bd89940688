from .task_tests import ZeroShotClassificationPipelineTests  # noqa: F401
