# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Token classification by pipeline: the stock one expects one id a word, ELMo has a row of them."""

from typing import Any

import numpy as np
from transformers import TokenClassificationPipeline


class ElmoTokenClassificationPipeline(TokenClassificationPipeline):
    """
    Tags the words of texts, or groups them to entities, as the stock pipeline does.

    Use it as `pipeline("token-classification", model=..., pipeline_class=
    ElmoTokenClassificationPipeline)`. All of its options hold: aggregation strategies, batches,
    long texts by `stride`, and `is_split_into_words`. ELMo reads whole words, so no word is ever
    a part of another and every strategy but "none" groups alike.
    """

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
        """Return word, scores and place of each row that is no boundary; called by the pipeline."""
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
                    "scores": scores[index],
                    "start": start,
                    "end": end,
                    "index": index,
                    "is_subword": False,
                }
            )
        return entities


__all__ = ["ElmoTokenClassificationPipeline"]
