"""The example with Ray Data: two workers on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_embedder import make_model

from elmo_hf import ElmoEmbedder, ElmoTokenizer

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_ray_workers_write_the_vectors_of_every_line(tmp_path):
    pytest.importorskip("ray")
    parquet = pytest.importorskip("pyarrow.parquet")
    make_model().save_pretrained(tmp_path / "model")
    ElmoTokenizer().save_pretrained(tmp_path / "model")
    lines = [f"Line {i} of " + "many " * (i % 7) for i in range(50)]
    lines[3] = ""
    (tmp_path / "text.txt").write_text("\n".join(lines))
    command = [sys.executable, ROOT / "examples/embed_with_ray.py", "model", "text.txt", "vectors"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": "local"}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=300)
    rows = parquet.read_table(tmp_path / "vectors").sort_by("id").to_pylist()
    assert [row["text"] for row in rows] == lines
    for row, vectors in zip(rows, ElmoEmbedder(tmp_path / "model").embed(lines), strict=True):
        np.testing.assert_allclose(np.reshape(row["vector"], (-1, 12)), vectors, atol=1e-6)
