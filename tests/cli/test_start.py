"""Starting mmjax in a new process: imports start no JAX backend, and the environment sets the devices."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from mmjax.cli.main import main


def run_python(*arguments: str, **environment: str | None) -> subprocess.CompletedProcess:
    """Runs Python with these environment variables; None unsets a variable."""
    merged = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, *arguments],
        env={name: value for name, value in merged.items() if value is not None},
        capture_output=True, text=True, check=False, timeout=300, cwd=Path(__file__).parents[2],
    )  # fmt: skip


def test_imports_start_no_backend():
    program = (
        "import mmjax.experiment, mmjax.run.loop, mmjax.cli.main, mmjax.cli.describe, mmjax.run.export\n"
        "from jax._src import xla_bridge; print(xla_bridge.backends_are_initialized())"
    )
    done = run_python("-c", program)
    assert (done.stdout, done.returncode) == ("False\n", 0), done.stderr


@pytest.mark.once
def test_training_with_more_cpu_devices_than_cores(tmp_path):
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
    done = run_python(*command, "--run-dir", str(tmp_path / "run"), JAX_NUM_CPU_DEVICES="8", NPROC=None)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"run: {tmp_path / 'run'}"
    assert "fsdp=2" in (tmp_path / "run" / "experiment.txt").read_text()
    # Trained on eight devices, evaluated in this process.
    assert main(["eval", str(tmp_path / "run")]) == 0
