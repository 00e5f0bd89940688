"""The published sizes, with random weights: conversion, memory, loading."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from originals import options, random_arrays, write_original

from elmo_hf import ElmoModel

FILTERS = [[1, 32], [2, 32], [3, 64], [4, 128], [5, 256], [6, 512], [7, 1024]]
SIZES = {
    "small": (1024, 128, 1, 13_593_296),
    "medium": (2048, 256, 1, 28_027_728),
    "original": (4096, 512, 2, 93_600_848),
}
# Peak of the whole process against what Python and the libraries take before anything is read.
MEASURED = """
import re, sys, time
from pathlib import Path
from conversion.convert import convert
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


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_a_published_size_converts_in_less_than_three_times_its_memory(tmp_path, name):
    *sizes, published = SIZES[name]
    arrays = random_arrays(full_size(*sizes))
    assert sum(array.size for array in arrays.values()) == published
    source = write_original(tmp_path / "original", full_size(*sizes), arrays)
    result = subprocess.run(
        [sys.executable, "-c", MEASURED, source, tmp_path / "ours"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert result.returncode == 0, result.stderr[-3000:]
    memory, seconds = map(float, result.stdout.split("MEASURED")[1].split())
    print(f"{name}: {memory / 1e6:.0f} MB, {memory / (4 * published):.2f}x, {seconds:.1f} s")
    if name == "original":  # beside smaller ones the libraries' own buffers count
        assert memory < 3 * 4 * published
    model = ElmoModel.from_pretrained(tmp_path / "ours")
    assert model.num_parameters() == published + model.config.char_embedding_dim
    weight = model.layers[1].backward_lstm.output_map.weight.detach().numpy()
    theirs = arrays["RNN_1/RNN/MultiRNNCell/Cell1/LSTMCell/W_P_0"]
    np.testing.assert_array_equal(weight, theirs.T)
