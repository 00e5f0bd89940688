# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Token classification pipeline for ELMo, whose words have many ids (characters), not one."""

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from transformers import TokenClassificationPipeline

# Keys that the stock pipeline's `preprocess` passes to `postprocess`, past the model.
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
    Pipeline that tags the words of texts, or groups them into entities, like the stock pipeline.

    `pipeline("token-classification", model=folder)` creates it for the folder of an ELMo tagger,
    after `import elmo_hf` or with `trust_remote_code=True`. For other models this class creates
    the stock pipeline. All options of the stock pipeline are supported: aggregation strategies,
    batches, long texts with `stride`, and `is_split_into_words`. ELMo has no subwords, so all
    aggregation strategies except "none" give the same entities. Entities of a tagger with BIOES
    labels are whole, too.

    With a CRF the tags are those of the best tagging, and a word's `score` is the marginal
    probability of its tag: the sum over all taggings with this tag at this word.
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
            logits = torch.stack([output.tag_scores, log_marginals], -2)  # softmaxed later
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
        """Return text, scores and position of each word without boundaries, for `postprocess`."""
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

    def get_tag(self, entity_name: str) -> tuple[str, str]:
        """Return "B" for a tag that begins an entity, else "I", and the kind of entity."""
        prefix, _, kind = entity_name.partition("-")
        if prefix in ("E", "S") and _is_bioes(self.model.config.id2label.values()):
            return "B" if prefix == "S" else "I", kind
        return super().get_tag(entity_name)


def _is_bioes(labels: Collection[str]) -> bool:
    return all(label == "O" or label[:2] in ("B-", "I-", "E-", "S-") for label in labels)


def _probabilities(scores: np.ndarray) -> np.ndarray:
    """Keep the best tag's marginal probability of a CRF's `(2, labels)`, and 0 for other tags."""
    if scores.ndim == 1:
        return scores
    best = scores[0].argmax()
    probabilities = np.zeros_like(scores[1])
    probabilities[best] = max(scores[1, best], np.finfo(scores.dtype).tiny)
    return probabilities


__all__ = ["ElmoTokenClassificationPipeline"]
