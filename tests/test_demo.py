"""`make demo` shows what it says."""

import re

from examples import demo


def test_the_demo_verifies_its_conversion_and_tells_contexts_apart(capsys):
    demo.main()
    printed = capsys.readouterr().out
    assert printed.count("verified layer") == 3
    layers = re.findall(r"^layer \d .*?:\s+([\d. -]+)$", printed, re.MULTILINE)
    cosines = [[float(number) for number in layer.split()] for layer in layers]
    assert [len(layer) for layer in cosines] == [6, 6, 6]
    assert set(cosines[0]) == {1.0}  # characters alone know no context
    assert max(cosines[1]) < 1 and max(cosines[2]) < 1
