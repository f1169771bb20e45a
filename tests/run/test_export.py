"""Exported parameters have flat, readable names, and the same parameters give the same bytes."""

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from mmjax.checkpoint.manager import Checkpoints
from mmjax.cli.main import main
from mmjax.errors import InputError
from mmjax.run.export import export, readable_name, save_parameters
from mmjax.run.folder import RunFolder


def make_state(step: int) -> dict:
    model = {"encoders_image": {"trunk": {"kernel": jnp.full((2, 3), step, jnp.float32)}}}
    params = {"model": model, "objectives_pairs": {"log_scale": jnp.float32(step)}}
    return {"step": jnp.int32(step), "params": params, "opt_state": (jnp.zeros(3),)}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run with checkpoints of steps 2 and 4."""
    path = tmp_path_factory.mktemp("export") / "run"
    with RunFolder.claim(path, "Experiment()\n") as folder:
        checkpoints = Checkpoints(folder.checkpoints)
        for step in (2, 4):
            checkpoints.save(step, make_state(step))
        checkpoints.close()
    return path


def test_export_writes_the_parameters_under_readable_names(run_dir, tmp_path):
    assert export(run_dir, tmp_path / "out.safetensors") == (2, 7, 4)
    arrays = load_file(tmp_path / "out.safetensors")
    assert sorted(arrays) == ["encoders.image.trunk.kernel", "objectives.pairs.log_scale"]
    assert (arrays["encoders.image.trunk.kernel"] == np.full((2, 3), 4)).all()
    with safe_open(tmp_path / "out.safetensors", "numpy") as file:
        assert file.metadata() == {"mmjax": '{"step": 4}'}


def test_same_parameters_give_the_same_bytes(run_dir, tmp_path):
    for name in ("a", "b"):
        export(run_dir, tmp_path / f"{name}.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_export_of_an_earlier_step(run_dir, tmp_path):
    assert export(run_dir, tmp_path / "early.safetensors", step=2)[2] == 2
    assert load_file(tmp_path / "early.safetensors")["objectives.pairs.log_scale"] == 2


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


def test_a_round_trip_keeps_shapes_types_and_values(tmp_path):
    arrays = {
        "scalar": np.float32(1.5),
        "device scalar": jnp.float32(2.5),
        "one": np.ones(1, np.float32),
        "empty": np.zeros((0, 3), np.int32),
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "bfloat16": jnp.arange(4, dtype=jnp.bfloat16),
        "bool": np.array([True, False]),
    }
    save_parameters(arrays, tmp_path / "x.safetensors", 3)
    with safe_open(tmp_path / "x.safetensors", "flax") as file:
        for name, value in arrays.items():
            found = np.asarray(file.get_tensor(name))
            assert found.shape == np.shape(value), name
            np.testing.assert_array_equal(found, value)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.safetensors"]


def test_an_existing_file_is_overwritten_only_with_force(run_dir, tmp_path, capsys):
    file = tmp_path / "thesis.safetensors"
    file.write_text("three years")
    with pytest.raises(InputError, match="expected a new file, found .*thesis.safetensors: choose"):
        export(run_dir, file)
    assert main(["export", str(run_dir), str(file)]) == 2 and file.read_text() == "three years"
    assert main(["export", str(run_dir), str(file), "--force"]) == 0  # as the message says
    assert load_file(file)["objectives.pairs.log_scale"].shape == ()
    export(run_dir, file, overwrite=True)
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(InputError, match="expected a new file"):
        export(run_dir, tmp_path / "folder.safetensors", overwrite=True)


def test_a_failed_export_keeps_the_file_that_is_there(run_dir, tmp_path, monkeypatch):
    def fails(arrays, file, **_):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    export(run_dir, tmp_path / "x.safetensors")
    before = (tmp_path / "x.safetensors").read_bytes()
    monkeypatch.setattr("mmjax.run.export.save_file", fails)
    with pytest.raises(InputError, match="cannot be written: .*No space left"):
        export(run_dir, tmp_path / "x.safetensors", overwrite=True)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [before]


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
