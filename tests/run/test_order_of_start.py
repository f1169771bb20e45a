"""A start refuses what is cheap first: fields, missing data, shapes, the folder, the data; then compiles."""

import os

import pytest
import tiny

import mmjax
from mmjax.cli.main import main
from mmjax.errors import InputError
from mmjax.experiment import override
from mmjax.run import loop


def fail(*_, **__):
    raise AssertionError("this comes later")


def test_a_vocabulary_of_another_size_is_refused_before_anything_compiles(tmp_path, monkeypatch, capsys):
    file = tiny.write(tmp_path)
    file.write_text(file.read_text().replace("vocab_size=41", "vocab_size=30"))
    monkeypatch.setattr(loop.Session, "new_state", fail)
    assert main(["train", str(file), "--run-dir", str(tmp_path / "run")]) == 2
    assert "Put vocab_size=31" in capsys.readouterr().err


def test_missing_data_are_refused_before_shapes_are_traced(tmp_path, monkeypatch):
    experiment = mmjax.load(tiny.write(tmp_path))
    (tmp_path / "colours.npz").unlink()
    monkeypatch.setattr(loop.Session, "of", fail)
    with pytest.raises(InputError, match="expected data at .*colours.npz, found none"):
        mmjax.train(experiment, tmp_path / "run")
    assert sorted(os.listdir(tmp_path)) == ["tiny.py"]  # no folder is left behind


def test_an_impossible_mesh_is_refused_before_data_are_looked_for(tmp_path):
    experiment = override(mmjax.load(tiny.write(tmp_path)), "mesh.fsdp=3")
    (tmp_path / "colours.npz").unlink()
    with pytest.raises(InputError, match="devices and JAX sees"):
        mmjax.train(experiment, tmp_path / "run")
