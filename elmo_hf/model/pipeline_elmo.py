# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Token classification by pipeline: ELMo has a row of ids per word, the stock one expects one."""

from typing import Any

import numpy as np
import torch
from transformers import TokenClassificationPipeline

# What the stock pipeline's `preprocess` hands on to its `postprocess`.
NOT_FOR_THE_MODEL = (
    "special_tokens_mask",
    "offset_mapping",
    "sentence",
    "is_last",
    "word_ids",
    "word_to_chars_map",
)


class ElmoTokenClassificationPipeline(TokenClassificationPipeline):
    """
    Tags the words of texts, or groups them to entities, as the stock pipeline does.

    `pipeline("token-classification", model=folder)` makes one for a folder with an ELMo tagger,
    after `import elmo_hf` or with `trust_remote_code=True`. For a model of another kind
    this class makes the stock pipeline. All options of the stock pipeline hold: aggregation
    strategies, batches, long texts by `stride`, and `is_split_into_words`. ELMo reads whole words,
    so no word is a part of another and every strategy but "none" groups alike.

    With a CRF the tags are the best tagging's, and a word's `score` is the marginal probability
    of its tag: the sum over all taggings that have this tag at this word.
    """

    def __new__(cls, *args: Any, model: Any = None, **kwargs: Any) -> Any:
        if model is None or model.config.model_type == "elmo":
            return super().__new__(cls)
        return TokenClassificationPipeline(*args, model=model, **kwargs)

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        kept = {name: model_inputs.pop(name, None) for name in NOT_FOR_THE_MODEL}
        output = self.model(**model_inputs, return_dict=True)
        logits = output.logits
        if output.get("tag_scores") is not None:
            log_marginals = self.model.log_marginals(logits, **model_inputs)
            logits = torch.stack([output.tag_scores, log_marginals], -2)  # both get a softmax
        return {"logits": logits, **kept, **model_inputs}

    def gather_pre_entities(
        self,
        sentence: str,
        input_ids: np.ndarray,
        scores: np.ndarray,
        offset_mapping: Any,
        special_tokens_mask: np.ndarray,
        aggregation_strategy: Any,
        word_ids: list[int | None] | None = None,
        word_to_chars_map: list[tuple[int, int]] | None = None,
    ) -> list[dict[str, Any]]:
        """Return word, scores and place of each row that is no boundary; the pipeline calls it."""
        words = self.tokenizer.convert_ids_to_tokens(input_ids)
        entities = []
        for index, word in enumerate(words):
            if special_tokens_mask[index]:
                continue
            start, end = None, None
            if offset_mapping is not None:
                start, end = (int(place) for place in offset_mapping[index])
                if word_ids is not None and word_to_chars_map is not None:
                    shift = word_to_chars_map[word_ids[index]][0]  # type: ignore[index]
                    start, end = start + shift, end + shift
                word = sentence[start:end]
            entities.append(
                {
                    "word": word,
                    "scores": _probabilities(scores[index]),
                    "start": start,
                    "end": end,
                    "index": index,
                    "is_subword": False,
                }
            )
        return entities


def _probabilities(scores: np.ndarray) -> np.ndarray:
    """Of a CRF's scores `(2, labels)` the best tag's probability, and 0 for the other tags."""
    if scores.ndim == 1:
        return scores
    best = scores[0].argmax()
    probabilities = np.zeros_like(scores[1])
    probabilities[best] = max(scores[1, best], np.finfo(scores.dtype).tiny)
    return probabilities


__all__ = ["ElmoTokenClassificationPipeline"]
