"""Runs that are killed at any moment, and several at once, write the same bytes as one run."""

import os
import random
import signal
import time

import pytest

from elmo_hf.storage import open_vectors, write_vectors

KILLS = 20
SENTENCES = [f"The river number {i} does n't stop" + " , no" * (i * 7 % 13) for i in range(300)]


def write(folder, embedder, part=(0, 1)):
    return write_vectors(
        folder, embedder, SENTENCES, sentences_per_shard=16, resume=True, part=part
    )


def start(folder, embedder, part=(0, 1)):
    """Write in a process of its own; return its number."""
    child = os.fork()
    if not child:
        status = 1
        try:
            write(folder, embedder, part)
            status = 0
        finally:
            os._exit(status)
    return child


def run(folder, embedder, seconds=None, part=(0, 1)):
    """Write in a process of its own, which is killed after some seconds; return its status."""
    child = start(folder, embedder, part)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_parts_write_one_folder_at_the_same_time(tmp_path, embedder_of):
    write(tmp_path / "whole", embedder_of())
    for attempt in range(3):
        folder = tmp_path / f"parts{attempt}"
        children = [start(folder, embedder_of(), part=(index, 4)) for index in range(4)]
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
        assert contents(folder) == contents(tmp_path / "whole")


@pytest.mark.slow
def test_killed_runs_continue_to_the_same_bytes(tmp_path, embedder_of):
    write(tmp_path / "whole", embedder_of(workers=2))
    expected = contents(tmp_path / "whole")
    begin = time.perf_counter()
    assert run(tmp_path / "timed", embedder_of()) == 0
    duration = time.perf_counter() - begin
    assert contents(tmp_path / "timed") == expected

    chosen, stopped = random.Random(0), 0
    for kill in range(KILLS):
        folder = tmp_path / f"killed{kill}"
        moment = chosen.uniform(0, duration)
        status = run(folder, embedder_of(workers=chosen.randint(1, 3)), moment)
        if status == signal.SIGKILL and folder.exists() and "index.json" not in contents(folder):
            stopped += 1
            if kill % 2:  # once more, as two parts
                run(folder, embedder_of(workers=1), moment / 2, part=(kill % 3 % 2, 2))
            try:
                open_vectors(folder).close()
            except ValueError as error:
                assert "unfinished" in str(error)
        write(folder, embedder_of(workers=chosen.randint(1, 3)))
        assert contents(folder) == expected
    assert stopped >= KILLS // 2
