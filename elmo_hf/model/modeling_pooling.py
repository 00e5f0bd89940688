# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Masks of a batch's words, and sentence vectors pooled from them."""

import torch

from .configuration_elmo import ElmoConfig


def find_words(
    config: ElmoConfig,
    mask: torch.Tensor,
    input_ids: torch.Tensor | None,
    word_input_ids: torch.Tensor | None,
) -> torch.Tensor:
    """
    Return bool `(batch, words)`, True at words that are neither padding nor a boundary.

    Args:
        config: the model's configuration; its `bos_token_id` and `eos_token_id` are boundaries.
        mask: bool `(batch, words)`, False at padding.
        input_ids, word_input_ids: as in `ElmoModel.forward`. Without either, for a call with
            `inputs_embeds`, boundaries are unknown and the mask itself is returned.
    """
    symbols = _first_symbols(config, input_ids, word_input_ids)
    if symbols is None:
        return mask
    eos = config.eos_token_id
    for boundary in (config.bos_token_id, *(eos if isinstance(eos, list) else [eos])):
        if boundary is not None:
            mask = mask & symbols.ne(boundary)
    return mask


def find_context(
    config: ElmoConfig,
    mask: torch.Tensor,
    input_ids: torch.Tensor | None,
    word_input_ids: torch.Tensor | None,
) -> torch.Tensor:
    """
    Return bool `(batch, words)`, True where an answer may begin or end.

    In a pair `<S> question </S> <S> context </S>` an answer may begin or end at the words of the
    context, in a single sentence at all its words; in both at the first row, which stands for
    "no answer". Arguments are those of `find_words`; without ids the mask itself is returned.
    """
    symbols = _first_symbols(config, input_ids, word_input_ids)
    if symbols is None:
        return mask
    words = find_words(config, mask, input_ids, word_input_ids)
    if config.bos_token_id is not None:
        sentence = (mask & symbols.eq(config.bos_token_id)).cumsum(1)
        is_pair = sentence[:, -1:] > 1
        words = words & (~is_pair | (sentence > 1))
    return words | (mask & (mask.cumsum(1) == 1))


def pool_words(
    vectors: torch.Tensor, words: torch.Tensor, pooling: str, num_directions: int
) -> torch.Tensor:
    """
    Pool the vectors of each sentence to one; a sentence without words gets zeros.

    Args:
        vectors: `(batch, words, width)`.
        words: bool `(batch, words)`, True at the words to pool.
        pooling: `"mean"`, `"max"`, `"mean+max"`, or `"ends"`: the forward half of the last word
            and the backward half of the first, where each direction has read everything.
        num_directions: 1 if there is no backward half.

    Returns:
        `(batch, width)`, for `"mean+max"` `(batch, 2 * width)`.
    """
    batch, length, width = vectors.shape
    if not length:
        return vectors.new_zeros(batch, 2 * width if pooling == "mean+max" else width)
    if pooling == "ends":
        return _ends(vectors, words, num_directions)
    valid, pooled = words[..., None], []
    if "mean" in pooling:
        pooled.append(vectors.masked_fill(~valid, 0).sum(1) / valid.sum(1).clamp(min=1))
    if "max" in pooling:
        highest = vectors.masked_fill(~valid, torch.finfo(vectors.dtype).min).amax(1)
        pooled.append(highest.masked_fill(~valid.any(1), 0))
    return torch.cat(pooled, -1)


def _first_symbols(
    config: ElmoConfig, input_ids: torch.Tensor | None, word_input_ids: torch.Tensor | None
) -> torch.Tensor | None:
    """Ids that mark boundary words, `(batch, words)`; None if there are no ids."""
    if config.uses_characters:
        # A word's first symbol is begin-of-word; of a boundary the second one is its own symbol.
        return None if input_ids is None else input_ids[..., 1]
    return word_input_ids if input_ids is None else input_ids


def _ends(vectors: torch.Tensor, words: torch.Tensor, num_directions: int) -> torch.Tensor:
    places = torch.arange(words.shape[1], device=words.device)
    last = (places * words).amax(1)
    first = words.int().argmax(1)
    rows = torch.arange(len(vectors), device=words.device)
    halves = vectors.chunk(num_directions, -1)
    ends = [half[rows, place] for half, place in zip(halves, (last, first), strict=False)]
    return torch.cat(ends, -1).masked_fill(~words.any(1, keepdim=True), 0)


__all__ = ["find_context", "find_words", "pool_words"]
