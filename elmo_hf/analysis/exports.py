# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Writes sense maps as pictures for papers, and as files for TensorBoard's projector."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ..extras import require
from ..storage.files import new_file
from .figures import COLORS
from .maps import SenseMap

PANEL = 2.6  # inches


def save_map(sense_map: SenseMap, path: Path) -> None:
    """
    Draw a sense map with a panel per layer; the path's ending is the format: .svg, .png or .pdf.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    matplotlib = require("matplotlib", "analysis")
    # Letters are drawn as shapes, because another font could make them wider.
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "elmo_hf"}):
        figure = _draw(sense_map)
        dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
        settings = {"format": path.suffix[1:], "metadata": dates.get(path.suffix)}
        with new_file(path) as part:
            figure.savefig(part, dpi=200, bbox_inches="tight", facecolor="white", **settings)


def write_projector(sense_map: SenseMap, folder: Path) -> None:
    """
    Write a new folder that TensorBoard's projector opens: `tensorboard --logdir FOLDER`.

    It has `layer_0.tsv` and so on, the vectors; `metadata.tsv`, the word, group and sentence of
    each row; and `projector_config.pbtxt`. projector.tensorflow.org's page loads the TSV files one
    by one. On failure no folder stays.

    Raises:
        FileExistsError: there is something already.
    """
    folder.mkdir()
    try:
        _write_projector(sense_map, folder)
    except BaseException:
        shutil.rmtree(folder)
        raise


def _draw(sense_map: SenseMap) -> Any:
    count = len(sense_map.layers)
    figure = require("matplotlib.figure", "analysis").Figure((PANEL * count, PANEL))
    panels = figure.subplots(1, count, squeeze=False)[0]
    edge = 1.08 * float(np.abs(sense_map.points).max()) or 1.0
    for panel, layer, points in zip(panels, sense_map.layers, sense_map.points, strict=True):
        for number, (group, members) in enumerate(sense_map.members().items()):
            color = COLORS[number % len(COLORS)]
            panel.scatter(*points[members].T, 14, color, alpha=0.75, linewidths=0, label=group)
        panel.set(
            title=layer,
            xlim=(-edge, edge),
            ylim=(-edge, edge),
            xticks=[],
            yticks=[],
            aspect="equal",
        )
        panel.spines[:].set_color("#cccccc")
    handles, names = panels[0].get_legend_handles_labels()
    names = [name.replace("$", r"\$") for name in names]  # no formulas
    figure.legend(
        handles,
        names,
        loc="upper center",
        bbox_to_anchor=(0.5, 0.1),
        ncols=min(6, len(names)),
        frameon=False,
    )
    return figure


def _write_projector(sense_map: SenseMap, folder: Path) -> None:
    lines = [f"word\t{sense_map.kind}\tnumber\tsentence"]
    for one, group in zip(sense_map.occurrences, sense_map.groups, strict=True):
        cells = (one.place.word, group, str(one.sentence), " ".join(one.place.words))
        lines.append("\t".join(" ".join(cell.split()) for cell in cells))
    (folder / "metadata.tsv").write_text("\n".join([*lines, ""]), encoding="utf-8")
    config = []
    for number, (layer, rows) in enumerate(zip(sense_map.layers, sense_map.vectors, strict=True)):
        name = f"layer_{number}.tsv"
        np.savetxt(folder / name, rows, "%.6g", "\t")
        config.append(
            f'embeddings {{\n  tensor_name: "{layer}"\n  tensor_path: "{name}"\n'
            '  metadata_path: "metadata.tsv"\n}\n'
        )
    (folder / "projector_config.pbtxt").write_text("".join(config), encoding="utf-8")


__all__ = ["save_map", "write_projector"]
