"""Tests of publishing verified conversions, with a Hub server on this machine."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.hub_server import TOKEN, HubServer
from helpers.originals import options, random_arrays, write_original
from huggingface_hub import HfApi

from conversion.publish import main
from elmo_hf import ElmoModel, ElmoTokenizer
from elmo_hf.conversion.cards import MARKER
from elmo_hf.conversion.convert import convert
from elmo_hf.conversion.originals import describe
from elmo_hf.conversion.publish import check_code, prepare, upload
from elmo_hf.conversion.records import write_record
from elmo_hf.conversion.tables import WeightsError

ROOT = Path(__file__).parents[2]
SENTENCES = ["The river don't stop .", "Naïve 日本語 !"]
PUBLISHER = """
import os, sys
from transformers import Trainer, TrainingArguments
from conversion.publish import main
from elmo_hf import ElmoForSequenceClassification, ElmoModel, ElmoTokenizer

folder, scratch = sys.argv[1:]
arguments = [folder, "me/elmo", "--private", "--checkpoint", "german"]
token = os.environ.pop("HF_TOKEN")
print("NOBODY", main(arguments))
os.environ["HF_TOKEN"] = "hf_wrong"
print("STRANGER", main(arguments))
os.environ["HF_TOKEN"] = token
print("STATUSES", [main(arguments) for _ in range(3)])

ElmoModel.from_pretrained(folder).push_to_hub("me/pushed")
tokenizer = ElmoTokenizer.from_pretrained(folder)
tokenizer.push_to_hub("me/pushed")
print("PUBLIC", main([folder, "me/pushed", "--private", "--checkpoint", "german"]))

settings = TrainingArguments(
    scratch, push_to_hub=True, hub_model_id="me/trained", max_steps=1, report_to=[],
    use_cpu=True, disable_tqdm=True, save_strategy="no",
)
rows = [{**tokenizer(text), "labels": i} for i, text in enumerate(["the bank", "a river"])]
model = ElmoForSequenceClassification.from_pretrained(folder)
trainer = Trainer(model, settings, train_dataset=rows, processing_class=tokenizer)
trainer.train()
trainer.push_to_hub()
"""
# Options -S and -I would hide all installed packages; this finder hides only our own.
HIDE = """
import importlib.abc, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("elmo_hf", "conversion"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
"""
LOADER = """
import json, re, sys
import torch
from huggingface_hub import ModelCard
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

def vectors(name):
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=TRUST)
    model = AutoModel.from_pretrained(name, trust_remote_code=TRUST)
    inputs = tokenizer(json.loads(sys.argv[1]), padding=True, return_tensors="pt")
    with torch.no_grad():
        return type(model), model(**inputs).last_hidden_state

kind, found = vectors("me/elmo")
if not TRUST:
    assert torch.equal(vectors("me/pushed")[1], found)
    load = AutoModelForSequenceClassification.from_pretrained
    assert not load("me/trained", output_loading_info=True)[1]["missing_keys"]
code = re.search(r"```python\\n(.*?)```", ModelCard.load("me/elmo").text, re.DOTALL)[1]
exec(code if TRUST else code.replace(", trust_remote_code=True", ""))
print("CLASS", kind.__module__)
print("VECTORS", json.dumps(found.tolist()))
"""


def run(script, hub, home, *arguments):
    """Run a script in a fresh process that talks to the hub; return the finished process."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, **hub.environment(home), "PYTHONPATH": path}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=home, env=environment)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    work = tmp_path_factory.mktemp("original")
    convert(write_original(work / "theirs", options(), random_arrays(options())), work / "ours")
    return work / "ours"


@pytest.fixture
def folder(converted, tmp_path):
    copy = tmp_path / "ours"
    copy.mkdir()
    for path in converted.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


@pytest.fixture(scope="module")
def hub(converted, tmp_path_factory):
    """A hub on which PUBLISHER has published; its first commit is refused."""
    home = tmp_path_factory.mktemp("publisher")
    with HubServer() as server:
        server.refusals = [403]
        (converted / ".env").write_text("PASSWORD=12345")
        server.published = run(PUBLISHER, server, home, converted, home / "trained")
        assert server.published.returncode == 0, server.published.stderr[-3000:]
        yield server


