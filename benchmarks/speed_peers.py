"""Set up AllenNLP's environment, and run each program in a process of its own."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ALLENNLP = "allennlp==2.10.1"
# AllenNLP's ELMo needs these besides torch; it only imports tqdm.
NEEDS = ["numpy", "h5py", "tqdm"]


class BenchmarkError(RuntimeError):
    """Error that ends the benchmark."""


def allennlp_python(work: Path, torch_version: str) -> Path:
    """Return the Python of an environment with AllenNLP and the same torch as here."""
    folder = work / "allennlp"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done = folder / "installed"
    wanted = f"torch=={torch_version.split('+')[0]}"
    if done.exists() and done.read_text() == wanted:
        return python
    print(f"installing {ALLENNLP} beside {wanted} in {folder}", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    # torch goes first and alone, so that nothing else chooses its version.
    for arguments in ([wanted], NEEDS, ["--no-deps", ALLENNLP]):
        command = [python, "-m", "pip", "install", "--quiet", *arguments]
        finished = subprocess.run(command, capture_output=True, text=True)
        if finished.returncode:
            raise BenchmarkError(
                f"AllenNLP's environment was not made: pip install {' '.join(arguments)} says:\n"
                f"{finished.stderr.strip()}\nTo measure without AllenNLP name others with --only"
            )
    done.write_text(wanted)
    return python


class Process:
    """Class that runs a `speed_worker` in a process; a context manager."""

    def __init__(self, variant, folder: Path, python: Path | str, threads: int) -> None:
        self.variant = variant
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        specification = {
            "loader": variant.loader,
            "precision": variant.precision,
            "folder": str(folder),
            "threads": threads,
        }
        path = [str(HERE)] if variant.loader == "allennlp" else [str(HERE), str(HERE.parent)]
        self.process = subprocess.Popen(
            [str(python), str(HERE / "speed_worker.py"), json.dumps(specification)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path), "HF_HUB_OFFLINE": "1"},
        )
        try:
            self.answer()
        except BenchmarkError:
            self.close()
            raise

    def __call__(self, do: str, **request) -> dict:
        # If the process has ended, `answer` raises the reason.
        with contextlib.suppress(OSError):
            self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self.process.stdin.flush()
        return self.answer()

    def arrays(self, do: str, sentences: list) -> list[np.ndarray]:
        """Return the arrays that a request writes to a file."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "arrays.npz"
            self(do, sentences=sentences, file=str(file))
            with np.load(file) as content:
                return [content[name] for name in content.files]

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        content = json.loads(line) if line else {"error": "the process ended"}
        if "error" not in content:
            return content
        self.log.seek(0)
        tail = "".join(self.log.readlines()[-8:])
        raise BenchmarkError(f"{self.variant.name}: {content['error']}\n{tail}".rstrip())

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        with contextlib.suppress(OSError):
            self.process.stdout.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_) -> None:
        self.close()
