# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Check the settings of a pre-training run, find its last checkpoint, load starting weights."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.utils import logging

from ..model.configuration_elmo import ElmoConfig
from ..model.modeling_elmo import ElmoModel
from ..model.modeling_elmo_pretraining import ElmoForPreTraining
from ..model.tokenization_elmo import ElmoTokenizer
from ..model.tokenization_vocabulary import NO_WORD, LmVocabulary
from .widening import widen_cells

logger = logging.get_logger(__name__)

RUN_FILE = "pretraining.json"
TRAINER_STATE = "trainer_state.json"  # the last file of a checkpoint that Trainer writes


def describe_model(model: ElmoForPreTraining, tokenizer: ElmoTokenizer) -> dict[str, Any]:
    """Return the model's non-default fields and its vocabulary, which a resume must not change."""
    default = ElmoConfig()
    names = default.__dataclass_fields__.keys() - PreTrainedConfig.__dataclass_fields__.keys()
    fields = {name: getattr(model.config, name) for name in sorted(names)}
    words = "\n".join(tokenizer.lm_vocab or []).encode()
    return {
        "architecture": {k: v for k, v in fields.items() if v != getattr(default, k)},
        "vocabulary": f"{tokenizer.lm_vocab_size} words, {hashlib.sha256(words).hexdigest()[:16]}",
    }


def check_run(output_dir: str | os.PathLike[str], settings: dict[str, Any]) -> None:
    """
    Record a run's settings in its folder, or compare them with the recorded ones.

    Args:
        output_dir: the folder of the run.
        settings: the settings that must not change when the run is resumed; JSON values.

    Raises:
        ValueError: the folder belongs to a run with other settings, or contains checkpoints but
            no record of their settings.
    """
    path, settings = Path(output_dir, RUN_FILE), json.loads(json.dumps(settings))
    if not path.exists():
        if checkpoints := sorted(Path(output_dir).glob("checkpoint-*")):
            raise ValueError(
                f"{output_dir} contains {checkpoints[0].name} but no {RUN_FILE}, so the "
                "settings of that run are unknown; choose another --output_dir"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(settings, indent=2) + "\n")
        part.replace(path)
        return
    recorded = json.loads(path.read_text())
    names = sorted(recorded.keys() | settings.keys())
    if changed := [name for name in names if recorded.get(name) != settings.get(name)]:
        lines = [f"  {n}: {recorded.get(n)} there, {settings.get(n)} now" for n in changed]
        raise ValueError(
            f"{output_dir} belongs to a run with other settings:\n" + "\n".join(lines) + "\n"
            "use those settings to resume it, or choose another --output_dir"
        )


def last_checkpoint(output_dir: str | os.PathLike[str]) -> str | None:
    """
    Return the last complete checkpoint in a run's folder; None if there is none.

    An incomplete checkpoint, whose writing was interrupted, is skipped with a warning; training
    writes it again.
    """
    folders = [p for p in Path(output_dir).glob("checkpoint-*") if p.name[11:].isdigit()]
    for folder in sorted(folders, key=lambda path: -int(path.name[11:])):
        try:
            json.loads((folder / TRAINER_STATE).read_text())
            return str(folder)
        except (OSError, ValueError):
            logger.warning(f"{folder} is incomplete (its writing was interrupted) and is skipped")
    return None


def load_for_pretraining(
    folder: str | os.PathLike[str], words: list[str] | None = None, **changes: Any
) -> tuple[ElmoForPreTraining, ElmoTokenizer]:
    """
    Load a checkpoint for further training, with its own vocabulary or with a new one.

    Args:
        folder: a Hub folder of a biLM, with or without a softmax.
        words: the new vocabulary. The softmax keeps the weights of words that the old vocabulary
            also has and initializes the others; the biLM keeps all its weights. If it has no more
            words than the sampled softmax draws, the full softmax is used.
        changes: fields of the configuration that do not change weight shapes, such as `dropout`,
            and a larger `cell_dim`, for which `widen_cells` adds cells.

    Raises:
        ValueError: without `words`, the folder lacks a vocabulary or a softmax of its size; with
            `words`, the model's inputs are indices into its vocabulary.
    """
    cell_dim = changes.pop("cell_dim", None)
    model, tokenizer = _load(folder, words, changes)
    if cell_dim is not None and cell_dim != model.config.cell_dim:
        model = widen_cells(model, cell_dim)
    return model, tokenizer


def _load(
    folder: str | os.PathLike[str], words: list[str] | None, changes: dict[str, Any]
) -> tuple[ElmoForPreTraining, ElmoTokenizer]:
    tokenizer = ElmoTokenizer.from_pretrained(folder)
    sizes = ElmoConfig.from_pretrained(folder).lm_vocab_size, tokenizer.lm_vocab_size
    if words is None:
        if not sizes[0] or sizes[0] != sizes[1]:
            raise ValueError(
                f"{folder} has a softmax over {sizes[0]} words and a vocabulary of {sizes[1]}; "
                "expected equal sizes; build both for the new text with --new_vocabulary"
            )
        try:
            return ElmoForPreTraining.from_pretrained(folder, **changes), tokenizer
        except RuntimeError as error:
            if "size" not in str(error):
                raise
            raise ValueError(
                f"{folder} has weights of other shapes than {changes}; of the sizes only cell_dim "
                "may grow"
            ) from error
    config = ElmoConfig.from_pretrained(folder, **changes, lm_vocab_size=len(words))
    if config.word_vocab_size:
        raise ValueError(
            f"{folder} has a word table as input, so its vocabulary cannot be replaced; "
            "leave out --new_vocabulary"
        )
    if config.num_sampled_words >= len(words):
        config.num_sampled_words = 0
    model = ElmoForPreTraining(config)
    if all(sizes):
        old = ElmoForPreTraining.from_pretrained(folder)
        bilm = old.elmo
        _copy_rows(old, LmVocabulary.from_words(tokenizer.lm_vocab or []), model, words)
    else:
        bilm = ElmoModel.from_pretrained(folder)
    model.elmo.load_state_dict(bilm.state_dict())
    return model, ElmoTokenizer.from_pretrained(folder, lm_vocab=words)


@torch.no_grad()
def _copy_rows(
    old: ElmoForPreTraining, old_words: LmVocabulary, new: ElmoForPreTraining, words: list[str]
) -> None:
    """Copy the softmax weights of the words that both vocabularies have."""
    ids = torch.from_numpy(old_words.ids(words))
    known = ids != NO_WORD
    for name, rows in new.lm_head.named_parameters():
        rows[known] = old.lm_head.get_parameter(name)[ids[known]]


__all__ = ["check_run", "describe_model", "last_checkpoint", "load_for_pretraining"]
