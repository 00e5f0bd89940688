"""Format measurements as the Markdown tables of benchmarks/speed.md and of the README."""

import re
from pathlib import Path
from statistics import median

from speed_models import SIZES, recurrent_bytes
from speed_variants import ALLENNLP, VARIANTS

BEGIN, END = "<!-- speed table -->", "<!-- end of speed table -->"
MODES = {
    "corpus": "whole corpus",
    "batch": "batches of 32",
    "single": "one sentence at a time",
}
TRAINING = {"all": "all weights trained", "frozen": "biLM frozen, head trained"}
PRECISIONS = {variant.name: variant.precision for variant in VARIANTS}
NONE = "–"


def rate(rounds: list) -> float:
    """Return the median words per second of rounds of [seconds, words]."""
    return median(words / seconds for seconds, words in rounds)


def compute_share(size: dict, variant: str, limits: dict) -> float | None:
    """Return the corpus' arithmetic per second over the measured peak of the precision."""
    rounds = size["inference"]["corpus"].get(variant)
    peak = limits[PRECISIONS[variant]]
    if not rounds or not peak:
        return None
    flops = size["bert_flops" if variant.startswith("BERT") else "flops"]
    return rate(rounds) * flops / peak


def bandwidth_share(size: dict, variant: str, limits: dict) -> float | None:
    """Return the bytes/s of a single sentence's recurrent weights over the measured bandwidth."""
    rounds = size["inference"]["single"].get(variant)
    if not rounds or variant.startswith("BERT"):
        return None
    weights = recurrent_bytes(SIZES[size["name"]], PRECISIONS[variant])
    return rate(rounds) * size["steps_per_word"] * weights / limits["bytes"]


def inference_table(size: dict, limits: dict) -> str:
    """Return the table of words/s, multiples of AllenNLP, errors and shares of the limits."""
    rows = [
        ["", *MODES.values(), "error by layer", "of peak products", "of memory bandwidth"],
        ["---", "---:", "---:", "---:", "---", "---:", "---:"],
    ]
    for variant in size["variants"]:
        cells = [speed(size["inference"][mode], variant) for mode in MODES]
        errors = size["errors"].get(variant)
        rows.append(
            [
                variant,
                *cells,
                ", ".join(f"{error:.1e}" for error in errors) if errors else NONE,
                percent(compute_share(size, variant, limits)),
                percent(bandwidth_share(size, variant, limits)),
            ]
        )
    return markdown(rows)


def training_table(size: dict) -> str:
    """Return the table of a step's seconds, peak memory and gradient error."""
    heads = [f"{name}: {what}" for name in TRAINING.values() for what in ("s/step", "peak MB")]
    rows = [["", *heads, "error of gradient"], ["---", *["---:"] * len(heads), "---:"]]
    for variant in size["variants"]:
        if variant not in size["training"]["all"]:
            continue
        cells = []
        for kind in TRAINING:
            cells += [
                step_time(size["training"][kind], variant),
                step_memory(size["memory"][kind], variant),
            ]
        error = size["gradient_errors"].get(variant)
        rows.append([variant, *cells, NONE if error is None else f"{error:.1e}"])
    return markdown(rows)


def sweep_table(name: str, points: dict) -> str:
    """Return the table of words/s of each variant at each point of a sweep."""
    measured_somewhere = {variant for point in points.values() for variant in point}
    variants = [variant for variant in PRECISIONS if variant in measured_somewhere]
    rows = [[name, *variants], ["---:", *["---:"] * len(variants)]]
    for point, measured in points.items():
        cells = [f"{rate(measured[v]):,.0f}" if measured.get(v) else NONE for v in variants]
        rows.append([point, *cells])
    return markdown(rows)


def growth(points: dict, variant: str = "elmo_hf", first: str = "100", last: str = "3000") -> str:
    """Return a sentence on how the time per word changes with the sentence's length."""
    if not all(points.get(point, {}).get(variant) for point in (first, last)):
        return ""
    change = rate(points[first][variant]) / rate(points[last][variant]) - 1
    compared = f"{abs(change):.0%} {'more' if change >= 0 else 'less'} time"
    return (
        f"\n\nIn {variant}, each word of a sentence of {last} words takes {compared} than each of "
        f"a sentence of {first}."
    )


def speed(measured: dict, variant: str) -> str:
    if variant not in measured:
        return NONE
    words, base = rate(measured[variant]), measured.get(ALLENNLP.name)
    return f"{words:,.0f}" + (f" ({words / rate(base):.2f}×)" if base else "")


def step_time(measured: dict, variant: str) -> str:
    if variant not in measured:
        return NONE
    seconds, base = step_seconds(measured[variant]), measured.get(ALLENNLP.name)
    return f"{seconds:.2f}" + (f" ({step_seconds(base) / seconds:.2f}×)" if base else "")


def step_seconds(rounds: list) -> float:
    """Return the median seconds of rounds of [seconds, words]."""
    return median(seconds for seconds, _ in rounds)


def step_memory(measured: dict, variant: str) -> str:
    if measured.get(variant) is None:
        return NONE
    base = measured.get(ALLENNLP.name)
    return f"{measured[variant] / 1e6:,.0f}" + (
        f" ({measured[variant] / base:.0%})" if base else ""
    )


