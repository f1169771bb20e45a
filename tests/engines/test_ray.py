"""Ray Train on this machine: after a worker is killed, the restarted run ends as in one process.

Needs Ray (`pip install mmjax[ray]`); skipped without it.
"""

import importlib.util
import os
import signal
import sys
from pathlib import Path

import launching
import pytest
import tiny

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed here"),
    pytest.mark.usefixtures("compilation_cache"),
    pytest.mark.xdist_group("processes"),
]
SCRIPT = launching.ROOT / "experiments" / "launch" / "ray_train.py"


def test_after_a_killed_worker_the_run_restarts_and_ends_as_in_one_process(tmp_path):
    file = launching.write_experiment(tmp_path)
    reference = launching.train_in_this_process(file, tmp_path / "reference")
    run_dir, log = tmp_path / "run", tmp_path / "ray.log"
    options = ["--workers", "2", "--max-failures", "1", "--ray-results", str(tmp_path / "ray_results")]
    arguments = [sys.executable, str(SCRIPT), *options, *launching.train_command(file, run_dir)[4:]]
    variables = launching.environment(RAY_ADDRESS="local", RAY_DISABLE_METRICS_COLLECTION="1")
    job = launching.start_process(arguments, variables, log, limit=2 * launching.LIMIT_SECONDS)
    launching.wait_until(lambda: tiny.num_logged(run_dir) >= 4, job, log)
    os.kill(worker_pids()[-1], signal.SIGKILL)
    assert job.wait() == 0, log.read_text()
    assert "(JAX's variables), 4 of 8 devices" in log.read_text()
    launching.assert_same_run(run_dir, reference, exact=False)

    other_experiment = [*arguments, "seed=1"]
    assert launching.start_process(other_experiment, variables, log).wait() == 2, log.read_text()
    assert "belongs to another experiment" in log.read_text()


def worker_pids() -> list[int]:
    """The ids of this test's Ray workers, whose environment names its folder of compiled programs."""
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name, variables = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:  # the process has ended
            continue
        if (
            b"RayTrainWorker" in name
            and tiny.cache_environment()["JAX_COMPILATION_CACHE_DIR"].encode() in variables
        ):
            pids.append(int(process.name))
    return sorted(pids)
