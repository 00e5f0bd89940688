# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The tokenizer: splits text into words, and words into the character ids that ELMo reads."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from transformers.utils import to_py_obj

from .tokenization_backend import IGNORED_LABEL, WholeWordsBackend
from .tokenization_characters import (
    BEGIN_OF_WORD,
    byte_symbols,
    character_symbols,
    check_width,
    make_spelling,
    name_symbols,
    rename_symbols,
    unigram,
    word_symbols,
)
from .tokenization_checks import is_list
from .tokenization_splitter import find_splitter
from .tokenization_splitter import word_splitter as make_word_splitter
from .tokenization_vocabulary import (
    NO_WORD,
    WordCache,
    WordTable,
    check_vocabulary,
    load_vocabulary,
)

RUST_CACHE_SIZE = 100_000  # words; the default of 10,000 loses a third of the speed on English text


class ElmoTokenizer(WholeWordsBackend):
    """
    Class that encodes text, or lists of words, as character ids, as AllenNLP and bilm-tf do.

    Its tokens are whole words. Padding, truncation, pairs, offsets and the boundaries `<S>` and
    `</S>` work as in other tokenizers, but each word has `max_characters_per_token` ids instead of
    one. `tokenizer(sentences, padding=True, return_tensors="pt")` returns `input_ids`
    `(batch, words, max_characters_per_token)`, int64, and `attention_mask` `(batch, words)`. With
    `is_split_into_words=True` the words of your lists are never split. Two options are specific to
    this tokenizer: `use_word_ids` adds `word_input_ids` `(batch, words)`, and a call with
    `return_lm_labels=True` adds `labels` `(batch, words)`: each word's own vocabulary id,
    boundaries included, and -100 at padding.

    Any word can be encoded as characters, so there is no unknown token, and an added token gets no
    new id: `add_tokens` and `add_special_tokens` (cls_token, markers such as "[E1]") only keep the
    token whole in raw text; its characters are encoded like those of any other word. The names of
    padding and boundaries can be changed, their ids cannot. Threads may share a tokenizer.

    Args:
        pad_token, bos_token, eos_token: names of the padding, the first and the last word; two
            characters or more. With `is_split_into_words=True`, a word that equals `bos_token` or
            `eos_token` is encoded as that boundary, as in bilm-tf; in raw text it is ordinary text.
        max_characters_per_token: ids per word: begin of word, UTF-8 bytes, end of word, padding
            characters. Longer words are cut, even inside a character.
        word_splitter: rules that split raw text into words: "treebank", "billion-words" or
            "whitespace" (see `tokenization_splitter`). Default: those in tokenizer.json, and
            "treebank" for a new tokenizer. Any other pre-tokenizer can be set as
            `backend_tokenizer.pre_tokenizer`.
        use_characters: False for a biLM that reads words: `input_ids` `(batch, words)` are then
            vocabulary ids + 1, and 0 is padding.
        use_word_ids: add `word_input_ids`, vocabulary ids + 1, for a biLM that reads both.
        lm_vocab_file, lm_vocab: the vocabulary, as a file with one word per line (vocab.txt) or as
            a list; a repeated word has its last id. It must hold the boundaries and
            `word_unk_token`.
        word_unk_token: vocabulary word whose id replaces that of unknown words.

    Raises:
        ValueError: the arguments contradict each other, or the input is not text.

    Example:

    ```python
    >>> tokenizer = ElmoTokenizer()
    >>> tokenizer("I don't.", return_tensors="pt").input_ids.shape
    torch.Size([1, 6, 50])
    ```
    """

    vocab_files_names = {"tokenizer_file": "tokenizer.json", "lm_vocab_file": "vocab.txt"}
    model_input_names = ["input_ids", "attention_mask"]

    def __init__(
        self,
        pad_token: str = "<PAD>",
        bos_token: str | None = "<S>",
        eos_token: str | None = "</S>",
        max_characters_per_token: int = 50,
        word_splitter: str | None = None,
        use_characters: bool = True,
        use_word_ids: bool = False,
        lm_vocab_file: str | None = None,
        lm_vocab: Sequence[str] | None = None,
        word_unk_token: str = "<UNK>",
        **kwargs: Any,
    ) -> None:
        # transformers loads every argument named `.._token` as a special token of the model.
        for name in ("model_specific_special_tokens", "extra_special_tokens"):
            if isinstance(named := kwargs.get(name), dict) and "word_unk_token" in named:
                word_unk_token = named["word_unk_token"]
                kwargs[name] = {key: named[key] for key in named if key != "word_unk_token"}
                if not kwargs[name]:
                    del kwargs[name]
        self.max_characters_per_token = max_characters_per_token
        self.use_characters, self.use_word_ids = use_characters, use_word_ids
        self.word_unk_token = str(word_unk_token)
        self._cache = WordCache()
        self._vocabulary = load_vocabulary(lm_vocab_file, lm_vocab)
        self._check_settings(bos_token, eos_token)
        backend = self._make_backend(
            [pad_token, bos_token, eos_token],
            kwargs.pop("tokenizer_object", None),
            kwargs.pop("tokenizer_file", None),
            word_splitter,
        )
        if backend.post_processor is None or kwargs.keys() & {"add_bos_token", "add_eos_token"}:
            kwargs.setdefault("add_bos_token", bos_token is not None)
            kwargs.setdefault("add_eos_token", eos_token is not None)
        # Entries below `size` have the names in tokenizer.json, from before a renaming.
        added = kwargs.get("added_tokens_decoder") or {}
        size = backend.get_vocab_size(with_added_tokens=False)
        kwargs["added_tokens_decoder"] = {i: t for i, t in added.items() if i >= size}
        super().__init__(
            pad_token=pad_token,
            bos_token=bos_token,
            eos_token=eos_token,
            tokenizer_object=backend,
            **kwargs,
        )
        self._finish(lm_vocab_file)

    @classmethod
    def from_characters(cls, characters: Mapping[str, int], **kwargs: Any) -> "ElmoTokenizer":
        """
        Make a tokenizer that encodes words as these Unicode characters (ELMoForManyLangs).

        Words are cut after `max_characters_per_token` - 2 characters, also before they are looked
        up in the vocabulary. Characters that are not in the table become <OOV>.

        Args:
            characters: the id of each character and of each marker, named by its role: <BOW> and
                <EOW> begin and end a word, <S> and </S> (or your `bos_token` and `eos_token`) are
                the boundaries, <PADC> is the padding after a word's end, <OOV> an unknown
                character. Ids are the original ids + 1, because 0 is word padding.
            kwargs: arguments of the tokenizer.

        Raises:
            ValueError: the table lacks a marker, or holds anything but characters and markers.
        """
        pad, bos, eos = (
            str(kwargs.get(f"{name}_token", default))
            for name, default in (("pad", "<PAD>"), ("bos", "<S>"), ("eos", "</S>"))
        )
        backend = unigram(character_symbols(characters, pad, bos, eos), BEGIN_OF_WORD)
        kwargs["word_splitter"] = kwargs.get("word_splitter") or "treebank"
        return cls(tokenizer_object=backend, **kwargs)

    # --- Construction ---

    def _check_settings(self, bos_token: str | None, eos_token: str | None) -> None:
        check_width(self.max_characters_per_token)
        if self._vocabulary is None:
            if self.use_word_ids or not self.use_characters:
                raise ValueError(
                    "word ids need a vocabulary, but none was passed and the folder has no "
                    'vocab.txt; pass lm_vocab_file="vocab.txt", a file with one word per line'
                )
            return
        needed = (bos_token, eos_token, self.word_unk_token)
        check_vocabulary(self._vocabulary, [str(word) for word in needed if word is not None])

    def _make_backend(
        self,
        special: list[str | None],
        backend: Tokenizer | None,
        file: str | None,
        word_splitter: str | None,
    ) -> Tokenizer:
        if backend is None and file is not None and os.path.isfile(file):
            backend = Tokenizer.from_file(file)
        pad, bos, eos = (None if token is None else str(token) for token in special)
        if self.use_characters:
            names = byte_symbols(str(pad), bos, eos)
            unknown = BEGIN_OF_WORD
        else:
            words = [word for word in (bos, eos, self.word_unk_token) if word is not None]
            ids = self._vocabulary.ids(words) + 1  # type: ignore[union-attr]
            names = word_symbols({str(pad): 0, **dict(zip(words, ids.tolist(), strict=True))})
            unknown = self.word_unk_token
        if backend is not None and self._fits(backend, names):
            made = name_symbols(backend, str(pad), bos, eos)
        else:
            made = unigram(names, unknown)
            if backend is None:
                word_splitter = word_splitter or "treebank"
            else:
                made.normalizer, made.pre_tokenizer = backend.normalizer, backend.pre_tokenizer
        if word_splitter is not None:
            made.pre_tokenizer = make_word_splitter(word_splitter)
        return made

    def _fits(self, backend: Tokenizer, names: list[str]) -> bool:
        if self.use_characters:
            return backend.token_to_id(BEGIN_OF_WORD) is not None
        return all(backend.token_to_id(name) == i for i, name in enumerate(names))

    def _finish(self, lm_vocab_file: str | None) -> None:
        for name in ("max_characters_per_token", "word_splitter", "use_characters", "use_word_ids"):
            self.init_kwargs[name] = getattr(self, name)
        self.init_kwargs["word_unk_token"] = self.word_unk_token
        self.init_kwargs |= {"lm_vocab_file": lm_vocab_file, "lm_vocab": None}
        if self.use_word_ids and self.use_characters:
            self.model_input_names = [*self.model_input_names, "word_input_ids"]
        before, after = self._boundaries()
        self._add_bos_token, self._add_eos_token = self.bos_token in before, self.eos_token in after
        self._set_up_rust()

    def _set_up_rust(self) -> None:
        """Set the options that tokenizer.json does not store."""
        self._tokenizer.encode_special_tokens = True
        if resize := getattr(self._tokenizer.model, "_resize_cache", None):
            resize(RUST_CACHE_SIZE)

    @classmethod
    def convert_to_native_format(cls, trust_remote_code: bool = False, **kwargs: Any) -> Any:
        """Load all of tokenizer.json, also if the class was imported as remote code."""
        return super().convert_to_native_format(trust_remote_code=True, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": WordCache()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._set_up_rust()

    # --- Settings ---

    @property
    def word_splitter(self) -> str | None:
        """Name of the rules that split raw text; None for any other pre-tokenizer."""
        return find_splitter(self._tokenizer.pre_tokenizer)

    @word_splitter.setter
    def word_splitter(self, name: str) -> None:
        self._tokenizer.pre_tokenizer = make_word_splitter(name)

    def __setattr__(self, key: str, value: Any) -> None:
        if key in ("pad_token", "bos_token", "eos_token") and value is not None:
            self._rename(getattr(self, key), str(value))
        super().__setattr__(key, value)

    def _rename(self, old: str | None, new: str) -> None:
        """Rename the symbol `old` to `new`, unless a symbol `new` exists."""
        if old is None or self._tokenizer.token_to_id(new) is not None:
            return
        if self._vocabulary is not None:
            check_vocabulary(self._vocabulary, [new] if old != self.pad_token else [])
        self._tokenizer = rename_symbols(self._tokenizer, {old: new})
        self._set_up_rust()

    def __getattr__(self, key: str) -> Any:
        # The base class would call `convert_tokens_to_ids`, which returns character ids.
        name = key.removesuffix("s").removesuffix("_id")
        if self.__dict__.get("use_characters") and key.endswith(("_token_id", "_tokens_ids")):
            tokens = super().__getattr__(name)
            if isinstance(tokens, list):
                return [self._tokenizer.token_to_id(token) for token in tokens]
            return None if tokens is None else self._tokenizer.token_to_id(tokens)
        return super().__getattr__(key)

    @property
    def all_special_ids(self) -> list[int]:
        """Symbol ids of padding, boundaries and other special tokens."""
        if not self.use_characters:
            return super().all_special_ids
        ids = map(self._tokenizer.token_to_id, self.all_special_tokens)
        return [i for i in ids if i is not None]

    @property
    def lm_vocab(self) -> list[str] | None:
        """A new list of the vocabulary's words, ordered by id; None without a vocabulary."""
        return None if self._vocabulary is None else self._vocabulary.words()

    @property
    def lm_vocab_size(self) -> int:
        """Number of words in the vocabulary; 0 without a vocabulary."""
        return 0 if self._vocabulary is None else len(self._vocabulary)

    @property
    def _words(self) -> WordTable:
        """The cache of words and their ids; a changed setting starts a new cache."""
        # A forked process needs its own cache: another thread may have held the lock at the fork.
        made_for = (self.max_characters_per_token, self.bos_token, self.eos_token, os.getpid())
        table = self._cache.table
        if table is None or table[0] != made_for:
            table = self._cache.table = made_for, self._make_table()
        return table[1]

    def _make_table(self) -> WordTable:
        check_width(self.max_characters_per_token)
        spelling = None
        if self.use_characters:
            spelling = make_spelling(self.get_vocab(), [self.bos_token, self.eos_token])
        unknown = NO_WORD
        if self._vocabulary is not None:
            unknown = int(self._vocabulary.ids([self.word_unk_token])[0])
        return WordTable(spelling, self.max_characters_per_token, self._vocabulary, unknown)

    # --- Words to ids ---

    def words_to_ids(self, words: Sequence[str]) -> np.ndarray:
        """
        Return the character ids of words, `(len(words), max_characters_per_token)`, int64.

        With `use_characters=False`: vocabulary ids + 1, `(len(words),)`. Adds no boundaries, masks
        or offsets, so it encodes a few million words per second.
        """
        return self._features(words)["input_ids"]

    def _check_labels(self) -> None:
        if self._vocabulary is None:
            raise ValueError(
                "return_lm_labels=True needs a vocabulary, but this tokenizer has none; pass "
                'lm_vocab_file="vocab.txt" when you make or load it'
            )

    def _features(
        self, words: Sequence[str], indices: np.ndarray | None = None, labels: bool = False
    ) -> dict[str, np.ndarray]:
        numbers, rows, ids = self._words.look_up(words)
        if indices is not None:
            numbers = np.append(numbers, 0)[indices]  # index -1 takes the last: 0, padding
        features = {}
        if self.use_characters:
            features["input_ids"] = np.take(rows, numbers, axis=0).astype(np.int64)
        if self.use_word_ids or not self.use_characters:
            name = "word_input_ids" if self.use_characters else "input_ids"
            features[name] = ids[numbers] + 1
        if labels:
            word_ids = ids[numbers]
            features["labels"] = np.where(word_ids == NO_WORD, IGNORED_LABEL, word_ids)
        return features

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """
        Return the `max_characters_per_token` ids of a word, or a list of these for several words.

        With `use_characters=False` each word has one id. `pad_token` returns the ids of padding.
        `convert_tokens_to_ids(tokenize(text))` equals `input_ids` without the boundaries.
        """
        words = [tokens] if isinstance(tokens, str) else list(tokens)
        indices = [-1 if word == self.pad_token else i for i, word in enumerate(words)]
        ids = self._features(words, np.array(indices, np.int64))["input_ids"].tolist()
        return ids[0] if isinstance(tokens, str) else ids

    # --- Back to words ---

    def decode(self, token_ids: Any, skip_special_tokens: bool = False, **kwargs: Any) -> Any:
        """
        Return the words of a sentence `(words, max_characters_per_token)` joined by spaces.

        A batch returns a list of such strings. Words that were cut stay cut. A flat list of symbol
        ids returns the names of the symbols.
        """
        ids = to_py_obj(token_ids["input_ids"] if isinstance(token_ids, Mapping) else token_ids)
        if self._is_batch(ids):
            return [self.decode(sentence, skip_special_tokens, **kwargs) for sentence in ids]
        words = self.convert_ids_to_tokens(ids if is_list(ids) else [ids], skip_special_tokens)
        words = [words] if isinstance(words, str) else words
        text = " ".join(word for word in words if word is not None)
        clean_up = kwargs.get("clean_up_tokenization_spaces")
        clean_up = self.clean_up_tokenization_spaces if clean_up is None else clean_up
        return self.clean_up_tokenization(text) if clean_up else text

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """
        Return the words with these character ids, the inverse of `convert_tokens_to_ids`.

        Args:
            ids: lists, an array or a tensor with the ids of one word, a sentence
                `(words, max_characters_per_token)`, or a batch of sentences. Padding and boundaries
                return `pad_token`, `bos_token` and `eos_token`. Ids that are not those of a word
                are read as symbols, and the symbols' names are returned.
        """
        ids = to_py_obj(ids)
        if self._is_batch(ids):
            return [self.convert_ids_to_tokens(one, skip_special_tokens) for one in ids]
        if self._is_row(ids) if self.use_characters else isinstance(ids, int):
            return self._word_of(ids)
        if self.use_characters and not (ids and is_list(ids) and is_list(ids[0])):
            return super().convert_ids_to_tokens(ids, skip_special_tokens)
        special = self.get_special_tokens_mask(ids, already_has_special_tokens=True)
        kept = [i for i, s in zip(ids, special, strict=True) if not (s and skip_special_tokens)]
        return [self._word_of(one) for one in kept]

    def _is_row(self, ids: Any) -> bool:
        spelling = self._words.spelling
        return spelling is not None and spelling.is_row(ids)

    def _is_batch(self, ids: Any) -> bool:
        """Whether `ids` are several sentences, not the words of one."""
        if not is_list(ids) or not any(map(is_list, ids)):
            return False
        if not self.use_characters:
            return True
        return any(is_list(row) for sentence in ids if is_list(sentence) for row in sentence[:1])

    def _word_of(self, ids: Any) -> str | None:
        """Return the word with these character ids, or with this word id."""
        padding = self.pad_token or self._tokenizer.id_to_token(0)
        if (spelling := self._words.spelling) is not None:
            word = spelling.word(ids)
            return padding if word is None else word
        if ids == 0:
            return padding
        return self._vocabulary[ids - 1] if 0 < ids <= self.lm_vocab_size else None  # type: ignore[index]

    def get_special_tokens_mask(
        self,
        token_ids_0: Any,
        token_ids_1: Any = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """Return 1 for padding and boundaries of an encoded sentence, 0 for other words."""
        ids = to_py_obj(token_ids_0)
        if already_has_special_tokens and token_ids_1 is None and ids and is_list(ids[0]):
            special = {self.pad_token_id, self.bos_token_id, self.eos_token_id}
            return [int(row[0] == 0 or row[1] in special) for row in ids]
        return super().get_special_tokens_mask(ids, token_ids_1, already_has_special_tokens)

    # --- Files ---

    def save_vocabulary(
        self, save_directory: str, filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write the vocabulary, if any, to vocab.txt, one word per line; return the paths."""
        if self._vocabulary is None:
            return ()
        name = self.vocab_files_names["lm_vocab_file"]
        path = Path(save_directory) / (f"{filename_prefix}-{name}" if filename_prefix else name)
        self._vocabulary.write(path)
        return (str(path),)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        """Save tokenizer.json, tokenizer_config.json and, with a vocabulary, vocab.txt."""
        # Otherwise transformers would write the whole vocabulary into tokenizer_config.json.
        settings = {key: value for key, value in self.init_kwargs.items() if key != "lm_vocab"}
        return super(ElmoTokenizer, self._copy_with(init_kwargs=settings)).save_pretrained(
            *args, **kwargs
        )

    def _save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        saved = super()._save_pretrained(save_directory, *args, **kwargs)
        return saved + self.save_vocabulary(str(save_directory), kwargs.get("filename_prefix"))

    def train_new_from_iterator(self, *args: Any, **kwargs: Any) -> Any:
        """Raise NotImplementedError: there is nothing to train."""
        raise NotImplementedError(
            "ELMo encodes words as characters, so its tokenizer needs no training and fits any "
            "corpus; for a vocabulary of frequent words pass lm_vocab_file to ElmoTokenizer"
        )


__all__ = ["ElmoTokenizer"]
