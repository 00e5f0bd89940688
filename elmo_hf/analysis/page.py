# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Writes figures and tables as one HTML page that needs no network."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..extras import require
from ..gaps import Direction, fill_gaps
from ..model.modeling_elmo_pretraining import ElmoForPreTraining
from ..model.tokenization_elmo import ElmoTokenizer
from ..storage.files import new_file
from .figures import draw_geometry, draw_heat_map, draw_map, draw_mixes, label
from .geometry import measure_geometry
from .maps import SenseMap
from .similarity import WordInSentence
from .sources import Vectors

SAMPLE = 300  # sentences for the layers' measures
NEIGHBORS = 5
FILLERS = 8
SHOWN = 4  # groups with a table of their own
SIGN = "\0gap\0"  # no text has it
NEAREST = (
    "For a typical occurrence of each colour: the occurrences with the most similar vectors, layer "
    "by layer, with their cosines. In brackets: colour and number of the sentence. Of equal "
    "vectors, such as those of one word in layer 0, the first ones are shown."
)
LAYERS = (
    "How much does the context change a word? Mean cosines in each layer with 95 % intervals, "
    "measured in the sentences of the map (at most 300). If two random words are similar already, "
    "the other lines mean less. Dotted: the words of the map, all their occurrences."
)
HEAT_MAP = (
    "The cosine of each word of one sentence with each word of the other: typical sentences of two "
    "colours. The slider is the layer."
)
MIXES = (
    "The factor of each layer in the mixes that were learned for tasks (the softmax, times gamma)."
)
FILL = (
    "The word was taken out. What does the language model expect in its place, after the words to "
    "the left, before the words to the right, and from both sides?"
)
# A page may load nothing, neither from the network nor from the disk.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0 2em }
td, th { border-bottom: 1px solid #ddd; padding: .3em .8em; text-align: left; vertical-align: top }
h3 { font-size: 1em; font-weight: normal; background: #f4f4f4; padding: .3em .8em }
"""
CONFIG = {
    "displaylogo": False,  # a link to another host
    "showSendToCloud": False,  # a button that uploads the figure; newer releases show it
    "responsive": True,
    "toImageButtonOptions": {"format": "svg"},
}


class Section(NamedTuple):
    """
    A part of a page.

    Attributes:
        title: its heading, plain text.
        text: an explanation, plain text.
        parts: figures of plotly, and HTML.
    """

    title: str
    text: str
    parts: Sequence[Any]


def write_page(path: Path, title: str, sections: Sequence[Section]) -> None:
    """
    Write a page with plotly's library in it; on failure no file stays.

    Raises:
        MissingExtraError: plotly is not installed.
        OSError: the file cannot be written.
    """
    library = require("plotly.offline", "analysis").get_plotlyjs()
    body = "\n".join(_render(section) for section in sections)
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
<script>{library}</script>
</head>
<body>
<h1>{html.escape(title)}</h1>
{body}
</body>
</html>
"""
    with new_file(path) as part:
        part.write_text(page, encoding="utf-8")


def explain(
    sense_map: SenseMap,
    vectors: Vectors,
    *,
    mixes: Mapping[str, Sequence[float]] | None = None,
    language_model: tuple[ElmoForPreTraining, ElmoTokenizer] | None = None,
    seed: int = 0,
) -> list[Section]:
    """
    Make the sections of a page about words in their sentences.

    Args:
        sense_map: the occurrences of the words.
        vectors: the source of their vectors.
        mixes: the factors of each layer in learned scalar mixes, by name.
        language_model: fills the words' places; with its tokenizer.
        seed: seed of the random words for the layers' measures.
    """
    sections = [
        Section("Sense map", _explain_map(sense_map), [draw_map(sense_map)]),
        Section("Nearest occurrences", NEAREST, _nearest_tables(sense_map)),
        Section("Layers", LAYERS, [_draw_layers(sense_map, vectors, seed)]),
    ]
    indices = [*sense_map.typical().values()]
    if len(indices) == 1:  # no other group: another sentence of the same
        indices += [i for _, i in sense_map.nearest(indices[0], 1)[-1]]
    typical = [sense_map.occurrences[i].place for i in indices]
    sections.append(Section("Two sentences", HEAT_MAP, [draw_heat_map(vectors, *typical[:2])]))
    if mixes:
        sections.append(Section("Scalar mixes", MIXES, [draw_mixes(mixes)]))
    if language_model is not None:
        tables = [_fill_table(*language_model, place) for place in typical[:SHOWN]]
        sections.append(Section("What fits here?", FILL, tables))
    return sections


def _explain_map(sense_map: SenseMap) -> str:
    kinds = {
        "sense": "The colours are the senses that were given.",
        "word": "The colours are the words.",
        "cluster": "The colours are clusters that K-means found; nobody has checked that they are "
        "senses.",
    }
    methods = {
        "pca": "One PCA was fitted to all layers, each centred, so that a point moves because its "
        "vector does. The percentage is the part of the layer's variance that the plane shows.",
        "tsne": "The points were moved by t-SNE, layer by layer: who is near whom means something, "
        "large distances do not.",
    }
    found = f"{kinds[sense_map.kind]} {methods[sense_map.method]}"
    return (
        "Each point is a word in its sentence: point at it to read the sentence. Move the slider "
        "to see what each layer makes of the context. In a layer that sees none, such as ELMo's "
        f"layer 0, all places of a word lie on one another. {found}"
    )


def _nearest_tables(sense_map: SenseMap) -> list[str]:
    """Return, for the typical occurrence of each group, a table of the nearest ones per layer."""
    tables = []
    for index in [*sense_map.typical().values()][:SHOWN]:
        columns = [
            [f"{cosine:.3f} {_sentence(sense_map, i)}" for cosine, i in found]
            for found in sense_map.nearest(index, NEIGHBORS)
        ]
        asked = f"<h3>{_sentence(sense_map, index)}</h3>"
        tables.append(asked + _table(sense_map.layers, zip(*columns, strict=True)))
    return tables


def _draw_layers(sense_map: SenseMap, vectors: Vectors, seed: int) -> Any:
    sentences = [*{one.sentence: one.place.words for one in sense_map.occurrences}.values()]
    sample = sentences[:: -(-len(sentences) // SAMPLE)]
    return draw_geometry(measure_geometry(vectors, sample, seed=seed, min_contexts=2), sense_map)


def _fill_table(model: ElmoForPreTraining, tokenizer: ElmoTokenizer, place: WordInSentence) -> str:
    """Return the most probable words from the left, the right and both sides."""
    words = [*place.words]
    words[place.position] = SIGN
    directions: list[Direction] = ["forward"]
    if model.config.bidirectional:
        directions += ["backward", "both"]
    columns = []
    for direction in directions:
        (gap,) = fill_gaps(model, tokenizer, words, gap=SIGN, top=FILLERS, direction=direction)
        columns.append(
            [
                f"{math.exp(getattr(one, direction)):.1%} {html.escape(one.word)}"
                for one in gap.candidates
            ]
        )
    header = ["from the left", "from the right", "from both sides"][: len(columns)]
    asked = f"<h3>{label(place).replace('<br>', ' ')}</h3>"
    return asked + _table(header, zip(*columns, strict=True))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an HTML table; the header is plain text, the cells are HTML."""
    titles = "".join(f"<th>{html.escape(title)}</th>" for title in header)
    lines = (f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{titles}</tr>{''.join(lines)}</table>"


def _sentence(sense_map: SenseMap, index: int) -> str:
    one, group = sense_map.occurrences[index], html.escape(sense_map.groups[index])
    return f"{label(one.place).replace('<br>', ' ')} <small>({group}, {one.sentence})</small>"


def _render(section: Section) -> str:
    parts = [one if isinstance(one, str) else _render_figure(one) for one in section.parts]
    title, text = html.escape(section.title), html.escape(section.text)
    return f"<section><h2>{title}</h2>\n<p>{text}</p>\n{''.join(parts)}</section>"


def _render_figure(figure: Any) -> str:
    figure.update_layout(template="plotly_white", margin={"t": 30})
    return figure.to_html(
        full_html=False, include_plotlyjs=False, config=CONFIG, auto_play=False, validate=False
    )


__all__ = ["Section", "explain", "write_page"]
