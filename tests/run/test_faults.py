"""Whatever happens to a run, no checkpoint that was committed is lost, and its end is that of one left alone.

Processes are killed for good, disks are full for good. The moments are random; MMJAX_SEED repeats them.
`docs/reliability.md` shows the table that `experiments/benchmarks/reliability.py` makes of these tests.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import forks
import jax
import numpy as np
import pytest
import tiny

from mmjax.checkpoint import checksums
from mmjax.checkpoint.checksums import CHECKSUM_FILE
from mmjax.checkpoint.manager import Checkpoints
from mmjax.errors import InputError
from mmjax.experiment import load
from mmjax.run import loop

pytestmark = pytest.mark.once

SEED = int(os.environ.get("MMJAX_SEED") or random.SystemRandom().randrange(2**32))
NUM_KILLS = 20
# One tower that reads hidden words: what is tested is the run around it.
CHANGES = {
    "from mmjax import data, encoders, evals, fusion, heads, objectives, train": (
        "from mmjax import data, encoders, fusion, heads, objectives, train, views"
    ),
    "mlp_width=2 * WIDTH)": "mlp_width=2 * WIDTH, dropout=0.2, scan=False)",
    "trunk(depth=2)": "trunk()",
    '                "image": encoders.ViT(stem=encoders.LinearPatches(patch=(4, 4)), trunk=trunk()),\n': "",
    'heads={{stream: heads.PooledEmbedding(stream, dim=8) for stream in ("image", "text")}},': (
        'heads={{"words": heads.TokenLogits("text", after="encoder")}},'
    ),
    'objectives={{"pairs": objectives.InfoNCE("image", "text")}},': (
        'objectives={{"words": objectives.MaskedLanguage('
        '"words", view=views.MaskTokens("text", vocab={vocab}, rate=0.5))}},'
    ),
    "peak_learning_rate=1e-3": "peak_learning_rate=1e-2, accumulation_steps=2",
    'evals={{"retrieval": evals.Retrieval(data=dataset(), heads=("image", "text"), batch_size=8)}},': "",
}
NUM_STEPS = 80


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """A folder of compiled programs, for this process and those that it starts."""
    yield from tiny.compilation_cache(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="module")
def mmjax(tmp_path_factory):
    """Starts processes on one device."""
    parent = forks.Forks(
        tiny.cache_environment() | {"JAX_NUM_CPU_DEVICES": "1"}, tmp_path_factory.mktemp("log")
    )
    yield parent
    parent.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("data"), replace=CHANGES)


def train(file: Path, run_dir: Path) -> list:
    return ["train", file, f"num_steps={NUM_STEPS}", "--run-dir", run_dir]


@pytest.fixture(scope="module")
def reference(mmjax, file, tmp_path_factory) -> Path:
    """A run that nothing happened to."""
    run_dir = tmp_path_factory.mktemp("reference") / "run"
    code, _, printed = mmjax.run(train(file, run_dir), run_dir)
    assert code == 0, printed
    return run_dir


def newest_whole(run_dir: Path) -> int:
    """The newest step that verifies; 0 if there is none."""
    found = checksums.list_checkpoints(run_dir / "checkpoints", verify=True)
    return max((entry.step for entry in found if entry.fault is None), default=0)


def num_logged(run_dir: Path) -> int:
    file = run_dir / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def state_of(run_dir: Path) -> dict[str, np.ndarray]:
    checkpoints = Checkpoints(run_dir / "checkpoints", read_only=True)
    leaves = jax.tree.leaves_with_path(checkpoints.restore_arrays())
    checkpoints.close()
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def assert_same_end(run_dir: Path, reference: Path, num_steps: int = NUM_STEPS) -> None:
    """The whole state to the bit, and a line for every step."""
    found, expected = state_of(run_dir), state_of(reference)
    assert found["['step']"] == num_steps and any("nu" in name for name in found)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name].tobytes() != expected[name].tobytes()] == []
    rows, wanted = (
        [json.loads(line) for line in (d / "metrics.jsonl").read_text().splitlines()]
        for d in (run_dir, reference)
    )
    assert [row["step"] for row in rows] == list(range(1, num_steps + 1))
    assert [row["loss"] for row in rows] == [row["loss"] for row in wanted]
    assert checksums.list_unfinished(run_dir / "checkpoints") == []


def test_killed_at_random_moments(mmjax, file, reference, tmp_path, record_property):
    """At operations on files, in whatever thread; within saves; and between log lines."""
    run_dir, rng, killed = tmp_path / "run", random.Random(SEED), 0
    print(f"MMJAX_SEED={SEED}")
    for number in range(NUM_KILLS):
        kind = ("operation", "operation", "saving", "time")[number % 4]
        before, logged = newest_whole(run_dir), num_logged(run_dir)
        if kind == "operation":
            moment = rng.randrange(1, 160)  # a step is some 23 of them, a start 25
            code, _, printed = mmjax.run(train(file, run_dir), run_dir, die_at=moment)
        else:
            moment = rng.uniform(0, 0.05)
            pid = mmjax.start(train(file, run_dir), run_dir)
            if kind == "saving":
                assert forks.kill_while_saving(pid, run_dir, moment)
            else:
                while num_logged(run_dir) <= logged and Path(f"/proc/{pid}").exists():
                    time.sleep(0.001)
                time.sleep(moment)
                os.kill(pid, signal.SIGKILL)
            code, _, printed = mmjax.wait(pid)
        killed += code == -signal.SIGKILL
        print(number, kind, moment, "->", code, "newest", newest_whole(run_dir), "was", before)
        assert code in (-signal.SIGKILL, 0), printed
        assert newest_whole(run_dir) >= before, "a committed checkpoint is lost"
    code, _, printed = mmjax.run(train(file, run_dir), run_dir)
    assert code == 0, printed
    assert_same_end(run_dir, reference)
    assert killed == NUM_KILLS
    tiny.record(record_property, "kill -9 at a random moment, half of them at operations on files", killed)


def test_sigterm_saves_and_ends_with_75(mmjax, file, reference, tmp_path, record_property):
    run_dir = tmp_path / "run"
    for number in range(3):
        logged = num_logged(run_dir)
        pid = mmjax.start(train(file, run_dir), run_dir)
        while num_logged(run_dir) <= logged + number:
            time.sleep(0.001)
        os.kill(pid, signal.SIGTERM)
        code, _, printed = mmjax.wait(pid)
        assert code == 75, printed
        assert f"stopped by SIGTERM after step {num_logged(run_dir)}, which is saved" in printed
        assert newest_whole(run_dir) == num_logged(run_dir), "the step at which it stopped is saved"
    assert mmjax.run(train(file, run_dir), run_dir)[0] == 0
    assert_same_end(run_dir, reference)
    tiny.record(record_property, "SIGTERM: saves, exits with 75", 3)


def test_second_process_is_refused_until_the_first_is_gone(mmjax, file, reference, tmp_path, record_property):
    run_dir = tmp_path / "run"
    first = mmjax.start(train(file, run_dir), run_dir)
    while not num_logged(run_dir):
        time.sleep(0.001)
    code, _, printed = mmjax.run(train(file, run_dir), run_dir)
    assert code == 2 and f"another process trains in {run_dir}" in printed
    os.kill(first, signal.SIGKILL)
    assert mmjax.wait(first)[0] == -signal.SIGKILL
    assert mmjax.run(train(file, run_dir), run_dir)[0] == 0, "a crash leaves no lock behind"
    assert_same_end(run_dir, reference)
    tiny.record(record_property, "a second process on the run folder; then kill -9 of the first", 1)


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a disk of so many KiB, or changes it: kibibytes=..., options=..."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(options: str, *flags: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, *flags, "tmpfs", str(disk)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a disk can be mounted only by the superuser: {done.stderr.strip()}")

    yield disk, mount
    subprocess.run(["umount", "--lazy", str(disk)], capture_output=True, check=False)


def test_full_disk(mmjax, file, reference, small_disk, record_property):
    """A third checkpoint beside two does not fit, nor perhaps a second while it is being made."""
    disk, mount = small_disk
    one = sum(f.stat().st_size // 4096 * 4 + 4 for f in newest(reference).rglob("*") if f.is_file())
    mount(f"size={int(2.7 * one)}k")
    run_dir, before = disk / "run", 2
    for _ in range(2):  # and again, while it is still full
        code, _, printed = mmjax.run(train(file, run_dir), run_dir)
        assert code == 2 and "No space left on device" in printed, printed[-3000:]
        last = printed.splitlines()[-1]  # of a save or of a log
        assert last.startswith("mmjax: ") and str(run_dir) in last, printed[-3000:]
        assert "Traceback" not in printed, printed[-3000:]
        assert newest_whole(run_dir) >= before
        before = newest_whole(run_dir)
    assert before < NUM_STEPS
    mount(f"size={20 * one}k,remount")
    code, _, printed = mmjax.run(train(file, run_dir), run_dir)
    assert code == 0, printed
    assert_same_end(run_dir, reference)
    tiny.record(record_property, "a full disk, twice, then room", 2)


def test_read_only_folder(mmjax, file, reference, small_disk, record_property):
    disk, mount = small_disk
    mount("size=50m")
    run_dir = Path(shutil.copytree(reference, disk / "run"))
    shutil.rmtree(newest(run_dir))
    mount("remount,ro")
    code, _, printed = mmjax.run(train(file, run_dir), run_dir)
    assert code == 2 and f"found {run_dir} read-only" in printed
    code, _, printed = mmjax.run(["checkpoints", run_dir, "--verify"], run_dir)
    assert code == 0, printed
    code, _, printed = mmjax.run(["export", run_dir, disk.parent / "out.safetensors"], run_dir)
    assert code == 0, printed
    mount("remount,rw")
    assert mmjax.run(train(file, run_dir), run_dir)[0] == 0
    assert_same_end(run_dir, reference)
    tiny.record(record_property, "a read-only folder, then writable", 1)


def test_quota(mmjax, file, tmp_path, record_property):
    """A limit on the size of files, which needs no superuser to set: the save fails in Orbax's threads."""
    left_alone, run_dir = tmp_path / "left_alone", tmp_path / "run"
    assert mmjax.run(["train", file, "num_steps=8", "--run-dir", left_alone], left_alone)[0] == 0
    shutil.copytree(left_alone, run_dir)
    limit = largest(newest(run_dir)).stat().st_size - 1
    shutil.rmtree(newest(run_dir))
    command = ["train", file, "num_steps=8", "--run-dir", run_dir]
    code, _, printed = mmjax.run(command, run_dir, file_limit=limit)
    assert code == 2 and "Earlier checkpoints are intact: free disk space" in printed, printed[-3000:]
    assert newest_whole(run_dir) == 6
    code, _, printed = mmjax.run(command, run_dir)
    assert code == 0, printed
    assert_same_end(run_dir, left_alone, 8)
    tiny.record(record_property, "a quota on the size of files, then none", 1)


