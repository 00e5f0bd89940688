"""The notebooks run from the first cell to the last, and their models have learned."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples/notebooks").glob("*.ipynb"))
# What the last cells assert when the notebook is run here.
CHECKS = {
    "peft": "assert accuracy >= 0.75 and label == 'river'",
    "question_answering": "assert exact >= 0.75",
    "text_classification": "assert accuracy >= 0.75",
    "token_classification": "assert f1 >= 0.75 and entities[-1]['word'] == 'Lisbon'",
}


def test_every_notebook_is_checked_and_stored_without_outputs():
    nbformat = pytest.importorskip("nbformat")
    assert [path.stem for path in NOTEBOOKS] == sorted(CHECKS)
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, 4)
        nbformat.validate(notebook)
        assert not any(cell.get("outputs") for cell in notebook.cells), path.name


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_its_model_learns(path, tmp_path, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder = tmp_path / "examples/notebooks"
    folder.mkdir(parents=True)
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    notebook = nbformat.read(path, 4)
    notebook.cells.append(nbformat.v4.new_code_cell(CHECKS[path.stem]))
    nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(folder)}}
    ).execute()
