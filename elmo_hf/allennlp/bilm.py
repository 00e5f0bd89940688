# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The biLM with AllenNLP's input, output, carried states and names in its state dict."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from .. import ElmoModel, ElmoTokenizer
from ..conversion.allennlp import NAMES, check_describable
from ..conversion.formats import recognise
from ..conversion.registry import read_registry
from ..conversion.sources import open_source
from ..conversion.tables import Row, WeightsError
from ..conversion.torch_files import encoder_table

File = str | PathLike[str]
Words = Sequence[str]
Batch = TypeVar("Batch")
States = tuple[torch.Tensor, torch.Tensor]

CHARACTERS = 50  # ids of a word
_PUBLISHED = (
    "https://allennlp.s3.amazonaws.com/models/elmo/2x4096_512_2048cnn_2xhighway/"
    "elmo_2x4096_512_2048cnn_2xhighway_"
)
DEFAULT_OPTIONS_FILE = f"{_PUBLISHED}options.json"
DEFAULT_WEIGHT_FILE = f"{_PUBLISHED}weights.hdf5"


class _ElmoBiLm(nn.Module):
    """
    The biLM alone: all layers of a batch, with the vectors of `<S>` and `</S>`.

    `model` is its `ElmoModel`. The state dict has AllenNLP's names instead of the model's.

    Args:
        options_file, weight_file, requires_grad, vocab_to_cache, stateful: as in `Elmo`.
    """

    def __init__(
        self,
        options_file: File | None,
        weight_file: File | None,
        requires_grad: bool = False,
        vocab_to_cache: list[str] | None = None,
        *,
        stateful: bool = False,
    ) -> None:
        super().__init__()
        self.model = open_model(options_file, weight_file).requires_grad_(requires_grad)
        self.num_layers = self.model.config.num_hidden_layers + 1
        self.stateful = stateful
        self._states: States | None = None
        self._boundaries: torch.Tensor
        self.register_buffer("_boundaries", self._ids(["<S>", "</S>"]), persistent=False)
        self._word_embedding: nn.Embedding | None = None
        if vocab_to_cache:
            self.create_cached_cnn_embeddings(vocab_to_cache, requires_grad)
            if requires_grad:
                warnings.warn(
                    "with vocab_to_cache and requires_grad, the cached word vectors and the "
                    "character encoder are trained apart; leave out vocab_to_cache",
                    stacklevel=3,
                )
        self.register_state_dict_post_hook(_name_as_allennlp)
        self.register_load_state_dict_pre_hook(_name_as_elmo_model)

    @property
    def _elmo_lstm(self) -> "_ElmoBiLm":
        """The module with `stateful` and `reset_states()`, which in AllenNLP is an inner one."""
        return self

    def get_output_dim(self) -> int:
        return self.model.config.hidden_size

    def reset_states(self, mask: torch.Tensor | None = None) -> None:
        """Forget the carried states: all, or those of the batch's rows where `mask` is True."""
        if mask is None or self._states is None:
            self._states = None
        else:
            hidden, cell = (
                state.masked_fill(mask.bool()[None, :, None], 0) for state in self._states
            )
            self._states = hidden, cell

    @torch.no_grad()
    def create_cached_cnn_embeddings(self, tokens: list[str], requires_grad: bool = False) -> None:
        """Compute the context-free vectors of words; the first word stands for padding."""
        vectors = self.model.embeddings(self._ids(tokens).to(self.model.device)[None])[0]
        vectors[0] = 0
        self._word_embedding = nn.Embedding.from_pretrained(
            vectors, freeze=not requires_grad, padding_idx=0
        )

    def forward(
        self, inputs: torch.Tensor, word_inputs: torch.Tensor | None = None
    ) -> dict[str, Any]:
        """
        Compute all layers of a batch.

        Args:
            inputs: character ids `(batch, words, 50)` from `batch_to_ids`.
            word_inputs: indices in `vocab_to_cache`, `(batch, words)`; if one is not in the list,
                `inputs` are used.

        Returns:
            `activations`: a list with a tensor `(batch, words + 2, width)` for each layer, zero at
            padding; and `mask`: bool `(batch, words + 2)`.
        """
        if self.stateful and getattr(self, "_is_replica", False):
            raise RuntimeError(
                "stateful=True carries no states under nn.DataParallel, whose copies of the module "
                "are thrown away after each call; use one device, or stateful=False"
            )
        known = self._look_up(word_inputs)
        if known is None:
            words, mask = add_boundaries(inputs, inputs.ne(0).any(-1), self._boundaries)
        else:
            words, mask = known
        output = self.model(
            **{"input_ids" if known is None else "inputs_embeds": words},
            attention_mask=mask,
            states=self._first_states(len(words)) if self.stateful else None,
            use_cache=self.stateful,
            output_hidden_states=True,
        )
        if self.stateful:
            self._keep(output.states)
        return {"activations": list(output.hidden_states), "mask": mask}

    def _ids(self, words: list[str]) -> torch.Tensor:
        tokenizer = make_tokenizer(self.model.config.max_characters_per_token)
        return torch.from_numpy(tokenizer.words_to_ids(words))

    def _look_up(
        self, word_inputs: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return cached vectors with boundaries, and the mask; None if a word is not cached."""
        table = self._word_embedding
        if table is None or word_inputs is None:
            return None
        if ((word_inputs < 0) | (word_inputs >= table.num_embeddings)).any():
            return None
        with torch.no_grad():
            boundaries = self.model.embeddings(self._boundaries[None])[0]
        return add_boundaries(table(word_inputs), word_inputs > 0, boundaries)

    def _first_states(self, rows: int) -> States | None:
        """Return the carried states of the first rows, and zeros for rows without any."""
        if self._states is None:
            return None
        hidden, cell = (
            F.pad(state, (0, 0, 0, max(0, rows - state.shape[1])))[:, :rows].contiguous()
            for state in self._states
        )
        return hidden, cell

    def _keep(self, states: States) -> None:
        """Replace the states of a call's rows; further rows of a larger batch before stay."""
        rows = states[0].shape[1]
        before = self._states or states
        hidden, cell = (
            torch.cat([new, old[:, rows:]], 1).detach()
            for new, old in zip(states, before, strict=True)
        )
        self._states = hidden, cell


def batch_to_ids(batch: Sequence[Words]) -> torch.Tensor:
    """
    Return the character ids `(sentences, words, 50)` of lists of words, 0 at padding.

    Raises:
        ValueError: a sentence is a string instead of a list of words.
    """
    sentences = [list(check_words(sentence)) for sentence in check_words(batch)]
    if not sentences:
        raise ValueError("the batch is empty; expected at least one sentence, a list of words")
    ids = torch.from_numpy(
        make_tokenizer(CHARACTERS).words_to_ids([w for words in sentences for w in words])
    )
    return nn.utils.rnn.pad_sequence(ids.split([*map(len, sentences)]), batch_first=True)


def check_words(words: Batch) -> Batch:
    """Return the words; ValueError if they are one string, whose characters would be the words."""
    if isinstance(words, (str, bytes)) or not isinstance(words, Iterable):
        raise ValueError(
            f"got {words!r:.60} in place of a list; a sentence is a list of words, such as "
            "text.split(), and a batch is a list of sentences"
        )
    return words


def remove_sentence_boundaries(
    tensor: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Remove the first and the last word of each sentence.

    Args:
        tensor: `(batch, words + 2, width)`, padded on the right.
        mask: `(batch, words + 2)`, 0 or False at padding.

    Returns:
        `(batch, words, width)`, zero at padding, and its mask, bool `(batch, words)`.
    """
    lengths = mask.long().sum(1, keepdim=True) - 2
    inner = torch.arange(tensor.shape[1] - 2, device=tensor.device) < lengths
    return tensor[:, 1:-1].masked_fill(~inner[..., None], 0), inner


def add_boundaries(
    words: torch.Tensor, mask: torch.Tensor, boundaries: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Put the first and the last of two `boundaries` around the words of each sentence.

    Args:
        words: ids or vectors `(batch, words, n)`.
        mask: bool `(batch, words)`.
        boundaries: `(2, n)`.

    Returns:
        `(batch, words + 2, n)` and its mask.

    Raises:
        ValueError: a word follows padding.
    """
    lengths = mask.sum(1)
    positions = torch.arange(mask.shape[1] + 2, device=mask.device)
    if not torch.equal(mask, positions[:-2] < lengths[:, None]):
        raise ValueError(
            "a word follows padding (ids that are all 0); expected sentences padded on the right, "
            "as batch_to_ids returns them"
        )
    boundaries = boundaries.to(words)
    padded = F.pad(words, (0, 0, 1, 1))
    padded[:, 0] = boundaries[0]
    padded[torch.arange(len(words), device=mask.device), lengths + 1] = boundaries[1]
    return padded, positions < lengths[:, None] + 2


def open_model(options_file: File | None, weight_file: File | None) -> ElmoModel:
    """
    Read a model from its original files, as an `ElmoModel` without dropout.

    Raises:
        ValueError: a file is missing, damaged or an address, or AllenNLP has no such model.
    """
    options, weights = _local(options_file, "options_file"), _local(weight_file, "weight_file")
    with open_source(None, options=options, weights=weights) as files:
        format, original, _ = recognise(files)
        opened = format.open_original(original)
    try:
        check_describable(opened.config)
        if (width := opened.config.max_characters_per_token) != CHARACTERS:
            raise WeightsError(f"AllenNLP reads {CHARACTERS} characters of a word, not {width}")
    except WeightsError as error:
        raise WeightsError(
            f"{error}; type elmo-hf convert, and load the folder with transformers.AutoModel"
        ) from error
    opened.config.dropout = 0.0
    with torch.device("meta"):
        model = ElmoModel(opened.config)
    prefix = "elmo."
    own = {n.removeprefix(prefix): t for n, t in opened.state_dict.items() if n.startswith(prefix)}
    model.load_state_dict(own, assign=True)
    return model


@cache
def make_tokenizer(characters: int) -> ElmoTokenizer:
    """Return the tokenizer for words of so many character ids, the same at each call."""
    return ElmoTokenizer(max_characters_per_token=characters)


def _local(file: File | None, name: str) -> Path:
    if file is None:
        raise ValueError(f"{name} is None; expected the path of a file, or a module= instead")
    if "://" in str(file):
        raise ValueError(_explain_address(str(file)))
    return Path(file).expanduser()


def _explain_address(address: str) -> str:
    problem = f"{address} is an address, and only local files are opened"
    end = address.split("/")[-2:]
    for checkpoint in read_registry().values():
        for known in checkpoint.files:
            if known.address.split("/")[-2:] == end:
                return (
                    f"{problem}; type once: elmo-hf fetch {checkpoint.name} elmo --keep (it "
                    f"downloads and checks the files), and pass elmo-original/{known.name}"
                )
    return f"{problem}; download the file and pass its path"


def _rows(bilm: _ElmoBiLm, prefix: str) -> Iterator[tuple[Row, list[str]]]:
    """Yield the rows of the table of AllenNLP's tensors, and the names of ours in a state dict."""
    for row in encoder_table(bilm.model.config, NAMES):
        yield row, [f"{prefix}model.{name.removeprefix('elmo.')}" for name in row.ours]


def _name_as_allennlp(
    bilm: _ElmoBiLm, state_dict: dict[str, Any], prefix: str, metadata: Any
) -> None:
    for row, ours in _rows(bilm, prefix):
        if state_dict.keys() >= set(ours):  # not if a module inside was replaced
            tensors = [state_dict.pop(name) for name in ours]
            state_dict[prefix + row.original] = row.transform.dump(*tensors)


def _name_as_elmo_model(
    bilm: _ElmoBiLm,
    state_dict: dict[str, Any],
    prefix: str,
    metadata: Any,
    strict: bool,
    missing: list[str],
    *errors: list[str],
) -> None:
    current = bilm.model.state_dict(prefix=f"{prefix}model.")
    for row, ours in _rows(bilm, prefix):
        if (name := prefix + row.original) in state_dict:
            tensors = row.transform.load(state_dict.pop(name))
            state_dict.update(zip(ours, tensors, strict=True))
        elif not state_dict.keys() >= set(ours) and current.keys() >= set(ours):
            missing.append(name)
            state_dict.update((one, current[one]) for one in ours)


__all__ = [
    "DEFAULT_OPTIONS_FILE",
    "DEFAULT_WEIGHT_FILE",
    "File",
    "Words",
    "_ElmoBiLm",
    "batch_to_ids",
    "check_words",
    "make_tokenizer",
    "remove_sentence_boundaries",
]
