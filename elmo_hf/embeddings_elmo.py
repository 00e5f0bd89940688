# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Context-free word vectors: characters through convolutions and highways, or a word table."""

import torch
from torch import nn

from .configuration_elmo import ElmoConfig

# Bounds what the widest convolution holds at once: 512 words x 1024 filters x 50 positions.
WORDS_PER_CONVOLUTION = 512


class ElmoEmbeddings(nn.Module):
    """
    Layer 0: the vector that a word has whatever its sentence (Peters et al. 2018, section 3.4).

    Each convolution runs over all `max_characters_per_token` positions, padding symbols included
    as in bilm-tf, and keeps its largest value. With a word table beside the characters the
    word's row stands before them (ELMoForManyLangs).

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        self.num_filters = config.num_filters
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

    def forward(
        self,
        char_ids: torch.Tensor | None = None,
        word_ids: torch.Tensor | None = None,
        char_embeds: torch.Tensor | None = None,
        word_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Give every word its vector `(batch, words, projection_dim)`.

        Args:
            char_ids: `(batch, words, max_characters_per_token)`, or
            char_embeds: the same looked up, `(batch, words, max_characters_per_token, dim)`.
            word_ids: `(batch, words)` rows of the word table, or
            word_embeds: the same looked up, `(batch, words, word_embedding_dim)`.
        """
        parts = []
        if word_ids is not None:
            word_embeds = self.word_embeddings(word_ids)
        if word_embeds is not None:
            parts.append(word_embeds)
        if char_ids is not None:
            parts.append(self.encode_characters(char_ids))
        elif char_embeds is not None:
            words = char_embeds.flatten(0, 1)
            parts.append(self.convolve(words).unflatten(0, char_embeds.shape[:2]))
        vectors = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        return vectors if self.projection is None else self.projection(vectors)

    def encode_characters(self, char_ids: torch.Tensor) -> torch.Tensor:
        """`(batch, words, characters)` ids to `(batch, words, num_filters)`, once per spelling."""
        rows = char_ids.flatten(0, 1)  # (batch * words, characters)
        # How many distinct words there are is data: a compiled or exported graph can't ask.
        if torch.compiler.is_compiling() or not len(rows):
            return self.convolve(self.char_embeddings(rows)).unflatten(0, char_ids.shape[:2])
        distinct, places = torch.unique(rows, dim=0, return_inverse=True)
        return self.convolve(self.char_embeddings(distinct))[places.view(char_ids.shape[:2])]

    def convolve(self, words: torch.Tensor) -> torch.Tensor:
        """`(words, characters, char_embedding_dim)` to `(words, num_filters)`."""
        vectors = torch.cat([self._convolve(part) for part in words.split(WORDS_PER_CONVOLUTION)])
        for highway in self.highways:
            vectors = highway(vectors)
        return vectors

    def _convolve(self, words: torch.Tensor) -> torch.Tensor:
        if not len(words):  # max-pooling refuses an empty batch
            return words.new_zeros(0, self.num_filters)
        channels = words.transpose(1, 2)  # (words, char_embedding_dim, characters)
        pooled = [convolution(channels).amax(-1) for convolution in self.convolutions]
        return self.activation(torch.cat(pooled, -1))


class ElmoHighway(nn.Module):
    """
    One highway layer: `gate * relu(transform(x)) + (1 - gate) * x` (Srivastava et al. 2015).

    The gate multiplies the transformed part, as `W_carry` does in bilm-tf in spite of its name;
    AllenNLP's gate is the negative of this one.

    Args:
        width: size of the vectors that go through.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.transform = nn.Linear(width, width)
        self.gate = nn.Linear(width, width)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        transformed = self.transform(vectors).relu()
        return torch.lerp(vectors, transformed, self.gate(vectors).sigmoid())


__all__ = ["ElmoEmbeddings", "ElmoHighway"]
