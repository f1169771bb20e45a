"""Goodput: seconds by phase, measured with a clock that the tests set."""

import os
import subprocess
import sys
import time

import pytest

from mmjax.run.goodput import PHASES, Goodput, newest_row, process_age


class Clock:
    """A clock whose seconds the test sets."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def seconds(goodput: Goodput) -> dict[str, float]:
    """{phase: seconds} of the phases that took time."""
    return {phase: goodput.row()[f"seconds/{phase}"] for phase in PHASES if goodput.row()[f"seconds/{phase}"]}


def test_phases_add_up_to_the_wall_time(clock):
    goodput = Goodput(clock, age=5.0)
    clock.now += 3  # imports, restoring
    with goodput.during("input_wait"):
        clock.now += 2
    goodput.enter("compile")
    clock.now += 10
    goodput.enter("step")
    for _ in range(4):
        with goodput.during("input_wait"):
            clock.now += 0.5
        clock.now += 4
    with goodput.during("save_stall"):
        clock.now += 1
    with goodput.during("evaluation"):
        clock.now += 7
    clock.now += 2
    expected = {
        "restart": 8.0, "compile": 10.0, "step": 18.0, "input_wait": 4.0, "save_stall": 1.0, "evaluation": 7.0
    }  # fmt: skip
    assert seconds(goodput) == expected
    assert sum(expected.values()) == clock.now - 1000 + 5
    assert goodput.row()["goodput"] == pytest.approx(18 / 48, abs=1e-4)
    assert goodput.summary() == (
        "trained 37.5% of 48 s: restart 16.7%, compile 20.8%, input wait 8.3%, save stall 2.1%, "
        "evaluation 14.6%"
    )


def test_a_phase_also_ends_at_an_exception(clock):
    goodput = Goodput(clock)
    goodput.enter("step")
    with pytest.raises(OSError), goodput.during("save_stall"):
        clock.now += 3
        raise OSError
    clock.now += 1
    assert seconds(goodput) == {"save_stall": 3.0, "step": 1.0}


def row(step: int, /, **phases: float) -> dict:
    return {"step": step, "loss": 1.0} | {f"seconds/{phase}": value for phase, value in phases.items()}


def test_a_restart_adds_earlier_processes_and_counts_repeated_work_as_lost(clock):
    goodput = Goodput(clock)
    clock.now += 6
    rows = [row(1, restart=4, compile=5), row(10, restart=4, compile=5, step=20, save_stall=1)]
    rows.append(row(15, restart=4, compile=5, step=30, save_stall=2, lost=3))
    goodput.restore(rows, step=10)
    assert seconds(goodput) == {
        "restart": 10.0,
        "compile": 5.0,
        "step": 20.0,
        "save_stall": 1.0,
        "lost": 14.0,
    }
    assert sum(seconds(goodput).values()) == 6 + 4 + 5 + 30 + 2 + 3


@pytest.mark.parametrize("step, trained, lost", [(15, 30.0, 0.0), (0, 0.0, 30.0)])
def test_a_restart_from_the_last_row_or_from_step_0(clock, step, trained, lost):
    goodput = Goodput(clock)
    goodput.restore([row(15, step=30)], step)
    assert (seconds(goodput).get("step", 0), seconds(goodput).get("lost", 0)) == (trained, lost)


def test_rows_without_times_add_nothing(clock):
    goodput = Goodput(clock)
    goodput.restore([{"step": 3, "loss": 1.0}], 3)
    goodput.restore([], 0)
    assert seconds(goodput) == {}


def test_a_rollback_loses_the_steps_since_the_checkpoint(clock):
    goodput = Goodput(clock)
    goodput.enter("step")
    clock.now += 50
    goodput.roll_back([row(10, step=20), row(20, step=40)], step=10)
    assert seconds(goodput) == {"step": 20.0, "lost": 30.0}


def test_newest_row_at_or_before_a_step():
    rows = [row(1), row(10), row(20)]
    assert [newest_row(rows, step).get("step") for step in (0, 1, 9, 10, 25)] == [None, 1, 1, 10, 20]


def test_age_of_a_process_includes_its_imports():
    program = "import time; time.sleep(0.5); from mmjax.run.goodput import process_age; print(process_age())"
    before = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
    )
    upper_bound = time.monotonic() - before
    assert 0.4 < float(done.stdout) < upper_bound + 0.1, done.stderr  # a clock tick is 10 ms
    assert process_age() > float(done.stdout)
