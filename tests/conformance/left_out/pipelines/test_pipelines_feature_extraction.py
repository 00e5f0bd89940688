from .task_tests import FeatureExtractionPipelineTests  # noqa: F401
