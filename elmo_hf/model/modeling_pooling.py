# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Which rows of a batch are words, and sentence vectors pooled from them."""

import torch

from .configuration_elmo import ElmoConfig


def find_words(
    config: ElmoConfig,
    mask: torch.Tensor,
    input_ids: torch.Tensor | None,
    word_input_ids: torch.Tensor | None,
) -> torch.Tensor:
    """
    Return bool `(batch, words)`: rows that are neither padding nor a boundary word.

    Args:
        config: the model's configuration, whose `bos_token_id` and `eos_token_id` count.
        mask: bool `(batch, words)`, False at padding.
        input_ids, word_input_ids: as in `ElmoModel.forward`. Without ids, when the model was
            given `inputs_embeds`, no boundaries are known and every row of the mask is a word.
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
    Return bool `(batch, words)`: rows that an answer may begin or end at.

    Of a pair `<S> question </S> <S> context </S>` these are the words of the context, of a
    single sentence all its words; and the first row, which stands for "no answer". Arguments
    are those of `find_words`; without ids every row of the mask is one.
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
    Make one vector of each sentence; a sentence without words gets zeros.

    Args:
        vectors: `(batch, words, width)`.
        words: bool `(batch, words)`, True where a row counts.
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
    """`(batch, words)`, the ids that tell boundaries; None if there are no ids."""
    if config.uses_characters:
        # A row begins with its begin-of-word symbol, a boundary's own symbol is next.
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
