"""A start refuses what is cheap first: fields, missing data, shapes, the folder, the data; then compiles."""

import dataclasses
import logging
import os

import pytest
import tiny

import mmjax
from mmjax import data
from mmjax.cli.main import main
from mmjax.errors import InputError
from mmjax.experiment import override
from mmjax.run import loop
from mmjax.run.data_checks import check_data


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


def test_the_log_shows_the_share_of_records_that_has_each_stream(tmp_path, caplog):
    transform = 'data.ImageTransform("image", size=(8, 8)'
    optional = {f"{transform})": f"{transform}, optional=True)"}
    experiment = mmjax.load(tiny.write(tmp_path, optional))
    _, dataset = experiment.data.datasets["colours"]
    records = [dict(dataset.source.open()[n]) for n in range(8)]
    del records[0]["image"], records[1]["image"]
    columns = {name: [record.get(name) for record in records] for name in ("image", "text")}
    fewer = dataclasses.replace(dataset, source=data.Arrays(columns))
    mixture = dataclasses.replace(experiment.data, datasets={"colours": (1.0, fewer)})
    with caplog.at_level(logging.INFO):
        check_data(dataclasses.replace(experiment, data=mixture))
    shares = [message for message in caplog.messages if "looked at" in message]
    assert shares == [
        "the dataset 'colours': 8 records; 8 looked at: image 75 %, text 100 %",
        "the data of eval 'retrieval': 8 records; 8 looked at: image 100 %, text 100 %",
    ]
