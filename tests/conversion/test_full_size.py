"""The published sizes, with random weights: conversion, memory, loading."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.originals import options, random_arrays, write_original
from helpers.torch_originals import allennlp_tensors, task_model

from elmo_hf import ElmoModel

FILTERS = [[1, 32], [2, 32], [3, 64], [4, 128], [5, 256], [6, 512], [7, 1024]]
SIZES = {
    "small": (1024, 128, 1, 13_593_296),
    "medium": (2048, 256, 1, 28_027_728),
    "original": (4096, 512, 2, 93_600_848),
}
# Peak memory of the process, and the memory of Python and the libraries before reading.
MEASURED = """
import re, sys, time
from pathlib import Path
from elmo_hf.conversion.convert import convert
from elmo_hf import ElmoModel
def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before, start = peak(), time.perf_counter()
convert(Path(sys.argv[1]), Path(sys.argv[2]))
print("MEASURED", peak() - before, time.perf_counter() - start)
"""


def full_size(cell_dim, projection_dim, highways):
    return options(
        lstm__dim=cell_dim,
        lstm__projection_dim=projection_dim,
        char_cnn__filters=FILTERS,
        char_cnn__embedding={"dim": 16},
        char_cnn__n_highway=highways,
    )


def convert_measured(source, output, name):
    """Convert in a new process; return its peak memory relative to the size of the weights."""
    result = subprocess.run(
        [sys.executable, "-c", MEASURED, source, output],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert result.returncode == 0, result.stderr[-3000:]
    memory, seconds = map(float, result.stdout.split("MEASURED")[1].split())
    times = memory / (4 * SIZES[name][-1])
    print(f"{name}: {memory / 1e6:.0f} MB, {times:.2f}x, {seconds:.1f} s")
    return times


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_a_published_size_converts_in_less_than_three_times_its_memory(tmp_path, name):
    *sizes, published = SIZES[name]
    arrays = random_arrays(full_size(*sizes))
    assert sum(array.size for array in arrays.values()) == published
    source = write_original(tmp_path / "original", full_size(*sizes), arrays)
    times = convert_measured(source, tmp_path / "ours", name)
    if name == "original":  # beside smaller ones the libraries' own buffers count
        assert times < 3
    model = ElmoModel.from_pretrained(tmp_path / "ours")
    assert model.num_parameters() == published + model.config.char_embedding_dim
    weight = model.layers[1].backward_lstm.output_map.weight.detach().numpy()
    theirs = arrays["RNN_1/RNN/MultiRNNCell/Cell1/LSTMCell/W_P_0"]
    np.testing.assert_array_equal(weight, theirs.T)


@pytest.mark.slow
def test_the_largest_size_converts_from_allennlp_in_less_than_three_times_its_memory(tmp_path):
    made_of = full_size(*SIZES["original"][:3])
    tensors = task_model(allennlp_tensors(made_of, random_arrays(made_of)))
    torch.save(tensors, tmp_path / "weights.th")
    assert convert_measured(tmp_path / "weights.th", tmp_path / "ours", "original") < 3
