# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Word masks without boundaries, and pooling of word vectors to sentence vectors."""

import torch

from .configuration_elmo import ElmoConfig
from .modeling_inputs import Inputs


def find_words(config: ElmoConfig, mask: torch.Tensor, inputs: Inputs) -> torch.Tensor:
    """
    Return a bool mask `(batch, words)`, True at words that are neither padding nor a boundary.

    Args:
        config: the model's configuration; its `bos_token_id` and `eos_token_id` are boundaries.
        mask: bool `(batch, words)`, False at padding.
        inputs: as for `ElmoModel.forward`. Without ids (a call with `inputs_embeds`) boundaries
            are unknown, and `mask` is returned.
    """
    symbols = _first_symbols(config, inputs)
    if symbols is None:
        return mask
    eos = config.eos_token_id
    for boundary in (config.bos_token_id, *(eos if isinstance(eos, list) else [eos])):
        if boundary is not None:
            mask = mask & symbols.ne(boundary)
    return mask


def find_context(config: ElmoConfig, mask: torch.Tensor, inputs: Inputs) -> torch.Tensor:
    """
    Return a bool mask `(batch, words)`, True where an answer may start or end.

    In a pair `<S> question </S> <S> context </S>` these are the words of the context, in a single
    sentence all words; in both cases also the first position, which means "no answer". Arguments
    as in `find_words`; without ids, `mask` is returned.
    """
    symbols = _first_symbols(config, inputs)
    if symbols is None:
        return mask
    words = find_words(config, mask, inputs)
    if config.bos_token_id is not None:
        sentence = (mask & symbols.eq(config.bos_token_id)).cumsum(1)
        is_pair = sentence[:, -1:] > 1
        words = words & (~is_pair | (sentence > 1))
    return words | (mask & (mask.cumsum(1) == 1))


def pool_words(
    vectors: torch.Tensor, words: torch.Tensor, pooling: str, num_directions: int
) -> torch.Tensor:
    """
    Pool the word vectors of each sentence to one vector, zeros for a sentence without words.

    Args:
        vectors: `(batch, words, width)`.
        words: bool `(batch, words)`, True at the words to pool.
        pooling: `"mean"`, `"max"`, `"mean+max"`, or `"ends"`: the forward half of the last word
            and the backward half of the first word, which depend on the whole sentence.
        num_directions: 2, or 1 if the vectors have no backward half.

    Returns:
        `(batch, width)`; for `"mean+max"` `(batch, 2 * width)`.
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


def _first_symbols(config: ElmoConfig, inputs: Inputs) -> torch.Tensor | None:
    """Return the ids that tell boundaries from words, `(batch, words)`; None without ids."""
    if config.uses_characters:
        # Symbol 0 of every word is begin-of-word; symbol 1 is <S> or </S> in boundaries only.
        return None if inputs.input_ids is None else inputs.input_ids[..., 1]
    return inputs.word_input_ids if inputs.input_ids is None else inputs.input_ids


def _ends(vectors: torch.Tensor, words: torch.Tensor, num_directions: int) -> torch.Tensor:
    places = torch.arange(words.shape[1], device=words.device)
    last = (places * words).amax(1)
    first = words.int().argmax(1)
    rows = torch.arange(vectors.shape[0], device=words.device)
    halves = vectors.chunk(num_directions, -1)
    ends = [half[rows, place] for half, place in zip(halves, (last, first), strict=False)]
    return torch.cat(ends, -1).masked_fill(~words.any(1, keepdim=True), 0)


__all__ = ["find_context", "find_words", "pool_words"]
