"""Ray Train on this machine: a killed worker's group starts again, and ends as one process does.

Needs Ray (`pip install mmjax[ray]`); is skipped without.
"""

import importlib.util
import os
import signal
import sys
from pathlib import Path

import pytest
import tiny

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed here"),
    pytest.mark.xdist_group("processes"),
]
SCRIPT = processes.ROOT / "experiments" / "launch" / "ray_train.py"


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    yield from tiny.compilation_cache(tmp_path_factory.mktemp("compiled"))


def test_a_killed_worker_is_started_again_and_the_run_ends_as_in_one_process(tmp_path):
    file = processes.write(tmp_path)
    alone = processes.in_one_process(file, tmp_path / "alone")
    run_dir, log = tmp_path / "run", tmp_path / "ray.log"
    options = ["--workers", "2", "--max-failures", "1", "--ray-results", str(tmp_path / "ray_results")]
    arguments = [sys.executable, str(SCRIPT), *options, *processes.command(file, run_dir)[4:]]
    variables = processes.environment(RAY_ADDRESS="local", RAY_DISABLE_METRICS_COLLECTION="1")
    job = processes.start(arguments, variables, log, limit=2 * processes.LIMIT_SECONDS)
    processes.wait_for(lambda: processes.num_logged(run_dir) >= 4, job, log)
    os.kill(workers(tmp_path)[-1], signal.SIGKILL)
    assert job.wait() == 0, log.read_text()
    assert "(JAX's variables), 4 of 8 devices" in log.read_text()
    processes.assert_same_run(run_dir, alone, exact=False)

    refused = [*arguments, "seed=1"]
    assert processes.start(refused, variables, log).wait() == 2, log.read_text()
    assert "belongs to another experiment" in log.read_text()


def workers(folder: Path) -> list[int]:
    """Ray's processes that train under this test: its folder of compiled programs is in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name, variables = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:  # it has ended
            continue
        if (
            b"RayTrainWorker" in name
            and tiny.cache_environment()["JAX_COMPILATION_CACHE_DIR"].encode() in variables
        ):
            found.append(int(process.name))
    return sorted(found)
