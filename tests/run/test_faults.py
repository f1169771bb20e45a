"""Faults lose no committed checkpoint, and the resumed run ends with the state of an undisturbed run.

Processes are killed with SIGKILL and disks are really full, at random moments; MMJAX_SEED repeats them.
`experiments/benchmarks/reliability.py` makes the table in `docs/reliability.md` from these tests.
"""

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import forks
import jax
import pytest
import tiny

from mmjax.checkpoint import checksums
from mmjax.checkpoint.checksums import CHECKSUM_FILE
from mmjax.errors import InputError
from mmjax.experiment import load
from mmjax.run import loop

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("compilation_cache")]

SEED = int(os.environ.get("MMJAX_SEED") or random.SystemRandom().randrange(2**32))
NUM_KILLS = 20
# One text encoder with masked-language modelling: the model matters little here.
REPLACEMENTS = {
    **tiny.DROPOUT,
    **tiny.ACCUMULATION,
    **tiny.NO_EVALS,
    "from mmjax import data, encoders, evals, fusion, heads, objectives, training": (
        "from mmjax import data, encoders, fusion, heads, objectives, training, views"
    ),
    '                "image": encoders.ViT(stem=encoders.LinearPatches(patch=(4, 4)), trunk=trunk()),\n': "",
    'heads={{stream: heads.PooledEmbedding(stream, dim=8) for stream in ("image", "text")}},': (
        'heads={{"words": heads.TokenLogits("text", after="encoder")}},'
    ),
    'objectives={{"pairs": objectives.InfoNCE("image", "text")}},': (
        'objectives={{"words": objectives.MaskedLanguage('
        '"words", view=views.MaskTokens("text", vocab={vocab}, rate=0.5))}},'
    ),
}
NUM_STEPS = 80


@pytest.fixture(scope="module")
def mmjax(compilation_cache, tmp_path_factory):
    """Starts `mmjax` processes with one device."""
    parent = forks.Forks(
        tiny.cache_environment() | {"JAX_NUM_CPU_DEVICES": "1"}, tmp_path_factory.mktemp("log")
    )
    yield parent
    parent.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("data"), replace=REPLACEMENTS)


def train_command(file: Path, run_dir: Path) -> list:
    return ["train", file, f"num_steps={NUM_STEPS}", "--run-dir", run_dir]


@pytest.fixture(scope="module")
def reference(mmjax, file, tmp_path_factory) -> Path:
    """An undisturbed run."""
    run_dir = tmp_path_factory.mktemp("reference") / "run"
    code, _, printed = mmjax.run(train_command(file, run_dir), run_dir)
    assert code == 0, printed
    return run_dir


def newest_valid_step(run_dir: Path) -> int:
    """The newest step whose checkpoint has valid checksums; 0 if there is none."""
    found = checksums.list_checkpoints(run_dir / "checkpoints", verify=True)
    return max((entry.step for entry in found if entry.fault is None), default=0)


def assert_same_run(run_dir: Path, reference: Path, num_steps: int = NUM_STEPS) -> None:
    """Asserts bitwise equality of the final state and the same logged losses."""
    state = tiny.read_state(run_dir)
    assert state["step"] == num_steps
    tiny.assert_same_state(state, tiny.read_state(reference))
    rows, expected = (tiny.read_jsonl(d / "metrics.jsonl") for d in (run_dir, reference))
    assert [row["step"] for row in rows] == list(range(1, num_steps + 1))
    assert [row["loss"] for row in rows] == [row["loss"] for row in expected]
    assert checksums.list_unfinished(run_dir / "checkpoints") == []


def test_kill_9_at_random_moments(mmjax, file, reference, tmp_path, record_property):
    """Kills at file operations of any thread, during saves, and between log lines."""
    run_dir, rng, num_killed = tmp_path / "run", random.Random(SEED), 0
    print(f"MMJAX_SEED={SEED}")
    for number in range(NUM_KILLS):
        kind = ("operation", "operation", "saving", "time")[number % 4]
        before, logged = newest_valid_step(run_dir), tiny.num_logged(run_dir)
        if kind == "operation":
            moment = rng.randrange(1, 160)  # a start has about 25 file operations, a step 23
            code, _, printed = mmjax.run(train_command(file, run_dir), run_dir, die_at=moment)
        else:
            moment = rng.uniform(0, 0.05)
            pid = mmjax.start(train_command(file, run_dir), run_dir)
            if kind == "saving":
                assert forks.kill_while_saving(pid, run_dir, moment)
            else:
                while tiny.num_logged(run_dir) <= logged and Path(f"/proc/{pid}").exists():
                    time.sleep(0.001)
                time.sleep(moment)
                os.kill(pid, signal.SIGKILL)
            code, _, printed = mmjax.wait(pid)
        num_killed += code == -signal.SIGKILL
        print(number, kind, moment, "->", code, "newest", newest_valid_step(run_dir), "was", before)
        assert code in (-signal.SIGKILL, 0), printed
        assert newest_valid_step(run_dir) >= before, "a committed checkpoint is lost"
    code, _, printed = mmjax.run(train_command(file, run_dir), run_dir)
    assert code == 0, printed
    assert_same_run(run_dir, reference)
    assert num_killed == NUM_KILLS
    tiny.record_fault(
        record_property, "kill -9 at a random moment, half of them at operations on files", num_killed
    )


