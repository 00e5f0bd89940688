# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Interactive figures by plotly; layers are the steps of a slider."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..extras import require
from .geometry import Geometry
from .maps import SenseMap
from .similarity import WordInSentence
from .sources import Vectors, unit

COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f"]
CONTEXT = 20  # words left and right of a word
LINE = 10  # words per line of a label
WORDS = 6  # with lines of their own
MOVE = 700  # milliseconds that points take to the next layer


def draw_map(sense_map: SenseMap, layer: int | None = None) -> Any:
    """
    Draw a sense map; a point's label is its sentence.

    Args:
        sense_map: the map.
        layer: index of the layer to draw; default: all, with a slider, the last one first.

    Returns:
        The `plotly.graph_objects.Figure`.
    """
    go = _plotly()
    members = sense_map.members()
    texts = np.array([label(one.place) for one in sense_map.occurrences])
    points = sense_map.points.astype(np.float32)

    def rows(number: int) -> list[dict[str, Any]]:
        return [dict(zip("xy", points[number, one].T, strict=True)) for one in members.values()]

    traces = [
        go.Scatter(
            **row,
            mode="markers",
            name=f"{html.escape(group)} ({len(one)})",
            marker={"color": COLORS[number % len(COLORS)], "size": 9, "opacity": 0.75},
            text=texts[one].tolist(),
            hovertemplate="%{text}<extra></extra>",
        )
        for number, ((group, one), row) in enumerate(
            zip(members.items(), rows(-1 if layer is None else layer), strict=True)
        )
    ]
    figure = go.Figure(traces, {"height": 560, "showlegend": True})
    edge = 1.08 * float(np.abs(points).max()) or 1.0
    hidden = {"range": [-edge, edge], "showticklabels": False, "title": None}
    figure.update_xaxes(hidden)
    figure.update_yaxes(hidden)
    if layer is not None:
        return figure
    labels = [_describe(sense_map, i) for i in range(len(points))]
    return _add_slider(figure, labels, [rows(i) for i in range(len(points))], MOVE)


def draw_geometry(geometry: Geometry, sense_map: SenseMap) -> Any:
    """Draw anisotropy, self-similarity and intra-sentence similarity as lines over the layers."""
    go = _plotly()
    figure = go.Figure(layout={"height": 420, "yaxis": {"title": "cosine"}})
    titles = {
        "anisotropy": "two random words",
        "self_similarity": "a word in two sentences",
        "intra_sentence_similarity": "a word and the mean of its sentence",
    }
    for (name, title), color in zip(titles.items(), COLORS, strict=False):
        found = [*getattr(geometry, name).values()]
        bars = {
            "symmetric": False,
            "array": [one.high - one.value for one in found],
            "arrayminus": [one.value - one.low for one in found],
        }
        line = {"x": [*geometry.anisotropy], "y": [one.value for one in found], "error_y": bars}
        figure.add_scatter(**line, name=title, line={"color": color})
    words = [*dict.fromkeys(one.place.word for one in sense_map.occurrences)]
    for word in words[:WORDS]:
        values, name = sense_map.self_similarity(word), f"<i>{html.escape(word)}</i> in two places"
        figure.add_scatter(x=[*sense_map.layers], y=values, name=name, line={"dash": "dot"})
    return figure


def draw_mixes(mixes: Mapping[str, Sequence[float]]) -> Any:
    """Draw the factor of each layer in scalar mixes, by the name of the mix."""
    figure = _plotly().Figure(layout={"height": 360, "yaxis": {"title": "factor"}})
    for name, factors in mixes.items():
        layers = [f"layer {i}" for i in range(len(factors))]
        figure.add_bar(x=layers, y=[*factors], name=html.escape(name))
    return figure


def draw_heat_map(vectors: Vectors, first: WordInSentence, second: WordInSentence) -> Any:
    """Draw the cosines of the words of two sentences, layer by layer; long ones are cut."""
    both = [first, second]
    found = zip(vectors([place.words for place in both]), both, strict=True)
    one, other = (unit(layers[:, _near(place)]) for layers, place in found)
    cosines = np.einsum("lad,lbd->lab", one, other).round(3).astype(np.float32)
    axes = [_ticks(place) for place in (second, first)]
    heat = {"type": "heatmap", "z": cosines[-1], "zmin": -1, "zmax": 1, "colorscale": "RdBu_r"}
    rows, columns = axes[1]["ticktext"], axes[0]["ticktext"]
    heat["text"] = [[f"{row} – {column}" for column in columns] for row in rows]
    heat["hovertemplate"] = "%{text}: %{z:.2f}<extra></extra>"
    figure = _plotly().Figure([heat])
    figure.update_layout(height=260 + 24 * len(rows))
    figure.update_xaxes(axes[0], tickangle=-60)
    figure.update_yaxes(axes[1], autorange="reversed")
    frames = [[{"type": "heatmap", "z": z}] for z in cosines]
    return _add_slider(figure, vectors.layers, frames, 0)


def label(place: WordInSentence) -> str:
    """Return a sentence as HTML, its word in bold; long ones are cut and broken into lines."""
    near = _near(place)
    words = _words(place)
    if near.start:
        words.insert(0, "…")
    if near.stop < len(place.words):
        words.append("…")
    return "<br>".join(" ".join(words[i : i + LINE]) for i in range(0, len(words), LINE))


def _plotly() -> Any:
    return require("plotly.graph_objects", "analysis")


def _describe(sense_map: SenseMap, layer: int) -> str:
    """Name a layer and what its points show of it."""
    name, shown = sense_map.layers[layer], sense_map.shown[layer]
    if np.isnan(shown):
        return f"{name}: all vectors are equal"
    part = f"{shown:.0%} of the variance" if sense_map.method == "pca" else "t-SNE"
    return f"{name}: {part}"


def _ticks(place: WordInSentence) -> dict[str, Any]:
    words = _words(place)
    return {"tickmode": "array", "tickvals": [*range(len(words))], "ticktext": words}


def _words(place: WordInSentence) -> list[str]:
    """Return the words near a place as HTML, its own in bold."""
    words, near = [html.escape(word) for word in place.words], _near(place)
    words[place.position] = f"<b>{words[place.position]}</b>"
    return words[near]


def _near(place: WordInSentence) -> slice:
    stop = min(len(place.words), place.position + CONTEXT + 1)
    return slice(max(0, place.position - CONTEXT), stop)


def _add_slider(figure: Any, labels: Sequence[str], data: Sequence[Any], move: int) -> Any:
    """Add a slider with a step per layer and what changes there; the last layer is shown first."""
    figure.frames = [{"name": str(i), "data": one} for i, one in enumerate(data)]
    steps = [
        {
            "label": text,
            "method": "animate",
            "args": [
                [str(i)],
                {
                    "mode": "immediate",
                    "transition": {"duration": move},
                    "frame": {"duration": move, "redraw": not move},
                },
            ],
        }
        for i, text in enumerate(labels)
    ]
    slider = {"steps": steps, "active": len(steps) - 1, "pad": {"t": 40 if move else 90}}
    return figure.update_layout(sliders=[slider | {"currentvalue": {"visible": False}}])


__all__ = ["draw_geometry", "draw_heat_map", "draw_map", "draw_mixes", "label"]
