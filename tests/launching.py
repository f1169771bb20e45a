"""What every launcher is tested with: a tiny run that draws much, as several processes, and compared."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
import tiny

from mmjax.checkpoint.manager import Checkpoints
from mmjax.experiment import load
from mmjax.run import loop
from mmjax.testing import TOLERANCE

ROOT = Path(__file__).parents[1]
LIMIT_SECONDS = 240  # of one start; on an idle machine it takes ten
GRACE_SECONDS = 30  # what launchers commonly give between SIGTERM and SIGKILL
NUM_STEPS = 8
# Dropout, hidden words and crops drawn anew each step, accumulated gradients; eight heads for eight devices.
DRAWN = tiny.DRAWN_WORDS | {
    "num_heads=2, mlp_width=2 * WIDTH)": "num_heads=8, mlp_width=2 * WIDTH, dropout=0.2, scan=False)",
    "trunk(depth=2)": "trunk()",
    # At its usual epsilon Adam makes noise of a gradient that is zero on paper, that of a bias of the keys.
    "peak_learning_rate=1e-3": "peak_learning_rate=1e-2, epsilon=1e-3, accumulate=2",
}
OVERRIDES = [f"num_steps={NUM_STEPS}", "save_every=3", "evals.retrieval.every=4", "max_to_keep=9"]
# The parameters are split over the devices of both processes.
SPLIT = ["mesh.data=1", "mesh.fsdp=8", "rules=FSDP"]
LOSSES = ("loss", "loss/pairs", "loss/words", "grad_norm", "update_norm", "learning_rate", "bad_examples")
RTOL = TOLERANCE["sharded"]


def write(folder: Path) -> Path:
    """The experiment's file and its data."""
    return tiny.write(folder, replace=DRAWN)


def in_one_process(file: Path, run_dir: Path, mesh: Sequence[str] = SPLIT) -> Path:
    """The run in this process, on its eight devices."""
    loop.run(load(file, [*OVERRIDES, *mesh]), run_dir)
    return run_dir


def command(file: Path, run_dir: Path, overrides: Sequence[str] = SPLIT) -> list[str]:
    """`mmjax train`, as every launcher starts it."""
    train = [sys.executable, "-m", "mmjax", "train", str(file), "--run-dir", str(run_dir)]
    return [*train, *OVERRIDES, *overrides]


def environment(**more: str) -> dict[str, str]:
    """Four devices a process, and what was compiled once."""
    devices = {"JAX_NUM_CPU_DEVICES": "4", "NPROC": "16", "PYTHONPATH": str(ROOT)}
    return {**os.environ, **tiny.cache_environment(), **devices, **more}


def start(
    arguments: Sequence[str], variables: Mapping[str, str], log: Path, limit: int = LIMIT_SECONDS
) -> subprocess.Popen:
    """A process whose output goes to `log`, and which cannot outlive its limit, in seconds."""
    with log.open("w") as output:
        return subprocess.Popen(
            ["timeout", "--kill-after=5", str(limit), *arguments],
            env=dict(variables), stdout=output, stderr=subprocess.STDOUT, cwd=ROOT,
        )  # fmt: skip


def mpirun(arguments: Sequence[str], log: Path, num_processes: int = 2) -> subprocess.Popen:
    """Open MPI on this machine. Unless told otherwise it gives each process one core, and refuses root."""
    launcher = ["mpirun", "-n", str(num_processes), "--oversubscribe", "--bind-to", "none"]
    launcher += ["--mca", "oob_tcp_if_include", "lo", "--mca", "btl_tcp_if_include", "lo"]
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return start([*launcher, *arguments], environment(**root), log)


def by_hand(arguments: Sequence[str], folder: Path, num_processes: int = 2) -> list[subprocess.Popen]:
    """No launcher: JAX's own variables, and nobody who would end the others."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    explicit = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(num_processes)}
    return [
        start(arguments, environment(**explicit, JAX_PROCESS_ID=str(n)), folder / f"process_{n}.log")
        for n in range(num_processes)
    ]


def ranks(run_dir: Path) -> list[int]:
    """The ids of the Python processes that train in `run_dir`, in the order in which they were started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if words[0].decode() == sys.executable and str(run_dir).encode() in words:
            found.append(int(folder.name))
    return sorted(found)


def wait_for(moment: Callable[[], bool], process: subprocess.Popen, log: Path) -> None:
    """Returns at the moment; fails if the process ends before."""
    while not moment():
        assert process.poll() is None, f"ended before with {process.returncode}: {log.read_text()}"
        time.sleep(0.005)


def num_logged(run_dir: Path) -> int:
    file = run_dir / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def rows_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def state_of(run_dir: Path, step: int | None = None) -> dict[str, np.ndarray]:
    """Parameters, moments, key and step of a checkpoint, by path; its checksums hold."""
    checkpoints = Checkpoints(run_dir / "checkpoints", read_only=True)
    leaves = jax.tree.leaves_with_path(checkpoints.restore_arrays(step))
    checkpoints.close()
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def assert_same_run(run_dir: Path, reference: Path, *, exact: bool) -> None:
    """The same examples in the same order, losses, evaluations and final state: to the bit, or nearly."""
    rows, wanted = rows_of(run_dir / "metrics.jsonl"), rows_of(reference / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, NUM_STEPS + 1))
    for name in LOSSES:
        losses, expected = [row[name] for row in rows], [row[name] for row in wanted]
        assert losses == expected if exact else np.allclose(losses, expected, rtol=RTOL), name
    evals, expected = rows_of(run_dir / "evals.jsonl"), rows_of(reference / "evals.jsonl")
    assert [(row["step"], row["eval"]) for row in evals] == [(row["step"], row["eval"]) for row in expected]
    assert evals == expected
    found, expected = state_of(run_dir), state_of(reference)
    assert found.keys() == expected.keys() and any("nu" in name for name in found)
    for name in found:
        if exact:
            assert found[name].tobytes() == expected[name].tobytes(), name
        else:
            np.testing.assert_allclose(found[name], expected[name], rtol=RTOL, atol=1e-6, err_msg=name)


def missing(*programs: str) -> str | None:
    """Why a launcher cannot be tried here, or None."""
    absent = [program for program in programs if shutil.which(program) is None]
    return f"not installed here: {', '.join(absent)}" if absent else None
