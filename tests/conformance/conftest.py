"""Marks the tests that are expected to fail and lists them, with their reasons, at the end."""

import pytest
from expected_failures import EXPECTED_FAILURES

collect_ignore = ["left_out"]
# Marks that transformers' tests carry and its own configuration registers.
MARKS = [
    "accelerate_tests",
    "flash_attn_test",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "is_pipeline_test",
    "is_training_test",
    "torch_compile_test",
]


def pytest_configure(config):
    for name in MARKS:
        config.addinivalue_line("markers", f"{name}: set by transformers")


def pytest_collection_modifyitems(items):
    for item in items:
        if reason := EXPECTED_FAILURES.get(name_of(item)):
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


def name_of(item):
    return "::".join(item.nodeid.split("::")[1:])


def pytest_terminal_summary(terminalreporter):
    reports = terminalreporter.stats.get("xfailed", [])
    if not reports:
        return
    terminalreporter.section("expected failures")
    for report in sorted(reports, key=lambda report: (report.wasxfail, report.nodeid)):
        terminalreporter.line(f"{name_of(report)}: {report.wasxfail}")
