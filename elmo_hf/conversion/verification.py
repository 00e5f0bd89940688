"""Compares a converted model with a float64 computation from the original arrays."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import ElmoForPreTraining, ElmoModel, ElmoPreTrainedModel, ElmoTokenizer
from .tables import WeightsError

# The original programs agree with each other to this tolerance in single precision. The relative
# part is a fraction of a layer's largest value.
ABSOLUTE, RELATIVE = 2e-6, 1e-5

SENTENCES = [
    sentence.split()
    for sentence in (
        "He sat on the bank of the river and watched the fish .",
        "The bank raised its interest rate by 0.25 % on Monday .",
        "Pretty",
        "naïve 日本語 😀 pneumonoultramicroscopicsilicovolcanoconiosis-like-long-words !",
        "",
    )
]


@dataclass(frozen=True)
class Difference:
    """The largest difference in one layer or softmax, and the largest allowed difference."""

    name: str
    largest: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether the difference is allowed; False for NaN."""
        return self.largest <= self.allowed

    def __str__(self) -> str:
        """Return one line of text."""
        verdict = "ok" if self.passed else "TOO LARGE"
        return (
            f"{self.name}: largest difference {self.largest:.1e} of {self.allowed:.1e}, {verdict}"
        )


def compare(expected: Mapping[str, list[np.ndarray]], folder: Path) -> list[Difference]:
    """
    Reload a converted folder, and compare its outputs for `SENTENCES` with the original's.

    Args:
        expected: arrays `(words, width)` of every sentence, by the names `layer K`, `forward
            logits` and `backward logits`.
        folder: the converted folder, with its tokenizer.
    """
    tokenizer = ElmoTokenizer.from_pretrained(folder)
    inputs = tokenizer(SENTENCES, is_split_into_words=True, padding=True, return_tensors="pt")
    model_class = ElmoForPreTraining if "forward logits" in expected else ElmoModel
    model = model_class.from_pretrained(folder).eval()
    found = _found(model, inputs)
    return [_difference(name, rows, found[name]) for name, rows in expected.items()]


@torch.inference_mode()
def _found(model: ElmoPreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Compute the converted model's outputs, by layer and sentence."""
    outputs = model(**inputs, output_hidden_states=True)
    found = {f"layer {k}": layer for k, layer in enumerate(outputs.hidden_states)}
    for direction in ("forward", "backward"):
        if outputs.get(f"{direction}_logits") is not None:
            found[f"{direction} logits"] = outputs[f"{direction}_logits"]
    lengths = inputs["attention_mask"].sum(1).tolist()
    return {
        name: [row[:length].double().numpy() for row, length in zip(rows, lengths, strict=True)]
        for name, rows in found.items()
    }


def _difference(name: str, expected: list[np.ndarray], found: list[np.ndarray]) -> Difference:
    # Unlike Python's max, NumPy's returns NaN if a value is NaN.
    largest = np.max([np.abs(a - b).max() for a, b in zip(expected, found, strict=True)])
    scale = max(float(np.abs(row).max()) for row in expected)
    return Difference(name, float(largest), ABSOLUTE + RELATIVE * scale)


def report(differences: list[Difference]) -> dict[str, Any]:
    """Return the record for conversion.json; raise WeightsError if a layer differs."""
    failed = [str(d) for d in differences if not d.passed]
    if failed:
        raise WeightsError("the converted model differs from the original: " + "; ".join(failed))
    return {
        "method": "float64 NumPy forward pass of the original arrays, against the reloaded folder",
        "sentences": len(SENTENCES),
        "differences": [asdict(difference) for difference in differences],
    }


__all__ = ["SENTENCES", "Difference", "compare", "report"]
