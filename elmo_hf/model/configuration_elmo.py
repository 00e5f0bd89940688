# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""ELMo model configuration."""

import os
import shutil
from collections.abc import Iterable
from dataclasses import field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import logging

logger = logging.get_logger(__name__)

PUBLISHED_FILTERS = [[1, 32], [2, 32], [3, 64], [4, 128], [5, 256], [6, 512], [7, 1024]]

AUTO_MAP = {
    "AutoConfig": "configuration_elmo.ElmoConfig",
    "AutoModel": "modeling_elmo.ElmoModel",
    "AutoModelForPreTraining": "modeling_elmo_pretraining.ElmoForPreTraining",
    "AutoModelForSequenceClassification": "modeling_elmo_heads.ElmoForSequenceClassification",
    "AutoModelForTokenClassification": "modeling_elmo_heads.ElmoForTokenClassification",
    "AutoModelForQuestionAnswering": "modeling_elmo_heads.ElmoForQuestionAnswering",
    "AutoModelForMultipleChoice": "modeling_elmo_heads.ElmoForMultipleChoice",
}


@strict
class ElmoConfig(PreTrainedConfig):
    r"""
    Configuration of an ELMo model: a character encoder and a stack of LSTMs per direction.

    The defaults are those of the published original model of 93.6 million parameters (Peters et
    al. 2018, section 3.2). The fields cover every variant that bilm-tf, AllenNLP and
    ELMoForManyLangs can build.

    Args:
        vocab_size: character symbols: padding (0), 256 bytes and five markers.
        max_characters_per_token: symbols per word, begin-of-word and end-of-word included.
        char_embedding_dim: width of a character vector.
        filters: `[width, count]` of each convolution over characters; empty: no character encoder.
        activation: `"relu"` or `"tanh"`, after the convolutions. Highways always use relu.
        num_highway_layers: highway layers after the convolutions.
        word_vocab_size: rows of the word table, row 0 for padding; 0: no word table. With
            `filters`, both vectors are concatenated (ELMoForManyLangs); without, the word table is
            the only input (bilm-tf's token input).
        word_embedding_dim: width of the word table's vectors.
        embedding_projection: project the word vector to `projection_dim`. `None`: only if the
            widths differ (bilm-tf).
        projection_dim: width of a word vector and of one direction's LSTM output.
        cell_dim: width of one direction's cell state.
        lstm_projection: project the LSTM output from `cell_dim` to `projection_dim`. `None`: only
            if they differ (bilm-tf).
        num_hidden_layers: LSTM layers of each direction.
        num_mixed_lstms: depth of a standard biLSTM encoder that replaces the biLM; its output is
            layer 1 (ELMoForManyLangs' encoder `lstm`). 0: a biLM.
        cell_clip: bound on the magnitude of the cell state; `None`: unbounded.
        projection_clip: bound on the magnitude of the projected output; `None`: unbounded. Without
            an LSTM projection the output is not clipped (TensorFlow's `LSTMCell`).
        use_skip_connections: add a layer's input to its output, from the second layer on.
        bidirectional: whether there is a backward stack in addition to the forward one.
        dropout: dropout probability for the input of each LSTM layer, and for the top layer's
            output before the softmax (bilm-tf).
        lm_vocab_size: vocabulary size of the language model's softmax; 0: no softmax.
        num_sampled_words: negative samples of the sampled softmax in training (bilm-tf's
            `n_negative_samples_batch`), drawn by frequency rank; 0: full softmax. Evaluation
            always uses the full softmax.
        output_embedding_layer: append a layer to the hidden states: each word's output embedding,
            its row of the softmax's weight. The model then reads `word_input_ids`, too.
            `from_pretrained` takes the weight from a pre-training checkpoint.
        tie_word_embeddings: use the word table as the softmax's weight, in a token-input model
            (bilm-tf's `share_embedding_softmax`).
        mix_layers: indices of the layers in a task head's scalar mix; `None`: all layers.
        concat_layers: indices of layers that a task head concatenates to the mix; `None`: none.
        mix_layer_norm: normalize the layers over the whole batch before mixing them, with boundary
            words (`"allennlp"`) or without (`"bilm-tf"`); `None`: no normalization.
        mix_dropout: dropout probability for the output of the scalar mix.
        classifier_lstm_dim: hidden size per direction of a task biLSTM between the scalar mix and
            the output layer; 0: no task biLSTM.
        classifier_dropout: dropout probability for the output of the task biLSTM.
        classifier_pooling: how to pool the word vectors of a sentence: `"mean"`, `"max"`,
            `"mean+max"` (concatenated), or `"ends"`: the last vector that each direction computes.
        pool_boundaries: whether to pool `<S>` and `</S>` too.
        use_crf: add a conditional random field to token classification.
        tagging_scheme: scheme of the label names, `"BIO"` or `"BIOES"`: the CRF decodes valid
            spans only. `None`: the CRF decodes any sequence of labels.
        pad_token_id, bos_token_id, eos_token_id: character symbols of padding, `<S>` and `</S>`;
            in a token-input model, rows of the word table.

    `hidden_size`, the width of a layer, is read-only: `projection_dim` times directions.

    Raises:
        StrictDataclassError: a field has the wrong type, or the fields contradict each other.

    Example:
        >>> ElmoConfig(cell_dim=1024, projection_dim=128, num_highway_layers=1).hidden_size
        256
    """

    model_type = "elmo"

    vocab_size: int = 262
    max_characters_per_token: int = 50
    char_embedding_dim: int = 16
    filters: list[list[int]] = field(default_factory=lambda: [*map(list, PUBLISHED_FILTERS)])
    activation: Literal["relu", "tanh"] = "relu"
    num_highway_layers: int = 2
    word_vocab_size: int = 0
    word_embedding_dim: int = 0
    embedding_projection: bool | None = None
    projection_dim: int = 512
    cell_dim: int = 4096
    lstm_projection: bool | None = None
    num_hidden_layers: int = 2
    num_mixed_lstms: int = 0
    cell_clip: float | int | None = 3.0
    projection_clip: float | int | None = 3.0
    use_skip_connections: bool = True
    bidirectional: bool = True
    dropout: float | int = 0.1
    lm_vocab_size: int = 0
    num_sampled_words: int = 0
    output_embedding_layer: bool = False
    tie_word_embeddings: bool = False
    mix_layers: list[int] | None = None
    concat_layers: list[int] | None = None
    mix_layer_norm: Literal["allennlp", "bilm-tf"] | None = None
    mix_dropout: float | int = 0.5
    classifier_lstm_dim: int = 0
    classifier_dropout: float | int = 0.5
    classifier_pooling: Literal["mean", "max", "mean+max", "ends"] = "mean"
    pool_boundaries: bool = False
    use_crf: bool = False
    tagging_scheme: Literal["BIO", "BIOES"] | None = None
    pad_token_id: int | None = 0
    bos_token_id: int | None = 257
    eos_token_id: int | list[int] | None = 258

    def __post_init__(self, **kwargs: Any) -> None:
        kwargs.pop("hidden_size", None)
        kwargs.setdefault("auto_map", dict(AUTO_MAP))
        self._warn_of_typos(kwargs)
        super().__post_init__(**kwargs)

    def save_pretrained(
        self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """
        Write `config.json` and the source files that its `auto_map` refers to.

        With these files the folder, like each Trainer checkpoint, loads as a model with any head
        with `trust_remote_code=True` where elmo_hf is not installed.

        Args:
            save_directory: the folder.
            push_to_hub: also upload `config.json` and the source files.
            kwargs: `repo_id`, the repository to upload to (default: the folder's name), and other
                arguments of `push_to_hub`.
        """
        self.auto_map = dict(AUTO_MAP)
        super().save_pretrained(save_directory)
        for source in Path(__file__).parent.glob("[!_]*.py"):
            shutil.copyfile(source, Path(save_directory) / source.name)
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).name), **kwargs)

    @property
    def keys_to_ignore_at_inference(self) -> list[str]:
        """Outputs that Trainer does not predict; with a CRF it predicts the `tag_scores` only."""
        ignored = ["states", "forward_loss", "backward_loss"]
        return [*ignored, "logits"] if self.use_crf else ignored

    @property
    def custom_pipelines(self) -> dict[str, dict[str, Any]]:
        """
        Pipelines in this folder's source files, for transformers' `pipeline()`.

        Empty where elmo_hf is installed: importing elmo_hf registers them, and transformers would
        require `trust_remote_code=True` for an entry here.
        """
        is_tagger = "ElmoForTokenClassification" in (self.architectures or [])
        if not is_tagger or not type(self).__module__.startswith("transformers_modules."):
            return {}
        pipeline = {
            "impl": "pipeline_elmo.ElmoTokenClassificationPipeline",
            "pt": ["AutoModelForTokenClassification"],
            "type": "text",
        }
        return {"token-classification": pipeline, "ner": pipeline}

    @custom_pipelines.setter
    def custom_pipelines(self, _: object) -> None:
        """Ignore what a pipeline's `save_pretrained` sets."""

    @property
    def hidden_size(self) -> int:
        """Width of every layer: the forward half, then the backward half."""
        return self.num_directions * self.projection_dim

    @property
    def num_hidden_states(self) -> int:
        """Number of `hidden_states`: layer 0, the LSTM layers, and the output embeddings if any."""
        return self.num_hidden_layers + 1 + self.output_embedding_layer

    @property
    def num_word_ids(self) -> int:
        """Size of the range of `word_input_ids`; 0 if the model does not read them."""
        return self.word_vocab_size or (self.lm_vocab_size + 1) * self.output_embedding_layer

    @property
    def num_directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def uses_characters(self) -> bool:
        return bool(self.filters)

    @property
    def num_filters(self) -> int:
        """Width of the character encoder's output: the sum of all filter counts."""
        return sum(count for _, count in self.filters)

    @property
    def embedding_dim(self) -> int:
        """Width of a word vector before its projection: word table and character encoder."""
        return self.num_filters + (self.word_embedding_dim if self.word_vocab_size else 0)

    @property
    def has_embedding_projection(self) -> bool:
        if self.embedding_projection is None:
            return self.embedding_dim != self.projection_dim
        return self.embedding_projection

    @property
    def has_lstm_projection(self) -> bool:
        if self.lstm_projection is None:
            return self.cell_dim != self.projection_dim
        return self.lstm_projection

    def validate_architecture(self) -> None:
        """Check the model's fields, alone and together; `@strict` calls every `validate_*`."""
        self._require_positive("projection_dim", "cell_dim", "num_hidden_layers")
        self._require_at_least_zero("num_highway_layers", "word_vocab_size", "lm_vocab_size")
        self._require_at_least_zero("num_sampled_words", "num_mixed_lstms")
        for name in ("cell_clip", "projection_clip"):
            clip = getattr(self, name)
            if clip is not None and clip <= 0:
                raise ValueError(f"{name} is {clip}; expected a positive bound, or None: no clip")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; expected a probability below 1")
        if self.uses_characters:
            self._validate_characters()
        elif not self.word_vocab_size:
            raise ValueError(
                "filters is empty and word_vocab_size is 0, so the model has no input; pass "
                "filters=[[width, count], ...], or word_vocab_size and word_embedding_dim"
            )
        if self.word_vocab_size:
            self._require_positive("word_embedding_dim")
        self._validate_projections()
        self._validate_softmax()
        if self.num_mixed_lstms and (
            self.num_hidden_layers != 1 or not self.bidirectional or self.lm_vocab_size
        ):
            raise ValueError(
                f"num_mixed_lstms={self.num_mixed_lstms} is a standard biLSTM, one layer without "
                "a language model; pass num_hidden_layers=1, bidirectional=True and "
                "lm_vocab_size=0 with it"
            )

    def validate_heads(self) -> None:
        """Check the fields of the task heads; `@strict` calls every `validate_*`."""
        for name in ("mix_dropout", "classifier_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a probability below 1")
        self._require_at_least_zero("classifier_lstm_dim")
        self._require_layers("mix_layers", "all layers")
        self._require_layers("concat_layers", "none")
        pools_ends = self.classifier_pooling == "ends" and not self.classifier_lstm_dim
        if self.concat_layers and pools_ends:
            raise ValueError(
                'classifier_pooling="ends" takes the forward and the backward half of a vector, '
                f"but with concat_layers={self.concat_layers} it has more parts; pass "
                "classifier_lstm_dim, or another pooling"
            )
        if self.tagging_scheme is not None and not self.use_crf:
            raise ValueError(
                f"tagging_scheme is {self.tagging_scheme!r}, which needs a CRF; pass use_crf=True "
                "too, or tagging_scheme=None"
            )

    def _warn_of_typos(self, unknown: Iterable[str]) -> None:
        """Warn of names close to a field's; others may be custom fields, which are stored."""
        names = [known.name for known in fields(ElmoConfig)]
        for name in unknown:
            if similar := get_close_matches(name, names, n=1, cutoff=0.85):
                logger.warning(
                    f"ElmoConfig has no field {name!r} and only stores it; did you mean "
                    f"{similar[0]!r}?"
                )

    def _validate_characters(self) -> None:
        self._require_positive("vocab_size", "char_embedding_dim")
        for pair in self.filters:
            if len(pair) != 2 or min(pair) < 1:
                raise ValueError(f"filters holds {pair}; expected [width, count], both positive")
        widest = max(width for width, _ in self.filters)
        if self.max_characters_per_token < max(3, widest):
            raise ValueError(
                f"max_characters_per_token is {self.max_characters_per_token}; expected at least "
                f"{max(3, widest)}, for two word markers, a character, and the widest filter"
            )

    def _validate_projections(self) -> None:
        if not self.has_embedding_projection and self.embedding_dim != self.projection_dim:
            raise ValueError(
                f"embedding_projection=False needs word vectors as wide as projection_dim="
                f"{self.projection_dim}, but they are {self.embedding_dim} wide"
            )
        if not self.has_lstm_projection and self.cell_dim != self.projection_dim:
            raise ValueError(
                f"lstm_projection=False needs cell_dim equal to projection_dim, "
                f"but they are {self.cell_dim} and {self.projection_dim}"
            )

    def _validate_softmax(self) -> None:
        if self.num_sampled_words and self.num_sampled_words >= self.lm_vocab_size:
            raise ValueError(
                f"num_sampled_words is {self.num_sampled_words}; expected fewer than "
                f"lm_vocab_size={self.lm_vocab_size}, or 0 for the full softmax"
            )
        if self.output_embedding_layer:
            self._validate_output_embeddings()
        if not self.tie_word_embeddings:
            return
        if self.uses_characters:
            raise ValueError(
                "tie_word_embeddings=True needs a token-input model, but this one encodes words as "
                "characters (filters); leave tie_word_embeddings out, or pass filters=[]"
            )
        table = (self.lm_vocab_size + 1, self.projection_dim)
        if (self.word_vocab_size, self.word_embedding_dim) != table:
            raise ValueError(
                f"tie_word_embeddings=True needs word_vocab_size={table[0]}, one more than "
                f"lm_vocab_size, and word_embedding_dim={table[1]}, the projection_dim, but they "
                f"are {self.word_vocab_size} and {self.word_embedding_dim}"
            )

    def _validate_output_embeddings(self) -> None:
        if not self.lm_vocab_size:
            raise ValueError(
                "output_embedding_layer=True needs a checkpoint with the softmax of its language "
                "model, but this one has none (lm_vocab_size is 0); load the checkpoint of an "
                "ElmoForPreTraining, or leave output_embedding_layer out"
            )
        if self.word_vocab_size:
            raise ValueError(
                "output_embedding_layer=True is for models that read characters alone, but this "
                f"one has a word table (word_vocab_size is {self.word_vocab_size}), so layer 0 "
                "has a vector of each word already; leave output_embedding_layer out"
            )

    def _require_positive(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")

    def _require_layers(self, name: str, default: str) -> None:
        chosen, count = getattr(self, name), self.num_hidden_states
        if chosen is None or (chosen and all(-count <= layer < count for layer in chosen)):
            return
        raise ValueError(
            f"{name} is {chosen}; expected indices from 0 (the context-free layer) to {count - 1}, "
            f"or None for {default}"
        )

    def _require_at_least_zero(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 or more")


__all__ = ["ElmoConfig"]
