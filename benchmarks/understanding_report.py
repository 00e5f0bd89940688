"""Write the page of benchmarks/understanding.py."""

import itertools
from collections.abc import Iterator

from elmo_hf.analysis.estimates import Estimate

Layers = dict[str, Estimate]
# The tables: their titles, what they say, and their columns: measure and heading.
TABLES = [
    (
        "A word in two contexts",
        "WiC: does a word have the same sense in two sentences? Accuracy on the test part; the "
        "threshold on the cosine comes from the development part. One form: the test pairs in "
        "which the word has the same form twice; the share of (same sense, different sense) pairs "
        "of pairs that the cosine ranks rightly. Without context this is 50 exactly, because "
        "both vectors are equal. SCWS: Spearman's correlation with people's ratings of two words, "
        "each in its sentence; the same after the mean vector was subtracted. CoSimLex: the "
        "uncentered correlation of changes: how much does another context change the cosine of "
        "two words, and their rating?",
        [
            ("wic", "WiC"),
            ("wic_one_form", "WiC, one form"),
            ("scws", "SCWS"),
            ("scws_centered", "SCWS, mean subtracted"),
            ("cosimlex", "CoSimLex, change"),
        ],
    ),
    (
        "Word senses",
        "The paper's recipe (section 5.3): each sense is the mean of its vectors in SemCor, and a "
        "word gets the sense of its lemma with the nearest mean. F1 on the five test sets of "
        "Raganato et al. (2017) together. Without a back-off, words whose lemma SemCor lacks count "
        "as wrong; only 84.3 % of the words have a right sense that occurs in SemCor. The back-off "
        "is the first sense in WordNet 3.0. The floor is the most frequent sense in SemCor.",
        [
            ("wsd", "no back-off"),
            ("wsd_first_sense", "first sense as back-off"),
        ],
    ),
    (
        "Probes",
        "Accuracy of a logistic regression on the vectors, and its selectivity: the accuracy minus "
        "that of a control task, in which each word form has a random label (Hewitt and Liang "
        "2019). Part of speech: 17 classes, English Web Treebank. Entity: is a word of a name that "
        "of a person, a place or an organization (UNER, whose training part is an early version "
        "here)? Supersense: 41 classes of nouns and verbs, SemCor. The floor is the most frequent "
        "class. The items are sentences. C of the regression is the best of 0.001, 0.01 and 0.1 "
        "for every fifth training sentence, chosen for each layer.",
        [
            ("pos_task", "part of speech"),
            ("pos_selectivity", "selectivity"),
            ("entity_task", "entity"),
            ("entity_selectivity", "selectivity"),
            ("supersense_task", "supersense"),
            ("supersense_selectivity", "selectivity"),
        ],
    ),
    (
        "Isotropy",
        "The measures of Ethayarajh (2019) on the test part of the "
        "English Web Treebank. Anisotropy: mean cosine of two random words. Self-similarity: mean "
        "cosine of a word in two sentences. Intra-sentence: mean cosine of a word with the mean of "
        "its sentence. Variance explained: the largest share of the variance of a word's vectors "
        "that one static vector explains. The floors are those of random words.",
        [
            ("anisotropy", "anisotropy"),
            ("self_similarity", "self-similarity"),
            ("intra_sentence_similarity", "intra-sentence"),
            ("explained_variance", "variance explained"),
        ],
    ),
]


def markdown(results: dict) -> str:
    """Return the page."""
    rows, made = results["rows"], results["made"]
    lines = [
        "# What the layers know",
        "",
        "Each cell is a figure with its 95 % interval, and after the semicolon its floor: the same "
        "measure for random words of the same sentences and layer, unless the text says "
        "otherwise. Cosines, correlations and shares are times 100. Intervals are exact (shares) "
        "or bootstrapped (999 resamples). `average` is the mean of the layers; `average, unit "
        "length` that of the layers' vectors scaled to length 1. word2vec (skip-gram) is trained "
        "on a sample of the checkpoint's text. Random words and intervals have the seed 0; probes "
        "are means over the seeds 0, 1 and 2, and random weights have the seed 0.",
        "",
    ]
    for title, text, columns in TABLES:
        if not any(name in found for name, *_ in columns for found in rows.values()):
            continue
        lines += [f"## {title}", "", text, "", *table(rows, columns), "", *counts(rows, columns)]
    lines += ["## What context buys", "", *findings(rows, made["checkpoint"]), ""]
    return "\n".join([*lines, origin(made), ""])


