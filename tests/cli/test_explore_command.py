"""The command explore with the real checkpoint, and its page in a real browser."""

import html
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import elmo_hf_cli
from elmo_hf import ElmoConfig, ElmoForTokenClassification, ElmoTokenizer
from elmo_hf_cli.exploration import _mixes

pytest.importorskip("plotly")
ROOT = Path(__file__).parents[2]
MODEL = "-m checkpoints/elmo-small-en"
BANK = "bank --text examples/bank.txt --senses examples/bank_senses.txt"
EVIL = "a bank <img src=x onerror=console.error(1)> </script><script>console.error(2)</script> ."
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run a command line where the checkpoints and examples are."""
    for name in ("checkpoints", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)

    def call(line):
        status = elmo_hf_cli.main(["explore", *shlex.split(line)])
        return status, *capsys.readouterr()

    return call


def test_a_page_shows_senses_layers_and_what_fits(run):
    status, printed, errors = run(f"{BANK} {MODEL} -o page.html --projector vectors")
    assert (status, errors) == (0, "")
    assert printed.startswith(
        "wrote vectors: 40 of 40 occurrences\nwrote page.html: 40 of 40 occurrences, 4."
    )
    page = Path("page.html").read_text(encoding="utf-8")
    titles = re.findall("<h[12]>(.*?)</h", page)
    assert titles == [
        "bank: 40 of 40 occurrences in bank.txt, as elmo-small-en sees them",
        "Sense map",
        "Nearest occurrences",
        "Layers",
        "Two sentences",
        "What fits here?",
    ]
    assert "from both sides" in page and "river (20)" in page
    assert "layer 0: all vectors are equal" in page
    assert len([*Path("vectors").iterdir()]) == 5


def test_senses_lie_apart_in_the_upper_layers(run):
    assert run(f"{BANK} {MODEL} --projector vectors")[0] == 0
    senses = np.array(Path("examples/bank_senses.txt").read_text().split())
    for layer in (1, 2):
        rows = np.loadtxt(f"vectors/layer_{layer}.tsv")
        cosines = rows @ rows.T - 2 * np.eye(40)
        assert (senses[cosines.argmax(1)] == senses).mean() >= 0.75  # 0.5 by chance


def test_a_picture_has_the_words_as_groups(run):
    status, printed, _ = run(f"bank river --text examples/bank.txt {MODEL} -o map.svg --limit 40")
    assert status == 0 and printed.startswith("wrote map.svg: 26 of 46 occurrences, 0.0")
    assert Path("map.svg").stat().st_size < 60e3


def test_the_docs_and_the_card_show_the_picture_that_the_command_makes(run):
    assert run(f"{BANK} {MODEL} -o bank.svg")[0] == 0
    made, shown, card = (
        path.read_text(encoding="utf-8")
        for path in (
            Path("bank.svg"),
            ROOT / "docs/images/bank.svg",
            ROOT / "checkpoints/elmo-small-en/bank.svg",
        )
    )
    assert shown == card
    points = [
        np.array(re.findall(r'<use .*?x="(.*?)" y="(.*?)".*?fill', text), float)
        for text in (made, shown)
    ]
    assert len(points[0]) == 3 * 40 + 2  # two in the legend
    np.testing.assert_allclose(*points, atol=0.5)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (f"bank --text examples/bank.txt {MODEL}", "nothing to write; pass -o page.html"),
        (f"bank --text examples/bank.txt {MODEL} -o page.jpg", "ends with .html, .svg, .png"),
        (f"bank --text examples/bank.txt {MODEL} -o old.html", "old.html exists already"),
        (f"bank --text examples/bank.txt {MODEL} -o x/p.html", "there is no folder x for p.html"),
        (f"bank --text example/bank.txt {MODEL} -o p.html", "example/bank.txt does not exist"),
        (f"{BANK}s {MODEL} -o p.html", "bank_senses.txts does not exist; did you mean"),
        (f"Bank --text examples/bank.txt {MODEL} -o p.html", "does not occur in the text; it"),
        (f"otter --text examples/bank.txt {MODEL} -o p.html", "'otter' occurs only once"),
        (f"don't --text examples/bank.txt {MODEL} -o p.html", "is not one word"),
        (f"{BANK} {MODEL} -o p.html --limit 1", "--limit"),
        (f"bank --text examples/bank.txt --senses short {MODEL} -o p.html", "1 lines of senses"),
        (f"bank --text examples/bank.txt --senses long {MODEL} -o p.html", "have 80 lines, the"),
        (f"bank --text examples/bank.txt --senses latin1 {MODEL} -o p.html", "is not UTF-8"),
        (f"{BANK} {MODEL} -o p.html --method umap", "umap"),
        (f"{BANK} {MODEL} -o p.svg --mix tagger", "--mix is for a page; name it with -o page.html"),
    ],
)
def test_what_is_wrong_is_one_line(run, line, complaint):
    Path("old.html").touch()
    Path("short").write_text("river\n")
    Path("long").write_text("river\n" * 80)
    Path("latin1").write_bytes(b"\xe9\n")
    before = {*Path().iterdir()}
    status, printed, errors = run(line.replace("don't", '"don\'t"'))
    assert status in (1, 2) and printed == ""
    assert complaint in errors and errors.count("\n") == 1
    assert {*Path().iterdir()} == before


def test_each_occurrence_in_a_sentence_may_have_a_sense(run):
    Path("text.txt").write_text("A bank by a bank .\n\nA bank , a bank .\n")
    Path("senses.txt").write_text("\triver\n\nmoney\t\n")
    assert run(f"bank --text text.txt --senses senses.txt {MODEL} --projector vectors")[0] == 0
    rows = Path("vectors/metadata.tsv").read_text().splitlines()[1:]
    found = [row.split("\t")[1:3] for row in rows]
    unknown = "no sense given"
    assert found == [[unknown, "1"], ["river", "1"], ["money", "3"], [unknown, "3"]]


def test_the_mixes_of_task_models_are_shown(run):
    config = ElmoConfig(cell_dim=8, projection_dim=4, filters=[[1, 4]])
    model = ElmoForTokenClassification(config)
    with torch.no_grad():
        model.scalar_mix.weights.copy_(torch.tensor([0.0, 1.0, 2.0]))
    model.save_pretrained("tagger")
    ElmoTokenizer().save_pretrained("tagger")
    shutil.copytree("tagger", "answers")
    assert run("bank --text examples/bank.txt -m tagger --mix answers -o page.html")[0] == 0
    page = Path("page.html").read_text(encoding="utf-8")
    assert "<h2>Scalar mixes" in page and "<h2>What fits" not in page
    assert '"name":"tagger"' in page and '"name":"answers"' in page
    ((_, factors),) = _mixes(Path("tagger"))
    np.testing.assert_allclose(np.log(factors[1:]) - np.log(factors[0]), [1, 2], atol=1e-5)


@pytest.mark.parametrize(("package", "name"), [("plotly", "p.html"), ("matplotlib", "p.svg")])
def test_a_missing_package_is_named_before_any_work(run, monkeypatch, package, name):
    monkeypatch.setitem(sys.modules, package, None)
    status, _, errors = run(f"{BANK} {MODEL} -o {name}")
    assert status == 1 and errors.rstrip().endswith("pip install -e '.[analysis]'")
    assert package in errors and not Path(name).exists()


# Point at the first sentence; then, after the slider's first step, all points lie on one another.
MOVE = """<script>onload = () => setTimeout(() => {
    const map = document.querySelector(".js-plotly-plot");
    const reach = () => Math.max(...map._fullData.flatMap(({x}) => [...x]).map(Math.abs));
    map.data.forEach(({text}, curveNumber) => {
        const pointNumber = text.findIndex((one) => one.includes("onerror"));
        if (pointNumber < 0) return;
        Plotly.Fx.hover(map, [{curveNumber, pointNumber}], "xy");
        document.body.dataset.label = map.querySelector(".hovertext").textContent;
    });
    const before = reach();
    Plotly.animate(map, ...map.layout.sliders[0].steps[0].args);
    setTimeout(() => {
        document.title = `moved from ${before > 0.1} to ${reach() > 0.1}`;
    }, 3000);
}, 100)</script>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs the program chromium")
def test_the_page_works_in_a_browser_without_network(run):
    text = Path("examples/bank.txt").read_text() * 30
    Path("text.txt").write_text(f"{EVIL}\n{text}")
    assert run(f"bank --text text.txt {MODEL} -o page.html --input words --limit 2000")[0] == 0
    page = Path("page.html")
    assert page.stat().st_size < 6e6
    errors = browse(page, "--screenshot=page.png", "--window-size=1100,3000")
    assert "CONSOLE" not in errors, errors
    assert Path("page.png").stat().st_size > 50_000  # an empty page has 10 kB
    page.write_text(page.read_text().replace("</body>", f"{MOVE}</body>"))
    document = browse(page, "--dump-dom")
    assert "<title>moved from true to false</title>" in document
    label = re.search('data-label="(.*?)"', document)[1]
    assert html.unescape(label).startswith(EVIL[:30])
    assert 'data-title="Download plot"' in document
    assert 'data-title="Share' not in document  # it would upload the texts


def browse(page, *options):
    """Open a page in Chromium without a network; return what it prints and logs."""
    settings = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    limits = ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=30000"]
    profile = f"--user-data-dir={page.resolve().parent / 'profile'}"
    done = subprocess.run(
        [CHROMIUM, *settings, *limits, profile, *options, page.resolve().as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout + done.stderr