def percent(share: float | None) -> str:
    return NONE if share is None else f"{share:.0%}"


def markdown(rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


# --- The page ---------------------------------------------------------------------------------

PAGE = """# Speed

{tables}

{sweeps}

## How it was measured

{machine}

All variants were measured in one run, in turn, each in its own process, on the same {cores} cores
and the same sentences ({text}; new ones in every round). Figures are medians of {rounds} rounds
({sweep_rounds} in the tables against length, batch, variety and cores). "×" is a multiple of
AllenNLP: the row's median over AllenNLP's in the same column, in training AllenNLP's seconds over
the row's. Before the measurement every layer of every variant was compared with our reference
engine in float64: the error is the norm of the difference over the norm of the layer. Weights are
random, in the original format; AllenNLP loads the same file that our model was converted from.

- Rows: `elmo_hf` is the default; `elmo_hf, reference engine` is the plain PyTorch code that all
  engines must agree with; `bf16` and `int8` are lower precisions.
- Words are counted without sentence boundaries. The time includes everything from lists of words to
  all layers, except that BERT's word pieces ({pieces} per word, random) are given.
- Whole corpus: {sentences} sentences. `embed_corpus` forms its own batches. The other programs get
  batches of 32, of which every fourth is measured: BERT and the reference engine get the sentences
  sorted by length, AllenNLP in their order, as its own embedder does, and sorted in a second row.
- Known words: the character encoder's vectors are kept from batch to batch (`word_cache`), as
  `embed_corpus` does by default.
- Warm-up: before each measurement a program computes another sentence for 0.3 s.
- AllenNLP's carried LSTM states are reset before each batch, so that all programs compute the same.
- A training step is a forward and a backward pass of a batch of 32 with a tagger's head on a scalar
  mix, without dropout; the weights are updated between the steps, outside the measured time. Peak
  memory is that of the first step in a new process, minus the memory before the step.
- Of peak products: the arithmetic of the corpus per second (every LSTM once for each word and
  boundary, the character encoder once for each distinct word), relative to the fastest large
  product in that precision. Work that an engine skips counts as done. Of memory bandwidth: the
  bytes of the recurrent weights, once for each word of a single sentence, relative to the fastest
  read of memory; weights in a CPU cache can exceed 100%.
{skipped}
Made on {date} by `{command}`.
"""


def page(results: dict) -> str:
    """Return the text of benchmarks/speed.md."""
    sections, sweeps = [], []
    for size in results["sizes"].values():
        title = f"## ELMo {size['name']}"
        sections.append(f"{title}: words/s\n\n{inference_table(size, results['limits'])}")
        if size["training"]["all"]:
            sections.append(f"{title}: a training step\n\n{training_table(size)}")
        for name, points in size["sweeps"].items():
            table = sweep_table(name, points) + growth(points)
            sweeps.append(f"{title}: words/s against {name}\n\n{table}")
    skipped = [
        f"- Not measured: ELMo {size['name']}, {variant}: {reason}\n"
        for size in results["sizes"].values()
        for variant, reason in size["skipped"].items()
    ]
    return PAGE.format(
        tables="\n\n".join(sections),
        sweeps="\n\n".join(sweeps),
        machine=machine_text(results),
        skipped="".join(skipped),
        **results["settings"],
    ).replace("\n\n\n", "\n\n")


def machine_text(results: dict) -> str:
    """Return the processor, the measured limits and the versions in two sentences."""
    machine, limits = results["machine"], results["limits"]
    peaks = ", ".join(
        f"{kind} {limits[kind] / 1e9:,.0f}"
        for kind in ("float32", "bfloat16", "int8")
        if limits[kind]
    )
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return (
        f"{machine['processor']}, {machine['cores']} cores ({', '.join(machine['flags'])}). "
        f"Measured limits: products {peaks} GFLOP/s, memory {limits['bytes'] / 1e9:.0f} GB/s. "
        f"{versions}."
    )


def readme_table(results: dict) -> str:
    """Return a short table of both sizes, with a line about the machine."""
    sizes = results["sizes"].values()
    modes = ("corpus", "single")
    heads = [f"{size['name']}: {MODES[mode]}" for size in sizes for mode in modes]
    rows = [["words/s (times AllenNLP)", *heads], ["---", *["---:"] * len(heads)]]
    for variant in PRECISIONS:
        cells = [speed(size["inference"][mode], variant) for size in sizes for mode in modes]
        if "reference" not in variant and "known" not in variant and set(cells) != {NONE}:
            rows.append([variant, *cells])
    machine = results["machine"]
    return f"{markdown(rows)}\n\n{machine['processor']}, {machine['cores']} cores."


def put_between_marks(file: Path, text: str) -> bool:
    """Replace the text between the marks; return False if the file has no marks."""
    if not file.exists():
        return False
    content = file.read_text(encoding="utf-8")
    marked = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    changed, count = marked.subn(lambda _: f"{BEGIN}\n\n{text}\n\n{END}", content, count=1)
    if count:
        file.write_text(changed, encoding="utf-8")
    return bool(count)
