"""The house rules that a machine can check: imports point one way, Hub files stand alone."""

import ast
import sys
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_imports

ROOT = Path(__file__).parents[2]
# A file of elmo_hf/model/ may import what stands further left, and its own prefix.
PREFIXES = ["configuration", "engine", "loss", "layer", "pipeline", "modeling"]
# A module or folder of elmo_hf/ may import what stands further left, and its own files.
LIBRARY = [
    "quiet_imports",
    "extras",
    "model",
    "text_files",
    "batches",
    "embedding",
    "scoring",
    "gaps",
    "loading",
    "columns",
    "layers",
    "progress",
    "embedder",
    "storage",
    "__init__",
    "pretraining",
    "conversion",
    "allennlp",
    "integrations",
    "analysis",
]
HUB_PACKAGES = {"torch", "numpy", "transformers", "huggingface_hub", "tokenizers"}
OPTIONAL_PACKAGES = {"triton"}
HUB_FILES = sorted((ROOT / "elmo_hf/model").glob("[!_]*.py"))
LIBRARY_FILES = sorted(set((ROOT / "elmo_hf").rglob("*.py")) - set(HUB_FILES))


def imports(path):
    """Full names of what a file imports, relative ones with leading dots."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from ("." * node.level + name for name in names)


@pytest.mark.parametrize("path", HUB_FILES, ids=lambda path: path.stem)
def test_hub_files_import_the_stack_and_lower_prefixes_only(path):
    # What transformers makes users install: all but the imports inside `try`.
    assert OPTIONAL_PACKAGES.isdisjoint(get_imports(path))
    ours = path.stem.split("_")[0]
    allowed = {"tokenization"} if ours == "tokenization" else PREFIXES[: PREFIXES.index(ours) + 1]
    for name in imports(path):
        package, _, sibling = name.partition(".")
        if package:
            assert package in HUB_PACKAGES | OPTIONAL_PACKAGES | sys.stdlib_module_names, name
        else:
            assert sibling.split("_")[0] in allowed, f"{path.stem} imports {name}"


@pytest.mark.parametrize("path", LIBRARY_FILES, ids=lambda path: path.stem)
def test_imports_of_the_library_point_down(path):
    parts = path.relative_to(ROOT / "elmo_hf").with_suffix("").parts
    for name in imports(path):
        assert not name.startswith(("conversion", "elmo_hf")), name
        dots = len(name) - len(name.lstrip("."))
        if dots == len(parts):  # relative to elmo_hf itself
            target = name.lstrip(".").split(".")[0]
            target = target if target in LIBRARY else "__init__"
            assert LIBRARY.index(target) < LIBRARY.index(parts[0]), f"{path} imports {name}"


def test_files_and_functions_stay_readable():
    for path in ROOT.glob("elmo_hf/**/*.py"):
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 500, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                lines = node.end_lineno - node.lineno + 1
                doc = (ast.get_docstring(node, clean=False) or "").count("\n")
                assert lines - doc <= 60, f"{path.name}: {node.name}"