def test_sigterm_saves_and_ends_with_75(mmjax, file, reference, tmp_path, record_property):
    run_dir = tmp_path / "run"
    for number in range(3):
        logged = tiny.num_logged(run_dir)
        pid = mmjax.start(train_command(file, run_dir), run_dir)
        while tiny.num_logged(run_dir) <= logged + number:
            time.sleep(0.001)
        os.kill(pid, signal.SIGTERM)
        code, _, printed = mmjax.wait(pid)
        assert code == 75, printed
        assert f"stopped by SIGTERM after step {tiny.num_logged(run_dir)}, which is saved" in printed
        assert newest_valid_step(run_dir) == tiny.num_logged(run_dir), "the step at which it stopped is saved"
    assert mmjax.run(train_command(file, run_dir), run_dir)[0] == 0
    assert_same_run(run_dir, reference)
    tiny.record_fault(record_property, "SIGTERM: saves, exits with 75", 3)


def test_second_process_is_refused_until_the_first_ends(mmjax, file, reference, tmp_path, record_property):
    run_dir = tmp_path / "run"
    first = mmjax.start(train_command(file, run_dir), run_dir)
    while not tiny.num_logged(run_dir):
        time.sleep(0.001)
    code, _, printed = mmjax.run(train_command(file, run_dir), run_dir)
    assert code == 2 and f"another process trains in {run_dir}" in printed
    os.kill(first, signal.SIGKILL)
    assert mmjax.wait(first)[0] == -signal.SIGKILL
    assert mmjax.run(train_command(file, run_dir), run_dir)[0] == 0, "a crash leaves no lock behind"
    assert_same_run(run_dir, reference)
    tiny.record_fault(record_property, "a second process on the run folder; then kill -9 of the first", 1)


@pytest.fixture
def small_disk(tmp_path):
    """(folder, function that mounts a tmpfs there, or remounts it, with options such as "size=100k")."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(options: str, *flags: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, *flags, "tmpfs", str(disk)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"only root can mount a disk: {done.stderr.strip()}")

    yield disk, mount
    subprocess.run(["umount", "--lazy", str(disk)], capture_output=True, check=False)


def test_full_disk(mmjax, file, reference, small_disk, record_property):
    """The disk holds two checkpoints and part of a third."""
    disk, mount = small_disk
    checkpoint_kib = sum(
        f.stat().st_size // 4096 * 4 + 4 for f in newest_checkpoint(reference).rglob("*") if f.is_file()
    )
    mount(f"size={int(2.7 * checkpoint_kib)}k")
    run_dir, before = disk / "run", 2
    for _ in range(2):  # the second run starts on the full disk
        code, _, printed = mmjax.run(train_command(file, run_dir), run_dir)
        assert code == 2 and "No space left on device" in printed, printed[-3000:]
        last_line = printed.splitlines()[-1]  # a save or a log line failed
        assert last_line.startswith("mmjax: ") and str(run_dir) in last_line, printed[-3000:]
        assert "Traceback" not in printed, printed[-3000:]
        assert newest_valid_step(run_dir) >= before
        before = newest_valid_step(run_dir)
    assert before < NUM_STEPS
    mount(f"size={20 * checkpoint_kib}k,remount")
    code, _, printed = mmjax.run(train_command(file, run_dir), run_dir)
    assert code == 0, printed
    assert_same_run(run_dir, reference)
    tiny.record_fault(record_property, "a full disk, twice, then room", 2)


def test_read_only_folder(mmjax, file, reference, small_disk, record_property):
    disk, mount = small_disk
    mount("size=50m")
    run_dir = Path(shutil.copytree(reference, disk / "run"))
    shutil.rmtree(newest_checkpoint(run_dir))
    mount("remount,ro")
    code, _, printed = mmjax.run(train_command(file, run_dir), run_dir)
    assert code == 2 and f"found {run_dir} read-only" in printed
    code, _, printed = mmjax.run(["checkpoints", run_dir, "--verify"], run_dir)
    assert code == 0, printed
    code, _, printed = mmjax.run(["export", run_dir, disk.parent / "out.safetensors"], run_dir)
    assert code == 0, printed
    mount("remount,rw")
    assert mmjax.run(train_command(file, run_dir), run_dir)[0] == 0
    assert_same_run(run_dir, reference)
    tiny.record_fault(record_property, "a read-only folder, then writable", 1)


def test_file_size_limit(mmjax, file, tmp_path, record_property):
    """Setting the limit needs no root. The save fails in Orbax's threads."""
    undisturbed, run_dir = tmp_path / "undisturbed", tmp_path / "run"
    assert mmjax.run(["train", file, "num_steps=8", "--run-dir", undisturbed], undisturbed)[0] == 0
    shutil.copytree(undisturbed, run_dir)
    limit = largest_file(newest_checkpoint(run_dir)).stat().st_size - 1
    shutil.rmtree(newest_checkpoint(run_dir))
    command = ["train", file, "num_steps=8", "--run-dir", run_dir]
    code, _, printed = mmjax.run(command, run_dir, file_limit=limit)
    assert code == 2 and "Earlier checkpoints are intact: free disk space" in printed, printed[-3000:]
    assert newest_valid_step(run_dir) == 6
    code, _, printed = mmjax.run(command, run_dir)
    assert code == 0, printed
    assert_same_run(run_dir, undisturbed, 8)
    tiny.record_fault(record_property, "a quota on the size of files, then none", 1)


