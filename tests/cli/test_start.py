"""A run that starts in a process of its own: what an import costs, and devices that the environment names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from mmjax.cli.main import main


def start(*arguments: str, **environment: str | None) -> subprocess.CompletedProcess:
    """A fresh process; a variable that is None is not set."""
    merged = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, *arguments],
        env={name: value for name, value in merged.items() if value is not None},
        capture_output=True, text=True, check=False, timeout=300, cwd=Path(__file__).parents[2],
    )  # fmt: skip


def test_importing_starts_no_backend():
    program = (
        "import mmjax.experiment, mmjax.run.loop, mmjax.cli.main, mmjax.cli.describe, mmjax.run.export\n"
        "from jax._src import xla_bridge; print(xla_bridge.backends_are_initialized())"
    )
    done = start("-c", program)
    assert (done.stdout, done.returncode) == ("False\n", 0), done.stderr


@pytest.mark.once
def test_more_devices_than_cores_on_the_command_line(tmp_path):
    file = tiny.write(tmp_path, replace={"trunk(depth=2)": "trunk()"})
    command = [
        "-m",
        "mmjax",
        "train",
        str(file),
        "mesh.data=-1",
        "mesh.fsdp=2",
        "rules=FSDP",
        "evals.retrieval.limit=8",
    ]
    done = start(*command, "--run-dir", str(tmp_path / "run"), JAX_NUM_CPU_DEVICES="8", NPROC=None)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"run: {tmp_path / 'run'}"
    assert "fsdp=2" in (tmp_path / "run" / "experiment.txt").read_text()
    # Eight devices, and the evaluation on one.
    assert main(["eval", str(tmp_path / "run")]) == 0
