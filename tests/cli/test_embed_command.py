"""The command embed writes what the library computes, and fails in one line."""

import gzip
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import elmo_hf_cli
from elmo_hf import ElmoConfig, ElmoEmbedder, ElmoModel, ElmoTokenizer, open_vectors

ROOT = Path(__file__).parents[2]
TEXT = "The river rose .\n\nIt does n't rain .\n" * 10


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder of a tiny model."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    ElmoModel(ElmoConfig(filters=[[1, 8]], projection_dim=8, cell_dim=16)).save_pretrained(folder)
    ElmoTokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def run(capsys, tmp_path, monkeypatch, tiny):
    """Run `elmo-hf embed` with the tiny model in a folder with text.txt."""
    monkeypatch.chdir(tmp_path)
    Path("tiny").symlink_to(tiny)
    Path("text.txt").write_text(TEXT)

    def call(line, model="-m tiny"):
        status = elmo_hf_cli.main(["embed", *shlex.split(f"{line} {model}")])
        return status, *capsys.readouterr()

    return call


def expected(**settings):
    return list(ElmoEmbedder("tiny", **settings).embed(TEXT.splitlines()))


def assert_equal(path, vectors):
    with open_vectors(path) as found:
        for one, other in zip(found, vectors, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_the_examples_of_the_help_run(run, tmp_path, capsys):
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    assert elmo_hf_cli.main(["embed", "--help"]) == 0
    examples = re.findall(r"^\s+elmo-hf embed (.*)$", capsys.readouterr().out, re.MULTILINE)
    assert len(examples) == 4
    for example in examples:
        assert run(example, model="")[0] == 0
    assert open_vectors("sentences.parquet")[0].shape == (512,)


def test_flags_choose_layers_formats_and_inputs(run):
    assert run("text.txt v") == (0, "wrote v\n", "")
    assert_equal("v", expected())
    for flags, layers in [("--all", "all"), ("--layers 0,2", [0, 2]), ("--layers -1", -1)]:
        name = f"v{len(str(layers))}.npz"
        assert run(f"text.txt {name} {flags}")[0] == 0
        assert_equal(name, expected(layers=layers))
    Path("text.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    assert run("text.txt.gz v.hdf5 --input words --top --forget-sentences")[0] == 0
    with h5py.File("v.hdf5") as file:
        assert len(file) == 30
        np.testing.assert_allclose(file["2"], expected(layers="top")[2], atol=1e-6)
    Path("text.jsonl").write_text('{"body": "A text ."}\n')
    assert run("text.jsonl named --format npz --input jsonl --field body --dtype float16")[0] == 0
    assert open_vectors("named").words(0) == ["A", "text", "."]
    assert open_vectors("named")[0].dtype == np.float16


def test_text_flows_from_stdin_to_stdout(run, monkeypatch):
    with open("text.txt", "rb") as file:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
        status, printed, errors = run("- - --pooling max")
    rows = np.loadtxt(io.StringIO(printed), dtype=np.float32)
    assert status == 0 and errors == "" and rows.shape == (30, 16)
    vectors = ElmoEmbedder("tiny", pooling="max").encode(TEXT.splitlines())
    np.testing.assert_allclose(rows, vectors, atol=1e-5)


def test_parts_and_resume_make_one_folder(run):
    small = "--sentences-per-shard 8"
    assert run(f"text.txt one {small}")[0] == 0
    status, printed, _ = run(f"text.txt parts {small} --part 1/2")
    assert (status, printed) == (0, "wrote part 1/2 of parts; other parts are missing\n")
    assert run(f"text.txt parts {small} --part 0/2")[1] == "wrote parts\n"
    Path("parts/part-00002.safetensors").unlink()
    assert run(f"text.txt parts {small} --resume --workers 2")[0] == 0
    for path in Path("one").iterdir():
        assert path.read_bytes() == (Path("parts") / path.name).read_bytes()


@pytest.mark.slow
def test_the_ranks_of_torchrun_write_one_folder(run):
    assert run("text.txt whole --sentences-per-shard 8")[0] == 0
    Path("embed.sh").write_text(
        f'{sys.executable} -c "from elmo_hf_cli import run; run()" embed text.txt ranks -m tiny '
        "--sentences-per-shard 8 --part $RANK/$WORLD_SIZE --resume"
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--no-python", "--standalone"]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [*launcher, "--nproc_per_node", "2", "bash", "embed.sh"],
        check=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    assert_same_files("whole", "ranks")


def assert_same_files(one, other):
    names = sorted(path.name for path in Path(one).iterdir())
    assert len(names) == 5 and names == sorted(path.name for path in Path(other).iterdir())
    for name in names:
        assert (Path(one) / name).read_bytes() == (Path(other) / name).read_bytes()


def test_odd_sentences_are_embedded(run):
    Path("odd.txt").write_text("x" * 100_000 + "\n\n" + "word " * 5_000 + "\n\xa0\n")
    assert run("odd.txt v")[0] == 0
    with open_vectors("v") as vectors:
        assert [len(one) for one in vectors] == [1, 0, 5_000, 0]
        assert vectors.words(0) == ["x" * 100_000]


@pytest.mark.parametrize(
    "line, complaint, status",
    [
        ("text.txt", "Missing argument 'OUT'; see elmo-hf embed --help", 2),
        ("text.tx v", "text.tx does not exist; did you mean text.txt?", 1),
        ("text.txt v --all --top", "pass only one of --layers, --all, --top and --average", 2),
        ("text.txt v --part 3/3", "--part is '3/3'; expected I/N with I from 0 to N-1", 2),
        ("text.txt - --format npz", "the standard output holds text only", 2),
        ("text.txt - --part 1/2 --resume", "--part, --resume and the options of HDF5 need", 2),
        ("text.txt - --use-sentence-keys", "--part, --resume and the options of HDF5 need", 2),
        ("text.txt v --field body", "--field body is for --input jsonl", 2),
        ("text.txt v.npz --forget-sentences", "forget_sentences is for HDF5", 1),
        ("text.txt v.csv", "v.csv ends in .csv; expected a name without ending", 1),
        ("text.txt v --layers topp", "did you mean 'top'?", 1),
        ("text.txt v --layers 3", "this model has the layers 0 to 2", 1),
        ("text.txt v --layers mix", "learned mix", 1),
        ("text.txt v.npz --part 0/2", "resume and part need a folder", 1),
        ("text.txt taken.npz", "taken.npz exists already", 1),
        ("text.txt gone/v.npz", "gone/v.npz: No such file or directory", 1),
        ("text.txt text.txt/v", "text.txt/v: Not a directory", 1),
        ("latin.txt v", "latin.txt, line 2, is not UTF-8", 1),
        ("nul.txt v", "nul.txt, line 1, has a NUL character", 1),
        (
            "text.txt v --input conllu",
            "line 1, is 'The river rose .'; expected CoNLL-U",
            1,
        ),
        ("empty.txt v", "the input has no sentences", 1),
    ],
)
def test_what_is_wrong_is_one_line_and_leaves_nothing(run, line, complaint, status):
    Path("taken.npz").touch()
    Path("empty.txt").touch()
    Path("latin.txt").write_bytes("A line .\nfünf .\n".encode("latin-1"))
    Path("nul.txt").write_bytes(b"A\0line .\n")
    before = set(Path().iterdir())
    found, _, errors = run(line)
    assert found == status and errors.count("\n") == 1 and complaint in errors, errors
    assert set(Path().iterdir()) == before


def test_a_missing_model_is_named(run):
    assert run("text.txt v", model="")[2].startswith("error: Missing option '--model'")
    assert "there is no folder tin; did you mean tiny?" in run("text.txt v", model="-m tin")[2]