@pytest.mark.slow
def test_a_refused_upload_resumes_without_sending_the_weights_again(hub):
    assert "STATUSES [1, 0, 0]" in hub.published.stdout
    assert "the Hub refuses access (403); log in with `hf auth login`" in hub.published.stderr
    first = hub.log.index(("POST", "/api/models/me/pushed/preupload/main"))
    assert sum(path.startswith("/large/") for _, path in hub.log[:first]) == 2


@pytest.mark.slow
def test_the_repository_holds_what_was_verified_and_nothing_else(hub, converted):
    files = hub.files("me/elmo")
    assert hub.repositories["me/elmo"].private
    assert ".env" not in files
    record = json.loads(files["conversion.json"])
    assert files.keys() == {*record["files"], "conversion.json", "README.md"}
    for name in files:
        assert files[name] == (converted / name).read_bytes(), name
    assert MARKER in files["README.md"].decode()


@pytest.mark.slow
def test_a_public_repository_is_not_taken_for_a_private_one(hub):
    assert "PUBLIC 1" in hub.published.stdout
    assert "me/pushed exists and is public" in hub.published.stderr
    assert not hub.repositories["me/pushed"].private


@pytest.mark.slow
@pytest.mark.parametrize("name", ["me/pushed", "me/trained"])
def test_what_the_library_pushes_by_itself_is_complete_too(hub, tmp_path, name):
    for path, content in hub.files(name).items():
        (tmp_path / path).write_bytes(content)
    check_code(tmp_path)
    assert {"model.safetensors", "tokenizer.json"} <= hub.files(name).keys()


@pytest.mark.slow
def test_without_a_right_token_the_error_says_how_to_log_in(hub):
    assert "NOBODY 1" in hub.published.stdout and "STRANGER 1" in hub.published.stdout
    assert hub.published.stderr.count("error: the Hub refuses access (401); log in with") == 2


@pytest.mark.slow
def test_the_token_is_never_printed(hub):
    printed = hub.published.stdout + hub.published.stderr
    assert TOKEN not in printed and "hf_wrong" not in printed
    assert all(TOKEN.encode() not in content for content in hub.blobs.values())


