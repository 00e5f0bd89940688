"""A missing optional package gives one line that says what to type."""

import sys
from pathlib import Path

import pytest

from elmo_hf import extras
from elmo_hf.conversion.convert import convert
from elmo_hf.conversion.tables import WeightsError
from elmo_hf.extras import MissingExtraError, install_command, require

ROOT = Path(__file__).parents[2]


def test_an_installed_package_is_imported():
    assert require("json", "convert").dumps([]) == "[]"
    assert require("json.decoder", "convert").JSONDecoder


@pytest.mark.parametrize("package", ["no_such_package", "no_such_package.part"])
def test_a_missing_package_names_the_command_that_installs_it(package):
    with pytest.raises(MissingExtraError) as caught:
        require(package, "convert")
    assert str(caught.value) == (
        "the package no_such_package is not installed; install it with: pip install -e '.[convert]'"
    )
    assert caught.value.name == "no_such_package"


def test_beside_an_installed_wheel_the_command_names_the_project(tmp_path, monkeypatch):
    monkeypatch.setattr(extras, "ROOT", tmp_path)
    assert install_command("train") == "pip install 'elmo-hf[train]'"


def test_a_package_that_lacks_its_own_dependency_says_which(tmp_path, monkeypatch):
    (tmp_path / "needs_another.py").write_text("import no_such_dependency")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency") as caught:
        require("needs_another", "convert")
    assert not isinstance(caught.value, MissingExtraError)


def test_without_h5py_a_conversion_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "options.json").write_text('{"lstm": {}}')
    (tmp_path / "weights.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(MissingExtraError, match=r"h5py .*pip install -e '\.\[convert\]'$"):
        convert(tmp_path, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()
    assert not issubclass(WeightsError, ImportError)
