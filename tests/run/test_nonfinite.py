"""A step that is not finite: it stops the run, is skipped, or is left behind; never for ever, and exactly."""

import dataclasses
import json
import os
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from mmjax import sharding, train
from mmjax.checkpoint.manager import Checkpoints
from mmjax.errors import Interrupted, NonFiniteError
from mmjax.experiment import Experiment, load
from mmjax.run import loop, rollback
from mmjax.sharding import MeshShape
from mmjax.train import metrics, nonfinite

pytestmark = pytest.mark.once

# Dropout and accumulation: what a skipped step must leave alone, and the key that must go on.
CHANGES = {
    "mlp_width=2 * WIDTH)": "mlp_width=2 * WIDTH, dropout=0.2, scan=False)",
    "trunk(depth=2)": "trunk()",
    "peak_learning_rate=1e-3": "peak_learning_rate=1e-2, accumulation_steps=2",
    'evals={{"retrieval": evals.Retrieval(data=dataset(), heads=("image", "text"), batch_size=8)}},': "",
}
NUM_STEPS, SAVE_EVERY = 10, 3


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """A folder of compiled programs."""
    yield from tiny.compilation_cache(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="module")
def traced() -> tiny.Traced:
    """What runs share."""
    return tiny.Traced()


@pytest.fixture(scope="module")
def setup(tmp_path_factory, traced) -> loop.Session:
    """Of one device."""
    overrides = [f"num_steps={NUM_STEPS}", f"save_every={SAVE_EVERY}", "log_every=2", "max_to_keep=1"]
    experiment = load(tiny.write(tmp_path_factory.mktemp("data"), replace=CHANGES), overrides)
    return traced.setup(experiment, jax.devices()[:1])


@pytest.fixture
def bad(traced, monkeypatch) -> set[int]:
    """Steps whose pictures are no numbers; also lets runs share what was compiled."""
    steps: set[int] = set()
    traced.install(monkeypatch)

    def begin(feed, setup, first_step, num_bad, init=loop.TrainInput.__init__):
        init(feed, setup, first_step, num_bad)
        feed.step = first_step

    def poisoned(feed, wait=loop.TrainInput.next):
        feed.step += 1
        batch, waited = wait(feed)
        return poison(batch) if feed.step in steps else batch, waited

    monkeypatch.setattr(loop.TrainInput, "__init__", begin)
    monkeypatch.setattr(loop.TrainInput, "next", poisoned)
    return steps


def poison(batch):
    return batch | {"image": batch["image"].replace(pixels=batch["image"].pixels * np.nan)}


@pytest.fixture
def experiment(setup) -> Experiment:
    return setup.experiment


def run(experiment: Experiment, run_dir: Path, **changes) -> None:
    """On one device."""
    loop.run(dataclasses.replace(experiment, **changes), run_dir, devices=jax.devices()[:1])


def trajectory(setup, steps, skip_nonfinite: bool):
    """The state after exactly these steps' data: what a run must come to."""
    parts = setup.learner, setup.optimizer, setup.abstract, setup.mesh, setup.experiment.rules
    step_function = train.jit_step(*parts, skip_nonfinite=skip_nonfinite)
    state = setup.new_state()
    for step in steps:
        feed = loop.TrainInput(setup, step - 1, 0)
        batch, _ = feed.next()
        feed.close()
        state, _ = step_function(at(state, step - 1), batch)
    return state


def at(state, step: int):
    """The state at another position."""
    return state.replace(step=jax.device_put(np.int32(step), state.step.sharding))


def saved(run_dir: Path, step: int | None = None) -> dict[str, np.ndarray]:
    checkpoints = Checkpoints(run_dir / "checkpoints", read_only=True)
    arrays = named(checkpoints.restore_arrays(step))
    checkpoints.close()
    return arrays


def named(state) -> dict[str, np.ndarray]:
    """{path: array}, the optimizer's named tuples as the dicts that a checkpoint makes of them."""
    leaves = jax.tree.leaves_with_path(state)
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")  # noqa: E731
    return {name(path): np.asarray(leaf) for path, leaf in leaves}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """To the bit."""
    assert found.keys() == expected.keys() and any("/nu/" in name for name in found)
    assert [name for name in found if found[name].tobytes() != expected[name].tobytes()] == []


