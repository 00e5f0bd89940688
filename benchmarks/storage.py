"""Measure what storing vectors costs: words/s to disk and without, memory over time, reads.

    python benchmarks/storage.py [--model FOLDER] [--text FILE] [--words N] [--allennlp]

Prints one JSON object, and with --plot a picture of memory over time. The rates with and without
storage are measured in turn in one process; memory and the end-to-end rate are those of the command
`elmo-hf embed`. With --allennlp, ELMo small with random weights takes the place of --model, and
AllenNLP writes the same sentences by the pattern of its `embed_file`.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import speed_models
import speed_text
import torch
from speed_peers import allennlp_python

from elmo_hf import ElmoEmbedder, embed_corpus, open_vectors, write_vectors
from elmo_hf.text_files import read_lines

SECONDS_PER_SAMPLE = 0.5
READS = 1000
COMMAND = "import sys; from elmo_hf_cli import main; sys.exit(main())"


def main() -> None:
    given = read_arguments()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        work = Path(folder)
        model = speed_models.build("small", work) / "converted" if given.allennlp else given.model
        sentences = read_sentences(given.text, given.words)
        text = work / "text.txt"
        text.write_text("".join(f"{' '.join(sentence)}\n" for sentence in sentences))
        results = {
            "command": " ".join(["python", *sys.argv]),
            "sentences": len(sentences),
            "words": sum(map(len, sentences)),
            "threads": given.threads,
            **compare(model, sentences, work, given.rounds),
            **run_command(model, text, work / "vectors", given.threads),
        }
        results |= read_back(model, sentences, work / "vectors")
        if given.allennlp:
            results |= run_allennlp(work / "small", text, given.threads)
    if given.plot:
        plot(results["memory"], given.plot)
    del results["memory"]
    print(json.dumps(results, indent=1))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    default = ROOT / "checkpoints/elmo-mini-en"
    parser.add_argument("--model", type=Path, default=default, help="a model folder")
    parser.add_argument("--text", type=Path, default=speed_text.TEXT, help="a sentence per line")
    parser.add_argument("--words", type=int, default=100_000, help="the text repeats if needed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--work", type=Path, help="the disk to write to; default: that of /tmp")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg")
    parser.add_argument("--allennlp", action="store_true")
    return parser.parse_args()


def read_sentences(path: Path, count: int) -> list[list[str]]:
    """Return sentences of at least `count` words, beginning again at the end of the file."""
    lines = [line.split() for line in read_lines(path) if line]
    sentences: list[list[str]] = []
    words = 0
    while words < count:
        sentence = lines[len(sentences) % len(lines)]
        sentences.append(sentence)
        words += len(sentence)
    return sentences


def compare(model: Path, sentences: list[list[str]], work: Path, rounds: int) -> dict:
    """Measure both in turn; the rates are the medians of the rounds."""
    embedder = ElmoEmbedder(model, layers="top")
    words = sum(map(len, sentences))

    def without() -> None:
        for _ in embed_corpus(embedder.model, embedder.tokenizer, sentences, layers=-1):
            pass

    def to_disk() -> None:
        write_vectors(work / f"round{time.monotonic_ns()}", embedder, sentences).close()

    rates: dict[str, list[float]] = {"embed_corpus": [], "write_vectors": []}
    for number in range(rounds + 1):
        for name, run in zip(rates, (without, to_disk), strict=True):
            begin = time.perf_counter()
            run()
            if number:  # the first round warms up
                rates[name].append(words / (time.perf_counter() - begin))
    share = statistics.median(b / a for a, b in zip(*rates.values(), strict=True))
    medians = {name: round(statistics.median(found)) for name, found in rates.items()}
    return {"words_per_second": medians, "share_of_embed_corpus": round(share, 3)}


def run_command(model: Path, text: Path, output: Path, threads: int) -> dict:
    """Run `elmo-hf embed`, and sample the resident memory of its process."""
    arguments = ["embed", text, output, "-m", model, "--top", "--input", "words"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    begin = time.perf_counter()
    memory = []
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, *map(str, arguments)],
        env=environment,
        stdout=subprocess.DEVNULL,
    ) as process:
        while process.poll() is None:
            if (megabytes := resident(process.pid)) is not None:
                memory.append((round(time.perf_counter() - begin, 1), megabytes))
            time.sleep(SECONDS_PER_SAMPLE)
    seconds = time.perf_counter() - begin
    if process.returncode:
        raise SystemExit("elmo-hf embed failed")
    words = open_vectors(output).info["words"]
    size = sum(path.stat().st_size for path in output.iterdir())
    return {
        "command_words_per_second": round(words / seconds),
        "bytes_per_word": round(size / words),
        "memory": memory,
        "memory_in_quarters": [round(part) for part in quarters([one for _, one in memory])],
    }


def resident(process: int) -> float | None:
    """Return the resident memory of a process in MB, without the pages of mapped files."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) for line in lines if line.startswith("RssAnon:")]
    return found[0] / 1024 if found else None


def quarters(values: list[float]) -> list[float]:
    """Return the largest value in each quarter of the run."""
    step = -(-len(values) // 4)
    return [max(values[i : i + step]) for i in range(0, len(values), step)]


def read_back(model: Path, sentences: list[list[str]], output: Path) -> dict:
    """Read random sentences by their index, and compare some with the embedder."""
    chosen = random.Random(0).sample(range(len(sentences)), min(READS, len(sentences)))
    with open_vectors(output) as vectors:
        begin = time.perf_counter()
        found = [vectors[index] for index in chosen]
        seconds = time.perf_counter() - begin
        assert [vectors.words(index) for index in chosen] == [sentences[i] for i in chosen]
    expected = ElmoEmbedder(model, layers="top").embed([sentences[i] for i in chosen[:50]])
    pairs = zip(found, expected, strict=False)
    largest = max(float(abs(one - other).max(initial=0)) for one, other in pairs)
    return {"reads_per_second": round(len(chosen) / seconds), "largest_difference": largest}


def run_allennlp(folder: Path, text: Path, threads: int) -> dict:
    """Run AllenNLP's pattern in an environment of its own."""
    python = allennlp_python(folder.parent, torch.__version__)
    script = ROOT / "benchmarks/storage_allennlp.py"
    command = [python, script, folder, text, folder / "allennlp.hdf5", str(threads)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def plot(memory: list[tuple[float, float]], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 2.5), layout="constrained")
    axes.plot(*zip(*memory, strict=True))
    axes.set(xlabel="seconds", ylabel="resident memory, MB", ylim=(0, None))
    figure.savefig(path)


if __name__ == "__main__":
    main()
