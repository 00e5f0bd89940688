"""Tests of downloading published checkpoints, from a server on this machine."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import Request

import pytest
import torch
from helpers.originals import options, random_arrays, write_original
from huggingface_hub import constants

from conversion.fetch import main
from elmo_hf import ElmoModel
from elmo_hf.conversion import fetch as fetching
from elmo_hf.conversion import registry
from elmo_hf.conversion.fetch import Download, _SafeRedirects, download, fetch
from elmo_hf.conversion.registry import Checkpoint, SourceFile
from elmo_hf.conversion.tables import WeightsError


class Handler(BaseHTTPRequestHandler):
    """Serves `server.files`; stops after `server.limit` bytes of a response."""

    def do_GET(self):
        server = self.server
        self.server.seen.append(dict(self.headers))
        if self.path in server.redirects:
            self.send_response(302)
            self.send_header("Location", server.redirects[self.path])
            return self.end_headers()
        content = server.files.get(self.path)
        if content is None:
            return self.send_error(404)
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        if start and self.headers.get("If-Range") != tag:
            start = 0
        if start and start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            claimed = start + server.shift
            self.send_header("Content-Range", f"bytes {claimed}-{len(content) - 1}/{len(content)}")
        if server.tags:
            self.send_header("ETag", tag)
        if server.lengths:
            self.send_header("Content-Length", str(server.announced or len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: server.limit])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(fetching, "TIMEOUT_SECONDS", 10)
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path_factory.mktemp("cache")))
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.files, running.redirects, running.seen = {}, {}, []
        running.lengths, running.announced = True, None
        running.limit, running.shift, running.tags = None, 0, True
        running.address = f"http://127.0.0.1:{running.server_port}"
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def checkpoint(server, tmp_path):
    source = write_original(tmp_path / "theirs", options(), random_arrays(options()))
    server.files = {f"/elmo/{path.name}": path.read_bytes() for path in source.iterdir()}
    files = tuple(SourceFile(server.address + path) for path in sorted(server.files))
    return Checkpoint("tiny", "Tiny", "bilm-tf HDF5", "https://page", "not stated", files=files)


def ranges(server):
    return [headers.get("Range") for headers in server.seen]


def test_a_checkpoint_is_downloaded_converted_and_recorded(tmp_path, server, checkpoint):
    record = fetch(checkpoint, tmp_path / "ours")
    assert record == json.loads((tmp_path / "ours/conversion.json").read_text())
    assert record["checkpoint"] == "tiny"
    weights = next(d for d in record["downloads"] if d["address"].endswith("weights.hdf5"))
    assert weights["sha256"] == record["source"]["weights"]["sha256"]
    assert weights["size"] == len(server.files["/elmo/weights.hdf5"])
    assert weights["trust"] == "first download"
    assert sum("is not encrypted" in note for note in record["notes"]) == 2
    assert ElmoModel.from_pretrained(tmp_path / "ours").dtype == torch.float32
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "theirs"]


def test_an_interrupted_download_is_resumed(tmp_path, server, checkpoint):
    server.limit = 1000
    with pytest.raises(WeightsError, match=r"1000 of \d+ bytes arrived; this part is kept"):
        fetch(checkpoint, tmp_path / "ours")
    server.limit = None
    fetch(checkpoint, tmp_path / "ours", keep=True)
    assert ranges(server) == [None, None, "bytes=1000-"]
    kept = {path.name: path.read_bytes() for path in (tmp_path / "ours-original").iterdir()}
    assert {f"/elmo/{name}": content for name, content in kept.items()} == server.files


def test_files_that_were_there_before_are_not_removed(tmp_path, server, checkpoint):
    folder = tmp_path / "ours-original"
    fetch(checkpoint, tmp_path / "ours", keep=True)
    (tmp_path / "ours").rename(tmp_path / "first")
    fetch(checkpoint, tmp_path / "ours")
    (tmp_path / "ours").rename(tmp_path / "second")
    assert sorted(path.name for path in folder.iterdir()) == ["options.json", "weights.hdf5"]
    (folder / "options.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"options\.json, which was there before, has sha256"):
        fetch(checkpoint, tmp_path / "ours")
    assert (folder / "options.json").read_text() == "{}"
    (folder / "thesis.txt").touch()
    with pytest.raises(WeightsError, match=r"holds 'thesis\.txt', which is no file of tiny"):
        fetch(checkpoint, tmp_path / "ours")
    assert len(list(folder.iterdir())) == 3


def test_a_file_that_changed_is_downloaded_from_the_start(tmp_path, server):
    server.files, server.limit = {"/a": b"x" * 500}, 100
    file = SourceFile(server.address + "/a")
    with pytest.raises(WeightsError):
        download(file, tmp_path)
    server.files, server.limit = {"/a": b"y" * 300}, None
    assert download(file, tmp_path).size == 300
    assert (tmp_path / "a").read_bytes() == b"y" * 300


def test_without_etag_or_date_a_download_is_not_resumed(tmp_path, server):
    server.files, server.limit, server.tags = {"/a": b"x" * 500}, 100, False
    with pytest.raises(WeightsError, match="the same command starts this file again"):
        download(SourceFile(server.address + "/a"), tmp_path)
    server.limit = None
    download(SourceFile(server.address + "/a"), tmp_path)
    assert ranges(server) == [None, None]


def test_a_complete_partial_file_is_used(tmp_path, server):
    server.files = {"/a": b"x" * 50}
    (tmp_path / "a.part").write_bytes(b"x" * 50)
    (tmp_path / "a.part.validator").write_text(f'"{hashlib.md5(b"x" * 50).hexdigest()}"')
    assert download(SourceFile(server.address + "/a"), tmp_path).size == 50
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_server_that_sends_another_part_is_refused(tmp_path, server):
    server.files, server.limit, server.shift = {"/a": b"x" * 500}, 100, 7
    with pytest.raises(WeightsError):
        download(SourceFile(server.address + "/a"), tmp_path)
    with pytest.raises(WeightsError, match="requested the bytes from 100, the server sends 107-"):
        download(SourceFile(server.address + "/a"), tmp_path)


@pytest.mark.parametrize("known", [{"size": 51}, {"sha256": "0" * 64}])
def test_what_differs_from_the_registry_is_refused_and_removed(tmp_path, server, known):
    server.files = {"/a": b"x" * 50}
    with pytest.raises(WeightsError, match="registered"):
        download(SourceFile(server.address + "/a", **known), tmp_path)
    assert not (tmp_path / "a").exists()


def test_a_file_that_matches_the_registry_is_accepted(tmp_path, server):
    server.files = {"/a": b"x" * 50}
    known = SourceFile(server.address + "/a", 50, hashlib.sha256(b"x" * 50).hexdigest())
    arrived = Download(known.address, known.size, known.sha256, "registered")
    assert download(known, tmp_path) == arrived
    assert download(known, tmp_path) == arrived and len(server.seen) == 1


def test_what_differs_from_the_first_download_is_refused(tmp_path, server, checkpoint):
    fetch(checkpoint, tmp_path / "first")
    record = fetch(checkpoint, tmp_path / "second")
    assert {d["trust"] for d in record["downloads"]} == {"same as the first download"}
    arrays = random_arrays(options(), seed=1)
    other = write_original(tmp_path / "other", options(), arrays)
    server.files["/elmo/weights.hdf5"] = (other / "weights.hdf5").read_bytes()
    with pytest.raises(WeightsError, match="its first download on this machine had") as caught:
        fetch(checkpoint, tmp_path / "third")
    assert not (tmp_path / "third").exists()
    Path(re.search(r"delete (\S+)", str(caught.value))[1]).unlink()
    assert fetch(checkpoint, tmp_path / "third")["verification"]


def test_the_checksum_of_a_file_that_does_not_convert_is_not_stored(tmp_path, server, checkpoint):
    whole = server.files["/elmo/weights.hdf5"]
    server.files["/elmo/weights.hdf5"] = whole[:-1]
    with pytest.raises(WeightsError, match="is not a complete HDF5 file"):
        fetch(checkpoint, tmp_path / "ours")
    server.files["/elmo/weights.hdf5"] = whole
    assert fetch(checkpoint, tmp_path / "too")["verification"]


def test_a_cache_that_cannot_be_written_is_a_note(tmp_path, server, checkpoint, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "file"))
    notes = fetch(checkpoint, tmp_path / "ours")["notes"]
    assert sum("could not be stored" in note for note in notes) == 2


@pytest.mark.parametrize("lengths", [True, False])
def test_a_registered_size_is_a_limit(tmp_path, server, lengths):
    server.files, server.lengths = {"/a": b"x" * 50_000_000}, lengths
    with pytest.raises(WeightsError, match=r"300 are registered|more than the 300 bytes expected"):
        download(SourceFile(server.address + "/a", size=300), tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_a_registered_size_there_is_a_general_limit(tmp_path, server, monkeypatch):
    monkeypatch.setattr(fetching, "MAX_BYTES", 1000)
    server.files = {"/a": b"x" * 2000}
    with pytest.raises(WeightsError, match="2000 bytes, more than any known weights"):
        download(SourceFile(server.address + "/a"), tmp_path)
    server.lengths = False
    with pytest.raises(WeightsError, match="more than the 1000 bytes expected"):
        download(SourceFile(server.address + "/a"), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("address", ["ftp://127.0.0.1:9/a", "file:///etc/hosts", "data:,a"])
def test_a_redirect_to_another_scheme_is_not_followed(tmp_path, server, address):
    server.redirects = {"/a": address}
    with pytest.raises(WeightsError, match=r"redirects from http to|answers 302"):
        download(SourceFile(server.address + "/a"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_redirect_never_leaves_encryption():
    asked = Request("https://host/a")
    with pytest.raises(WeightsError, match="redirects from https to http://host/a: not followed"):
        _SafeRedirects().redirect_request(asked, None, 302, "", {}, "http://host/a")
    kept = _SafeRedirects().redirect_request(asked, None, 302, "", {}, "https://other/a")
    assert kept.full_url == "https://other/a"
    upgraded = Request("http://host/a")
    assert _SafeRedirects().redirect_request(upgraded, None, 302, "", {}, "https://host/a")


def test_failures_are_one_line_and_leave_no_folder(
    tmp_path, server, checkpoint, monkeypatch, capsys
):
    monkeypatch.setattr(registry, "find", lambda name: checkpoint)
    ours = tmp_path / "ours"

    def refuses(complaint):
        assert main(["tiny", str(ours)]) == 1
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
        assert len(errors) == 1 and complaint in errors[0]
        assert not (ours / "config.json").exists()

    weights = server.files.pop("/elmo/weights.hdf5")
    refuses("weights.hdf5 answers 404 Not Found")
    server.files["/elmo/weights.hdf5"] = weights[:-1]
    refuses("is not a complete HDF5 file")
    ours.mkdir()
    (ours / "thesis.txt").write_text("years of work")
    seen = len(server.seen)
    refuses("exists already")
    assert len(server.seen) == seen  # before anything is downloaded


def test_a_checkpoint_without_an_address_says_where_to_get_it(tmp_path, capsys):
    assert main(["bioelmo", str(tmp_path / "ours")]) == 1
    assert "get the files from https://github.com/Andy-jqa/bioelmo" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_list_names_every_checkpoint_with_its_size(capsys):
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[0] == "allennlp-original" and "374.4 MB" in line for line in lines)
    assert any(line.startswith("bioelmo ") and "by hand, from https" in line for line in lines)


def test_the_command_first_prints_licence_and_source(tmp_path, checkpoint, monkeypatch, capsys):
    monkeypatch.setattr(registry, "find", lambda name: checkpoint)
    assert main(["tiny", str(tmp_path / "ours")]) == 0
    first, second, *_, last = capsys.readouterr().out.splitlines()
    assert first == "Tiny: size not known; licence: not stated"
    assert second == "described at https://page"
    assert last == f"wrote {tmp_path / 'ours'}, verified"
