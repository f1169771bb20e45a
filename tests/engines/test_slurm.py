"""A real Slurm of two nodes on this machine: after a requeue and a crash a job ends as in one process.

Needs root, slurmctld, slurmd and their clients (Debian: slurmctld slurmd slurm-client); skipped without them.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import launching
import pytest
import tiny

missing = launching.missing_programs("slurmctld", "slurmd", "srun", "sbatch", "scontrol")
pytestmark = [
    pytest.mark.skipif(missing is not None, reason=str(missing)),
    pytest.mark.skipif(os.geteuid() != 0, reason="slurmd needs root"),
    pytest.mark.usefixtures("compilation_cache"),
    pytest.mark.xdist_group("processes"),
]
SCRIPT = launching.ROOT / "experiments" / "launch" / "slurm.sbatch"
# Addresses that resolve everywhere, so that no configuration of this machine has to change.
CONFIGURATION = """
ClusterName=mmjax
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/linear
MpiDefault=none
ReturnToService=2
KillWait=30
SchedulerParameters=sched_interval=1
NodeName=127.0.0.1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=1
NodeName=127.0.0.2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=1
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[dict[str, str]]:
    """Environment variables with which Slurm's clients use a cluster of two idle nodes."""
    folder = tmp_path_factory.mktemp("slurm")
    ports = free_ports(3)
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(
            host=socket.gethostname(), folder=folder, port=ports[0], first=ports[1], second=ports[2]
        )
    )
    for name in ("state", "spool.127.0.0.1", "spool.127.0.0.2"):
        (folder / name).mkdir()
    variables = launching.environment(SLURM_CONF=str(configuration))
    daemons = [["slurmctld", "-D"]] + [["slurmd", "-D", "-N", f"127.0.0.{n}"] for n in (1, 2)]
    started = [
        launching.start_process(daemon, variables, folder / f"daemon_{n}.log", limit=1200)
        for n, daemon in enumerate(daemons)
    ]
    try:
        ask = ["sinfo", "--noheader", "--format=%D %t"]
        deadline = time.monotonic() + 60
        while "2 idle" not in subprocess.run(ask, env=variables, capture_output=True, text=True).stdout:
            logs = "".join((folder / f"daemon_{n}.log").read_text() for n in range(3))
            assert time.monotonic() < deadline, f"the cluster does not start: {logs}"
            time.sleep(0.5)
        yield variables
    finally:
        for daemon in started:
            daemon.terminate()
        for daemon in started:
            daemon.wait()


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def test_job_script_requeues_and_restarts_and_ends_as_in_one_process(cluster, tmp_path):
    file = launching.write_experiment(tmp_path)
    reference = launching.train_in_this_process(file, tmp_path / "reference")
    run_dir, log = tmp_path / "run", tmp_path / "job.log"
    (tmp_path / "bin").mkdir()
    mmjax = tmp_path / "bin" / "mmjax"
    mmjax.write_text(f'#!/bin/sh\nexec {sys.executable} -m mmjax "$@"\n')
    mmjax.chmod(0o755)
    script = tmp_path / SCRIPT.name  # the nodes of this cluster have no GPU and one CPU
    script.write_text(re.sub(r"#SBATCH --(gpus|cpus).*\n", "", SCRIPT.read_text()))
    variables = cluster | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}

    def slurm(*arguments: str) -> str:
        done = subprocess.run(
            arguments, env=variables, capture_output=True, text=True, cwd=launching.ROOT, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def wait_until(condition) -> None:
        deadline = time.monotonic() + launching.LIMIT_SECONDS
        while not condition():
            output = log.read_text() if log.exists() else "nothing yet"
            assert time.monotonic() < deadline, f"{slurm('scontrol', 'show', 'job', job)}\n{output}"
            time.sleep(0.01)

    arguments = launching.train_command(file, run_dir)[4:]
    job = slurm("sbatch", "--parsable", f"--output={log}", str(script), *arguments)
    try:
        wait_until(lambda: tiny.num_logged(run_dir) >= 1)
        requested, logged = time.monotonic(), tiny.num_logged(run_dir)
        slurm("scontrol", "requeue", job)
        wait_until(lambda: not launching.training_pids(run_dir))
        assert time.monotonic() - requested < launching.GRACE_SECONDS
        stopped = tiny.num_logged(run_dir)
        assert logged <= stopped < launching.NUM_STEPS
        assert tiny.read_state(run_dir)["step"] == stopped

        wait_until(lambda: tiny.num_logged(run_dir) > stopped)
        os.kill(launching.training_pids(run_dir)[-1], signal.SIGKILL)
        wait_until(lambda: "COMPLETED" in slurm("scontrol", "show", "job", job))
    finally:
        subprocess.run(["scancel", job], env=variables, timeout=60, check=False)
    output = log.read_text()
    assert "(Slurm), 4 of 8 devices, coordinator 127.0.0.1:" in output
    assert "restarting from the newest checkpoint" in output
    launching.assert_same_run(run_dir, reference, exact=False)
    shutil.rmtree(run_dir)
