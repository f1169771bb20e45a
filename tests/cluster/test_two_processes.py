"""Two processes of four devices, really started: they train, evaluate, save, stop and die as one run."""

import os
import signal
import time
from pathlib import Path

import pytest
import tiny

from mmjax.cluster.processes import HEARTBEAT_TIMEOUT_SECONDS
from mmjax.errors import Interrupted
from mmjax.experiment import load
from mmjax.run import loop

needs_mpirun = pytest.mark.skipif(
    processes.missing("mpirun") is not None, reason="mpirun is not installed here"
)
# A death is noticed HEARTBEAT_TIMEOUT_SECONDS after the last sign of life, and a busy machine ends slowly.
END_SECONDS = HEARTBEAT_TIMEOUT_SECONDS + 30
pytestmark = [pytest.mark.once, pytest.mark.xdist_group("processes")]  # two cores: one job at a time


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """A folder of compiled programs: every start after the first finds its step there."""
    yield from tiny.compilation_cache(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return processes.write(tmp_path_factory.mktemp("processes"))


@pytest.fixture(scope="module")
def alone(file):
    """The run on the eight devices of one process."""
    return processes.in_one_process(file, file.parent / "alone")


@pytest.fixture(scope="module")
def pair(file):
    """The run under mpirun, never interrupted."""
    run_dir, log = file.parent / "pair", file.parent / "pair.log"
    job = processes.mpirun(processes.command(file, run_dir), log)
    assert job.wait() == 0, log.read_text()
    return run_dir


@needs_mpirun
def test_two_processes_train_evaluate_and_save_as_one_does(alone, pair):
    processes.assert_same_run(pair, alone, exact=False)
    for folder in (alone, pair):
        steps = sorted(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdecimal())
        assert steps == [3, 4, 6, 8]
    written = {str(p.relative_to(pair)) for p in pair.rglob("*.*") if "checkpoints" not in p.parts}
    assert {"metrics.jsonl", "evals.jsonl", "pictures/loss_curves.png"} <= written
    assert len([name for name in written if "tfevents" in name]) == 1  # only one process writes


@needs_mpirun
def test_each_process_logs_its_rank_and_the_first_speaks(pair):
    log = (pair.parent / "pair.log").read_text()
    for process in range(2):
        assert f"[{process}/2] INFO: process {process} of 2 on " in log
    assert log.count("(Open MPI), 4 of 8 devices, coordinator 127.0.0.1:") == 2
    assert log.count(f"run: {pair}") == 1 and log.count("image->text/R@5 ") == 1


@needs_mpirun
def test_stopped_killed_and_started_again_it_ends_the_same_to_the_bit(file, pair, tmp_path):
    run_dir, log = tmp_path / "run", tmp_path / "log"
    arguments = processes.command(file, run_dir)

    job = processes.mpirun(arguments, log)  # SIGTERM to one of them stops both
    processes.wait_for(lambda: processes.num_logged(run_dir) >= 1, job, log)
    os.kill(processes.ranks(run_dir)[1], signal.SIGTERM)
    asked = time.monotonic()
    assert job.wait() == 75, log.read_text()
    assert time.monotonic() - asked < processes.GRACE_SECONDS
    logged = processes.num_logged(run_dir)
    assert f"after step {logged}, which is saved; the same command resumes" in log.read_text()
    assert processes.state_of(run_dir)["['step']"] == logged < processes.NUM_STEPS

    job = processes.mpirun(arguments, log)  # kill -9 of one of them ends both
    processes.wait_for(lambda: processes.num_logged(run_dir) > max(logged, 3), job, log)
    os.kill(processes.ranks(run_dir)[1], signal.SIGKILL)
    died = time.monotonic()
    assert job.wait() not in (0, 2, 3, 75), log.read_text()
    assert time.monotonic() - died < END_SECONDS and not processes.ranks(run_dir)

    job = processes.mpirun(arguments, log)
    assert job.wait() == 0, log.read_text()
    processes.assert_same_run(run_dir, pair, exact=True)


def test_without_a_launcher_the_survivor_ends_and_one_process_goes_on(file, alone, tmp_path):
    run_dir = tmp_path / "run"
    first, second = processes.by_hand(processes.command(file, run_dir), tmp_path)
    log = tmp_path / "process_0.log"
    processes.wait_for(lambda: processes.num_logged(run_dir) >= 4, first, log)
    for pid in processes.ranks(run_dir):
        if b"JAX_PROCESS_ID=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            os.kill(pid, signal.SIGKILL)
    died = time.monotonic()
    assert second.wait() != 0
    assert first.wait() not in (0, 2, 3, 75), log.read_text()
    assert time.monotonic() - died < END_SECONDS
    assert not list((run_dir / "checkpoints").glob("8"))
    processes.in_one_process(file, run_dir, mesh=["mesh.data=8", "rules=REPLICATED"])
    processes.assert_same_run(run_dir, alone, exact=False)


# Process 1 meets data that it cannot use; process 0 does not, and waits for it in the next step.
ONE_FAILS = """
import os, sys
from mmjax import loop
from mmjax.cli import main
from mmjax.errors import InputError

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
    interpreter, _, _, *rest = processes.command(file, run_dir)
    first, second = processes.by_hand([interpreter, "-c", ONE_FAILS, *rest], tmp_path)
    assert second.wait() == 2, (tmp_path / "process_1.log").read_text()
    failed = time.monotonic()
    assert first.wait() not in (0, 2, 3, 75)
    assert time.monotonic() - failed < END_SECONDS
    log = (tmp_path / "process_1.log").read_text()
    assert "mmjax: expected data, found none in one process" in log and "Traceback" not in log
    assert processes.state_of(run_dir)["['step']"] == 4


@needs_mpirun
def test_one_process_stops_and_two_go_on_that_load_the_same_rows(file, alone, tmp_path, monkeypatch):
    """On a mesh whose model axis spans both processes, each has to load the whole batch."""
    run_dir, log = tmp_path / "run", tmp_path / "log"

    fetched = []

    def next_and_signal(feed, wait=loop.TrainInput.next):
        fetched.append(feed)
        if len(fetched) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return wait(feed)

    monkeypatch.setattr(loop.TrainInput, "next", next_and_signal)
    with pytest.raises(Interrupted, match="after step 2, which is saved"):
        loop.run(load(file, [*processes.OVERRIDES, *processes.SPLIT]), run_dir)
    # The vocabulary of 41 words does not divide by eight.
    mesh = ["mesh.data=1", "mesh.tensor=8", "rules=FSDP_TENSOR", "rules.vocab=None", "rules.act_vocab=None"]
    job = processes.mpirun(processes.command(file, run_dir, mesh), log)
    assert job.wait() == 0, log.read_text()
    processes.assert_same_run(run_dir, alone, exact=False)


@needs_mpirun
def test_what_refuses_one_process_refuses_all(file, pair, tmp_path):
    log, before = tmp_path / "log", (pair / "metrics.jsonl").read_bytes()
    asked = time.monotonic()
    job = processes.mpirun(processes.command(file, pair, [*processes.SPLIT, "seed=1"]), log)
    assert job.wait() == 2, log.read_text()
    assert "belongs to another experiment" in log.read_text()
    assert "process 0 was refused: " in log.read_text() and "Traceback" not in log.read_text()
    assert time.monotonic() - asked < processes.LIMIT_SECONDS / 2
    assert (pair / "metrics.jsonl").read_bytes() == before
