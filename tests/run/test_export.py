"""Exported parameters have flat, readable names, and the same parameters give the same bytes."""

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from mmjax.checkpoint.manager import Checkpoints
from mmjax.errors import InputError
from mmjax.run.export import export, readable_name
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
