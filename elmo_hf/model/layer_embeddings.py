# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Context-free word vectors: characters through convolutions and highways, or a word table."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_elmo import ElmoConfig
from .engine_checks import is_concrete, readable, runs_as_written
from .engine_choice import forced_engine
from .engine_copies import KeepsCopies, is_own
from .engine_cpu_characters import (
    CharacterCopy,
    Snapshot,
    can_prepare,
    cut_padding,
    fill_product,
    pool_characters,
    unique_rows,
)
from .engine_threads import SMALL_LSTM, run_side_by_side

# Bounds the largest convolution output: 512 words x 1024 filters x 50 positions.
WORDS_PER_CONVOLUTION = 512


@readable
class ElmoEmbeddings(KeepsCopies[CharacterCopy]):
    """
    Layer 0: context-free word vectors (Peters et al. 2018, section 3.4).

    Each convolution runs over all `max_characters_per_token` positions, padding symbols included
    as in bilm-tf, and is max-pooled. With a word table in addition, its vector is concatenated
    before the character encoder's (ELMoForManyLangs).

    Each distinct word of a batch is encoded once, without its padding. `encode_reference` defines
    the result without these optimizations, and is used while a graph is recorded. Modules that
    were replaced or have hooks are always called.

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        self.num_filters = config.num_filters
        self.widest = max((width for width, _ in config.filters), default=0)
        self.activation = torch.relu if config.activation == "relu" else torch.tanh
        if config.uses_characters:
            width = config.char_embedding_dim
            self.char_embeddings = nn.Embedding(config.vocab_size, width, padding_idx=0)
            self.convolutions = nn.ModuleList(
                nn.Conv1d(width, count, kernel_size) for kernel_size, count in config.filters
            )
            self.highways = nn.ModuleList(
                ElmoHighway(config.num_filters) for _ in range(config.num_highway_layers)
            )
        if config.word_vocab_size:
            self.word_embeddings = nn.Embedding(
                config.word_vocab_size, config.word_embedding_dim, padding_idx=0
            )
        self.projection = (
            nn.Linear(config.embedding_dim, config.projection_dim)
            if config.has_embedding_projection
            else None
        )
        self._copies = CharacterCopy()
        # Changing thread numbers is slow, so the encoder is split in two only if the LSTMs are too.
        self.has_small_lstms = config.cell_dim * config.projection_dim <= SMALL_LSTM

    def forward(
        self,
        char_ids: torch.Tensor | None = None,
        word_ids: torch.Tensor | None = None,
        char_embeds: torch.Tensor | None = None,
        word_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Compute the word vectors `(batch, words, projection_dim)`.

        Args:
            char_ids: `(batch, words, max_characters_per_token)`.
            char_embeds: replaces `char_ids`: their embeddings, with `char_embedding_dim` appended.
            word_ids: `(batch, words)`, rows of the word table.
            word_embeds: replaces `word_ids`: their embeddings `(batch, words, word_embedding_dim)`.
        """
        if char_ids is None or word_embeds is not None or not self.can_encode_unique(char_ids):
            return self.encode_reference(char_ids, word_ids, char_embeds, word_embeds)
        vectors, indices = self.encode_unique(char_ids, word_ids)
        return F.embedding(indices, vectors)

    def can_encode_unique(self, ids: torch.Tensor) -> bool:
        """Whether equal words may be encoded once, although their number depends on values."""
        return forced_engine() != "reference" and is_concrete(ids)

    def encode_unique(
        self, char_ids: torch.Tensor | None = None, word_ids: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Encode each distinct word once.

        Args:
            char_ids: `(batch, words, max_characters_per_token)`.
            word_ids: `(batch, words)`; for a model with a word table.

        Returns:
            Vectors `(unique, projection_dim)`, and their index for each word `(batch, words)`.
        """
        if char_ids is None:
            assert word_ids is not None
            unique, indices = torch.unique(word_ids, return_inverse=True)
            return self.encode_reference(word_ids=unique[None])[0], indices
        rows = char_ids.flatten(0, 1).long()  # (batch * words, characters)
        if word_ids is not None:
            rows = torch.cat([rows, word_ids.flatten()[:, None]], 1)
        if not is_concrete(char_ids) or not len(rows):  # the number of unique rows is unknown
            indices = torch.arange(len(rows), device=rows.device)
        else:
            rows, indices = unique_rows(rows)
        return self._encode(rows, word_ids is not None), indices.view(char_ids.shape[:2])

    @contextmanager
    def word_cache(self, size: int = 100_000) -> Iterator[None]:
        """
        Cache the vectors of up to `size` words between calls inside a `with` block.

        It has an effect on inference on a CPU. Blocks may overlap, also between threads: the cache
        is kept until the last block ends. It is emptied when a weight changes or when it is full.
        """
        with self._copies.keep_words(size):
            yield

    def encode_reference(
        self,
        char_ids: torch.Tensor | None = None,
        word_ids: torch.Tensor | None = None,
        char_embeds: torch.Tensor | None = None,
        word_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Compute the result of `forward` from all words and positions, module by module."""
        if char_ids is not None:
            char_embeds = self.char_embeddings(char_ids.long())
        if word_ids is not None:
            word_embeds = self.word_embeddings(word_ids.long())
        parts = [] if word_embeds is None else [word_embeds]
        if char_embeds is not None:
            vectors = self._pool(char_embeds.flatten(0, 1))
            for highway in self.highways:
                vectors = highway(vectors)
            parts.append(vectors.unflatten(0, char_embeds.shape[:2]))
        vectors = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        return vectors if self.projection is None else self.projection(vectors)

    def _pool(self, words: torch.Tensor) -> torch.Tensor:
        """Return `(words, num_filters)` for `(words, characters, char_embedding_dim)`."""
        if not is_concrete(words):  # a graph must not depend on the number of parts
            return self._pool_part(words)
        if not len(words):  # max-pooling refuses an empty batch
            return words.new_zeros(0, self.num_filters)
        size = WORDS_PER_CONVOLUTION * (8 if words.is_cuda else 1)  # on a GPU, fewer launches
        return torch.cat([self._pool_part(part) for part in words.split(size)])

    def _pool_part(self, words: torch.Tensor) -> torch.Tensor:
        channels = words.transpose(1, 2)  # (words, char_embedding_dim, characters)
        pooled = [convolution(channels).amax(-1) for convolution in self.convolutions]
        return self.activation(torch.cat(pooled, -1))

    def _encode(self, rows: torch.Tensor, has_word_ids: bool) -> torch.Tensor:
        """Encode rows `(words, characters)`, whose last column may be a word id."""
        char_ids, word_ids = (rows[:, :-1], rows[:, -1]) if has_word_ids else (rows, None)
        parameters = list(self.parameters())
        if len(rows) and is_concrete(rows) and self._may_be_read(parameters):
            if rows.device.type == "cpu":
                return self._encode_on_cpu(rows, has_word_ids, parameters)
            char_ids = cut_padding(char_ids, self.widest)
        word_ids = None if word_ids is None else word_ids[None]
        return self.encode_reference(char_ids[None], word_ids)[0]

    def _may_be_read(self, parameters: list[nn.Parameter]) -> bool:
        """Whether the weights may be read without calling their modules."""
        containers = (ElmoEmbeddings, nn.ModuleList)
        called = [part for part in self.modules() if not isinstance(part, containers)]
        return runs_as_written(called) and all(map(is_own, parameters))

    def _encode_on_cpu(
        self, rows: torch.Tensor, has_word_ids: bool, parameters: list[nn.Parameter]
    ) -> torch.Tensor:
        prepared, max_words = None, self._copies.max_words
        if can_prepare(parameters):
            if has_word_ids and not max_words:  # without a cache no copy depends on the table
                table = self.word_embeddings.weight
                parameters = [part for part in parameters if part is not table]
            prepared = self._copies.get(parameters, Snapshot, len(rows))

        def encode(rows: torch.Tensor) -> torch.Tensor:
            char_ids = rows[:, :-1] if has_word_ids else rows
            pooled = pool_characters(
                self.char_embeddings, self.convolutions, char_ids, prepared, steady=max_words > 0
            )
            vectors = self.activation(pooled).to(self.char_embeddings.weight.dtype)
            words = self.word_embeddings(rows[:, -1]) if has_word_ids else None
            if max_words:
                vectors = fill_product(vectors)
                words = None if words is None else fill_product(words)
            return self._map(vectors, words, prepared)[: len(rows)]

        def encode_halves(rows: torch.Tensor) -> torch.Tensor:
            half = len(rows) // 2
            if not half or torch.get_num_threads() == 1 or not self.has_small_lstms:
                return encode(rows)
            return torch.cat(run_side_by_side(encode, (rows[:half],), (rows[half:],)))

        if prepared is None:
            return encode(rows)
        if not max_words:
            return encode_halves(rows)
        return prepared.recall(rows, encode_halves, max_words)

    def _map(
        self, vectors: torch.Tensor, words: torch.Tensor | None, prepared: Snapshot | None
    ) -> torch.Tensor:
        """Apply the highways, prepend the word table's vectors, and apply the projection."""
        for highway in self.highways:
            if prepared is None:
                vectors = highway(vectors)
            else:
                assert isinstance(highway, ElmoHighway)
                transformed = prepared.linear(highway.transform, vectors, "relu")
                gate = prepared.linear(highway.gate, vectors, "sigmoid")
                vectors = torch.lerp(vectors, transformed, gate)
        if words is not None:
            vectors = torch.cat([words, vectors], -1)
        if self.projection is None:
            return vectors
        if prepared is None:
            return self.projection(vectors)
        return prepared.linear(self.projection, vectors)


@readable
class ElmoHighway(nn.Module):
    """
    One highway layer: `gate * relu(transform(x)) + (1 - gate) * x` (Srivastava et al. 2015).

    The gate multiplies the transformed part, as bilm-tf's `W_carry` does despite its name.
    AllenNLP's gate has weights of the opposite sign.

    Args:
        width: width of the input and output vectors.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.transform = nn.Linear(width, width)
        self.gate = nn.Linear(width, width)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        transformed = self.transform(vectors).relu()
        gate = self.gate(vectors).sigmoid()
        return torch.lerp(vectors.to(gate.dtype), transformed, gate)  # autocast changes the dtype


class ElmoOutputEmbeddings(nn.Module):
    """
    The output embeddings of words: their rows of the softmax's weight, as one more layer.

    The rows are multiplied by `scale`, which gives the whole table the standard deviation 1: it is
    computed when a model first loads the table, and saved with it. A word outside the vocabulary
    has the row of `<UNK>`, because it has its id. Both halves of a vector are the row, as in
    layer 0.

    Args:
        config: the model's configuration, with `lm_vocab_size`.
    """

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        self.num_directions = config.num_directions
        self.weight = nn.Parameter(torch.empty(config.lm_vocab_size, config.projection_dim))
        self.scale: torch.Tensor
        self.register_buffer("scale", torch.ones(()))

    def forward(self, word_ids: torch.Tensor) -> torch.Tensor:
        """Return `(batch, words, hidden_size)` for ids `(batch, words)`, zero for id 0."""
        rows = F.embedding((word_ids - 1).clamp(min=0), self.weight) * self.scale
        return rows.masked_fill((word_ids == 0)[..., None], 0).repeat(1, 1, self.num_directions)


__all__ = ["ElmoEmbeddings", "ElmoHighway", "ElmoOutputEmbeddings"]
