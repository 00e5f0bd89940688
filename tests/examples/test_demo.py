"""`make demo` shows what it says."""

import re

import demo
import pytest


@pytest.mark.slow
def test_the_demo_verifies_its_conversion_and_tells_senses_apart(capsys):
    demo.main()
    printed = capsys.readouterr().out
    assert printed.count("verified layer") == 3 and printed.count("logits to") == 2
    pattern = r"^layer \d .*?:\s+(-?\d.\d+)\s+(-?\d.\d+)  "
    same, other = zip(*re.findall(pattern, printed, re.MULTILINE), strict=True)
    gaps = [float(a) - float(b) for a, b in zip(same, other, strict=True)]
    assert gaps[0] == 0 and same[0] == "1.000"  # characters alone know no context
    assert gaps[1] > 0.05 and gaps[2] > 0.05
