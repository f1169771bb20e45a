"""Two processes of four devices each train, evaluate, save and stop as one run, and resume after a crash."""

import os
import signal
import time
from pathlib import Path

import launching
import pytest
import tiny

from mmjax.cluster.processes import HEARTBEAT_TIMEOUT_SECONDS
from mmjax.errors import Interrupted
from mmjax.experiment import load
from mmjax.run import loop

needs_mpirun = pytest.mark.skipif(
    launching.missing_programs("mpirun") is not None, reason="mpirun is not installed"
)
# A dead process is noticed HEARTBEAT_TIMEOUT_SECONDS after its last heartbeat. A busy machine takes longer.
END_SECONDS = HEARTBEAT_TIMEOUT_SECONDS + 30
pytestmark = [
    pytest.mark.once,
    pytest.mark.usefixtures("compilation_cache"),
    pytest.mark.xdist_group("processes"),  # one job at a time on two cores
]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return launching.write_experiment(tmp_path_factory.mktemp("processes"))


@pytest.fixture(scope="module")
def single(file):
    """The same run on the eight devices of one process."""
    return launching.train_in_this_process(file, file.parent / "single")


@pytest.fixture(scope="module")
def pair(file):
    """An uninterrupted run of two processes under mpirun."""
    run_dir, log = file.parent / "pair", file.parent / "pair.log"
    job = launching.start_with_mpirun(launching.train_command(file, run_dir), log)
    assert job.wait() == 0, log.read_text()
    return run_dir


@needs_mpirun
def test_two_processes_train_evaluate_and_save_as_one_process(single, pair):
    launching.assert_same_run(pair, single, exact=False)
    for folder in (single, pair):
        steps = sorted(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdecimal())
        assert steps == [3, 4, 6, 8]
    written = {str(p.relative_to(pair)) for p in pair.rglob("*.*") if "checkpoints" not in p.parts}
    assert {"metrics.jsonl", "evals.jsonl", "pictures/curves.png"} <= written
    assert len([name for name in written if "tfevents" in name]) == 1  # only process 0 writes


@needs_mpirun
def test_each_process_logs_its_id_and_process_0_prints_results(pair):
    log = (pair.parent / "pair.log").read_text()
    for process in range(2):
        assert f"[{process}/2] INFO: process {process} of 2 on " in log
    assert log.count("(Open MPI), 4 of 8 devices, coordinator 127.0.0.1:") == 2
    assert log.count(f"run: {pair}") == 1 and log.count("image->text/R@5 ") == 1


@needs_mpirun
def test_after_a_stop_and_a_kill_the_run_ends_bitwise_the_same(file, pair, tmp_path):
    run_dir, log = tmp_path / "run", tmp_path / "log"
    arguments = launching.train_command(file, run_dir)

    job = launching.start_with_mpirun(arguments, log)  # SIGTERM to one process stops both
    launching.wait_until(lambda: tiny.num_logged(run_dir) >= 1, job, log)
    os.kill(launching.training_pids(run_dir)[1], signal.SIGTERM)
    requested = time.monotonic()
    assert job.wait() == 75, log.read_text()
    assert time.monotonic() - requested < launching.GRACE_SECONDS
    logged = tiny.num_logged(run_dir)
    assert f"after step {logged}, which is saved; the same command resumes" in log.read_text()
    assert tiny.read_state(run_dir)["step"] == logged < launching.NUM_STEPS

    job = launching.start_with_mpirun(arguments, log)  # kill -9 of one process ends both
    launching.wait_until(lambda: tiny.num_logged(run_dir) > max(logged, 3), job, log)
    os.kill(launching.training_pids(run_dir)[1], signal.SIGKILL)
    died = time.monotonic()
    assert job.wait() not in (0, 2, 3, 75), log.read_text()
    assert time.monotonic() - died < END_SECONDS and not launching.training_pids(run_dir)

    job = launching.start_with_mpirun(arguments, log)
    assert job.wait() == 0, log.read_text()
    launching.assert_same_run(run_dir, pair, exact=True)


