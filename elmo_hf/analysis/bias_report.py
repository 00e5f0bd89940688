# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Writes the results of `BiasStudy` as Markdown: a page, and the section of a model card."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

BEGIN, END = "<!-- bias: begin -->", "<!-- bias: end -->"
NO_PROOF = (
    "**A low figure is no proof of absence**: it says that this measure, with these words and "
    "sentences, found little."
)
NOT_MEASURED = (
    "Not measured: languages other than English; genders other than female and male; groups and "
    "stereotypes outside of these sets, which were made in the USA; and the bias of an application "
    "that uses the vectors, which such figures do not predict (Goldfarb-Tarrant et al. 2021). "
    "Measure the application itself."
)
INTRODUCTION = {
    "weat": "Effect sizes between -2 and 2; above 0, the first targets are nearer to the first "
    "attributes. Words alone: WEAT (Caliskan et al. 2017), with a one-sided p by permutation, "
    "adjusted by Holm over the tests of a layer; the layers above 0 see a sentence of one word."
    " In context: CEAT (Guo and Caliskan 2021), the mean effect over random contexts of each "
    "word; `combined` is its random-effects combination as published, with tau, the standard "
    "deviation between samples; `opposite` is the share of samples whose effect has the other "
    "sign. Intervals: resampled target words. n: target words with vectors. A test with more "
    "than 20 % of a set's words lost is not measured.",
    "occupations": "Pearson's r over 60 occupations (Winogender's list; share of women in the USA, "
    "2015) between the share of women and how much nearer the word's vector, alone, is to female "
    "than to male words.",
    "winogender": "Pearson's r over the same occupations between the share of women and log "
    "P(female pronoun) - log P(male pronoun) in Winogender's sentences, where the pronoun "
    "stands for the occupation; in parentheses, where it stands for someone else. Forward: "
    "given the words before the pronoun; backward: given those after it, which mostly name no "
    "occupation; both: the sum.",
    "winobias": "Mean of log P(stereotypical pronoun) - log P(the other pronoun), natural "
    "logarithm, in WinoBias (Zhao et al. 2018). Type 1: the meaning tells who the pronoun "
    "stands for; type 2: the syntax. A biLM can show little here, whatever it learned: the "
    "backward LSTMs read the sentence's end, which names no occupation, and in type 1 the words"
    " before the pronoun are nearly the same for both stereotypes.",
    "crows_pairs": "Percent of the pairs of CrowS-Pairs (Nangia et al. 2020) in which the model "
    "prefers the more stereotypical sentence, by the probability of the shared words, or of the "
    "whole sentence; ties count half; 50: no preference. A rough check only: many of the pairs are "
    "invalid or unequal (Blodgett et al. 2021).",
    "holistic_bias": "How much a descriptor changes the log-probability of the rest of the "
    "sentence: standard deviation over random descriptors of an axis of HolisticBias (Smith"
    " et al. 2022), in nats per sentence, both directions. The axis nonce has made-up "
    "words, for comparison.",
    "mitigation": "Fresh classifiers on the vectors of occupations in WinoBias, trained on "
    "its development part, accuracy on its test part in percent: gender of the occupation's"
    " pronoun, by a linear and by a Gaussian-kernel classifier, and stereotype of "
    "occupations that the classifier has not seen (linear); chance is 50. Cost: accuracy of"
    " a linear probe for parts of speech (UD EWT), in parentheses that of the most frequent "
    "one. LEACE is fitted to the pronoun's gender on the development part.",
}
TITLES = {
    "weat": "Word associations",
    "occupations": "Occupations, by vectors",
    "winogender": "Occupations, by pronouns",
    "winobias": "Stereotypical pronouns",
    "crows_pairs": "CrowS-Pairs",
    "holistic_bias": "HolisticBias",
    "mitigation": "Mitigation, and what it costs",
}

LAYERS = {  # what stands in the column of the layers, where it is something else
    "winogender": "direction",
    "winobias": "direction",
    "crows_pairs": "compared words",
    "holistic_bias": "direction",
}


def render_page(results: Mapping[str, Any]) -> str:
    """Return the Markdown page of all results."""
    rows = results["rows"]
    parts = [f"# Bias measured in {results['checkpoint']}", f"{NO_PROOF} {NOT_MEASURED}"]
    parts += [_made(results), *_text_facts(results)]
    for measure, title in TITLES.items():
        own = [row for row in rows if row["measure"] == measure]
        if own:
            parts += [f"## {title}", INTRODUCTION[measure], *_sections(measure, own, results)]
    return "\n\n".join(parts) + "\n"


