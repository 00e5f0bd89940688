"""Write the page of benchmarks/cross_lingual.py."""

from collections.abc import Iterator

TITLE = "# Alignment of Portuguese with English"
ANCHORS = """\
An alignment is a rotation per layer that maps the vectors of elmo-mini-pt to those of
elmo-mini-en (Schuster et al. 2019). It is learned from anchors, the mean vector of each word in
its own language's text: {en:,} words of English novels ({anchors_en:,} anchors), {pt:,} words of
Portuguese novels of the nineteenth century ({anchors_pt:,} anchors). The two models were trained
separately, on different text."""
SEEDS = """\
No English-Portuguese dictionary is used. The seeds are {identical} identical words (at least four
letters, names, numerals, punctuation) and {relatives} relatives, found by {endings} pairs of
endings such as -ção and -tion. Both kinds contain wrong pairs. None of them has a word of the
test list. The first of each, by frequency in Portuguese: {examples}."""
TRANSLATION = """\
Test: a list of {english} frequent English words and their {portuguese} translations, written by
hand, never learned from (`benchmarks/english_portuguese.tsv`). Percent of words with a right
translation as the nearest word, and among the five nearest, of all anchors of the other language;
in brackets the exact 95 % interval. Nearest by CSLS. {count} Portuguese words are translated to
English; the others lack an anchor on one side. One random word is right in at least {chance:.2f}
%. The most similar spelling: by n-grams of one to three letters. Rounds: the rotation is learned
again from the words, of the 2,000 most frequent ones, that are each other's nearest neighbours.
Directions apart: the forward and the backward half of the vectors have a rotation each. Zero,
five and fifteen rounds, and both kinds of rotation, were tried on layer 1 with this list, so the
rows with rounds are slightly optimistic. The last row is what a small dictionary would give: the
seeds and half of the list are learned from, the other half is translated, and then the other way
round."""
TAGGING = """\
Universal parts of speech of the Portuguese test part (Bosque), accuracy in percent with the 95 %
interval over sentences. The tagger, a logistic regression, has seen English only: {tagged:,}
words of the English Web Treebank, in vectors of elmo-mini-en. The mean of each language's vectors
is subtracted; this uses no labels. A tagger of the most frequent part of speech is right in
{majority:.1f} % of the Portuguese words. The last row is the upper bound: the same tagger,
trained on {tagged:,} words of Portuguese."""


def markdown(results: dict) -> str:
    """Return the page."""
    words, anchors, seeds = results["words"], results["anchors"], results["seeds"]
    examples = ", ".join(f"{a} – {b}" if a != b else a for a, b in results["examples"])
    translation, tagging = results["translation"], results["tagging"]
    first = translation["the most similar spelling"]
    lines = [
        TITLE,
        "",
        ANCHORS.format(**words, anchors_en=anchors["en"], anchors_pt=anchors["pt"]),
        "",
        SEEDS.format(**seeds, examples=examples),
        "",
        "## Translation of words",
        "",
        TRANSLATION.format(
            english=results["listed"][0],
            portuguese=results["listed"][1],
            count=first["layer 0 first"]["n"],
            chance=100 / anchors["en"],
        ),
    ]
    lines += ["", *table(translation)]
    bosque = next(found for name, found in tagging.items() if name.startswith("Portuguese"))
    majority = bosque["layer 0"]["floor"]
    text = TAGGING.format(tagged=results["tagged"], majority=100 * majority)
    lines += ["", "## Tagging Portuguese with an English tagger", "", text, "", *table(tagging)]
    return "\n".join([*lines, "", origin(results["made"]), ""])


def table(rows: dict) -> Iterator[str]:
    """Yield the lines of a table, a row per alignment."""
    names = [*next(iter(rows.values()))]
    yield line("", *names)
    yield "| --- " * (len(names) + 1) + "|"
    for row, found in rows.items():
        yield line(row, *(cell(found[name]) for name in names))


def line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def cell(estimate: dict) -> str:
    value, low, high = (100 * estimate[name] for name in ("value", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def origin(made: dict) -> str:
    machine = made["machine"]
    return (
        f"Made on {made['date']} by `{made['command']}` on {machine['processor']}, "
        f"{machine['cores']} cores."
    )
