"""Download transformers' own tests: `python tests/conformance/unpack.py FOLDER`."""

import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

LEFT_OUT = Path(__file__).parent / "left_out"


def unpack(folder: Path) -> None:
    """
    Write `folder/tests`, the common tests of the installed transformers release.

    The source distribution leaves out some files that these tests import. `left_out/` holds
    replacements; a replacement is used only where the distribution has no such file.
    """
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as temporary:
        source = download(version("transformers"), Path(temporary))
        shutil.copytree(source / "tests", folder / "tests")
    copy_missing(LEFT_OUT, folder / "tests")
    # The common tests import transformers from beside their folder: show them the installed one.
    (folder / "src").mkdir()
    (folder / "src/transformers").symlink_to(Path(find_spec("transformers").origin).parent)


def download(release: str, folder: Path) -> Path:
    """Download the source distribution of a transformers release into `folder` and unpack it."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder)]
    command += ["--no-deps", "--no-binary", "transformers", f"transformers=={release}"]
    subprocess.run(command, check=True)
    source = folder / f"transformers-{release}"
    with tarfile.open(f"{source}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return source


def copy_missing(source: Path, target: Path) -> None:
    """Copy the files of `source` that `target` lacks, and make each folder a package."""
    for path in source.rglob("*.*"):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix != ".pyc" and not copy.exists():
            shutil.copyfile(path, copy)
    for path in [target, *target.iterdir()]:
        if path.is_dir():
            (path / "__init__.py").touch()


if __name__ == "__main__":
    unpack(Path(sys.argv[1]))