def newest_checkpoint(run_dir: Path) -> Path:
    return max(
        (p for p in (run_dir / "checkpoints").iterdir() if p.name.isdecimal()), key=lambda p: int(p.name)
    )


# Damage to files between two runs. These tests train in this process.

NUM_STEPS_DAMAGED = 8


@pytest.fixture(scope="module")
def programs() -> tiny.SharedPrograms:
    return tiny.SharedPrograms()


@pytest.fixture
def resume(file, programs, monkeypatch):
    """A function that resumes the run in a folder up to step NUM_STEPS_DAMAGED."""
    programs.install(monkeypatch)
    experiment = load(file, [f"num_steps={NUM_STEPS_DAMAGED}"])
    return lambda run_dir: loop.run(experiment, run_dir, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def short_reference(file, programs, tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("short") / "run"
    with pytest.MonkeyPatch.context() as patch:
        programs.install(patch)
        loop.run(load(file, [f"num_steps={NUM_STEPS_DAMAGED}"]), run_dir, devices=jax.devices()[:1])
    return run_dir


def largest_file(folder: Path) -> Path:
    return max((f for f in (folder / "state").rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def flip_bit(folder: Path) -> None:
    content = bytearray(largest_file(folder).read_bytes())
    content[random.Random(SEED).randrange(len(content))] ^= 1
    largest_file(folder).write_bytes(content)


def make_empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGE = {
    "a flipped bit": flip_bit,
    "a truncated file": lambda folder: os.truncate(largest_file(folder), 10),
    "an empty file": lambda folder: os.truncate(largest_file(folder), 0),
    "a missing file": lambda folder: largest_file(folder).unlink(),
    "a missing item": lambda folder: shutil.rmtree(folder / "about"),
    "an empty step folder": make_empty,
    "missing checksums": lambda folder: (folder / CHECKSUM_FILE).unlink(),
}


@pytest.mark.parametrize("fault", DAMAGE)
def test_damaged_newest_checkpoint_is_replaced_by_the_one_before(
    resume, short_reference, tmp_path, caplog, fault, record_property
):
    run_dir = Path(shutil.copytree(short_reference, tmp_path / "run"))
    DAMAGE[fault](run_dir / "checkpoints" / "8")
    found = checksums.list_checkpoints(run_dir / "checkpoints", verify=True)
    assert [(entry.step, entry.fault is None) for entry in found] == [(6, True), (8, False)]
    resume(run_dir)
    assert f"checkpoint 8 is damaged ({found[1].fault}); trying the next older one" in caplog.text
    assert "deleting checkpoint 8: training resumes from an earlier step" in caplog.text
    assert_same_run(run_dir, short_reference, NUM_STEPS_DAMAGED)
    tiny.record_fault(record_property, f"{fault} in the newest checkpoint", 1)


def test_run_with_only_damaged_checkpoints_is_refused_and_left_unchanged(resume, short_reference, tmp_path):
    run_dir = Path(shutil.copytree(short_reference, tmp_path / "run"))
    for step in (6, 8):
        flip_bit(run_dir / "checkpoints" / str(step))
    before = {file: file.read_bytes() for file in run_dir.rglob("*") if file.is_file()}
    with pytest.raises(InputError, match="expected an undamaged checkpoint .* found step 8: .*; step 6: "):
        resume(run_dir)
    assert {file: file.read_bytes() for file in run_dir.rglob("*") if file.is_file()} == before
