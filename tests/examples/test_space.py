"""The Space: its front matter, and what its functions return, without a server."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).parents[2]
SPACE = ROOT / "examples/space"


def test_its_front_matter_is_that_of_a_gradio_space():
    _, front, _ = (SPACE / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    found = yaml.safe_load(front)
    assert found["sdk"] == "gradio" and (SPACE / found["app_file"]).is_file()
    assert len(found["short_description"]) <= 60  # the Hub's limit
    project = (ROOT / "pyproject.toml").read_text()
    for line in (SPACE / "requirements.txt").read_text().splitlines():
        name, _, extra = line.rstrip("]").partition("[")
        assert f'name = "{name}"' in project and f"\n{extra} = [" in project


@pytest.fixture(scope="module")
def space():
    pytest.importorskip("gradio")
    patch = pytest.MonkeyPatch()
    patch.chdir(ROOT)
    yield runpy.run_path(str(SPACE / "app.py"))
    patch.undo()


def test_a_map_has_the_points_of_the_chosen_layer(space):
    maps = [space["show_map"](space["SENTENCES"], "bank", f"layer {i}") for i in range(3)]
    widths = [max(np.ptp(np.concatenate([t.x for t in one.data])), 1e-9) for one in maps]
    assert widths[0] < 1e-5 < 0.1 < widths[1] < widths[2]
    assert sum(len(trace.x) for trace in maps[0].data) == 8
    assert not maps[0].frames and not maps[0].layout.sliders


def test_gaps_are_filled_from_three_directions(space):
    rows = space["fill"]("The boat reached the ___ of the river.")
    assert len(rows) == 10 and {len(row) for row in rows} == {3}
    assert any(row[2].startswith("bank") for row in rows), rows


def test_what_is_wrong_is_shown(space):
    error = pytest.importorskip("gradio").Error
    with pytest.raises(error, match="'pond' occurs only once"):
        space["show_map"](space["SENTENCES"], "pond", "layer 1")
    with pytest.raises(error, match="has no gap"):
        space["fill"]("No gap.")