def table(rows: dict, columns: list) -> Iterator[str]:
    """Yield the lines of a table, one row for each source and layer."""
    known = [column for column in columns if any(column[0] in found for found in rows.values())]
    header = ["vectors", "layer", *(heading for _, heading in known)]
    yield "| " + " | ".join(header) + " |"
    yield "| --- " * len(header) + "|"
    for source, found in rows.items():
        for layer in next(iter(found.values())):
            cells = (cell(found.get(name, {}).get(layer)) for name, _ in known)
            yield "| " + " | ".join([source, layer, *cells]) + " |"


def cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    value, low, high = (100 * x for x in (estimate.value, estimate.low, estimate.high))
    floor = "" if estimate.floor is None else f"; {100 * estimate.floor:.1f}"
    return f"{value:.1f} [{low:.1f}, {high:.1f}]{floor}"


def counts(rows: dict, columns: list) -> list[str]:
    """Return a line with the number of items of each column."""
    found = next(iter(rows.values()))
    numbers = [
        f"{heading} {next(iter(found[name].values())).n:,}"
        for name, heading in columns
        if name in found and heading != "selectivity"
    ]
    return ["Items: " + "; ".join(numbers) + ".", ""]


def findings(rows: dict, checkpoint: str) -> Iterator[str]:
    """Yield a sentence per measure about the checkpoint's layers and the baselines."""
    for _, _, columns in TABLES[:3]:
        for name, heading in columns:
            if name in rows[checkpoint] and heading != "selectivity":
                yield compare_layers(name, heading, rows, checkpoint)
    if "self_similarity" not in rows[checkpoint]:
        return
    layers = single(rows[checkpoint]["self_similarity"])
    values = [layers[layer].value for layer in layers]
    falls = all(a > b for a, b in itertools.pairwise(values))
    yield (
        f"- Self-similarity {'falls' if falls else 'does not fall'} from layer to layer: "
        + ", ".join(f"{100 * value:.1f}" for value in values)
        + "; less than 100 means that the context changes the vector."
    )


def compare_layers(name: str, heading: str, rows: dict, checkpoint: str) -> str:
    """Say how the layers are ordered, and how the best one compares with the baselines."""
    layers = single(rows[checkpoint][name])
    names = sorted(layers, key=lambda layer: layers[layer].value)
    order = " < ".join(f"{layer} ({100 * layers[layer].value:.1f})" for layer in names)
    best = layers[names[-1]]
    parts = [
        difference(best, max(found[name].values(), key=lambda e: e.value), source)
        for source, found in rows.items()
        if source != checkpoint and name in found
    ]
    mixed = [e for layer, e in rows[checkpoint][name].items() if layer not in layers]
    if mixed:
        best_mix = max(mixed, key=lambda e: e.value)
        parts.append(difference(best, best_mix, "the best average of layers"))
    if best.floor is not None:
        parts.insert(0, f"the floor {100 * (best.value - best.floor):+.1f}")
    floor = (
        ""
        if best.floor is None or best.low > best.floor
        else " No layer is surely above its floor."
    )
    return f"- {title(name, heading)}: {order}. The best layer minus {'; '.join(parts)}.{floor}"


def difference(best: Estimate, other: Estimate, source: str) -> str:
    """Return the difference, and whether the 95 % intervals are apart."""
    apart = best.low > other.high or best.high < other.low
    sure = "intervals apart" if apart else "intervals overlap"
    return f"{source} {100 * (best.value - other.value):+.1f} ({sure})"


def single(layers: Layers) -> Layers:
    return {name: found for name, found in layers.items() if name.startswith("layer ")}


def title(name: str, heading: str) -> str:
    return f"Senses, {heading}" if name.startswith("wsd") else heading[0].upper() + heading[1:]


def origin(made: dict) -> str:
    machine = made["machine"]
    return (
        f"Made on {made['date']} by `{made['command']}` on {machine['processor']}, "
        f"{machine['cores']} cores; checkpoint {made['sha256']} (SHA-256). Results are kept "
        "between runs, so some may come from an earlier run of the same measures."
    )
