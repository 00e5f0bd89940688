# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Folders of pre-training runs: settings, last complete checkpoint, starting weights."""

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

logger = logging.get_logger(__name__)

RUN_FILE = "pretraining.json"
TRAINER_STATE = "trainer_state.json"  # the last file of a checkpoint that Trainer writes


def describe_model(model: ElmoForPreTraining, tokenizer: ElmoTokenizer) -> dict[str, Any]:
    """Return the model settings that a resumed run must share: fields that are not defaults."""
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
        settings: what must not change when the run is resumed; anything JSON can represent.

    Raises:
        ValueError: the folder belongs to a run with other settings, or holds checkpoints of
            unknown settings.
    """
    path, settings = Path(output_dir, RUN_FILE), json.loads(json.dumps(settings))
    if not path.exists():
        if checkpoints := sorted(Path(output_dir).glob("checkpoint-*")):
            raise ValueError(
                f"{output_dir} holds {checkpoints[0].name} but no {RUN_FILE}, so the "
                "settings of that run are unknown; choose another --output_dir"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(settings, indent=2) + "\n")
        part.replace(path)
        return
    noted = json.loads(path.read_text())
    names = sorted(noted.keys() | settings.keys())
    if changed := [name for name in names if noted.get(name) != settings.get(name)]:
        lines = [f"  {name}: {noted.get(name)} there, {settings.get(name)} now" for name in changed]
        raise ValueError(
            f"{output_dir} belongs to a run with other settings:\n" + "\n".join(lines) + "\n"
            "use those settings to resume it, or choose another --output_dir"
        )


def last_checkpoint(output_dir: str | os.PathLike[str]) -> str | None:
    """
    Return the last complete checkpoint in a run's folder, None if there is none.

    A checkpoint that was interrupted while it was written is skipped with a warning; training
    writes it again.
    """
    folders = [p for p in Path(output_dir).glob("checkpoint-*") if p.name[11:].isdigit()]
    for folder in sorted(folders, key=lambda path: -int(path.name[11:])):
        try:
            json.loads((folder / TRAINER_STATE).read_text())
            return str(folder)
        except (OSError, ValueError):
            logger.warning(f"{folder} is incomplete, as writing it was interrupted; it is skipped")
    return None


def load_for_pretraining(
    folder: str | os.PathLike[str], words: list[str] | None = None, **changes: Any
) -> tuple[ElmoForPreTraining, ElmoTokenizer]:
    """
    Load a checkpoint to train it on: with its own vocabulary, or with a new one.

    Args:
        folder: a Hub folder of a biLM, with or without a softmax.
        words: the new vocabulary. The biLM is kept; of the softmax the rows of words that the old
            vocabulary has, too, and the others begin anew.
        changes: fields of the configuration that leave the weights' shapes, such as `dropout`.

    Raises:
        ValueError: without `words`, the folder lacks a vocabulary or a softmax of its size.
    """
    tokenizer = ElmoTokenizer.from_pretrained(folder)
    sizes = ElmoConfig.from_pretrained(folder).lm_vocab_size, tokenizer.lm_vocab_size
    if words is None:
        if not sizes[0] or sizes[0] != sizes[1]:
            raise ValueError(
                f"{folder} has a softmax over {sizes[0]} words and a vocabulary of {sizes[1]}; "
                "build one of the new text with --new_vocabulary"
            )
        return ElmoForPreTraining.from_pretrained(folder, **changes), tokenizer
    config = ElmoConfig.from_pretrained(folder, **changes, lm_vocab_size=len(words))
    if config.word_vocab_size:
        raise ValueError(
            f"{folder} reads words by their place in its vocabulary, so that cannot be replaced; "
            "leave out --new_vocabulary"
        )
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
    ids = torch.from_numpy(old_words.ids(words))
    known = ids != NO_WORD
    for name, rows in new.lm_head.named_parameters():
        rows[known] = old.lm_head.get_parameter(name)[ids[known]]


__all__ = ["check_run", "describe_model", "last_checkpoint", "load_for_pretraining"]
