# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""`ElmoEmbedder`: vectors of sentences as NumPy arrays, and of a text file as an HDF5 file."""

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
import torch
from tqdm import tqdm

from .. import embed_corpus
from ..storage.files import new_file
from ..storage.rows import Row
from ..storage.single_files import write_hdf5
from .bilm import (
    DEFAULT_OPTIONS_FILE,
    DEFAULT_WEIGHT_FILE,
    File,
    Words,
    _ElmoBiLm,
    batch_to_ids,
    check_words,
    make_tokenizer,
    remove_sentence_boundaries,
)

OUTPUT_FORMATS = ("all", "top", "average")
DEFAULT_BATCH_SIZE = 64


class ElmoEmbedder:
    """
    Vectors of all layers for lists of words, as NumPy arrays `(layers, words, width)`.

    This is AllenNLP's class; `elmo_hf.ElmoEmbedder` is another one, which takes a converted folder.

    Args:
        options_file, weight_file: the original options.json and weights.
        cuda_device: number of the GPU; -1: the CPU.
        stateful: carry the LSTM states from batch to batch, as AllenNLP does; a vector then
            depends on all batches before.
    """

    def __init__(
        self,
        options_file: File = DEFAULT_OPTIONS_FILE,
        weight_file: File = DEFAULT_WEIGHT_FILE,
        cuda_device: int = -1,
        *,
        stateful: bool = False,
    ) -> None:
        self.elmo_bilm = _ElmoBiLm(options_file, weight_file, stateful=stateful).eval()
        self.cuda_device = cuda_device
        if cuda_device >= 0:
            self.elmo_bilm.cuda(cuda_device)

    def embed_sentence(self, sentence: Words) -> np.ndarray:
        """Return the vectors of one sentence, a list of words."""
        return self.embed_batch([sentence])[0]

    def embed_batch(self, batch: Sequence[Words]) -> list[np.ndarray]:
        """Return the vectors of each sentence, computed as one batch."""
        if not len(batch):
            return []
        vectors, mask = self.batch_to_embeddings(batch)
        lengths = mask.sum(1).tolist()
        arrays = vectors.float().cpu().numpy()
        return [row[:, :length] for row, length in zip(arrays, lengths, strict=True)]

    @torch.no_grad()
    def batch_to_embeddings(self, batch: Sequence[Words]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a batch's vectors `(batch, layers, words, width)`, and its mask, as tensors."""
        output = self.elmo_bilm(batch_to_ids(batch).to(self.elmo_bilm.model.device))
        pairs = [remove_sentence_boundaries(one, output["mask"]) for one in output["activations"]]
        return torch.stack([vectors for vectors, _ in pairs], 1), pairs[0][1]

    def embed_sentences(
        self, sentences: Iterable[Words], batch_size: int = DEFAULT_BATCH_SIZE
    ) -> Iterator[np.ndarray]:
        """
        Yield the vectors of each sentence, in the order of the sentences.

        Unless `stateful`, the work is done by `embed_corpus`: sentences of similar length are
        computed together, on several threads.

        Args:
            sentences: lists of words, any number.
            batch_size: maximum number of sentences in a batch.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected at least 1")
        checked = map(check_words, sentences)
        if not self.elmo_bilm.stateful:
            model = self.elmo_bilm.model
            tokenizer = make_tokenizer(model.config.max_characters_per_token)
            yield from embed_corpus(model, tokenizer, checked, batch_size=batch_size)
            return
        while batch := list(islice(checked, batch_size)):
            yield from self.embed_batch(batch)

    def embed_file(
        self,
        input_file: IO[str],
        output_file_path: File,
        output_format: str = "all",
        batch_size: int = DEFAULT_BATCH_SIZE,
        forget_sentences: bool = False,
        use_sentence_keys: bool = False,
    ) -> None:
        """
        Write the vectors of a file's sentences to an HDF5 file, one dataset a sentence.

        Args:
            input_file: an open text file, one sentence a line, words separated by whitespace; it
                is closed at the end.
            output_file_path: the file to write; an existing one is replaced, once the new one is
                complete.
            output_format: "all" layers `(layers, words, width)`; the "top" layer, or the "average"
                of the layers, `(words, width)`.
            batch_size: maximum number of sentences in a batch.
            forget_sentences: leave out the dataset `sentence_to_index`, a JSON object with the key
                of each sentence.
            use_sentence_keys: name each dataset by its sentence, instead of by its line's number,
                which starts at 0; there is no `sentence_to_index` then.

        Raises:
            ValueError: the file has blank lines, or `output_format` is unknown, or with
                `use_sentence_keys` a sentence occurs twice; raised before anything is computed.
            OSError: the output cannot be written.
        """
        if output_format not in OUTPUT_FORMATS:
            raise ValueError(
                f"output_format is {output_format!r}; expected one of {OUTPUT_FORMATS}"
            )
        lines = _read_lines(input_file)
        _check_lines(lines, use_sentence_keys)
        sentences = [line.split() for line in lines]
        vectors = self.embed_sentences(sentences, batch_size)
        if output_format == "top":
            vectors = (layers[-1] for layers in vectors)
        elif output_format == "average":
            vectors = (layers.mean(0) for layers in vectors)
        rows = (Row(*row) for row in zip(lines, sentences, vectors, strict=True))
        with new_file(Path(os.path.realpath(output_file_path))) as unfinished:
            shown = tqdm(rows, total=len(lines), unit="sentence", delay=1)
            write_hdf5(unfinished, shown, use_sentence_keys, forget_sentences)


def _read_lines(file: IO[str] | File) -> list[str]:
    if isinstance(file, (str, os.PathLike)):
        return _read_lines(open(file, encoding="utf-8"))
    with file:
        return [line.strip() for line in file]


def _check_lines(lines: list[str], are_keys: bool) -> None:
    blank = [number for number, line in enumerate(lines) if not line]
    if blank:
        raise ValueError(
            f"the input file has blank lines, at the numbers {blank[:10]} counted from 0; remove "
            "them, or use the command elmo-hf embed, for which a blank line is an empty sentence"
        )
    if not are_keys:
        return
    ((line, count),) = Counter(lines).most_common(1) or [("", 0)]
    if count > 1:
        raise ValueError(
            f"the sentence {line!r} occurs {count} times, so it cannot be a key; leave out "
            "use_sentence_keys"
        )
    if with_slash := [line for line in lines if "/" in line]:
        warnings.warn(
            f"{len(with_slash)} sentences contain a slash, such as {with_slash[0]!r}; HDF5 makes "
            "them datasets in groups, which file.keys() does not list",
            stacklevel=3,
        )


__all__ = ["ElmoEmbedder"]
