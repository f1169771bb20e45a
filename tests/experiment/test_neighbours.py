"""An experiment file imports the modules beside it, as `python experiment.py` would."""

import sys

import pytest
import tiny

from mmjax.errors import InputError
from mmjax.experiment import load


def write(folder, name: str, module: str = "common"):
    folder.mkdir()
    (folder / f"{module}.py").write_text(f"NAME = {name!r}\n")
    replaced = {'name="tiny"': "name=NAME", "WIDTH = 16": f"from {module} import NAME\nWIDTH = 16"}
    return tiny.write(folder, replaced)


def test_neighbours_of_one_name_are_told_apart_and_the_path_is_restored(tmp_path):
    before = list(sys.path)
    first, second = write(tmp_path / "a", "one"), write(tmp_path / "b", "two")
    assert [load(first).name, load(second).name, load(first).name] == ["one", "two", "one"]
    assert sys.path == before


def test_a_changed_neighbour_is_read_again(tmp_path):
    file = write(tmp_path / "a", "one")
    assert load(file).name == "one"
    (tmp_path / "a" / "common.py").write_text("NAME = 'three'\n")
    assert load(file).name == "three"


def test_a_package_beside_the_file(tmp_path):
    file = write(tmp_path / "a", "one", "parts")
    (tmp_path / "a" / "parts.py").unlink()
    (tmp_path / "a" / "parts").mkdir()
    (tmp_path / "a" / "parts" / "__init__.py").write_text("from parts.names import NAME\n")
    (tmp_path / "a" / "parts" / "names.py").write_text("NAME = 'inner'\n")
    assert load(file).name == "inner"


def test_the_path_is_restored_after_an_error(tmp_path):
    before = list(sys.path)
    (tmp_path / "mine.py").write_text("import nosuch_module\n")
    with pytest.raises(InputError, match="line 1: ModuleNotFoundError: No module named 'nosuch_module'"):
        load(tmp_path / "mine.py")
    assert sys.path == before


def test_modules_that_are_no_neighbours_stay(tmp_path):
    """Neither mmjax's modules nor those of the Python installation are imported twice."""
    import mmjax.data

    file = write(tmp_path / "a", "one")
    kept = sys.modules["mmjax.data"], sys.modules["json"]
    load(file), load(file)
    assert (sys.modules["mmjax.data"], sys.modules["json"]) == kept
    assert mmjax.data is kept[0]
