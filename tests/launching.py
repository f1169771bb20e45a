"""Starts a tiny run as several processes, waits for its progress, and compares it with another run."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import tiny

from mmjax.experiment import load
from mmjax.run import loop
from mmjax.testing import TOLERANCE

ROOT = Path(__file__).parents[1]
LIMIT_SECONDS = 240  # for one run, which takes ten on an idle machine
GRACE_SECONDS = 30  # that launchers commonly wait between SIGTERM and SIGKILL
NUM_STEPS = 8
# Random dropout, masks and crops in each step, accumulated gradients; eight heads for eight devices.
REPLACEMENTS = tiny.RANDOM_MASKING | {
    "num_heads=2, mlp_width=2 * WIDTH)": "num_heads=8, mlp_width=2 * WIDTH, dropout=0.2, scan=False)",
    "trunk(depth=2)": "trunk()",
    # A key bias has a gradient of rounding errors alone. Adam with a small epsilon would amplify them.
    "peak_learning_rate=1e-3": "peak_learning_rate=1e-2, epsilon=1e-3, accumulation_steps=2",
}
OVERRIDES = [f"num_steps={NUM_STEPS}", "save_every=3", "evals.retrieval.every=4", "max_to_keep=9"]
# Shards the parameters over the devices of both processes.
SHARDED = ["mesh.data=1", "mesh.fsdp=8", "rules=FSDP"]
LOSSES = ("loss", "loss/pairs", "loss/words", "grad_norm", "update_norm", "learning_rate", "bad_examples")
RTOL = TOLERANCE["sharded"]


def write_experiment(folder: Path) -> Path:
    """Writes the experiment's file, which it returns, and its data."""
    return tiny.write(folder, replace=REPLACEMENTS)


def train_in_this_process(file: Path, run_dir: Path, mesh: Sequence[str] = SHARDED) -> Path:
    """Trains in this process, on its eight devices; returns the run's folder."""
    loop.run(load(file, [*OVERRIDES, *mesh]), run_dir)
    return run_dir


def train_command(file: Path, run_dir: Path, overrides: Sequence[str] = SHARDED) -> list[str]:
    """The `mmjax train` command that the launchers start."""
    train = [sys.executable, "-m", "mmjax", "train", str(file), "--run-dir", str(run_dir)]
    return [*train, *OVERRIDES, *overrides]


def environment(**variables: str) -> dict[str, str]:
    """The environment of a process with four devices and the cache of compiled programs."""
    devices = {"JAX_NUM_CPU_DEVICES": "4", "NPROC": "16", "PYTHONPATH": str(ROOT)}
    return {**os.environ, **tiny.cache_environment(), **devices, **variables}


def start_process(
    arguments: Sequence[str], variables: Mapping[str, str], log: Path, limit: int = LIMIT_SECONDS
) -> subprocess.Popen:
    """Starts a process that writes its output to `log`, and that is killed after `limit` seconds."""
    with log.open("w") as output:
        return subprocess.Popen(
            ["timeout", "--kill-after=5", str(limit), *arguments],
            env=dict(variables), stdout=output, stderr=subprocess.STDOUT, cwd=ROOT,
        )  # fmt: skip


def start_with_mpirun(arguments: Sequence[str], log: Path, num_processes: int = 2) -> subprocess.Popen:
    """Starts the processes with Open MPI, which by default gives each one core, and does not run as root."""
    launcher = ["mpirun", "-n", str(num_processes), "--oversubscribe", "--bind-to", "none"]
    launcher += ["--mca", "oob_tcp_if_include", "lo", "--mca", "btl_tcp_if_include", "lo"]
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return start_process([*launcher, *arguments], environment(**root), log)


def start_without_launcher(
    arguments: Sequence[str], folder: Path, num_processes: int = 2
) -> list[subprocess.Popen]:
    """Starts the processes with JAX's own variables. No launcher ends the others when one fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    variables = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(num_processes)}
    return [
        start_process(arguments, environment(**variables, JAX_PROCESS_ID=str(n)), folder / f"process_{n}.log")
        for n in range(num_processes)
    ]


def training_pids(run_dir: Path) -> list[int]:
    """The ids of the Python processes that train in `run_dir`, in the order of their start."""
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:  # the process has ended
            continue
        if arguments[0].decode() == sys.executable and str(run_dir).encode() in arguments:
            pids.append(int(folder.name))
    return sorted(pids)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen, log: Path) -> None:
    """Waits for the condition; fails if the process ends first."""
    while not condition():
        assert process.poll() is None, f"ended early with {process.returncode}: {log.read_text()}"
        time.sleep(0.005)


def assert_same_run(run_dir: Path, reference: Path, *, exact: bool) -> None:
    """Asserts the same losses, evaluations and final state: bitwise if `exact`, else within RTOL."""
    rows, expected_rows = (
        tiny.read_jsonl(run_dir / "metrics.jsonl"),
        tiny.read_jsonl(reference / "metrics.jsonl"),
    )
    assert [row["step"] for row in rows] == list(range(1, NUM_STEPS + 1))
    for name in LOSSES:
        losses, expected = [row[name] for row in rows], [row[name] for row in expected_rows]
        assert losses == expected if exact else np.allclose(losses, expected, rtol=RTOL), name
    evals, expected = tiny.read_jsonl(run_dir / "evals.jsonl"), tiny.read_jsonl(reference / "evals.jsonl")
    assert [(row["step"], row["eval"]) for row in evals] == [(row["step"], row["eval"]) for row in expected]
    for row, expected_row in zip(evals, expected, strict=True):
        assert row.keys() == expected_row.keys()
        # Rounding may swap two candidates with nearly the same score below the first, which moves these.
        loose = set() if exact else {name for name in row if name.endswith(("/nDCG@10", "/mAP@10"))}
        for name in row.keys() - loose:
            assert row[name] == expected_row[name], name
        for name in loose:
            assert row[name] == pytest.approx(expected_row[name], abs=0.02), name
    found, expected = tiny.read_state(run_dir), tiny.read_state(reference)
    assert found.keys() == expected.keys() and any("/nu/" in name for name in found)
    for name in found:
        if exact:
            assert found[name].tobytes() == expected[name].tobytes(), name
        else:
            np.testing.assert_allclose(found[name], expected[name], rtol=RTOL, atol=1e-6, err_msg=name)


def missing_programs(*programs: str) -> str | None:
    """A reason to skip a test whose programs are not installed, or None."""
    missing = [program for program in programs if shutil.which(program) is None]
    return f"not installed: {', '.join(missing)}" if missing else None