def rows_of(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("mesh, rules", [({}, "REPLICATED"), ({"data": 1, "fsdp": 4}, "FSDP")])
def test_a_skipped_step_changes_nothing_but_the_step(setup, traced, monkeypatch, mesh, rules):
    """Decided on the device: the compiled step takes the poisoned batch and keeps the state's bits."""
    e = dataclasses.replace(setup.experiment, mesh=MeshShape(**mesh), rules=getattr(sharding, rules))
    traced.install(monkeypatch)
    setup = traced.setup(e, jax.devices()[: 4 if mesh else 1])
    step = traced.step(
        setup.learner, setup.optimizer, setup.abstract, setup.mesh, e.rules, skip_nonfinite=True
    )
    state = trajectory(setup, [1], True)  # half of an update is accumulated
    before = named(state)
    feed = loop.TrainInput(setup, 1, 0)
    batch, _ = feed.next()
    feed.close()
    after, told = step(state, poison(batch))
    assert float(told["skipped"]) == 1.0 and not np.isfinite(told["loss"])
    assert_same(named(after) | {"step": before["step"]}, before)
    assert int(after.step) == 2
    further, told = step(after, batch)
    assert float(told["skipped"]) == 0.0 and np.isfinite(told["update_norm"])
    assert int(further.step) == 3 and named(further)["key"].tobytes() == before["key"].tobytes()


def test_skip_goes_on_without_the_bad_steps(setup, bad, experiment, tmp_path, record_property):
    bad |= {4, 7, 8}
    run(experiment, tmp_path / "run", on_nonfinite="skip")
    good = [step for step in range(1, NUM_STEPS + 1) if step not in bad]
    expected = at(trajectory(setup, good, True), NUM_STEPS)
    assert_same(saved(tmp_path / "run"), named(expected))

    rows = {row["step"]: row for row in rows_of(tmp_path / "run")}
    assert {step: row["skipped_steps"] for step, row in rows.items()} == {
        1: 0, 2: 0, 3: 0, 4: 1, 6: 1, 8: 3, 9: 3, 10: 3
    }  # fmt: skip
    assert rows[4]["loss"] is None and rows[8]["loss"] is None  # nothing but bad steps since the line before
    assert all(rows[step]["loss"] > 0 for step in (1, 2, 3, 6, 9, 10))
    # The schedule counts updates: a skipped step is none.
    assert rows[10]["learning_rate"] == experiment.optimizer.learning_rate(NUM_STEPS, 10 - 1 - 3)
    tiny.record(record_property, "a step that is not finite: skip", 3, "that step's update")


def test_skips_are_counted_over_a_restart(bad, experiment, tmp_path, monkeypatch):
    bad |= {2, 5, 9}
    run(experiment, tmp_path / "never_stopped", on_nonfinite="skip")
    with monkeypatch.context() as patch:
        patch.setattr(loop.TrainInput, "next", signal_at(6))
        with pytest.raises(Interrupted, match="after step 6, which is saved"):
            run(experiment, tmp_path / "stopped", on_nonfinite="skip")
    run(experiment, tmp_path / "stopped", on_nonfinite="skip")
    assert_same(saved(tmp_path / "stopped"), saved(tmp_path / "never_stopped"))
    assert rows_of(tmp_path / "stopped")[-1]["skipped_steps"] == 3


def signal_at(step: int):
    """A TrainInput.next after which SIGTERM comes, once the feed has given that step's batch."""

    def following(feed, wait=loop.TrainInput.next):
        found = wait(feed)
        if feed.step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return found

    return following


def test_skipping_for_ever_stops(bad, experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(nonfinite, "MAX_CONSECUTIVE_SKIPS", 3)
    bad |= {2, 3, 5, 6, 7, 8}
    with pytest.raises(NonFiniteError, match="step 7: the last 3 steps were all skipped, because none was"):
        run(experiment, tmp_path / "run", on_nonfinite="skip")
    assert saved(tmp_path / "run")["step"] == 6


def test_what_skipping_cannot_mend_stops():
    """A finite gradient whose update is not: the parameters are lost, and no step was skipped."""
    meter = metrics.Meter(batch_size=1, flops_per_step=1.0)
    meter.add({"loss": 1.0, "grad_norm": 1.0, "update_norm": np.inf, "skipped": 0.0}, 0.0)
    with pytest.raises(NonFiniteError, match="step 3: update_norm is inf"):
        meter.read(3)


# The bad steps, and from which steps' data the final state must come: to which checkpoint each goes back.
ROLLBACKS = {
    "after a checkpoint": ({5}, [1, 2, 3, 6, 7, 8, 9, 10], [(5, 3)]),
    "before the first checkpoint": ({2}, [3, 4, 5, 6, 7, 8, 9, 10], [(2, 0)]),
    "at the step of a checkpoint": ({6}, [1, 2, 3, 7, 8, 9, 10], [(6, 3)]),
    "two in one line of the log": ({7, 8}, [1, 2, 3, 4, 5, 6, 9, 10], [(7, 6), (8, 6)]),
    "twice": ({5, 10}, [1, 2, 3, 6, 7, 8, 9], [(5, 3), (10, 9)]),
    "at the first step": ({1}, [2, 3, 4, 5, 6, 7, 8, 9, 10], [(1, 0)]),
}


@pytest.mark.parametrize("name", ROLLBACKS)
def test_rollback_goes_on_behind_the_bad_step(setup, bad, experiment, tmp_path, name, record_property):
    poisoned, steps, returns = ROLLBACKS[name]
    bad |= poisoned
    run_dir = tmp_path / "run"
    run(experiment, run_dir, on_nonfinite="rollback")
    bad.clear()
    assert_same(saved(run_dir), named(at(trajectory(setup, steps, False), NUM_STEPS)))
    rows = rows_of(run_dir)
    assert [(row["step"], row["rolled_back_to"]) for row in rows if "rolled_back_to" in row] == returns
    assert rows[-1]["rollbacks"] == len(returns)
    assert rows[-1]["skipped_steps"] == NUM_STEPS - len(steps)
    assert rows == sorted(rows, key=lambda row: row["step"])
    if 10 not in poisoned:
        taken = len(steps) - 1  # before the last
        assert rows[-1]["learning_rate"] == experiment.optimizer.learning_rate(NUM_STEPS, taken)
    lost = "the updates since the checkpoint, as meant"
    tiny.record(record_property, "a step that is not finite: rollback", len(returns), lost)


def test_rollback_is_the_same_for_a_run_that_was_stopped_on_the_way(bad, experiment, tmp_path, monkeypatch):
    """What a signal saved lies nearer to the bad step, and max_to_keep=1 would have let go of the other."""
    rolling = dict(on_nonfinite="rollback", save_every=4)
    bad.add(7)
    run(experiment, tmp_path / "never_stopped", **rolling)
    for step in (2, 5, 6):
        with monkeypatch.context() as patch:
            patch.setattr(loop.TrainInput, "next", signal_at(step))
            with pytest.raises(Interrupted):
                run(experiment, tmp_path / "stopped", **rolling)
    run(experiment, tmp_path / "stopped", **rolling)
    assert_same(saved(tmp_path / "stopped"), saved(tmp_path / "never_stopped"))
    for name in ("skipped_steps", "rollbacks", "learning_rate", "loss"):
        last = [rows_of(tmp_path / d)[-1][name] for d in ("stopped", "never_stopped")]
        assert last[0] == last[1], name


@pytest.mark.parametrize("moment", ["before the new checkpoint", "after it"])
def test_rollback_is_the_same_after_a_kill_in_its_midst(bad, experiment, tmp_path, monkeypatch, moment):
    rolling = dict(on_nonfinite="rollback")
    bad.add(5)
    run(experiment, tmp_path / "never_killed", **rolling)

    class Killed(BaseException):
        """What nothing catches."""

    def die(checkpoints, step, state, save=Checkpoints.save):
        if step == 5 and moment == "before the new checkpoint":
            raise Killed
        save(checkpoints, step, state)
        if step == 5:
            checkpoints.wait()
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", die)
        with pytest.raises(Killed):
            run(experiment, tmp_path / "killed", **rolling)
    run(experiment, tmp_path / "killed", **rolling)
    assert_same(saved(tmp_path / "killed"), saved(tmp_path / "never_killed"))
    assert rows_of(tmp_path / "killed")[-1]["rollbacks"] == 1


def test_rolling_back_for_ever_stops(bad, experiment, tmp_path):
    bad |= set(range(5, 11))
    rolling = dict(on_nonfinite="rollback")
    for _ in range(2):  # a restart does not begin to count anew
        with pytest.raises(
            NonFiniteError, match="rolled back 3 times in a row without success: step 8: objective"
        ):
            run(experiment, tmp_path / "run", **rolling)
        rows = rows_of(tmp_path / "run")
        assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6, 7]
        assert all(np.isfinite(leaf).all() for leaf in saved(tmp_path / "run").values())


def test_rollback_needs_a_checkpoint(bad, experiment, tmp_path, monkeypatch):
    bad.add(5)
    monkeypatch.setattr(rollback.Checkpoints, "restore", lambda *_, **__: None)
    with pytest.raises(NonFiniteError, match="no checkpoint at or before step 3 to roll back to: step 5"):
        run(experiment, tmp_path / "run", on_nonfinite="rollback")


def test_stop_is_the_default(bad, experiment, tmp_path, record_property):
    bad.add(5)
    with pytest.raises(NonFiniteError, match="step 5: objective 'pairs' is nan") as stopped:
        run(experiment, tmp_path / "run")
    assert stopped.value.step == 5 and saved(tmp_path / "run")["step"] == 3
    tiny.record(record_property, "a step that is not finite: stop (exit 3)", 1)
    # The same folder goes on in another way.
    run(experiment, tmp_path / "run", on_nonfinite="rollback")
    assert rows_of(tmp_path / "run")[-1]["rollbacks"] == 1
