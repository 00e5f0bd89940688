# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""The command export, which writes a model as an ONNX graph."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from .failures import CommandError, check_model, one_line_errors
from .texts import hide_loading


def export(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A model folder, or a name on the Hub.")
    ],
    output: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The new folder to write, with model.onnx.")
    ],
    layers: Annotated[
        Literal["average", "top", "all"] | None,
        typer.Option(
            metavar="LAYERS",
            help="The word vectors to compute: average: the mean of all layers; top: the last "
            "layer; all: every layer, as an output of its own. Default: the logits of a task "
            "head; average for a model without a head.",
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a Hub repository.")
    ] = None,
) -> None:
    """Write a model as an ONNX graph for onnxruntime, for any number of sentences and words.

    The folder also gets the tokenizer. The graph reads what it returns, without PyTorch:

    \b
      from onnxruntime import InferenceSession
      from transformers import AutoTokenizer
      tokenizer = AutoTokenizer.from_pretrained("elmo-onnx", trust_remote_code=True)
      session = InferenceSession("elmo-onnx/model.onnx")
      inputs = tokenizer(["The bank lent money."], return_tensors="np")
      (vectors,) = session.run(None, dict(inputs))

    At the end onnxruntime must give the values of PyTorch to 1e-5, for several sentences, padded on
    both sides; otherwise nothing is written. A CRF and the biLSTM of a head cannot be exported.

    \b
    Examples:
      elmo-hf export checkpoints/elmo-small-en elmo-onnx
      elmo-hf export checkpoints/elmo-small-en elmo-onnx --layers all
    """
    check_model(model)
    if output.suffix == ".onnx":
        name = output.with_suffix("")
        raise CommandError(f"{output} is the name of a file; pass a new folder, such as {name}", 2)
    if output.exists():
        raise CommandError(f"{output} exists already; choose a new name, or remove it first")
    from elmo_hf.integrations.onnx import export_onnx

    hide_loading()
    with one_line_errors(ValueError):
        differences = export_onnx(model, output, layers=layers, revision=revision)
    for difference in differences:
        print(difference)
    print(f"wrote {output}")


__all__ = ["export"]
