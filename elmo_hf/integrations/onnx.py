# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Exports a model to ONNX, and compares onnxruntime's results with PyTorch's."""

import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from .. import (
    ElmoConfig,
    ElmoForQuestionAnswering,
    ElmoForSequenceClassification,
    ElmoForTokenClassification,
    ElmoModel,
    ElmoPreTrainedModel,
    ElmoTokenizer,
)
from ..conversion.outputs import new_folder
from ..conversion.verification import SENTENCES, Difference
from ..extras import require
from ..loading import damage_explained, find_source
from ..model.engine_scan import has_scan

Layers = Literal["average", "top", "all"]
LAYERS = ("average", "top", "all")
HEADS: dict[str, type[ElmoPreTrainedModel]] = {
    "ElmoForSequenceClassification": ElmoForSequenceClassification,
    "ElmoForTokenClassification": ElmoForTokenClassification,
    "ElmoForQuestionAnswering": ElmoForQuestionAnswering,
}
FILE = "model.onnx"
TOLERANCE = 1e-5  # relative where values are larger than 1
LARGEST_FILE = 2_000_000_000  # bytes; larger weights are written to a second file, model.onnx.data

BATCHES = [SENTENCES[:1], SENTENCES[2:3], SENTENCES[4:], SENTENCES, [SENTENCES[0] * 8]]


class OnnxError(ValueError):
    """Error: a model cannot be exported to ONNX, or onnxruntime computes something else."""


def export_onnx(
    model: str | os.PathLike,
    output: str | os.PathLike,
    *,
    layers: Layers | None = None,
    revision: str | None = None,
) -> list[Difference]:
    """
    Write a folder with `model.onnx`, config.json and the tokenizer's files, and verify it.

    The graph reads what the tokenizer returns, `input_ids` and `attention_mask`, for any number of
    sentences and words, padded on either side. Its weights are float32. It is verified before the
    folder gets its name: onnxruntime must give PyTorch's values to 1e-5.

    Args:
        model: folder or Hub name of a model. ElmoForSequenceClassification,
            ElmoForTokenClassification and ElmoForQuestionAnswering are exported with their heads.
        output: the new folder.
        layers: the word vectors to compute, `(batch, words, hidden_size)`: the output `average` is
            the mean of all layers, `last_hidden_state` ("top") the last layer, and
            `hidden_states.0` and so on ("all") are all layers. Default: the head's logits, or
            "average" for a model without a head.
        revision: branch, tag or commit of the Hub repository.

    Returns:
        The largest difference found in each output.

    Raises:
        MissingExtraError: the extra `onnx` is not installed.
        OnnxError: this model cannot be exported, its weights are incomplete, or results differ.
        WeightsError: `output` exists or cannot be written.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package, "onnx")
    if layers not in (None, *LAYERS):
        raise OnnxError(f"layers is {layers!r}; expected one of {', '.join(LAYERS)}")
    source = find_source(model, revision)
    config, folder = source.config(), source.folder()
    kind = _class(config, layers)
    with new_folder(Path(output)) as scratch:
        with damage_explained(folder):
            loaded, tokenizer = _load(kind, folder), ElmoTokenizer.from_pretrained(folder)
        graph = OnnxGraph(loaded, layers).requires_grad_(False)
        _write(graph, tokenizer, scratch / FILE)
        differences = compare(graph, tokenizer, scratch / FILE)
        loaded.config.to_json_file(scratch / "config.json")
        tokenizer.save_pretrained(scratch)
    return differences


class OnnxGraph(nn.Module):
    """
    A model as ONNX sees it: tensors in, tensors out.

    Args:
        model: the model, with a head if `layers` is None.
        layers: as for `export_onnx`.
    """

    def __init__(self, model: ElmoPreTrainedModel, layers: Layers | None) -> None:
        super().__init__()
        self.model = model
        self.layers = layers
        if layers is None and isinstance(model, ElmoModel):
            self.layers = "average"

    @property
    def names(self) -> list[str]:
        """Names of the outputs."""
        if self.layers == "all":
            return [f"hidden_states.{k}" for k in range(self.model.config.num_hidden_states)]
        if self.layers is not None:
            return ["last_hidden_state" if self.layers == "top" else self.layers]
        is_spans = isinstance(self.model, ElmoForQuestionAnswering)
        return ["start_logits", "end_logits"] if is_spans else ["logits"]

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        word_input_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            word_input_ids=word_input_ids,
            output_hidden_states=self.layers is not None,
        )
        if self.layers == "all":
            return tuple(outputs.hidden_states)
        if self.layers == "average":
            return (torch.stack(outputs.hidden_states).mean(0),)
        return tuple(outputs[name] for name in self.names)


def compare(graph: OnnxGraph, tokenizer: ElmoTokenizer, file: Path) -> list[Difference]:
    """
    Compare onnxruntime's outputs with PyTorch's, for batches of several sizes and lengths.

    Raises:
        OnnxError: an output differs.
    """
    runtime = require("onnxruntime", "onnx")
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    largest = np.zeros(len(graph.names))
    for inputs in _batches(tokenizer):
        with torch.inference_mode():
            expected = [output.numpy() for output in graph(**inputs)]
        found = session.run(graph.names, {name: part.numpy() for name, part in inputs.items()})
        pairs = zip(found, expected, strict=True)
        largest = np.maximum(largest, [_difference(*pair) for pair in pairs])  # NaN stays
    differences = [
        Difference(name, float(most), TOLERANCE)
        for name, most in zip(graph.names, largest, strict=True)
    ]
    if failed := [str(difference) for difference in differences if not difference.passed]:
        raise OnnxError(f"onnxruntime and PyTorch differ: {'; '.join(failed)}")
    return differences


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference, relative where values are larger than 1."""
    return float((np.abs(found - expected) / np.maximum(1, np.abs(expected))).max())


