"""Damaged originals of every format: one clear error or a verified folder, and nothing else.

Run as a program it damages and converts in a process of its own, because a library that reads such
files may take its process with it.
"""

import contextlib
import io
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from helpers.bundles import write_checkpoint
from helpers.originals import options, random_arrays, write_original
from helpers.torch_originals import PREFIX, allennlp_tensors, task_model, write_manylangs
from test_tfhub import SPELLINGS, write_module

from conversion.convert import main

MADE_OF = options()
MORE_MEMORY = 400 << 20  # bytes; the originals have some 100 kB
WAYS = ("cut", "flip", "claim", "fill", "repeat")


def state_dict():
    return task_model(allennlp_tensors(MADE_OF, random_arrays(MADE_OF)), PREFIX)


def write_state_dict(folder, legacy=False):
    folder.mkdir()
    torch.save(state_dict(), folder / "weights.th", _use_new_zipfile_serialization=not legacy)
    (folder / "options.json").write_text(json.dumps(MADE_OF))


def pack(folder, write, name):
    """Pack the files made by `write` into one archive."""
    write(folder / "inside")
    if name.endswith(".zip"):
        with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in (folder / "inside").rglob("*"):
                archive.write(path, path.relative_to(folder))
    else:
        with tarfile.open(folder / name, "w:gz") as archive:
            archive.add(folder / "inside", "inside")
    shutil.rmtree(folder / "inside")


def write_hdf5(folder):
    write_original(folder, MADE_OF, random_arrays(MADE_OF, softmax=True), vocab=True)


PACKED = {
    "zip of HDF5": lambda folder: pack(folder, write_hdf5, "elmo.zip"),
    "tar of HDF5": lambda folder: pack(folder, write_hdf5, "elmo.tar.gz"),
    "AllenNLP archive": lambda folder: pack(folder, write_state_dict, "model.tar.gz"),
    "zip of ELMoForManyLangs": lambda folder: pack(folder, write_manylangs, "144.zip"),
}
FORMATS = {
    "HDF5": write_hdf5,
    "TensorFlow": lambda folder: write_checkpoint(folder, MADE_OF, random_arrays(MADE_OF)),
    "TensorFlow Hub": lambda folder: write_module(
        folder, random_arrays(MADE_OF), SPELLINGS["as trained"]
    ),
    "AllenNLP": write_state_dict,
    "AllenNLP, legacy file": lambda folder: write_state_dict(folder, legacy=True),
    "ELMoForManyLangs": write_manylangs,
    **PACKED,
}


def damage(content, draw):
    """Return a damaged copy of these bytes."""
    way, place = draw.choice(WAYS), draw.randrange(len(content))
    if way == "cut":
        return content[:place]
    if way == "repeat":
        return content[:place] + content
    damaged = bytearray(content)
    if way == "claim":  # the largest numbers, where a size may stand
        damaged[place : place + 8] = draw.choice([b"\xff" * 8, b"\xff" * 7 + b"\x7f"])
    elif way == "fill":
        damaged[place : place + 64] = bytes(64)
    else:
        for _ in range(draw.randint(1, 8)):
            damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def convert_damaged(original, workplace, seed):
    """Convert one damaged copy; raise AssertionError unless it is refused or harmless."""
    draw = random.Random(seed)
    source, output = workplace / "damaged", workplace / "output"
    shutil.copytree(original, source)
    file = draw.choice([path for path in sorted(source.rglob("*")) if path.is_file()])
    file.write_bytes(damage(file.read_bytes(), draw))
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        status = main([str(source), str(output)])
    shutil.rmtree(source)
    if status == 0:
        assert json.loads((output / "conversion.json").read_text())["verification"]
        shutil.rmtree(output)
    else:
        assert status == 1 and said.getvalue().count("error: ") == 1, said.getvalue()
    assert not any(workplace.iterdir()), [*workplace.iterdir()]


def run(folder, seeds, *names):
    """Try several seeds; report failures and excessive memory."""
    for name in names:
        place = Path(folder, name.replace(" ", "_"))
        workplace = place / "here/deeper"
        workplace.mkdir(parents=True)
        if name in PACKED:
            (place / "original").mkdir()
        FORMATS[name](place / "original")
        convert_damaged(place / "original", workplace, -1)  # what is loaded once is loaded now
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for seed in range(int(seeds)):
            print(name, "seed", seed, flush=True)
            convert_damaged(place / "original", workplace, seed)
        assert {path.name for path in place.iterdir()} == {"original", "here"}
        taken = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        assert taken < MORE_MEMORY, f"{name}: {taken:,} bytes more"


def check(folder, seeds, *names):
    command = [sys.executable, __file__, str(folder), str(seeds), *names]
    paths = os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parents[1])])
    path = {**os.environ, "PYTHONPATH": paths}
    finished = subprocess.run(
        command, capture_output=True, text=True, env=path, timeout=120 + 3 * seeds
    )
    assert finished.returncode == 0, finished.stdout[-100:] + finished.stderr[-3000:]


@pytest.mark.slow
def test_damaged_originals_are_refused_or_harmless(tmp_path):
    check(tmp_path, 1, *FORMATS)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_very_many_damaged_originals_are_refused_or_harmless(tmp_path, name):
    check(tmp_path, 1000, name)


if __name__ == "__main__":
    run(*sys.argv[1:])
