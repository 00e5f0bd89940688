"""Where the answers of the original programs are, and which of them a test needs."""

from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
# Made for this project, by running the original programs: committed, so always there.
GOLD = TESTS / "gold"
# AllenNLP's own test files, out of its package: `make gold` fetches them.
FETCHED = GOLD / "fetched"
# bilm-tf's own test files, which no package holds and this repository does not copy.
BESIDE = TESTS.parents[1] / "shared" / "gold"

CLOSE = {"atol": 2e-6, "rtol": 1e-5}  # what programs in single precision agree to

needs_allennlp = pytest.mark.skipif(
    not FETCHED.is_dir(), reason="AllenNLP's own test files are not here: make gold fetches them"
)
needs_bilm_tf = pytest.mark.skipif(
    not BESIDE.is_dir(), reason=f"bilm-tf's own test files are not in {BESIDE}"
)