def test_without_a_launcher_the_other_process_exits_and_a_single_process_resumes(file, single, tmp_path):
    run_dir = tmp_path / "run"
    first, second = launching.start_without_launcher(launching.train_command(file, run_dir), tmp_path)
    log = tmp_path / "process_0.log"
    launching.wait_until(lambda: tiny.num_logged(run_dir) >= 4, first, log)
    for pid in launching.training_pids(run_dir):
        if b"JAX_PROCESS_ID=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            os.kill(pid, signal.SIGKILL)
    died = time.monotonic()
    assert second.wait() != 0
    assert first.wait() not in (0, 2, 3, 75), log.read_text()
    assert time.monotonic() - died < END_SECONDS
    assert not list((run_dir / "checkpoints").glob("8"))
    launching.train_in_this_process(file, run_dir, mesh=["mesh.data=8", "rules=REPLICATED"])
    launching.assert_same_run(run_dir, single, exact=False)


# Process 1 fails on its data while process 0 waits for it in the next step.
ONE_FAILS = """
import os, sys
from mmjax.cli.main import main
from mmjax.errors import InputError
from mmjax.run import loop

def next(feed, wait=loop.TrainInput.next, fetched=[]):
    fetched.append(feed)
    if os.environ["JAX_PROCESS_ID"] == "1" and len(fetched) == 5:
        raise InputError("expected data, found none in one process")
    return wait(feed)

loop.TrainInput.next = next
sys.exit(main(sys.argv[1:]))
"""


def test_an_error_in_one_process_does_not_leave_the_other_waiting(file, tmp_path):
    run_dir = tmp_path / "run"
    interpreter, _, _, *rest = launching.train_command(file, run_dir)
    first, second = launching.start_without_launcher([interpreter, "-c", ONE_FAILS, *rest], tmp_path)
    assert second.wait() == 2, (tmp_path / "process_1.log").read_text()
    failed = time.monotonic()
    assert first.wait() not in (0, 2, 3, 75)
    assert time.monotonic() - failed < END_SECONDS
    log = (tmp_path / "process_1.log").read_text()
    assert "mmjax: expected data, found none in one process" in log and "Traceback" not in log
    assert tiny.read_state(run_dir)["step"] == 4


@needs_mpirun
def test_two_processes_that_load_the_same_rows_resume_a_run_of_one_process(
    file, single, tmp_path, monkeypatch
):
    """On a mesh whose tensor axis spans both processes, each process loads the whole batch."""
    run_dir, log = tmp_path / "run", tmp_path / "log"

    fetched = []

    def next_and_signal(feed, wait=loop.TrainInput.next):
        fetched.append(feed)
        if len(fetched) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return wait(feed)

    monkeypatch.setattr(loop.TrainInput, "next", next_and_signal)
    with pytest.raises(Interrupted, match="after step 2, which is saved"):
        loop.run(load(file, [*launching.OVERRIDES, *launching.SHARDED]), run_dir)
    # The vocabulary of 41 words is not divisible by eight.
    mesh = ["mesh.data=1", "mesh.tensor=8", "rules=FSDP_TENSOR", "rules.vocab=None", "rules.act_vocab=None"]
    job = launching.start_with_mpirun(launching.train_command(file, run_dir, mesh), log)
    assert job.wait() == 0, log.read_text()
    launching.assert_same_run(run_dir, single, exact=False)


@needs_mpirun
def test_an_input_error_in_one_process_ends_all(file, pair, tmp_path):
    log, before = tmp_path / "log", (pair / "metrics.jsonl").read_bytes()
    start = time.monotonic()
    job = launching.start_with_mpirun(
        launching.train_command(file, pair, [*launching.SHARDED, "seed=1"]), log
    )
    assert job.wait() == 2, log.read_text()
    assert "belongs to another experiment" in log.read_text()
    assert "process 0 failed: " in log.read_text() and "Traceback" not in log.read_text()
    assert time.monotonic() - start < launching.LIMIT_SECONDS / 2
    assert (pair / "metrics.jsonl").read_bytes() == before
