"""Time one program in a process of its own: reads lines of JSON, answers each with a line.

    python benchmarks/speed_worker.py '{"loader": "ours", "precision": "float32", "folder": ...}'

Each program is one function from a batch of sentences (lists of words) to its layers
`(batch, words, width)` and their mask `(batch, words)`; everything else is the same for all
programs. Imports only torch and numpy, so that it also runs in AllenNLP's environment.
"""

import contextlib
import ctypes
import importlib
import itertools
import json
import os
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import torch

BATCH = 32
TAGS = 9  # number of tags of the head that is trained
WARM_UP = 0.3  # seconds of work before the clock starts
WARM_UP_SENTENCE = ["It", "was", "a", "dark", "and", "stormy", "night", "."]
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


class Worker:
    """Class that answers requests about one program; each public method is a request."""

    def __init__(self, loader: str, folder: str, precision: str, threads: int) -> None:
        self.threads(threads)
        name = "speed_allennlp" if loader == "allennlp" else "speed_variants"
        self.program = importlib.import_module(name)
        load = self.program.load if loader == "allennlp" else self.program.LOADERS[loader]
        self.forward, self.module = load(folder, precision)
        self.module.requires_grad_(False)
        self.head = None

    def threads(self, count: int) -> dict:
        """Restrict the process to `count` cores."""
        if CORES:
            cores = set(CORES[:count])
            for task in Path("/proc/self/task").iterdir():
                with contextlib.suppress(OSError):
                    os.sched_setaffinity(int(task.name), cores)
        torch.set_num_threads(count)
        return {}

    @torch.no_grad()
    def layers(self, sentences: list, file: str) -> dict:
        """Write each layer as `(words, width)`, boundaries included and padding left out."""
        layers, mask = self.forward(sentences)
        arrays = [layer[mask.bool()].double().numpy() for layer in layers]
        np.savez(file, *arrays)
        return {}

    @torch.no_grad()
    def batches(self, batches: list) -> dict:
        """Time batches one after another."""
        warm_up(self.forward)
        start = time.perf_counter()
        for batch in batches:
            self.forward(batch)
        return timed(start, batches)

    @torch.no_grad()
    def corpus(self, sentences: list, every: int = 1, sort: bool = True) -> dict:
        """Time many sentences.

        A program that does not form batches itself gets the sentences in their order or sorted by
        length. A slow program may be timed on every `every`-th batch, as batches are independent.
        """
        encode = getattr(self.forward, "corpus", None)
        start = time.perf_counter()
        if encode is not None:
            for _ in encode(sentences):
                pass
            return timed(start, [sentences])
        if sort:
            sentences = sorted(sentences, key=len)
        batches = [sentences[i : i + BATCH] for i in range(0, len(sentences), BATCH)]
        batches = batches[min(every, len(batches)) // 2 :: every]
        for batch in batches:
            self.forward(batch)
        return timed(start, batches)

    def steps(self, batches: list, frozen: bool) -> dict:
        """Time forward and backward; the weights change in between, which is not timed."""
        self.trained(frozen)
        warm_up(lambda batch: self.loss(batch).backward())
        self.module.zero_grad()
        seconds = 0.0
        for batch in batches:
            optimizer = torch.optim.SGD(self.trained(frozen), lr=1e-9)
            start = time.perf_counter()
            self.loss(batch).backward()
            seconds += time.perf_counter() - start
            optimizer.step()
            optimizer.zero_grad()
        return {"seconds": seconds, "words": count_words(batches)}

    def gradient(self, sentences: list, file: str) -> dict:
        """Write the gradient of the first forward LSTM's recurrent map."""
        self.trained(frozen=False)
        loss = self.loss(sentences)
        loss.backward()
        weight = self.program.recurrent_weight(self.module)
        np.savez(file, weight.grad.double().numpy())
        self.module.zero_grad()
        self.module.requires_grad_(False)
        return {"loss": loss.item()}

    def peak(self, sentences: list, frozen: bool) -> dict:
        """Return the peak memory of one training step minus the memory before it, in bytes."""
        self.trained(frozen)
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        try:
            Path("/proc/self/clear_refs").write_text("5")
            before = memory("VmRSS")
        except OSError:
            return {"bytes": None}
        self.loss(sentences).backward()
        return {"bytes": memory("VmHWM") - before}

    def trained(self, frozen: bool) -> list:
        """Return the parameters that a training step changes."""
        if self.head is None:
            with torch.no_grad():
                layers, _ = self.forward([["a", "word"]])
            precision = torch.promote_types(layers[0].dtype, torch.float32)
            self.head = Head(len(layers), layers[0].shape[-1]).to(precision)
        self.module.requires_grad_(not frozen)
        parameters = list(self.head.parameters())
        return parameters if frozen else parameters + list(self.module.parameters())

    def loss(self, sentences: list) -> torch.Tensor:
        layers, mask = self.forward(sentences)
        return self.head(layers, mask.bool())


def warm_up(work) -> None:
    """Run a program for a while: its threads start, and those of the last program stop."""
    end = time.perf_counter() + WARM_UP
    while time.perf_counter() < end:
        work([WARM_UP_SENTENCE])


class Head(torch.nn.Module):
    """Class for a tagger on a scalar mix; its weights and tags are the same in every program.

    Args:
        layers, width: the number of layers and their size.
    """

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.mix = torch.nn.Parameter(torch.zeros(layers))
        self.classifier = torch.nn.Linear(width, TAGS)
        with torch.no_grad():
            self.classifier.weight.normal_(0, width**-0.5, generator=draw)
            self.classifier.bias.zero_()

    def forward(self, layers: list, mask: torch.Tensor) -> torch.Tensor:
        weights = self.mix.softmax(0)
        mixed = sum(w * layer.to(w.dtype) for w, layer in zip(weights, layers))  # noqa: B905
        scores = self.classifier(mixed[mask])  # (words, TAGS)
        tags = torch.arange(len(scores)) % TAGS
        return torch.nn.functional.cross_entropy(scores, tags)


def timed(start: float, batches: list) -> dict:
    return {"seconds": time.perf_counter() - start, "words": count_words(batches)}


def count_words(batches: list) -> int:
    return sum(len(sentence) for batch in batches for sentence in batch)


def memory(field: str) -> int:
    """Return a field of the process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def main() -> None:
    # Libraries may print to stdout, which must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    worker = None
    for line in itertools.chain([json.dumps({"do": None} | json.loads(sys.argv[1]))], sys.stdin):
        request = json.loads(line)
        action = request.pop("do")
        try:
            if action is None:
                worker, content = Worker(**request), {}
            else:
                content = getattr(worker, action)(**request)
        except Exception as error:
            traceback.print_exc()
            content = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(content), file=answers, flush=True)


if __name__ == "__main__":
    main()
