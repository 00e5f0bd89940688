"""What users install: the wheel in a clean environment, and the README section by section."""

import os
import re
import statistics
import subprocess
import sys
import tarfile
import time
import venv
import zipfile

import pytest
from helpers.documents import ROOT, blocks, write_workplace
from helpers.originals import options, random_arrays, write_original

README = (ROOT / "README.md").read_text(encoding="utf-8")
CONSTRAINTS = ["-c", str(ROOT / "constraints.txt")] if sys.version_info[:2] == (3, 11) else []
OPEN = """
import sys
from transformers import AutoModel, AutoTokenizer
trusted = {"trust_remote_code": True} if sys.argv[1:] == ["trusted"] else {}
if not trusted:
    import elmo_hf
tokenizer = AutoTokenizer.from_pretrained("ours", **trusted)
model = AutoModel.from_pretrained("ours", **trusted)
inputs = tokenizer(["The river bank"], return_tensors="pt")
print(type(model).__module__.split(".")[0], tuple(model(**inputs).last_hidden_state.shape))
"""

pytestmark = pytest.mark.slow


class Environment:
    """A virtual environment; `base` is another one, whose packages it sees."""

    def __init__(self, folder, base=None):
        venv.create(folder, with_pip=True)
        self.bin = folder / "bin"
        (self.packages,) = folder.glob("lib/python*/site-packages")
        if base:
            (self.packages / "base.pth").write_text(f"{base.packages}\n")

    def run(self, command, cwd, check=True):
        """Run a line of shell; return the finished process."""
        path = os.pathsep.join([str(self.bin), os.environ["PATH"]])
        environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONPATH", None)
        done = subprocess.run(
            command, shell=True, cwd=cwd, env=environment, capture_output=True, text=True
        )
        if check and done.returncode:
            raise AssertionError(f"{command} failed:\n{done.stdout[-2000:]}{done.stderr[-3000:]}")
        return done

    def install(self, *requirements):
        command = [self.bin / "python", "-m", "pip", "install", "-q", *CONSTRAINTS, *requirements]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True)
        if "No matching distribution" in done.stderr or "connection" in done.stderr.lower():
            pytest.skip(f"{requirements} cannot be had here: {done.stderr[-300:]}")
        assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel, built from the source distribution, and that."""
    folder = tmp_path_factory.mktemp("built")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT]
    subprocess.run([*map(str, command)], check=True, capture_output=True)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def base(built, tmp_path_factory):
    """An environment with what `pip install elmo-hf` brings, torch first, but not elmo-hf."""
    environment = Environment(tmp_path_factory.mktemp("base"))
    environment.install("torch")
    environment.install(str(built[0]))
    environment.run("python -m pip uninstall -q -y elmo-hf", ROOT)
    return environment


@pytest.fixture(scope="module")
def installed(built, base, tmp_path_factory):
    environment = Environment(tmp_path_factory.mktemp("installed"), base)
    environment.install(str(built[0]))
    return environment


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with all that the README's commands read."""
    folder = tmp_path_factory.mktemp("workplace")
    write_workplace(folder)
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    return folder


def test_the_wheel_holds_all_that_its_commands_read(built):
    names = set(zipfile.ZipFile(built[0]).namelist())
    ours = {
        str(path.relative_to(ROOT))
        for package in ("elmo_hf", "elmo_hf_cli", "elmo_hf_spacy")
        for path in (ROOT / package).rglob("*")
        if path.suffix in (".py", ".toml") or path.name == "py.typed"
    }
    trained = {f"{folder.name}.md" for folder in (ROOT / "checkpoints").iterdir()}
    cards = {
        f"elmo_hf/conversion/model_cards/{path.relative_to(ROOT / 'model_cards')}"
        for path in (ROOT / "model_cards").rglob("*")
        if path.is_file() and path.name not in trained
    }
    assert ours | cards == {name for name in names if ".dist-info/" not in name}
    assert len(cards) > 80 and built[0].stat().st_size < 1e6


def test_the_source_distribution_has_the_code_and_no_weights(built):
    with tarfile.open(built[1]) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    assert {"elmo_hf/model/modeling_elmo.py", "model_cards/template.md", "LICENSE"} <= {*names}
    assert not [name for name in names if name.endswith(".safetensors")]
    assert built[1].stat().st_size < 5e6


def test_help_takes_less_than_half_a_second(installed, tmp_path):
    for command in ("elmo-hf --help", "elmo-hf convert --help"):
        seconds = []
        for _ in range(9):
            start = time.perf_counter()
            assert "Examples:" in installed.run(command, tmp_path).stdout
            seconds.append(time.perf_counter() - start)
        print(f"{command}: median {statistics.median(seconds):.2f} s, best {min(seconds):.2f} s")
        assert min(seconds) < 0.5  # the best: other processes use the processors, too


def test_a_conversion_with_the_wheel_opens_with_auto_classes(installed, base, tmp_path):
    made_of = options()
    write_original(tmp_path / "original", made_of, random_arrays(made_of))
    refused = installed.run("elmo-hf convert original ours", tmp_path, check=False)
    assert refused.returncode == 1 and refused.stderr.splitlines()[-1] == (
        "error: the package h5py is not installed; install it with: pip install 'elmo-hf[convert]'"
    )
    assert "Traceback" not in refused.stderr
    installed.install("h5py")
    printed = installed.run("elmo-hf convert original ours", tmp_path).stdout.splitlines()
    assert printed[-1] == "wrote ours" and sum(", ok" in line for line in printed) == 3
    (tmp_path / "open.py").write_text(OPEN)
    assert installed.run("python open.py", tmp_path).stdout == "elmo_hf (1, 5, 24)\n"
    trusted = base.run("python open.py trusted", tmp_path)  # where elmo_hf is not installed
    assert trusted.stdout == "transformers_modules (1, 5, 24)\n"
    card = "elmo-hf publish ours me/ours --checkpoint small --dry-run"
    assert "# ELMo small" in installed.run(card, tmp_path).stdout
    assert "allennlp-small" in installed.run("elmo-hf fetch --list", tmp_path).stdout


def sections():
    """The README's sections that have code: heading, extras and text, in order."""
    extras = ""
    for text in re.split(r"^## ", README, flags=re.MULTILINE):
        named = re.findall(r"pip install [^\n]*\[([\w,]+)\]", text)
        if text.startswith("Install"):
            extras = named[0] if named else ""
        if re.search(r"```(python|bash)", text):
            yield text.partition("\n")[0], ",".join(named) or extras, text


def test_each_section_of_the_readme_runs_with_the_extras_that_it_names(
    base, workplace, tmp_path_factory
):
    environments = {}
    code = ""
    for heading, extras, text in sections():
        if extras not in environments:
            environments[extras] = Environment(tmp_path_factory.mktemp("section"), base)
            environments[extras].install("-e", f"{ROOT}[{extras}]" if extras else str(ROOT))
        environment = environments[extras]
        for language, block in blocks(text):
            if language == "text":
                continue
            if language == "python":  # examples of Python go on from each other
                code += block
                (workplace / "section.py").write_text(code)
                block = "python section.py"
            for line in block.splitlines():
                if line.startswith(("python ", "elmo-hf ")):
                    done = environment.run(line, workplace, check=False)
                    assert done.returncode == 0, f"{heading}: {line}\n{done.stderr[-3000:]}"