def _class(config: ElmoConfig, layers: Layers | None) -> type[ElmoPreTrainedModel]:
    """Return the class to export; raise OnnxError for what a graph cannot hold."""
    saved = (config.architectures or ["ElmoModel"])[0]
    if layers is None and (obstacle := _head_obstacle(config, saved)):
        raise OnnxError(
            f"the head of this model cannot be exported: {obstacle}; export its word vectors with "
            "--layers average, top or all"
        )
    if config.num_mixed_lstms:
        raise OnnxError(
            "this model cannot be exported: it is a standard biLSTM (num_mixed_lstms), and "
            "PyTorch exports such an LSTM for one length only; use elmo_hf itself"
        )
    if not has_scan():
        raise OnnxError(
            f"PyTorch {torch.__version__} cannot export a loop over words; install a newer release"
        )
    return ElmoModel if layers is not None else HEADS.get(saved, ElmoModel)


def _head_obstacle(config: ElmoConfig, saved: str) -> str | None:
    if saved == "ElmoForMultipleChoice":
        return "it reads several texts at a time (ElmoForMultipleChoice)"
    if saved in HEADS and config.classifier_lstm_dim:
        return "it has a biLSTM (classifier_lstm_dim)"
    if saved == "ElmoForTokenClassification" and config.use_crf:
        return "its CRF searches for the best tagging (use_crf)"
    if saved in HEADS and config.mix_layer_norm == "bilm-tf":
        return "ONNX has no number for the norm of a sentence without words (mix_layer_norm)"
    return None


def _load(kind: type[ElmoPreTrainedModel], folder: Path) -> ElmoPreTrainedModel:
    model, info = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    if missing := sorted(info["missing_keys"]):
        raise OnnxError(f"the weights in {folder} are incomplete: {', '.join(missing[:3])} ..")
    return model.eval()


def _write(graph: OnnxGraph, tokenizer: ElmoTokenizer, file: Path) -> None:
    inputs = next(_batches(tokenizer, [SENTENCES[:2]]))
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("words")}
    size = sum(parameter.nbytes for parameter in graph.parameters())
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it lists packages that are missing
    torch.compiler.reset()  # with graphs of other models in its memory, PyTorch would fix the sizes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            (*inputs.values(),),
            file,
            dynamic_shapes=(sizes,) * len(inputs),
            input_names=[*inputs],
            output_names=graph.names,
            external_data=size > LARGEST_FILE,
            verbose=False,
        )


def _batches(
    tokenizer: ElmoTokenizer, batches: list[list[list[str]]] = BATCHES
) -> Iterator[dict[str, Any]]:
    """Yield the tensors of every batch, padded right and left, in the order of the inputs."""
    for side in ("right", "left"):
        for sentences in batches:
            inputs = tokenizer(
                sentences,
                is_split_into_words=True,
                padding=True,
                padding_side=side,
                return_tensors="pt",
            )
            names = ("input_ids", "attention_mask", "word_input_ids")
            yield {name: inputs[name] for name in names if name in inputs}


__all__ = ["LAYERS", "Layers", "OnnxError", "OnnxGraph", "compare", "export_onnx"]