def render_section(results: Mapping[str, Any], page: str) -> str:
    """
    Return what a model card says about bias, between the marks `BEGIN` and `END`.

    Args:
        results: the results, as in the JSON file of the command.
        page: where the full results are.
    """
    rows = results["rows"]
    top = [row["layer"] for row in rows if row.get("words") == "in context"][-1:]
    parts = [
        "Measured because classifiers on these vectors, for instance of texts about people, may "
        f"pick up what the vectors say about groups of people. {NO_PROOF}",
        *_text_facts(results),
        _card_associations(rows, results, top[0] if top else ""),
        "WEAT's effect sizes, between -2 and 2; above 0, the first targets are nearer to the first "
        "attributes; with 95 % intervals over target words. n: target words, and how many of all "
        "words have no context (lost). In context: mean effect over random sentences of held-out "
        "text; so are the random weights.",
        _card_others(rows, results),
        "Occupations: correlation with the share of women in the USA. Pronouns: the same for "
        "log P(female pronoun) - log P(male pronoun) in Winogender; in parentheses, where the "
        "pronoun stands for someone else. WinoBias: how much more probable the stereotypical "
        "pronoun is, in nats; a biLM can show little there, whatever it learned, because the "
        "words on either side hardly differ between the stereotypes. CrowS-Pairs: percent of "
        "pairs whose more stereotypical sentence is preferred; many of its pairs are invalid or "
        "unequal (Blodgett et al. 2021), so it is a rough check only.",
        NOT_MEASURED,
        f"All results, HolisticBias, and two ways to change vectors with what they cost: {page}. "
        + _made(results),
    ]
    return "\n".join([BEGIN, "\n\n".join(part for part in parts if part), END])


def put_in_card(card: str, section: str) -> str:
    """
    Replace the part of a card between the marks `BEGIN` and `END`.

    Raises:
        ValueError: the card does not have both marks.
    """
    before, begin, rest = card.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the card lacks the lines {BEGIN} and {END}; write them where it belongs")
    return before + section + after


def _made(results: Mapping[str, Any]) -> str:
    return f"Made on {results['date']} by `{results['command']}` with {results['versions']}."


def _text_facts(results: Mapping[str, Any]) -> Iterator[str]:
    if text := results.get("training_text"):
        he, she = text["he"], text["she"]
        yield (
            f"Training text: of its {text['words']:,} words (by white space), {he:,} are forms of "
            f'"he" and {she:,} forms of "she", so {he / max(1, she):.1f} times as many.'
        )


def _sections(measure: str, rows: Sequence[Row], results: Mapping[str, Any]) -> Iterator[str]:
    if measure == "mitigation":
        yield _mitigation(rows)
    elif measure == "weat":
        for words in ("alone", "in context"):
            own = [row for row in rows if row["words"] == words]
            # Static vectors are the same in every context.
            others = [row for row in rows if row["layer"] == "static" and words != "alone"]
            if own:
                yield f"### Words {words}"
                yield _associations([*own, *others], results, words)
                yield from _reasons([*own, *others])
        yield "### Levels"
        yield (
            "What the effect consists of (ML-EAT, Wolfe et al. 2024): how much nearer each "
            "target is to the first attribute, in standard deviations over attribute words, "
            "and the mean cosines of first and second target with first and second attribute."
        )
        yield _levels(rows, results)
    else:
        yield _comparison(rows, results, percent=measure == "crows_pairs")
        yield from _reasons(rows)


def _associations(rows: Sequence[Row], results: Mapping[str, Any], words: str) -> str:
    own_columns: dict[str, Callable[[Row], str]] = (
        {"p": lambda row: _p(row["p"]), "p, Holm": lambda row: _p(row["p_holm"])}
        if words == "alone"
        else {
            "combined": lambda row: f"{row['combined']:.2f}",
            "tau": lambda row: f"{row['tau']:.2f}",
            "opposite": lambda row: f"{100 * row['opposite']:.0f} %",
            "contexts": lambda row: f"{row['contexts']:.0f}",
        }
    )
    columns = {"targets, attributes": _sets, "n": _n, "lost": _lost, **own_columns}
    return _comparison(rows, results, columns)


def _comparison(
    rows: Sequence[Row],
    results: Mapping[str, Any],
    columns: Mapping[str, Callable[[Row], str]] | None = None,
    percent: bool = False,
) -> str:
    """Return a table of a row per test and layer, with the other sources beside the checkpoint."""
    columns = {"n": _n} if columns is None else columns
    mine = [row for row in rows if row["source"] == results["checkpoint"]]
    other_names = list(dict.fromkeys(row["source"] for row in rows if row not in mine))
    has_tests = any("test" in row for row in mine)
    layer = LAYERS.get(rows[0]["measure"], "layer")
    heads = [*(["test"] if has_tests else []), layer, "value [95 %]", *columns, *other_names]
    lines = []
    for row in mine:
        beside = [_beside(rows, row, name, percent) for name in other_names]
        measured = "not_measured" not in row
        own = [column(row) if measured else "" for column in columns.values()]
        first = [row["test"]] if has_tests else []
        lines.append([*first, row.get("layer", ""), _cell(row, percent), *own, *beside])
    return _table(heads, lines)