@pytest.mark.slow
@pytest.mark.parametrize("installed", [True, False])
def test_it_loads_by_its_name_in_a_fresh_process(hub, converted, tmp_path, installed):
    start = "import elmo_hf\nTRUST = False\n" if installed else f"{HIDE}TRUST = True\n"
    result = run(start + LOADER, hub, tmp_path, json.dumps(SENTENCES))
    assert result.returncode == 0, result.stderr[-3000:]
    said = dict(line.split(" ", 1) for line in result.stdout.splitlines() if line[0].isupper())
    assert said["CLASS"].startswith("elmo_hf." if installed else "transformers_modules.")
    assert "'bank', 'on', 'it'" in result.stdout  # printed by the card's code
    inputs = ElmoTokenizer.from_pretrained(converted)(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = ElmoModel.from_pretrained(converted)(**inputs).last_hidden_state
    torch.testing.assert_close(torch.tensor(json.loads(said["VECTORS"])), expected)


@pytest.mark.slow
def test_it_converts_back_by_its_name(hub, converted, tmp_path):
    start = "from elmo_hf_cli import main\nimport sys\nsys.exit(main(['convert', '--to-hdf5', "
    result = run(start + "'me/elmo', 'named']))", hub, tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    result = run(start + "sys.argv[1], 'local']))", hub, tmp_path, converted)
    assert result.returncode == 0, result.stderr[-3000:]
    named, local = ({f.name: f for f in (tmp_path / n).iterdir()} for n in ("named", "local"))
    assert named.keys() == local.keys()
    assert all(named[name].read_bytes() == local[name].read_bytes() for name in named)


def test_a_dry_run_says_everything_and_does_nothing(folder, capsys):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main([str(folder), "me/elmo", "--dry-run", "--checkpoint", "german"]) == 0
    printed = capsys.readouterr().out
    assert "create me/elmo, unless it exists" in printed and "# German ELMo" in printed
    size = (folder / "model.safetensors").stat().st_size
    assert f"  model.safetensors  {size:,} bytes" in printed
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def edit_record(folder, change):
    """Change a record and renew its checksum, as a forger would."""
    record = json.loads((folder / "conversion.json").read_text())
    change(record)
    write_record(folder, record)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def link_elsewhere(path):
    other = path.parent.parent / "secret"
    other.write_bytes(path.read_bytes() if path.exists() else b"a password")
    path.unlink(missing_ok=True)
    path.symlink_to(other)


def spoil(name, value):
    return lambda folder: edit_record(
        folder, lambda record: record["verification"]["differences"][1].update({name: value})
    )


def soften(folder, name, value):
    """Change a figure of the record without renewing its checksum."""
    record = json.loads((folder / "conversion.json").read_text())
    record["verification"]["differences"][0][name] = value
    (folder / "conversion.json").write_text(json.dumps(record, indent=2))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda folder: (folder / "conversion.json").unlink(), "For a model that you trained"),
        (lambda folder: (folder / "conversion.json").write_text("{"), "does not record"),
        (lambda folder: edit_record(folder, lambda r: r.pop("verification")), "does not record"),
        (lambda folder: edit_record(folder, lambda r: r.pop("files")), "does not record"),
        (lambda folder: edit_record(folder, lambda r: r.update(files=["a"])), "does not record"),
        (
            lambda folder: edit_record(folder, lambda r: r["verification"]["differences"].clear()),
            "nothing was verified",
        ),
        (spoil("largest", 1.0), "verification failed: layer 1: largest difference 1.0e+00"),
        (spoil("largest", float("nan")), "verification failed: layer 1"),
        (lambda folder: flip_a_bit(folder / "model.safetensors"), "changed since the verification"),
        (lambda folder: flip_a_bit(folder / "config.json"), "changed since the verification"),
        (lambda folder: (folder / "layer_lstm.py").unlink(), "layer_lstm.py is missing"),
        (lambda folder: link_elsewhere(folder / "model.safetensors"), "is a symbolic link"),
        (lambda folder: link_elsewhere(folder / "README.md"), "is a symbolic link"),
        (
            lambda folder: edit_record(folder, lambda r: r["files"].pop("layer_lstm.py")),
            "lacks the source file layer_lstm.py",
        ),
        (
            lambda folder: edit_record(folder, lambda r: r["files"].update({"../ours": "0"})),
            "../ours is missing",
        ),
        (lambda folder: soften(folder, "allowed", 1e9), "was edited after the conversion"),
        (lambda folder: soften(folder, "name", "layer 7"), "was edited after the conversion"),
    ],
)
def test_what_is_not_verified_is_refused(folder, capsys, damage, complaint):
    damage(folder)
    assert main([str(folder), "me/elmo", "--dry-run", "--checkpoint", "german"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and complaint in line


@pytest.mark.parametrize(
    ("name", "old", "new", "complaint"),
    [
        ("config.json", '"AutoModelForMultipleChoice"', '"Other"', "no auto_map for AutoModelForM"),
        ("tokenizer_config.json", '"AutoTokenizer"', '"Other"', "no auto_map for AutoTokenizer"),
        ("modeling_elmo.py", "from .layer_lstm", "from .gone_elmo", "the source file gone_elmo.py"),
    ],
)
def test_a_folder_that_strangers_could_not_open_is_refused(folder, name, old, new, complaint):
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))
    sha256 = describe(folder / name)["sha256"]
    edit_record(folder, lambda record: record["files"].update({name: sha256}))
    with pytest.raises(WeightsError, match=complaint):
        prepare(folder, "me/elmo", checkpoint="german")


