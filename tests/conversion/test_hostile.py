"""Tests that hostile sources, options and outputs lead to one clear error quickly."""

import errno
import io
import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from helpers.originals import options, random_arrays, write_original
from helpers.torch_originals import SETTINGS, refuses, write_bite, write_manylangs
from safetensors.torch import load_file, save_file

from conversion.convert import main
from elmo_hf.conversion import bilm_options, sources, verification
from elmo_hf.conversion.bilm_arrays import EXACT_FORGET_BIAS
from elmo_hf.conversion.convert import convert, convert_back
from elmo_hf.conversion.outputs import new_folder
from elmo_hf.conversion.tables import WeightsError

ROOT = Path(__file__).parents[2]
BIAS = "RNN_0/RNN/MultiRNNCell/Cell0/LSTMCell/B"


@pytest.fixture
def original(tmp_path):
    return write_original(tmp_path / "original", options(), random_arrays(options()))


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted")
    convert(write_original(folder / "o", options(), random_arrays(options())), folder / "ours")
    return folder / "ours"


def run(*arguments):
    return main([str(argument) for argument in arguments])


# Outputs


@pytest.mark.parametrize("target", ["empty", "nowhere"])
def test_a_link_as_output_is_followed(tmp_path, original, target):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / target)
    assert run(original, tmp_path / "link") == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / target / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        ("file/below", "was not written"),
        ("file", "exists already"),
        ("loop", "exists already"),
        ("x" * 300, "was not written"),
        ("/proc/elmo", "was not written"),
        ("/dev/null", "exists already"),
    ],
)
@pytest.mark.parametrize("command", [[], ["--to-hdf5"], ["--to-allennlp"]])
def test_an_impossible_output_is_refused_before_anything_is_read(
    tmp_path, monkeypatch, capsys, output, complaint, command, original, converted
):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    if not command:
        monkeypatch.setattr(sources, "kind_of", None)  # would fail if a file were read
    before = sorted(tmp_path.rglob("*"))
    assert run(*command, converted if command else original, tmp_path / output) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(errors) == 1 and complaint in errors[0], errors
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", [[], ["--to-hdf5"], ["--to-allennlp"]])
def test_a_full_disk_is_one_error_and_nothing_stays(tmp_path, capsys, command, original, converted):
    source = converted if command else original
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        refuses(tmp_path, *command, source, complaint="was not written", capsys=capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_while_unpacking_is_not_reported_as_damage(
    tmp_path, monkeypatch, capsys, original
):
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        for path in original.iterdir():
            archive.write(path, path.name)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sources, "_copy", full)
    refuses(tmp_path, tmp_path / "m.zip", complaint="No space left on device", capsys=capsys)