def _beside(rows: Iterable[Row], wanted: Row, source: str, percent: bool = False) -> str:
    """Return another source's cell of the same test and layer; static vectors have one layer."""
    for row in rows:
        same = row.get("test") == wanted.get("test") and row["source"] == source
        if same and row.get("layer") in (wanted.get("layer"), "static"):
            n = row.get("n", wanted.get("n"))
            return _cell(row, percent) + ("" if n == wanted.get("n") else f", n = {n}")
    return "–"


def _levels(rows: Sequence[Row], results: Mapping[str, Any]) -> str:
    heads = ["test", "words", "layer", "first target", "second target", *["11", "12", "21", "22"]]
    lines = [
        [row["test"], row["words"], row["layer"], *(f"{v:.2f}" for v in row["own"])]
        + [f"{value:.3f}" for value in row["cosines"]]
        for row in rows
        if row["source"] == results["checkpoint"] and "own" in row
    ]
    return _table(heads, lines)


def _mitigation(rows: Sequence[Row]) -> str:
    names = list(dict.fromkeys(row["test"] for row in rows))
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["layer"], row["method"]), []).append(row)
    titles = {"linear": "gender, linear", "kernel": "gender, kernel"}
    heads = ["layer", "method", *(titles.get(n, n.replace("_", " ")) for n in names)]
    order = sorted(groups.items(), key=lambda group: group[0][0])
    lines = [[*key, *(_cell(row, True) for row in own)] for key, own in order]
    return _table(heads, lines)


def _card_associations(rows: Sequence[Row], results: Mapping[str, Any], top: str) -> str:
    mine = [
        row for row in rows if row["measure"] == "weat" and row["source"] == results["checkpoint"]
    ]
    alone = [row for row in mine if row["words"] == "alone" and row["layer"] == "layer 0"]
    heads = [
        "test",
        "targets, attributes",
        "alone, layer 0",
        f"in context, {top}".rstrip(", "),
        "n",
        "lost",
    ]
    others = list(dict.fromkeys(r["source"] for r in rows if r["source"] != results["checkpoint"]))
    lines = []
    for row in alone:
        found = [r for r in mine if r["test"] == row["test"] and r["layer"] == top]
        context = next((r for r in found if r["words"] == "in context"), None)
        same = [r for r in rows if r.get("words") == "in context" or r.get("layer") == "static"]
        beside = [_beside(same, context or row, name) for name in others]
        numbers = [_n(context or row), _lost(context or row)]
        lines.append([row["test"], _sets(row), _cell(row), _cell(context), *numbers, *beside])
    return _table([*heads, *others], lines) if lines else ""


def _card_others(rows: Sequence[Row], results: Mapping[str, Any]) -> str:
    titles = {"occupations": "occupations", "winogender": "pronouns", "winobias": "WinoBias"}
    titles["crows_pairs"] = "CrowS-Pairs"
    others = list(dict.fromkeys(r["source"] for r in rows if r["source"] != results["checkpoint"]))
    lines = []
    for row in rows:
        measure = row["measure"]
        if row["source"] != results["checkpoint"] or measure not in titles or "value" not in row:
            continue
        if measure == "crows_pairs" and row["test"] != "all" and row["layer"] == "whole":
            continue
        same = [other for other in rows if other["measure"] == measure]
        percent = measure == "crows_pairs"
        name = " ".join([titles[measure], row.get("test", "")]).strip()
        beside = [_beside(same, row, other, percent) for other in others]
        lines.append([name, row["layer"], _cell(row, percent), _n(row), *beside])
    return _table(["measure", "layer", "value [95 %]", "n", *others], lines) if lines else ""


def _reasons(rows: Sequence[Row]) -> Iterator[str]:
    reasons: dict[str, dict[str, None]] = {}
    for row in rows:
        if "not_measured" in row:
            reasons.setdefault(row["not_measured"], {})[row["source"]] = None
    if reasons:
        yield "Not measured:"
        yield "\n".join(f"- {reason} ({', '.join(names)})" for reason, names in reasons.items())


def _cell(row: Row | None, percent: bool = False) -> str:
    """Return the value with its interval, and the floor in parentheses if there is one."""
    if row is None:
        return "–"
    if "not_measured" in row:
        return "not measured"
    factor, digits = (100, 1) if percent else (1, 2)
    names = ("value", "low", "high", "floor")
    value, low, high, floor = (_number(row[name], factor, digits) for name in names)
    text = value if math.isnan(row["low"]) else f"{value} [{low}, {high}]"
    return f"{text} ({floor})" if floor else text


def _number(value: float | None, factor: int, digits: int) -> str:
    return "" if value is None else f"{round(factor * value, digits) + 0:.{digits}f}"


def _sets(row: Row) -> str:
    return f"{' / '.join(row['targets'])}, {' / '.join(row['attributes'])}"


def _n(row: Row) -> str:
    return str(row.get("n", ""))


def _lost(row: Row) -> str:
    return str(len(row.get("lost", ())))


def _p(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


__all__ = ["BEGIN", "END", "put_in_card", "render_page", "render_section"]
