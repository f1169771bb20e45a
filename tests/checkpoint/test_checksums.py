"""Damaged checkpoints are detected without JAX, and `mmjax checkpoints` lists every kind of damage."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmjax.checkpoint import checksums
from mmjax.checkpoint.checksums import (
    CHECKSUM_FILE,
    find_fault,
    list_checkpoints,
    list_unfinished,
    write_checksums,
)  # fmt: skip
from mmjax.checkpoint.manager import Checkpoints
from mmjax.cli.main import main


def make_step(folder: Path, step: int) -> Path:
    """A checkpoint of a few bytes in Orbax's layout, with checksums."""
    path = folder / str(step)
    for name, content in (
        ("state/d/data", bytes(range(200))),
        ("state/manifest", b"{}"),
        ("about/metadata", b"{}"),
    ):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    write_checksums(path)
    (path / "_CHECKPOINT_METADATA").write_text("{}")  # has no checksum, because Orbax completes it later
    return path


@pytest.fixture
def run_dir(tmp_path) -> Path:
    """A run with checkpoints of steps 2 and 10, and an interrupted save."""
    (tmp_path / "experiment.txt").write_text("Experiment()")
    for step in (2, 10):
        make_step(tmp_path / "checkpoints", step)
    (tmp_path / "checkpoints" / "12.orbax-checkpoint-tmp").mkdir()
    return tmp_path


def flip(path: Path) -> None:
    content = bytearray((path / "state/d/data").read_bytes())
    content[100] ^= 1
    (path / "state/d/data").write_bytes(content)


