"""Means of metrics, speeds by a fake clock, and errors at non-finite steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.errors import NonFiniteError
from mmjax.objectives import Mean, with_weights
from mmjax.training import metrics
from mmjax.training.flops import PEAK_FLOPS
from mmjax.training.metrics import Meter

FINE = {"loss": 3.0, "loss/words": 1.0, "loss/pairs": 2.0, "pairs/temperature": 0.1, "grad_norm": 0.5}


@pytest.fixture
def clock(monkeypatch):
    """A fake clock; tests set its seconds."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(metrics.time, "perf_counter", lambda: Clock.now)
    return Clock


def on_device(**values: float) -> dict:
    return {name: jnp.float32(value) for name, value in values.items()}


def test_means_are_weighted_by_rows(caplog):
    """Pairs: the mean of rows 1 1 5; words: no row in any step; the temperature has no rows."""
    meter = Meter(batch_size=8, flops_per_step=1.0)
    for loss, rows in ((1.0, 2.0), (5.0, 1.0), (0.0, 0.0)):
        measured = {"loss/pairs": Mean(loss, rows), "loss/words": Mean(0.0, 0.0), "temperature": loss}
        meter.add(on_device(**with_weights(measured)), wait_seconds=0.0)
    row = meter.read(last_step=3)
    assert caplog.messages == [
        "objective 'words' learned nothing in steps 1 to 3: no example has all that it reads"
    ]
    assert row["loss/pairs"] == pytest.approx(7 / 3) and row["temperature"] == 2.0
    assert "loss/words" not in row and not any("weight" in name for name in row)


def test_means_and_speeds(clock):
    meter = Meter(batch_size=8, flops_per_step=1e6)
    for loss in (1.0, 2.0, 6.0, 3.0):
        clock.now += 0.5
        meter.add(on_device(loss=loss, grad_norm=2 * loss), wait_seconds=0.1)
    row = meter.read(last_step=4)
    assert row == pytest.approx(
        {
            "loss": 3.0, "grad_norm": 6.0, "examples_per_second": 16.0, "steps_per_second": 2.0,
            "input_wait_share": 0.2, "flops_per_second": 2e6,
        }
    )  # fmt: skip
    clock.now += 1
    meter.add(on_device(loss=5.0), wait_seconds=0.0)
    assert meter.read(last_step=5)["loss"] == 5.0, "a read resets the meter"


def test_the_step_that_compiles_is_not_timed(clock):
    meter = Meter(batch_size=8, flops_per_step=1e6)
    meter.add(on_device(loss=1.0), wait_seconds=5.0)
    clock.now += 60
    meter.restart_clock()
    assert meter.read(last_step=1) == {"loss": 1.0}, "no step was timed"

    meter.add(on_device(loss=1.0), wait_seconds=5.0)
    clock.now += 60
    meter.restart_clock()
    for _ in range(2):
        clock.now += 1
        meter.add(on_device(loss=4.0), wait_seconds=0.5)
    row = meter.read(last_step=3)
    assert (row["loss"], row["steps_per_second"], row["input_wait_share"]) == pytest.approx((3.0, 1.0, 0.5))


@pytest.mark.parametrize(
    "name, value, message",
    [
        (
            "loss/pairs",
            np.nan,
            r"step 12: objective 'pairs' is nan \(finite: words\); the last checkpoint is kept. Look at that",
        ),
        ("loss/words", np.inf, r"step 12: objective 'words' is inf"),
        ("grad_norm", np.nan, r"step 12: grad_norm is nan"),
        ("update_norm", -np.inf, r"step 12: update_norm is -inf"),
    ],
)
def test_a_non_finite_metric_raises_an_error_with_step_and_name(name, value, message):
    bad = {name: value} | ({"loss": value} if name.startswith("loss/") else {})
    meter = Meter(batch_size=8, flops_per_step=1.0)
    for step in range(10, 14):
        meter.add(on_device(**FINE | (bad if step == 12 else {})), wait_seconds=0.0)
    with pytest.raises(NonFiniteError, match=message):
        meter.read(last_step=13)


def test_other_metrics_may_be_infinite():
    meter = Meter(batch_size=8, flops_per_step=1.0)
    meter.add(on_device(**FINE | {"pairs/temperature": np.inf}), wait_seconds=0.0)
    assert meter.read(last_step=1)["pairs/temperature"] == np.inf


def test_mfu_counts_the_devices_that_the_run_uses(clock, monkeypatch):
    devices = jax.devices()
    monkeypatch.setitem(PEAK_FLOPS, devices[0].device_kind, 1e6)
    for used, expected in ((devices[:1], 2.0), (devices[:2], 1.0), (devices, 2.0 / len(devices))):
        meter = Meter(batch_size=8, flops_per_step=1e6, devices=used)
        clock.now += 0.5
        meter.add(on_device(loss=1.0), wait_seconds=0.0)
        assert meter.read(last_step=1)["mfu"] == pytest.approx(expected)