@pytest.mark.slow
def test_a_killed_conversion_leaves_no_folder_and_the_next_one_succeeds(tmp_path, original):
    program = f"""
import sys, time
from conversion.convert import main
from elmo_hf.conversion import verification
verification.compare = lambda *_: (print("ready", flush=True), time.sleep(300))
main([{str(original)!r}, {str(tmp_path / "ours")!r}])
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"  # everything is written but the record
        (left,) = tmp_path.glob(".ours.*")
        with pytest.raises(WeightsError), new_folder(tmp_path / "ours"):
            assert left.is_dir()  # as long as its process runs
            raise WeightsError
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert left.is_dir() and not (tmp_path / "ours").exists()
    assert run(original, tmp_path / "ours") == 0
    assert not list(tmp_path.glob(".ours.*"))


# Options


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ('"cell_clip": 3', '"cell_clip": Infinity', "Infinity is not a finite number"),
        ('"cell_clip": 3', '"cell_clip": 1e999', "1e999 is not a finite number"),
        ('"cell_clip": 3', '"cell_clip": NaN', "NaN is not a finite number"),
        ('"n_layers": 2', '"n_layers": 1000000000', "lstm.n_layers 1000000000, but the weights"),
        ('"n_layers": 2', f'"n_layers": {10**30}', "but the weights have only 29 arrays"),
        ('"n_highway": 2', '"n_highway": 1000000000', "char_cnn.n_highway 1000000000"),
        ('"filters": [', '"filters": [' + "[1, 1]," * 50_000, "char_cnn.filters 50003"),
        ('_token": 50', '_token": 1000000000', "words of 1000000000 characters; at most 1000"),
        ('"dim": 24', '"dim": 1000000000000', "options.json requires (24, 4000000000000)"),
        ('"projection_dim": 12', '"projection_dim": 1000000000000', "options.json requires"),
        ('"dim": 4', '"dim": 1000000000000', "options.json requires (261, 1000000000000)"),
        ("[2, 5]", "[1000000000, 5]", "expected at least 1000000000"),
        ('"n_layers": 2', '"n_layers": ' + "9" * 5000, "not readable JSON"),
        ('"n_layers": 2', '"n_layers": ' + "[" * 99_999 + "]" * 99_999, "maximum recursion"),
        ('"use_skip_connections": true', '"use_skip_connections": "false"', "expected true or"),
        ('"lstm": {', '"bidirectional": "no", "lstm": {', "bidirectional is 'no'; expected true"),
    ],
)
def test_absurd_options_are_refused_at_once(tmp_path, capsys, original, before, after, complaint):
    text = (original / "options.json").read_text()
    assert before in text
    (original / "options.json").write_text(text.replace(before, after))
    start, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refuses(tmp_path, original, complaint=complaint, capsys=capsys)
    assert time.perf_counter() - start < 5  # a second on a quiet machine
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used < 50 << 10  # kilobytes


@pytest.mark.parametrize(
    ("section", "name", "complaint"),
    [
        ("encoder", "n_layers", "encoder.n_layers 1000000000, but the weights have only"),
        ("token_embedder", "n_highway", "token_embedder.n_highway 1000000000, but"),
        ("token_embedder", "max_characters_per_token", "words of 1000000000 characters"),
    ],
)
def test_absurd_settings_of_elmoformanylangs_too(tmp_path, capsys, section, name, complaint):
    settings = {**SETTINGS, section: {**SETTINGS[section], name: 10**9}}
    folder = write_manylangs(tmp_path / "o")
    (folder / "settings.json").write_text(json.dumps(settings))
    refuses(tmp_path, folder, complaint=complaint, capsys=capsys)


def test_infinity_in_other_json_files_is_refused_too(tmp_path, capsys):
    folder = write_manylangs(tmp_path / "o")
    text = (folder / "settings.json").read_text()
    (folder / "settings.json").write_text(text.replace('"cell_clip": 0.4', '"cell_clip": Infinity'))
    refuses(tmp_path, folder, complaint="Infinity is not a finite number", capsys=capsys)


def test_the_counts_that_are_compared_are_those_that_make_the_table_long():
    """The table of names has at most a fixed number of rows per counted layer or filter."""
    small, large = ({"a": 1}, dict.fromkeys(map(str, range(100))))
    with pytest.raises(ValueError, match="n_layers 2, but the weights have only 1"):
        bilm_options.check_sizes("o", {"n_layers": 2}, 50, small)
    bilm_options.check_sizes("o", {"n_layers": 2}, 50, large)


# HDF5


def link_soft(file, secret):
    del file["char_embed"]
    file["char_embed"] = h5py.SoftLink("/CNN/W_cnn_0")


def link_external(file, secret):
    del file["char_embed"]
    file["char_embed"] = h5py.ExternalLink(str(secret), "char_embed")


def link_root_external(file, secret):
    del file["RNN_0"]
    file["RNN_0"] = h5py.ExternalLink(str(secret), "RNN_0")


def make_virtual(file, secret):
    del file["char_embed"]
    layout = h5py.VirtualLayout((261, 4), "f4")
    layout[:] = h5py.VirtualSource(str(secret), "char_embed", (261, 4))
    file.create_virtual_dataset("char_embed", layout)


def cycle(file, secret):
    file["CNN/again"] = file["CNN"]
    file["author"] = np.zeros(2, "f4")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (link_soft, "there is no dataset char_embed"),
        (link_external, "there is no dataset char_embed"),
        (link_root_external, "is missing"),
        (make_virtual, "points to another file: refused"),
    ],
)
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside another"])
def test_hdf5_links_are_not_followed(tmp_path, capsys, original, change, complaint, beside):
    secret = tmp_path / "secret.hdf5"
    shutil.copyfile(original / "weights.hdf5", secret)
    with h5py.File(original / "weights.hdf5", "a") as file:
        change(file, secret)
    if beside:
        shutil.copyfile(secret, original / "vectors.hdf5")
        with h5py.File(original / "vectors.hdf5", "a") as file:
            for name in list(file):
                del file[name]
            file["0"] = np.zeros(3, "f4")
    read = os.stat(secret).st_atime_ns
    os.utime(secret, ns=(1, 1))
    refuses(tmp_path, original, complaint=complaint, capsys=capsys)
    assert read != 1 and os.stat(secret).st_atime_ns == 1  # nobody opened and read it


def test_a_group_that_contains_itself_is_harmless(tmp_path, original):
    with h5py.File(original / "weights.hdf5", "a") as file:
        cycle(file, None)
    assert run(original, tmp_path / "ours") == 0


@pytest.mark.parametrize("value", ["text", np.ones(3, "f4"), np.ones(24, "f8"), np.float32(2)])
def test_a_damaged_attribute_of_a_bias_is_refused(tmp_path, capsys, original, value):
    with h5py.File(original / "weights.hdf5", "a") as file:
        file[BIAS].attrs[EXACT_FORGET_BIAS] = value
    refuses(tmp_path, original, complaint="is not 24 float32 numbers", capsys=capsys)


# Archives, and files that are not regular


def tar_with(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, kind, target in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info, io.BytesIO())
    return path


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.LNKTYPE, "../../secret"),
        (tarfile.CHRTYPE, ""),
        (tarfile.FIFOTYPE, ""),
    ],
    ids=["link", "hard link", "device", "pipe"],
)
def test_links_and_devices_in_a_tar_are_left_out(tmp_path, capsys, kind, target):
    tar = tar_with(tmp_path / "m.tar.gz", [("options.json", kind, target)])
    refuses(tmp_path, tar, complaint="found none", capsys=capsys)


def test_a_link_in_a_zip_is_read_as_its_text(tmp_path, capsys):
    (tmp_path / "secret.json").write_text(json.dumps(options()))
    info = zipfile.ZipInfo("options.json")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        archive.writestr(info, str(tmp_path / "secret.json"))
        archive.writestr("weights.hdf5", b"\x89HDF\r\n\x1a\n")
    refuses(tmp_path, tmp_path / "m.zip", complaint="options.json is not readable", capsys=capsys)
    assert sources.kind_of(tmp_path / "secret.json") == "options"  # which it would have been


def test_a_tar_that_claims_too_much_is_refused_before_it_is_unpacked(tmp_path, capsys):
    with tarfile.open(tmp_path / "m.tar.gz", "w:gz", compresslevel=1) as archive:
        info = tarfile.TarInfo("weights.hdf5")
        info.size = 8 << 20
        archive.addfile(info, io.BytesIO(bytes(info.size)))
    refuses(tmp_path, tmp_path / "m.tar.gz", complaint="100 times its size", capsys=capsys)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_of_very_many_files_is_refused(tmp_path, monkeypatch, capsys, kind):
    monkeypatch.setattr(sources, "MAX_MEMBERS", 20)
    members = [(f"{number}.json", tarfile.REGTYPE, "") for number in range(21)]
    if kind == "tar":
        path = tar_with(tmp_path / "m.tar.gz", members)
    else:
        path = tmp_path / "m.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, *_ in members:
                archive.writestr(name, "")
    refuses(tmp_path, path, complaint="more than 20 files", capsys=capsys)


@pytest.mark.parametrize("what", ["pipe", "/dev/zero"])
def test_pipes_and_devices_are_refused_and_not_waited_for(tmp_path, capsys, original, what):
    path = tmp_path / what
    if what == "pipe":
        os.mkfifo(path)
        os.mkfifo(original / "in the folder.th")  # is not opened, as no regular file
        assert run(original, tmp_path / "ours") == 0
        shutil.rmtree(tmp_path / "ours")
    for named in ([path], ["--weights", path, original], ["--options", path, original]):
        refuses(tmp_path, *named, complaint="is not a file", capsys=capsys)


def test_a_file_that_cannot_be_read_is_one_error(tmp_path, monkeypatch, capsys, original):
    def refused(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(sources, "kind_of", refused)
    refuses(tmp_path, original, complaint="cannot be read: [Errno 13]", capsys=capsys)


@pytest.mark.parametrize("plain", [False, True], ids=["torch.save", "pickle"])
@pytest.mark.parametrize(
    "name", ["weights.th", "token_embedder.pkl", "es_best_mapping.pth", "a.pt"]
)
def test_code_in_a_pickle_of_any_name_is_not_run(tmp_path, capsys, name, plain):
    folder = tmp_path / "original"
    folder.mkdir()
    (folder / "token_embedder.pkl").write_bytes(b"\x80\x02}.")
    bitten = write_bite(folder / name, plain)
    assert run(folder, tmp_path / "output") == 1
    assert run("--weights", folder / name, folder, tmp_path / "output") == 1
    write_original(folder, options(), random_arrays(options()))
    run(folder, tmp_path / "output")
    assert not bitten.exists()


# Damaged folders to convert back


def drop_weight(folder):
    state = load_file(folder / "model.safetensors")
    del state["layers.0.forward_lstm.input_map.weight"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def cut_weight(folder):
    state = load_file(folder / "model.safetensors")
    name = "layers.0.forward_lstm.input_map.weight"
    save_file({**state, name: state[name][:3].clone()}, folder / "model.safetensors")


def shorten_biases(folder):
    file = folder / "original_forget_biases.safetensors"
    save_file({name: bias[:3].clone() for name, bias in load_file(file).items()}, file)


def write(name, content):
    return lambda folder: (folder / name).write_text(content)


DAMAGES = {
    "a weight is missing": (drop_weight, "input_map.weight is missing (and 0 more)"),
    "a weight is too small": (cut_weight, "cannot be opened as an ELMo model"),
    "weights are cut off": (write("model.safetensors", "x" * 99), "cannot be opened as an ELMo"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "cannot be opened"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "is missing or has"),
    "another model": (write("config.json", '{"model_type": "bert"}'), "has model_type 'bert'"),
    "no JSON": (write("config.json", "{"), "is not a valid JSON file"),
    "biases of another model": (shorten_biases, "forget biases are of another model"),
    "biases cut off": (write("original_forget_biases.safetensors", "x"), "is damaged"),
    "record is no JSON": (write("conversion.json", "["), "conversion.json is not readable JSON"),
    "record is a list": (write("conversion.json", "[1]"), "is a JSON list or value"),
    "record of another kind": (
        write("conversion.json", '{"source": {"prefix": 3}}'),
        "conversion.json has no valid prefix",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_not_converted_back(tmp_path, capsys, converted, damage):
    change, complaint = DAMAGES[damage]
    folder = tmp_path / "ours"
    shutil.copytree(converted, folder)
    change(folder)
    if "biases" not in damage:
        refuses(tmp_path, "--to-allennlp", folder, complaint=complaint, capsys=capsys)
    if "record" not in damage:
        refuses(tmp_path, "--to-hdf5", folder, complaint=complaint, capsys=capsys)


def test_a_missing_folder_is_not_converted_back(tmp_path, capsys):
    for command in ("--to-hdf5", "--to-allennlp"):
        refuses(tmp_path, command, tmp_path / "no", complaint="there is no folder", capsys=capsys)
    with pytest.raises(WeightsError, match="there is no folder"):
        convert_back(tmp_path / "no", tmp_path / "output")


def test_a_bug_is_not_reported_as_an_unwritable_output(tmp_path, monkeypatch, original):
    monkeypatch.setattr(verification, "compare", lambda *_: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError):
        run(original, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()