@pytest.mark.slow
def test_files_that_were_added_stay_here_whatever_their_names(folder, hub, tmp_path):
    (folder / "*").write_text("PASSWORD=12345")
    (folder / "pytorch_model.bin").write_text("a pickle")
    star = describe(folder / "*")["sha256"]
    assert {"*", "pytorch_model.bin"} <= {*prepare(folder, "me/elmo", checkpoint="german").left_out}
    edit_record(folder, lambda record: record["files"].update({"*": star}))
    script = "import sys\nfrom conversion.publish import main\nsys.exit(main(sys.argv[1:]))"
    done = run(script, hub, tmp_path, folder, "me/starred", "--checkpoint", "german")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "pytorch_model.bin" not in hub.files("me/starred")


def test_a_file_that_changes_after_the_check_is_not_uploaded(folder, monkeypatch):
    plan = prepare(folder, "me/elmo", checkpoint="german")
    flip_a_bit(folder / "model.safetensors")
    repository = SimpleNamespace(repo_id="me/elmo")
    monkeypatch.setattr(HfApi, "create_repo", lambda *_, **__: repository)
    monkeypatch.setattr(HfApi, "create_commit", lambda *_, **__: pytest.fail("uploaded"))
    with pytest.raises(WeightsError, match="has changed since the verification"):
        upload(plan)


def test_for_your_own_model_the_error_says_how_to_publish_it(folder, capsys):
    (folder / "conversion.json").unlink()
    assert main([str(folder), "me/elmo", "--dry-run"]) == 1
    error = capsys.readouterr().err
    assert "model.push_to_hub(REPO_ID) and tokenizer.push_to_hub(REPO_ID)" in error


def test_an_unstated_licence_is_noted(folder):
    (note,) = prepare(folder, "me/elmo", checkpoint="allennlp-small").notes
    assert note == "licence of the weights: not stated; their authors may object"
    assert not prepare(folder, "me/elmo", checkpoint="german").notes


def test_a_card_of_ones_own_is_kept(folder):
    (folder / "README.md").write_text("# Mine")
    plan = prepare(folder, "me/elmo")
    assert plan.card is None and "README.md" in plan.files
    (folder / "README.md").write_text(f"{MARKER}\n# Of an earlier day")
    assert "# German" in prepare(folder, "me/elmo", checkpoint="german").card
    (folder / "README.md").write_text(f"---\nlicense: mit\n---\n{MARKER}\n# Of an earlier day")
    assert "# German" in prepare(folder, "me/elmo", checkpoint="german").card


def test_a_card_of_ones_own_that_quotes_the_marker_is_kept(folder):
    (folder / "README.md").write_text(f"# Mine\n\nIt does not begin with:\n\n{MARKER}\n")
    assert prepare(folder, "me/elmo").card is None


def test_the_checkpoint_of_the_card_must_be_named(folder, tmp_path):
    with pytest.raises(WeightsError, match=r"--checkpoint NAME.*--facts FILE"):
        prepare(folder, "me/elmo")
    facts = 'title = "Mine"\nformat = "f"\npage = "https://p"\nlicence = "MIT"\n'
    (tmp_path / "mine.toml").write_text(f'[mine]\n{facts}hub_license = "mit"\n')
    assert "\n# Mine\n" in prepare(folder, "me/elmo", facts=tmp_path / "mine.toml").card
    edit_record(folder, lambda record: record.update(checkpoint="basque"))
    assert "# ELMo Basque" in prepare(folder, "me/elmo").card


def test_a_name_that_the_hub_cannot_have_is_refused(folder):
    with pytest.raises(WeightsError, match="not a valid repository name"):
        prepare(folder, "me/elmo/small", checkpoint="german")


def test_without_a_network_the_folder_stays_ready(folder, capsys):
    # Test processes are offline.
    assert main([str(folder), "me/elmo", "--checkpoint", "german"]) == 1
    error = capsys.readouterr().err
    assert re.match(r"error: .*offline.*; run the same command again to continue\n$", error)
    assert prepare(folder, "me/elmo", checkpoint="german")
