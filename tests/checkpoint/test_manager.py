"""Checkpoints restore exactly, damaged ones are skipped, and saves do not disturb training."""

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mmjax.checkpoint import manager
from mmjax.checkpoint.checksums import CHECKSUM_FILE
from mmjax.checkpoint.manager import Checkpoints
from mmjax.checkpoint.readback import Expected, find_fault, list_verified
from mmjax.checkpoint.retention import RetentionPolicy
from mmjax.errors import InputError


def make_state(step: int) -> dict:
    params = {
        "table": jnp.arange(64.0).reshape(8, 8) + step,
        "half": {"bias": jnp.full(3, step, jnp.bfloat16)},
    }
    return {
        "step": jnp.int32(step),
        "params": params,
        "opt_state": optax.adamw(1e-3).init(params),
        "key": jax.random.key_data(jax.random.key(step)),
    }


def abstract(state: dict) -> dict:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def equal(left: dict, right: dict) -> bool:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    return all(
        jax.tree.leaves(jax.tree.map(lambda x, y: bool((np.asarray(x) == np.asarray(y)).all()), left, right))
    )


@pytest.fixture
def saved(tmp_path):
    """Checkpoints of steps 1 to 3, of which the newest two are kept."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", experiment="the text")
    for step in (1, 2, 3):
        checkpoints.save(step, make_state(step))
    checkpoints.wait()
    yield checkpoints
    checkpoints.close()


def flip_a_bit(folder) -> str:
    """Flips a bit in the largest file of a step's state; returns the file's name."""
    file = max((f for f in (folder / "state").rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return file.name


def test_restores_the_newest_exactly(saved):
    assert saved.steps() == [2, 3]
    assert equal(saved.restore(abstract(make_state(0))), make_state(3))
    assert equal(saved.restore(abstract(make_state(0)), step=2), make_state(2))
    about = json.loads((saved.folder / "3" / "about" / "metadata").read_text())
    assert about == {"step": 3, "data_position": 3, "experiment": "the text"}


def test_restores_none_before_the_first_save(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.steps() == [] and checkpoints.restore(abstract(make_state(0))) is None
    checkpoints.close()


def test_donated_buffers_do_not_change_a_save_in_progress(tmp_path):
    """`save` writes the state at the call, although training continues while files are written."""
    advance = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path / "checkpoints", retention=RetentionPolicy(max_to_keep=10))
    state = {"x": jnp.zeros((256, 256))}
    for step in range(5):
        checkpoints.save(step, state)
        state = advance(advance(state))
    checkpoints.wait()
    for step in range(5):
        assert float(checkpoints.restore(abstract(state), step=step)["x"].max()) == 2 * step
    checkpoints.close()


def test_a_flipped_bit_restores_the_step_before_with_a_warning(saved, caplog):
    name = flip_a_bit(saved.folder / "3")
    with caplog.at_level(logging.WARNING, "mmjax"):
        assert equal(saved.restore(abstract(make_state(0))), make_state(2))
    assert "checkpoint 3 is damaged (changed: state/" in caplog.text and name in caplog.text
    with pytest.raises(
        InputError, match="expected an undamaged checkpoint in .* found step 3: changed: state/"
    ):
        saved.restore(abstract(make_state(0)), step=3)


@pytest.mark.parametrize("damage", ["truncate", "remove", "remove checksums", "corrupt checksums"])
def test_other_damage_restores_the_step_before(saved, damage):
    folder = saved.folder / "3"
    file = max((f for f in (folder / "state").rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    if damage == "truncate":
        os.truncate(file, 10)
    elif damage == "remove":
        file.unlink()
    elif damage == "remove checksums":
        (folder / CHECKSUM_FILE).unlink()
    else:
        (folder / CHECKSUM_FILE).write_text("{")
    assert equal(saved.restore(abstract(make_state(0))), make_state(2))


def test_a_save_writes_no_checksums_for_another_step(saved):
    """A committed step without checksums is damaged, and must stay recognisable as such."""
    (saved.folder / "3" / CHECKSUM_FILE).unlink()
    saved.save(4, make_state(4))
    saved.wait()
    assert (saved.folder / "4" / CHECKSUM_FILE).exists() and not (saved.folder / "3" / CHECKSUM_FILE).exists()
    assert equal(saved.restore(abstract(make_state(0))), make_state(4))
    with pytest.raises(InputError, match="found step 3: no sha256.json"):
        saved.restore(abstract(make_state(0)), step=3)


def test_an_empty_step_folder_is_skipped_and_replaced(saved):
    (saved.folder / "9").mkdir()
    reopened = Checkpoints(saved.folder)
    assert reopened.steps() == [2, 3, 9]
    assert equal(reopened.restore(abstract(make_state(0))), make_state(3))
    reopened.save(9, make_state(9))
    reopened.wait()
    assert equal(reopened.restore(abstract(make_state(0))), make_state(9))
    reopened.close()


@pytest.mark.parametrize("name", ["lr[1e-3]", "a*b?", "back\\slash", "gs:", "{x}", "line\nbreak", "\udcff"])
def test_folders_of_any_name(tmp_path, name):
    """Orbax alone writes to "lr[1e-3]" and "a*b" what nobody can read, or reads files of a neighbour."""
    for neighbour in (tmp_path / "aXbY", tmp_path / name):
        with contextlib.closing(Checkpoints(neighbour / "checkpoints")) as checkpoints:
            for step in (1, 2, 3):
                checkpoints.save(step, make_state(step))
    (tmp_path / name / "checkpoints" / "4.orbax-checkpoint-tmp").mkdir()
    with contextlib.closing(Checkpoints(tmp_path / name / "checkpoints")) as checkpoints:
        assert checkpoints.steps() == [2, 3]
        assert equal(checkpoints.restore(abstract(make_state(0)), step=2), make_state(2))
        checkpoints.save(3, make_state(30))  # deletes the old one
    assert [(info.step, info.fault) for info in list_verified(checkpoints.folder)] == [(2, None), (3, None)]
    assert sorted(os.listdir(checkpoints.folder)) == ["2", "3"] and checkpoints.folder.parent.name == name


@pytest.mark.parametrize("damage", ["lost arrays", "another value", "another shape"])
def test_what_does_not_read_back_is_not_saved(saved, monkeypatch, damage):
    """The save ends with an error, nothing is committed, and the checkpoints before it are kept."""
    if damage == "lost arrays":  # as Orbax loses them in folders with special characters
        monkeypatch.setattr(manager, "find_fault", lose_arrays)
    else:
        made = make_state(4)
        table = made["params"]["table"]
        other = {"another value": made | {"step": jnp.int32(5)}, "another shape": made | {"params": table}}
        expected = Expected.of(4, other[damage])
        monkeypatch.setattr(Expected, "of", lambda *_: expected)
    saved.save(4, make_state(4))
    with pytest.raises(InputError, match="expected to save step 4 in .* does not read back: "):
        saved.wait()
    monkeypatch.undo()
    assert [(info.step, info.fault) for info in list_verified(saved.folder)] == [(2, None), (3, None)]
    with contextlib.closing(Checkpoints(saved.folder)) as reopened:
        assert equal(reopened.restore(abstract(make_state(0))), make_state(3))


def lose_arrays(folder, *args):
    for name in ("d", "manifest.ocdbt"):
        path = folder / "state" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return find_fault(folder, *args)


def test_a_link_to_a_checkpoint_is_never_deleted_through(saved, tmp_path):
    outside = shutil.copytree(saved.folder / "3", tmp_path / "outside" / "3")
    (saved.folder / "5").symlink_to(outside)
    with contextlib.closing(Checkpoints(saved.folder)) as checkpoints:
        checkpoints.restore(abstract(make_state(0)))  # 5 holds step 3
        for step in (4, 5, 6, 7):
            checkpoints.save(step, make_state(step))
    assert [info.step for info in list_verified(saved.folder) if not info.fault] == [6, 7]
    assert (outside / "state").is_dir()


def test_reading_logs_no_warning(saved, caplog):
    with contextlib.closing(Checkpoints(saved.folder, read_only=True)) as reader:
        reader.restore(abstract(make_state(0)))
    assert caplog.text == ""


def test_max_step_ignores_newer_checkpoints(saved):
    assert equal(saved.restore(abstract(make_state(0)), max_step=2), make_state(2))
    assert saved.restore(abstract(make_state(0)), max_step=1) is None
    flip_a_bit(saved.folder / "2")
    with pytest.raises(InputError, match="found step 2: changed"):
        saved.restore(abstract(make_state(0)), max_step=2)


def test_restoring_fails_if_all_checkpoints_are_damaged(saved):
    for step in (2, 3):
        flip_a_bit(saved.folder / str(step))
    with pytest.raises(InputError, match="found step 3: .*; step 2: "):
        saved.restore(abstract(make_state(0)))


def test_resuming_before_a_damaged_step_replaces_it(saved, caplog):
    flip_a_bit(saved.folder / "3")
    saved.restore(abstract(make_state(0)))
    with caplog.at_level(logging.WARNING, "mmjax"):
        assert saved.save(3, make_state(30))
    assert "deleting checkpoint 3" in caplog.text
    saved.wait()
    assert equal(saved.restore(abstract(make_state(0))), make_state(30))


def test_saving_the_restored_step_again_does_nothing(saved):
    saved.restore(abstract(make_state(0)))
    assert not saved.save(3, make_state(99))
    assert equal(saved.restore(abstract(make_state(0))), make_state(3))


def test_restoring_an_unknown_step_fails(saved):
    with pytest.raises(InputError, match=r"expected a checkpoint of step 7 in .*, found \[2, 3\]"):
        saved.restore(abstract(make_state(0)), step=7)


def test_other_shapes_fail_without_trying_older_steps(saved):
    state = make_state(0)
    state["params"]["extra"] = jnp.zeros(3)
    with pytest.raises(InputError, match="checkpoint 3 .* is undamaged, but does not fit the experiment"):
        saved.restore(abstract(state))


def test_restores_onto_another_mesh(saved):
    mesh = jax.make_mesh((len(jax.devices()),), ("fsdp",), axis_types=(AxisType.Auto,))
    target = abstract(make_state(0))
    split = NamedSharding(mesh, PartitionSpec("fsdp"))
    whole = NamedSharding(mesh, PartitionSpec())
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=split if x.shape == (8, 8) else whole),
        target,
    )
    restored = saved.restore(target)
    assert restored["params"]["table"].sharding == split
    assert equal(restored, make_state(3))


def test_restores_numpy_arrays_without_an_abstract_state(saved):
    reader = Checkpoints(saved.folder, read_only=True)
    arrays = reader.restore_arrays()
    assert isinstance(arrays["params"]["table"], np.ndarray)
    assert equal(arrays["params"], jax.tree.map(np.asarray, make_state(3)["params"]))
    reader.close()


def test_save_and_restore_under_the_loops_transfer_guard(tmp_path):
    state = make_state(1)
    with jax.transfer_guard("disallow"):
        checkpoints = Checkpoints(tmp_path / "checkpoints")
        checkpoints.save(1, state)
        checkpoints.wait()
        restored = checkpoints.restore(abstract(state))
        checkpoints.close()
    assert equal(restored, state)


KILLED = """
import sys, jax.numpy as jnp
from mmjax.checkpoint.manager import Checkpoints
checkpoints = Checkpoints(sys.argv[1])
for step in range(1, 1000):
    checkpoints.save(step, {"x": jnp.full((1024, 1024), step, jnp.float32), "step": jnp.int32(step)})
    print(step, flush=True)
"""


def test_after_a_kill_during_a_save_the_newest_committed_step_restores(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "checkpoints")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 4:  # step 4 is being written, step 3 is committed
                process.send_signal(signal.SIGKILL)
                break
    time.sleep(0.1)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    state = {"x": jnp.zeros((1024, 1024)), "step": jnp.int32(0)}
    restored = checkpoints.restore(abstract(state))
    assert int(restored["step"]) in (3, 4, 5)
    assert (np.asarray(restored["x"]) == float(restored["step"])).all()
    assert not list((tmp_path / "checkpoints").glob("*tmp*"))
    checkpoints.close()
