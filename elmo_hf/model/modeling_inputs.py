# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Check a model's arguments, so that errors are raised early and in plain words."""

from typing import NamedTuple

import torch

from .configuration_elmo import ElmoConfig
from .engine_checks import is_concrete
from .engine_weights import States


class Inputs(NamedTuple):
    """The arguments of `ElmoModel.forward` that describe the words of the sentences."""

    input_ids: torch.Tensor | None = None
    attention_mask: torch.Tensor | None = None
    inputs_embeds: torch.Tensor | None = None
    word_input_ids: torch.Tensor | None = None


def check_words(config: ElmoConfig, inputs: Inputs) -> torch.Size:
    """Return `(batch, words)`; raise ValueError if inputs are missing, redundant or malformed."""
    names = ["input_ids", "inputs_embeds"]
    if not config.uses_characters:
        names.insert(1, "word_input_ids")
    present = [name for name in names if getattr(inputs, name) is not None]
    if len(present) != 1:
        raise ValueError(
            f"got {' and '.join(present) or 'nothing'}; expected exactly one of {', '.join(names)}"
        )
    given = getattr(inputs, present[0])
    if inputs.inputs_embeds is not None:
        _check_embeds(config, given)
    elif config.uses_characters:
        _check_character_ids(config, given)
    else:
        _check_word_ids(config, given, present[0])
    if config.uses_characters:
        _check_words_beside(config, given, inputs.word_input_ids)
    return given.shape[:2]


def make_mask(inputs: Inputs, shape: torch.Size, directions: int) -> torch.Tensor:
    """
    Return the attention mask as bool `(batch, words, directions)`.

    It is False where a direction skips a word. Without an attention mask, words whose ids are all
    0 are padding.

    Raises:
        ValueError: the attention mask has another shape, or values other than 0 and 1.
    """
    mask = inputs.attention_mask
    if mask is None:
        mask = _find_words(inputs, shape)
    elif mask.shape in (shape, (*shape, directions)):
        _check_mask_values(mask)
        mask = mask.bool()
    else:
        raise ValueError(
            f"attention_mask has shape {tuple(mask.shape)}, but there are (batch, words) = "
            f"{tuple(shape)} and {directions} directions; pass the tokenizer's attention_mask, or "
            "None"
        )
    return mask if mask.ndim == 3 else mask[..., None].expand(*shape, directions)


def check_states(config: ElmoConfig, states: States, vectors: torch.Tensor) -> States:
    """
    Return the states in the dtypes that the LSTMs compute in.

    Args:
        config: the model's configuration.
        states: hidden and cell states of every layer, as in `ElmoModel.forward`.
        vectors: input vectors `(batch, words, projection_dim)`.

    Raises:
        ValueError: shape, dtype or device do not match the model and the batch.
    """
    batch = vectors.shape[0]  # len() would fix the size in an exported graph
    sizes = (config.hidden_size, config.num_directions * config.cell_dim)
    expected = [(config.num_hidden_layers, batch, size) for size in sizes]
    found = [tuple(part.shape) for part in states]
    if found != expected:
        raise ValueError(
            f"states have shapes {found}, but this model and a batch of {batch} need {expected}; "
            "pass the `states` of an earlier output for as many sentences, or None for zeros"
        )
    for part in states:
        if not part.is_floating_point() or part.device != vectors.device:
            raise ValueError(
                f"states have dtype {part.dtype} on {part.device}; expected floating point on "
                f"{vectors.device}, the model's device: pass the `states` of its own output"
            )
    hidden, cell = states
    return hidden.to(vectors.dtype), cell.to(memory_dtype(vectors))


def memory_dtype(vectors: torch.Tensor) -> torch.dtype:
    """Return the dtype of the cell state: float32 or wider, since it sums over many words."""
    return torch.promote_types(vectors.dtype, torch.float32)


def check_labels(config: ElmoConfig, labels: torch.Tensor, shape: torch.Size) -> None:
    """Raise ValueError unless `labels` has one LM vocabulary id, or -100, for each word."""
    if labels.shape != shape:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}, but there are (batch, words) = "
            f"{tuple(shape)}; get them with tokenizer(..., return_lm_labels=True)"
        )
    counted = labels.masked_fill(labels == -100, 0)
    _check_range(counted, "labels", config.lm_vocab_size, "lm_vocab_size")


def _find_words(inputs: Inputs, shape: torch.Size) -> torch.Tensor:
    if inputs.inputs_embeds is not None:
        return torch.ones(shape, dtype=torch.bool, device=inputs.inputs_embeds.device)
    ids = inputs.word_input_ids if inputs.input_ids is None else inputs.input_ids
    assert ids is not None  # check_words has raised otherwise
    return ids.ne(0) if ids.ndim == 2 else ids.ne(0).any(-1)


