"""A program that compiles during a run counts as compiling, not as a slow step."""

import types

import jax.numpy as jnp
import pytest

from mmjax.run.goodput import Goodput
from mmjax.run.steps import Steps
from mmjax.training import metrics
from mmjax.training.metrics import Meter

COMPILES, REPORTS, STEPS = 60.0, 2.0, 1.0  # seconds


@pytest.fixture
def run(monkeypatch):
    """(steps, goodput, clock): a run whose programs compile at their first calls, by a fake clock."""
    clock = types.SimpleNamespace(now=100.0)
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: clock.now)

    def program(seconds, result):
        compiled = []

        def call(*_):
            clock.now += seconds + (0 if compiled else COMPILES)
            compiled.append(True)
            return result

        return call

    train_step = program(STEPS, ({}, {"loss": jnp.float32(1.0)}))
    report = program(REPORTS, {"conflict": jnp.float32(0.5)})
    steps = Steps(train_step, report, 4, Meter(batch_size=8, flops_per_step=1.0))
    return steps, Goodput(lambda: clock.now), clock


def test_the_first_conflict_report_is_no_slow_step(run):
    steps, goodput, _ = run
    for step in range(1, 9):
        steps.take(step, {}, {}, 0.0, goodput)
        if step == 5:  # 1 and 4 compile; only 5 is timed
            assert steps.meter.read(5)["steps_per_second"] == pytest.approx(1 / STEPS)
    assert steps.meter.read(8)["steps_per_second"] == pytest.approx(3 / (3 * STEPS + REPORTS))
    goodput.enter("step")
    seconds = goodput.row()
    assert seconds["seconds/compile"] == 2 * COMPILES + 2 * STEPS + REPORTS
    assert seconds["seconds/step"] == 6 * STEPS + REPORTS
