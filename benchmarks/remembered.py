"""Cache the output of a frozen biLM, so that many heads train on it without encoding again."""

import hashlib

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers.modeling_outputs import BaseModelOutput

from elmo_hf import ElmoModel

Known = dict[bytes, torch.Tensor]


def remember(elmo: ElmoModel, known: Known) -> nn.Module:
    """
    Return a module that computes what `elmo` does, and caches the layers of every sentence.

    Args:
        elmo: a frozen model in evaluation mode.
        known: the cache: layers `(words, layers, hidden_size)` by a hash of the sentence's ids.
            Models with the same weights and layers may share it.
    """
    return _Remembered(elmo, known)


class _Remembered(nn.Module):
    def __init__(self, elmo: ElmoModel, known: Known) -> None:
        super().__init__()
        self.elmo, self.known = elmo, known

    @torch.no_grad()
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        word_input_ids: torch.Tensor | None = None,
        **_: object,
    ) -> BaseModelOutput:
        """Return all layers of right-padded sentences."""
        lengths = attention_mask.sum(1).tolist()
        sentences = [ids[:length] for ids, length in zip(input_ids, lengths, strict=True)]
        keys = [hashlib.blake2b(ids.numpy().tobytes()).digest() for ids in sentences]
        new = [row for row, key in enumerate(keys) if key not in self.known]
        if new:
            given = {"input_ids": input_ids[new], "attention_mask": attention_mask[new]}
            if word_input_ids is not None:
                given["word_input_ids"] = word_input_ids[new]
            layers = torch.stack(self.elmo(**given, output_hidden_states=True).hidden_states, 2)
            for row, found in zip(new, layers, strict=True):
                self.known[keys[row]] = found[: lengths[row]].clone()
        padded = pad_sequence([self.known[key] for key in keys], batch_first=True)
        return BaseModelOutput(hidden_states=padded.unbind(2))