def _check_character_ids(config: ElmoConfig, ids: torch.Tensor) -> None:
    characters = config.max_characters_per_token
    if ids.ndim != 3 or ids.shape[-1] != characters:
        raise ValueError(
            f"input_ids have shape {tuple(ids.shape)}; expected character ids (batch, words, "
            f"{characters}). Make them with ElmoTokenizer(max_characters_per_token={characters}), "
            'as in tokenizer(sentences, padding=True, return_tensors="pt")'
        )
    _check_integers(ids, "input_ids")
    _check_range(ids, "input_ids", config.vocab_size, "vocab_size")


def _check_word_ids(config: ElmoConfig, ids: torch.Tensor, name: str) -> None:
    if ids.ndim != 2:
        raise ValueError(
            f"{name} have shape {tuple(ids.shape)}; expected word ids (batch, words) for the "
            "model's word table. Make them with the tokenizer saved beside the model"
        )
    _check_integers(ids, name)
    size = "word_vocab_size" if config.word_vocab_size else "lm_vocab_size + 1"
    _check_range(ids, name, config.num_word_ids, size)


def _check_words_beside(
    config: ElmoConfig, given: torch.Tensor, word_input_ids: torch.Tensor | None
) -> None:
    """Check the `word_input_ids` of a model that reads characters."""
    if word_input_ids is None:
        if config.output_embedding_layer:
            raise ValueError(
                "word_input_ids are missing: this model has an output embedding layer, which is "
                "looked up by word ids; its tokenizer returns them if it is loaded as "
                "AutoTokenizer.from_pretrained(FOLDER, use_word_ids=True)"
            )
        if config.word_vocab_size and not (given.is_floating_point() and given.ndim == 3):
            raise ValueError(
                "word_input_ids are missing: this model has a word table beside its character "
                "encoder; pass the word_input_ids (batch, words) that its tokenizer returns"
            )
        return
    if not config.num_word_ids:
        raise ValueError(
            "got word_input_ids, but this model has no word table and no output embedding layer; "
            "leave them out, or load the tokenizer with use_word_ids=False"
        )
    _check_word_ids(config, word_input_ids, "word_input_ids")
    if word_input_ids.shape != given.shape[:2]:
        raise ValueError(
            f"word_input_ids have shape {tuple(word_input_ids.shape)}, but there are (batch, "
            f"words) = {tuple(given.shape[:2])}"
        )


def _check_embeds(config: ElmoConfig, embeds: torch.Tensor) -> None:
    if config.uses_characters:
        characters = (config.max_characters_per_token, config.char_embedding_dim)
        shapes = {4: characters, 3: (config.projection_dim,)}
    else:
        shapes = {3: (config.word_embedding_dim,)}
    if shapes.get(embeds.ndim) != tuple(embeds.shape[2:]):
        expected = " or ".join(str(("batch", "words", *shape)) for shape in shapes.values())
        raise ValueError(
            f"inputs_embeds have shape {tuple(embeds.shape)}; expected {expected}".replace("'", "")
        )


def _check_integers(ids: torch.Tensor, name: str) -> None:
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(f"{name} have dtype {ids.dtype}; expected integers, such as torch.long")


def _check_mask_values(mask: torch.Tensor) -> None:
    if mask.dtype == torch.bool or not _can_read(mask):
        return
    if bool((mask.ne(0) & mask.ne(1)).any()):
        low, high = mask.aminmax()
        raise ValueError(
            f"attention_mask has values from {low:g} to {high:g}; expected 1 at words and 0 at "
            "padding, as the tokenizer returns them, not an additive mask (0 and -inf)"
        )


def _check_range(ids: torch.Tensor, name: str, size: int, size_name: str) -> None:
    if not _can_read(ids) or not ids.numel():
        return
    low, high = (int(bound) for bound in ids.aminmax())
    if low < 0 or high >= size:
        raise ValueError(
            f"{name} range from {low} to {high}; expected 0 to {size - 1} ({size_name} is {size}). "
            "Use the tokenizer that was saved beside the model"
        )


def _can_read(tensor: torch.Tensor) -> bool:
    """Whether a check may read values; that would stall a GPU, break a graph, or fail in vmap."""
    return tensor.device.type == "cpu" and is_concrete(tensor)


__all__ = ["Inputs", "check_labels", "check_states", "check_words", "make_mask", "memory_dtype"]
