"""Write the page of benchmarks/mixed_text.py."""

from collections.abc import Iterator, Sequence

from mixed_texts import BIOMEDICAL, MIXED, TASKS

MAJORITY = "most frequent label"
LEXICON = "most frequent label of the word"
NGRAMS = "character n-grams, tf-idf"
WORD2VEC = "word2vec, the set's training text"
STATIC = "word2vec, English text"
RANDOM = "random weights"
CONTINUED = "continued on the set's training text"
INTRODUCTION = """\
Logistic regressions on frozen vectors. A word has the vectors of all layers side by side (1,536
numbers; word2vec 256), a sentence the mean and the maximum of its words. Vectors are
standardized; the regularization is the best of three in the development part. Taggers learn from
the first sentences with 20,000 words together, classifiers of sentences from the first 3,000; at
most the first 2,000 sentences of a test part are used. Each cell is a figure on the test part,
times 100, with its 95 % interval (999 bootstraps over sentences). All rows learn from the same
labels.

- `{majority}`, `{lexicon}`, `{ngrams}`: without vectors. The n-grams have 2 to 5 characters.
- `{word2vec}`: skip-gram, trained on the whole training part, without labels.
- `{static}`: the word2vec of `benchmarks/understanding.md`, 12 million words of English.
- `{random}`: the architecture of the first checkpoint with new weights, seed 0.
- `{continued}`: the checkpoint named below, trained on the training part, without labels."""
MIXED_TEXT = """\
SAGT: Turkish and German in one sentence, transcribed speech. NArabizi: Algerian Arabic in Latin
script, mixed with French, from web forums. Both: universal parts of speech, accuracy. Language of
a word: Turkish, German, mixed within the word, another, or none. Sentiment (4 classes) and topic
(6) of NArabizi's sentences: accuracy. Hinglish names: persons, places and organizations in
Hindi-English tweets, F1 of spans; the set has no split, so a random tenth (seed 0) is the test
part and another the development part, after tweets that occur twice were left out. SentiMix:
sentiment (3 classes) of tweets, SemEval-2020 task 9, its metric: F1 averaged over the classes.
Its test labels are not published with it, so the trial part is the test part; all 2,000
Spanish-English trial tweets also stand in the training file, from which they were removed."""
BIOMEDICAL_TEXT = """\
F1 of spans on the test parts of BC5CDR (chemicals and diseases) and NCBI disease. Here a word's
label depends on its own vectors only, without a CRF or an LSTM on top; `benchmarks/tasks.md` has
these sets with such taggers and all training sentences. The continued row's text is the training
part of both sets and the questions and answers about health of `pretrain_web_en` (`medquad/`,
1,692,345 words by white space)."""
CONTINUING_TEXT = """\
What continuing changes: the figure of the continued checkpoint minus that of a frozen one, with
the 95 % interval of the difference (bootstrap over the same sentences). Words: of the text. Times
read: how often the training read it. Perplexity: of the development part, with the new
vocabulary; unknown words (share) count as one class, so perplexities of different rows are not
comparable."""


def markdown(results: dict) -> str:
    """Return the page."""
    names = dict(majority=MAJORITY, lexicon=LEXICON, ngrams=NGRAMS, word2vec=WORD2VEC)
    names |= dict(static=STATIC, random=RANDOM, continued=CONTINUED)
    lines = ["# Code-mixed and biomedical text", "", INTRODUCTION.format(**names), ""]
    for title, text, tasks in (
        ("Code-mixed text", MIXED_TEXT, MIXED),
        ("Biomedical text", BIOMEDICAL_TEXT, BIOMEDICAL),
    ):
        if shown := [task for task in tasks if task in results["rows"][MAJORITY]]:
            lines += [f"## {title}", "", text, "", *table(results["rows"], shown), ""]
    if results["changes"]:
        lines += ["## Continued on the set's own text", "", CONTINUING_TEXT, ""]
        lines += [*changes(results), "", "The commands:", "", "```bash"]
        lines += [f"{one['command']}" for one in results["trainings"].values()]
        lines += ["```", ""]
    return "\n".join([*lines, origin(results["made"]), ""])


def table(rows: dict, tasks: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a table, a row per source of vectors; then the sizes."""
    yield line("", *(TASKS[task].title for task in tasks))
    yield "| --- " * (len(tasks) + 1) + "|"
    for name, found in rows.items():
        if any(task in found for task in tasks):
            cells = (cell(found[task]["test"]) if task in found else "" for task in tasks)
            yield line(name, *cells)
    first = next(iter(rows.values()))
    yield line("test sentences", *(f"{first[task]['test']['n']:,}" for task in tasks))


def changes(results: dict) -> Iterator[str]:
    """Yield the lines of the table of the continued checkpoints."""
    checkpoints = list(
        dict.fromkeys(name for found in results["changes"].values() for name in found)
    )
    minus = [f"minus {name}" for name in checkpoints]
    yield line("", "words", "times read", "perplexity", "unknown", "continued", *minus)
    yield "| --- " * (6 + len(checkpoints)) + "|"
    for task, found in results["changes"].items():
        training = results["trainings"][TASKS[task].text]
        yield line(
            TASKS[task].title,
            f"{training['words']:,}",
            f"{training['epochs']:.1f}",
            *(
                (f"{training['perplexity']:.0f}", f"{100 * training['unknown']:.0f} %")
                if training["perplexity"]
                else ("not measured", "")
            ),
            cell(results["rows"][CONTINUED][task]["test"]),
            *(cell(found[name], "+") if name in found else "" for name in checkpoints),
        )


def line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def cell(estimate: dict, sign: str = "") -> str:
    value, low, high = (100 * estimate[name] for name in ("value", "low", "high"))
    return f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def origin(made: dict) -> str:
    machine = made["machine"]
    return (
        f"Made on {made['date']} by `python benchmarks/mixed_training.py` and "
        f"`{made['command']}` on {machine['processor']}, {machine['cores']} cores. One seed each: "
        "the intervals do not say how much another seed would change."
    )
