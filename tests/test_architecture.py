"""The house rules that a machine can check: imports point one way, Hub files stand alone."""

import ast
import sys
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_imports

ROOT = Path(__file__).parents[1]
# A module may import what stands below it.
LAYERS = [
    {"configuration_elmo", "engines_elmo", "packing_elmo", "quantization_elmo", "threads_elmo"},
    {"kernels_elmo", "crf_engine_elmo"},
    {"rows_elmo", "scalar_mix_elmo", "losses_elmo", "pipeline_elmo"},
    {"word_splitter_elmo", "texts_elmo", "layout_elmo", "spelling_elmo", "softmax_elmo"},
    {"inputs_elmo", "inference_elmo", "training_elmo", "vocabulary_elmo", "whole_words_elmo"},
    {"crf_elmo", "mixed_lstm_elmo"},
    {"character_engine_elmo", "gpu_elmo"},
    {"lstm_elmo", "embeddings_elmo"},
    {"modeling_elmo", "tokenization_elmo", "hdf5"},
    {"options", "corpus", "pretraining_data", "language_model_elmo", "task_elmo"},
    {"heads_elmo", "scoring", "pretraining_feeds", "pretraining_runs"},
    {"pretraining"},
    {"__init__"},
]
HUB_PACKAGES = {"torch", "numpy", "transformers", "huggingface_hub", "tokenizers"}
OPTIONAL_PACKAGES = {"triton"}
MODULES = sorted(path.stem for path in (ROOT / "elmo_hf").glob("*.py"))


def imports(path):
    """Full names of what a file imports, relative ones with a leading dot."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def level(module):
    return next(i for i, names in enumerate(LAYERS) if module in names)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    for name in imports(ROOT / "elmo_hf" / f"{module}.py"):
        assert not name.startswith(("conversion", "elmo_hf")), name
        if name.startswith("."):
            assert level(name[1:]) < level(module), f"{module} imports {name}"


@pytest.mark.parametrize("module", [name for name in MODULES if name.endswith("_elmo")])
def test_hub_files_import_the_stack_and_each_other_only(module):
    file = ROOT / "elmo_hf" / f"{module}.py"
    # What transformers makes users install: all but the imports inside `try`.
    assert OPTIONAL_PACKAGES.isdisjoint(get_imports(file))
    for name in imports(file):
        package = name.split(".")[0]
        known = package in HUB_PACKAGES | OPTIONAL_PACKAGES | sys.stdlib_module_names
        assert known or (name.startswith(".") and name.endswith("_elmo")), name


@pytest.mark.parametrize(
    "entry",
    [
        "heads_elmo",
        "pipeline_elmo",
        "modeling_elmo",
        "language_model_elmo",
        "tokenization_elmo",
        "configuration_elmo",
    ],
)
def test_entries_of_remote_code_import_all_they_need_directly(entry):
    # Early transformers 5 copies an entry's direct imports from a local folder, and no others.
    def siblings(module):
        names = imports(ROOT / "elmo_hf" / f"{module}.py")
        return {name[1:] for name in names if name.startswith(".")}

    needed, direct = set(), siblings(entry)
    for module in direct:
        needed |= siblings(module)
    assert needed <= direct


def test_files_and_functions_stay_readable():
    for path in (*ROOT.glob("elmo_hf/*.py"), *ROOT.glob("conversion/*.py")):
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 500, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                lines = node.end_lineno - node.lineno + 1
                doc = (ast.get_docstring(node, clean=False) or "").count("\n")
                assert lines - doc <= 60, f"{path.name}: {node.name}"
