"""Exported parameters: flat, readable, the same bytes for the same run."""

import numpy as np
import pytest
import tiny
from safetensors import safe_open
from safetensors.numpy import load_file

from mmjax import loop
from mmjax.errors import InputError
from mmjax.experiment import load
from mmjax.export import export, flatten, readable_name
from mmjax.run_folder import RunFolder


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    loop.run(load(tiny.write(folder)), folder / "run")
    return folder / "run"


def test_export_holds_the_runs_parameters_by_readable_names(run_dir, tmp_path):
    num_arrays, num_parameters, step = export(run_dir, tmp_path / "out.safetensors")
    arrays = load_file(tmp_path / "out.safetensors")
    assert step == 4 and num_arrays == len(arrays) and num_parameters == sum(a.size for a in arrays.values())
    assert {
        "encoders.text.table",
        "encoders.image.stem.linear.kernel",
        "objectives.pairs.log_scale",
    } <= arrays.keys()
    _, state = loop.restore(run_dir)
    expected = dict(flatten(state.params))
    assert arrays.keys() == expected.keys()
    assert all((arrays[name] == np.asarray(expected[name])).all() for name in arrays)
    with safe_open(tmp_path / "out.safetensors", "numpy") as file:
        assert file.metadata() == {"mmjax": '{"step": 4}'}


def test_same_parameters_give_the_same_bytes(run_dir, tmp_path):
    for name in ("a", "b"):
        export(run_dir, tmp_path / f"{name}.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_export_of_an_earlier_step(run_dir, tmp_path):
    assert export(run_dir, tmp_path / "early.safetensors", step=2)[2] == 2
    export(run_dir, tmp_path / "late.safetensors")
    early, late = (load_file(tmp_path / f"{name}.safetensors") for name in ("early", "late"))
    assert any((early[name] != late[name]).any() for name in early)


def test_export_refuses(run_dir, tmp_path):
    with pytest.raises(InputError, match=r"expected a checkpoint of step 3 in .*, found \[2, 4\]"):
        export(run_dir, tmp_path / "x.safetensors", step=3)
    with pytest.raises(InputError, match="expected a file name that ends in .safetensors, found"):
        export(run_dir, tmp_path / "x.bin")
    with pytest.raises(InputError, match="expected to write .*, found that it cannot be written"):
        export(run_dir, tmp_path / "nosuch" / "x.safetensors")
    RunFolder.claim(tmp_path / "new", "Experiment()\n").close()
    with pytest.raises(InputError, match="expected a checkpoint in .*, found none yet"):
        export(tmp_path / "new", tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (("model", "encoders_image", "trunk", "layers", "kernel"), "encoders.image.trunk.layers.kernel"),
        (("model", "fusion", "text_0_cross", "kernel"), "fusion.text_0_cross.kernel"),
        (("model", "heads_image_text", "bias"), "heads.image_text.bias"),
        (("objectives_a_b", "log_scale"), "objectives.a_b.log_scale"),
    ],
)
def test_readable_names(path, name):
    assert readable_name(path) == name