def empty(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def overwrite_checksums(content: bytes):
    return lambda path: (path / CHECKSUM_FILE).write_bytes(content)


# {damage: (function that causes it, message, whether detecting it requires reading the files)}
DAMAGE = {
    "flipped": (flip, "changed: state/d/data", True),
    "truncated": (lambda path: os.truncate(path / "state/d/data", 7), "changed: state/d/data", True),
    "added": (lambda path: (path / "state/d/more").touch(), "without a checksum: state/d/more", True),
    "file missing": (lambda path: (path / "state/manifest").unlink(), "missing: state/manifest", False),
    "item missing": (
        lambda path: shutil.rmtree(path / "state"), "missing: state/d/data, state/manifest", False,
    ),
    "empty": (empty, "an empty folder: it was never finished, or files were deleted", False),
    "checksums missing": (
        lambda path: (path / CHECKSUM_FILE).unlink(), "no sha256.json: it was never finished", False,
    ),
    "checksums empty": (overwrite_checksums(b"{}"), "its list of checksums is empty", False),
    "checksums a list": (overwrite_checksums(b"[1]"), "its list of checksums is empty", False),
    "checksums truncated": (overwrite_checksums(b'{"state'), "JSONDecodeError", False),
    "checksums not UTF-8": (overwrite_checksums(b"\xff\xfe"), "UnicodeDecodeError", False),
}  # fmt: skip


def test_undamaged_checkpoints_have_no_fault(run_dir):
    for verify in (False, True):
        found = list_checkpoints(run_dir / "checkpoints", verify=verify)
        assert [(info.step, info.fault) for info in found] == [(2, None), (10, None)]
    files = [file for file in (run_dir / "checkpoints" / "2").rglob("*") if file.is_file()]
    assert found[0].num_bytes == sum(len(file.read_bytes()) for file in files)
    assert list_unfinished(run_dir / "checkpoints") == ["12.orbax-checkpoint-tmp"]


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(run_dir, name):
    damage, message, needs_reading = DAMAGE[name]
    path = run_dir / "checkpoints" / "10"
    damage(path)
    assert message in find_fault(path)
    assert find_fault(path.with_name("2")) is None
    assert (find_fault(path, verify=False) is None) == needs_reading


def test_a_missing_folder_has_no_checkpoints(tmp_path):
    assert list_checkpoints(tmp_path / "nosuch", verify=True) == [] == list_unfinished(tmp_path / "nosuch")


def test_a_checkpoint_deleted_during_the_listing_is_left_out(run_dir, monkeypatch):
    def delete_first(path, **_):
        if path.name == "2":
            shutil.rmtree(path)
            raise FileNotFoundError(path)

    monkeypatch.setattr(checksums, "find_fault", delete_first)
    assert [info.step for info in list_checkpoints(run_dir / "checkpoints", verify=True)] == [10]


@pytest.fixture
def saved(tmp_path) -> Path:
    """A run with real checkpoints of steps 2 and 10."""
    (tmp_path / "experiment.txt").write_text("Experiment()")
    with contextlib.closing(Checkpoints(tmp_path / "checkpoints")) as checkpoints:
        for step in (2, 10):
            checkpoints.save(step, {"step": np.int32(step), "params": {"x": np.arange(6.0)}})
    return tmp_path


def largest_file(folder: Path) -> Path:
    return max((f for f in (folder / "state").rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def test_listing_shows_each_checkpoint_and_unfinished_saves(saved, capsys):
    (saved / "checkpoints" / "12.orbax-checkpoint-tmp").mkdir()
    (saved / "checkpoints" / "10 copy").mkdir()
    assert main(["checkpoints", str(saved)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["step", "2", "10", "unfinished:"]
    assert all(line.endswith("complete (--verify reads the files)") for line in lines[1:3])
    assert main(["checkpoints", str(saved), "--verify"]) == 0
    assert capsys.readouterr().out.count("verified") == 2


def test_listing_of_a_run_without_checkpoints_is_one_line(tmp_path, capsys):
    (tmp_path / "experiment.txt").write_text("Experiment()")
    for options in ([], ["--verify"]):
        assert main(["checkpoints", str(tmp_path), *options]) == 0
        assert capsys.readouterr().out == "no checkpoints yet\n"


def test_listing_of_damage_names_the_step_that_training_would_resume_from(saved, capsys):
    file = largest_file(saved / "checkpoints" / "10")
    os.truncate(file, 7)
    assert main(["checkpoints", str(saved)]) == 0
    capsys.readouterr()
    assert main(["checkpoints", str(saved), "--verify"]) == 2
    captured = capsys.readouterr()
    assert f"DAMAGED: changed: {file.relative_to(saved / 'checkpoints' / '10')}" in captured.out
    assert "found damage in step 10: training and eval would use step 2" in captured.err
    empty(saved / "checkpoints" / "2")
    assert main(["checkpoints", str(saved), "--verify"]) == 2
    assert "found damage in step 2, 10: no other is left" in capsys.readouterr().err


def test_listing_as_json(saved, capsys):
    os.truncate(largest_file(saved / "checkpoints" / "10"), 7)
    assert main(["checkpoints", str(saved), "--verify", "--json"]) == 2
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["verified"] is True and printed["unfinished"] == []
    assert [c["step"] for c in printed["checkpoints"]] == [2, 10]
    assert printed["checkpoints"][0]["fault"] is None
    assert printed["checkpoints"][1]["fault"].startswith("changed: state/")
    assert printed["checkpoints"][0]["num_bytes"] > 200 and printed["checkpoints"][0]["saved"] > 1e9


def test_verified_means_opened(saved, capsys):
    """The checksums of files that were never complete are right, too."""
    step = saved / "checkpoints" / "10"
    largest_file(step).unlink()
    write_checksums(step)
    assert main(["checkpoints", str(saved), "--verify"]) == 2
    assert "DAMAGED: it cannot be opened: " in capsys.readouterr().out


@pytest.mark.parametrize("make", [shutil.copytree, lambda old, new: new.symlink_to(old)])
def test_a_copy_under_the_name_of_another_step_is_not_that_step(saved, make, capsys):
    make(saved / "checkpoints" / "10", saved / "checkpoints" / "99")
    assert main(["checkpoints", str(saved), "--verify"]) == 2
    assert "DAMAGED: it holds step 10: the folder was copied or renamed" in capsys.readouterr().out


def test_files_beside_orbaxs_own_are_no_damage(run_dir):
    step = run_dir / "checkpoints" / "10"
    for name in ("notes.txt", "state/README", "state/.DS_Store", "state/d/.nfs0001", "about/x"):
        (step / name).write_text("x")
    assert find_fault(step) is None
    (step / "state" / "_METADATA").write_text("{}")
    assert find_fault(step) == "without a checksum: state/_METADATA"


@pytest.mark.parametrize("name", ["007", "4 copy", "\u0664", "-1", "1e3", "9" * 30, ".hidden"])
def test_other_folders_are_neither_checkpoints_nor_unfinished_saves(run_dir, name):
    shutil.copytree(run_dir / "checkpoints" / "10", run_dir / "checkpoints" / name)
    (run_dir / "checkpoints" / "5").touch()
    assert [info.step for info in list_checkpoints(run_dir / "checkpoints", verify=True)] == [2, 10]
    assert list_unfinished(run_dir / "checkpoints") == ["12.orbax-checkpoint-tmp"]


def test_listing_rejects_a_folder_without_a_run(tmp_path, capsys):
    assert main(["checkpoints", str(tmp_path)]) == 2
    assert "expected the folder of a run" in capsys.readouterr().err


def test_listing_needs_neither_jax_nor_numpy(run_dir):
    program = (
        "import sys; from mmjax.cli.main import main; code = main(sys.argv[1:]); "
        "print(code, sorted({'jax', 'numpy', 'orbax', 'flax'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program, "checkpoints", str(run_dir)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr
