"""Lets transformers open this folder with `trust_remote_code=True`, by the installed elmo_hf."""

try:
    from elmo_hf import (  # noqa: F401
        ElmoConfig,
        ElmoForMultipleChoice,
        ElmoForPreTraining,
        ElmoForQuestionAnswering,
        ElmoForSequenceClassification,
        ElmoForTokenClassification,
        ElmoModel,
        ElmoTokenizer,
    )
except ImportError as error:
    raise ImportError(
        "This checkpoint needs the package elmo_hf: pip install elmo-hf, or run Python in the "
        "folder that elmo_hf was cloned to"
    ) from error