def newest(run_dir: Path) -> Path:
    return max(
        (p for p in (run_dir / "checkpoints").iterdir() if p.name.isdecimal()), key=lambda p: int(p.name)
    )


# Below, what happens to files while no process runs; in this process, which then goes on.

SHORT = 8


@pytest.fixture(scope="module")
def traced() -> tiny.Traced:
    return tiny.Traced()


@pytest.fixture
def go_on(file, traced, monkeypatch):
    """A function that trains to step SHORT in a folder."""
    traced.install(monkeypatch)
    experiment = load(file, [f"num_steps={SHORT}"])
    return lambda run_dir: loop.run(experiment, run_dir, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def short_reference(file, traced, tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("short") / "run"
    with pytest.MonkeyPatch.context() as patch:
        traced.install(patch)
        loop.run(load(file, [f"num_steps={SHORT}"]), run_dir, devices=jax.devices()[:1])
    return run_dir


def largest(folder: Path) -> Path:
    return max((f for f in (folder / "state").rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def flip(folder: Path) -> None:
    content = bytearray(largest(folder).read_bytes())
    content[random.Random(SEED).randrange(len(content))] ^= 1
    largest(folder).write_bytes(content)


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGE = {
    "a flipped bit": flip,
    "a truncated file": lambda folder: os.truncate(largest(folder), 10),
    "an empty file": lambda folder: os.truncate(largest(folder), 0),
    "a missing file": lambda folder: largest(folder).unlink(),
    "a missing item": lambda folder: shutil.rmtree(folder / "about"),
    "an empty step folder": empty,
    "missing checksums": lambda folder: (folder / CHECKSUM_FILE).unlink(),
}


@pytest.mark.parametrize("fault", DAMAGE)
def test_damaged_checkpoint(go_on, short_reference, tmp_path, caplog, fault, record_property):
    """The run ended, and its last checkpoint is damaged: it goes back to the one before, and says so."""
    run_dir = Path(shutil.copytree(short_reference, tmp_path / "run"))
    DAMAGE[fault](run_dir / "checkpoints" / "8")
    found = checksums.list_checkpoints(run_dir / "checkpoints", verify=True)
    assert [(entry.step, entry.fault is None) for entry in found] == [(6, True), (8, False)]
    go_on(run_dir)
    assert f"checkpoint 8 is damaged ({found[1].fault}); trying the next older one" in caplog.text
    assert "deleting checkpoint 8: training resumes from an earlier step" in caplog.text
    assert_same_end(run_dir, short_reference, SHORT)
    tiny.record(record_property, f"{fault} in the newest checkpoint", 1)


def test_every_checkpoint_damaged(go_on, short_reference, tmp_path):
    """Nothing good is left: the run says so, and deletes nothing that somebody might mend."""
    run_dir = Path(shutil.copytree(short_reference, tmp_path / "run"))
    for step in (6, 8):
        flip(run_dir / "checkpoints" / str(step))
    before = {file: file.read_bytes() for file in run_dir.rglob("*") if file.is_file()}
    with pytest.raises(InputError, match="expected an undamaged checkpoint .* found step 8: .*; step 6: "):
        go_on(run_dir)
    assert {file: file.read_bytes() for file in run_dir.rglob("*") if file.is_file()} == before
