"""A non-finite step stops the run, is skipped, or causes a rollback, as `on_nonfinite` says."""

import dataclasses
import os
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from mmjax import sharding, training
from mmjax.checkpoint.manager import Checkpoints
from mmjax.errors import Interrupted, NonFiniteError
from mmjax.experiment import Experiment, load
from mmjax.run import loop, rollback
from mmjax.sharding import MeshShape
from mmjax.training import metrics, nonfinite

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("compilation_cache")]

# A skipped step must leave the accumulated gradients and the key of dropout unchanged.
REPLACEMENTS = tiny.DROPOUT | tiny.ACCUMULATION | tiny.NO_EVALS
NUM_STEPS, SAVE_EVERY = 10, 3


@pytest.fixture(scope="module")
def programs() -> tiny.SharedPrograms:
    return tiny.SharedPrograms()


@pytest.fixture(scope="module")
def session(tmp_path_factory, programs) -> loop.Session:
    """The experiment on one device."""
    overrides = [f"num_steps={NUM_STEPS}", f"save_every={SAVE_EVERY}", "log_every=2", "max_to_keep=1"]
    experiment = load(tiny.write(tmp_path_factory.mktemp("data"), replace=REPLACEMENTS), overrides)
    return programs.session(experiment, jax.devices()[:1])


@pytest.fixture
def bad_steps(programs, monkeypatch) -> set[int]:
    """Steps whose images are NaN; tests add to it. Runs also share compiled programs."""
    steps: set[int] = set()
    programs.install(monkeypatch)

    def init_with_step(train_input, session, first_step, num_bad, init=loop.TrainInput.__init__):
        init(train_input, session, first_step, num_bad)
        train_input.step = first_step

    def next_with_nan(train_input, next_batch=loop.TrainInput.next):
        train_input.step += 1
        batch, waited = next_batch(train_input)
        return with_nan(batch) if train_input.step in steps else batch, waited

    monkeypatch.setattr(loop.TrainInput, "__init__", init_with_step)
    monkeypatch.setattr(loop.TrainInput, "next", next_with_nan)
    return steps


def with_nan(batch):
    return batch | {"image": batch["image"].replace(pixels=batch["image"].pixels * np.nan)}


@pytest.fixture
def experiment(session) -> Experiment:
    return session.experiment


def run(experiment: Experiment, run_dir: Path, **changes) -> None:
    """Trains on one device with other fields of the experiment."""
    loop.run(dataclasses.replace(experiment, **changes), run_dir, devices=jax.devices()[:1])


def train_on(session, steps, skip_nonfinite: bool):
    """The state after training on the batches of exactly these steps."""
    parts = session.learner, session.optimizer, session.abstract, session.mesh, session.experiment.rules
    step_function = training.jit_step(*parts, skip_nonfinite=skip_nonfinite)
    state = session.new_state()
    for step in steps:
        state, _ = step_function(with_step(state, step - 1), batch_of(session, step))
    return state


def batch_of(session, step: int):
    train_input = loop.TrainInput(session, step - 1, 0)
    batch, _ = train_input.next()
    train_input.close()
    return batch


def with_step(state, step: int):
    return state.replace(step=jax.device_put(np.int32(step), state.step.sharding))


def read_metrics(run_dir: Path) -> list[dict]:
    return tiny.read_jsonl(run_dir / "metrics.jsonl")


@pytest.mark.parametrize("mesh, rules", [({}, "REPLICATED"), ({"data": 1, "fsdp": 4}, "FSDP")])
def test_skipped_step_changes_only_the_step_number(session, programs, monkeypatch, mesh, rules):
    e = dataclasses.replace(session.experiment, mesh=MeshShape(**mesh), rules=getattr(sharding, rules))
    programs.install(monkeypatch)
    session = programs.session(e, jax.devices()[: 4 if mesh else 1])
    step = programs.step(
        session.learner, session.optimizer, session.abstract, session.mesh, e.rules, skip_nonfinite=True
    )
    state = train_on(session, [1], True)  # half of an update is accumulated
    before = tiny.arrays_by_path(state)
    batch = batch_of(session, 2)
    after, logged = step(state, with_nan(batch))
    assert float(logged["skipped"]) == 1.0 and not np.isfinite(logged["loss"])
    tiny.assert_same_state(tiny.arrays_by_path(after) | {"step": before["step"]}, before)
    assert int(after.step) == 2
    last, logged = step(after, batch)
    assert float(logged["skipped"]) == 0.0 and np.isfinite(logged["update_norm"])
    assert int(last.step) == 3 and tiny.arrays_by_path(last)["key"].tobytes() == before["key"].tobytes()


def test_skip_equals_training_without_the_bad_steps(
    session, bad_steps, experiment, tmp_path, record_property
):
    bad_steps |= {4, 7, 8}
    run(experiment, tmp_path / "run", on_nonfinite="skip")
    good = [step for step in range(1, NUM_STEPS + 1) if step not in bad_steps]
    expected = with_step(train_on(session, good, True), NUM_STEPS)
    tiny.assert_same_state(tiny.read_state(tmp_path / "run"), tiny.arrays_by_path(expected))

    rows = {row["step"]: row for row in read_metrics(tmp_path / "run")}
    assert {step: row["skipped_steps"] for step, row in rows.items()} == {
        1: 0, 2: 0, 3: 0, 4: 1, 6: 1, 8: 3, 9: 3, 10: 3
    }  # fmt: skip
    assert rows[4]["loss"] is None and rows[8]["loss"] is None  # all steps since the row before were bad
    assert all(rows[step]["loss"] > 0 for step in (1, 2, 3, 6, 9, 10))
    # The schedule counts updates, and a skipped step makes none.
    assert rows[10]["learning_rate"] == experiment.optimizer.learning_rate(NUM_STEPS, 10 - 1 - 3)
    tiny.record_fault(record_property, "a step that is not finite: skip", 3, "that step's update")


def test_count_of_skipped_steps_survives_a_resume(bad_steps, experiment, tmp_path, monkeypatch):
    bad_steps |= {2, 5, 9}
    run(experiment, tmp_path / "uninterrupted", on_nonfinite="skip")
    with monkeypatch.context() as patch:
        patch.setattr(loop.TrainInput, "next", signal_at(6))
        with pytest.raises(Interrupted, match="after step 6, which is saved"):
            run(experiment, tmp_path / "interrupted", on_nonfinite="skip")
    run(experiment, tmp_path / "interrupted", on_nonfinite="skip")
    tiny.assert_same_state(
        tiny.read_state(tmp_path / "interrupted"), tiny.read_state(tmp_path / "uninterrupted")
    )
    assert read_metrics(tmp_path / "interrupted")[-1]["skipped_steps"] == 3


def signal_at(step: int):
    """A replacement of TrainInput.next that sends SIGTERM after it has read the batch of `step`."""

    def next_with_signal(train_input, next_batch=loop.TrainInput.next):
        batch_and_wait = next_batch(train_input)
        if train_input.step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch_and_wait

    return next_with_signal


def test_too_many_consecutive_skips_stop_the_run(bad_steps, experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(nonfinite, "MAX_CONSECUTIVE_SKIPS", 3)
    bad_steps |= {2, 3, 5, 6, 7, 8}
    with pytest.raises(NonFiniteError, match="step 7: the last 3 steps were all skipped, because none was"):
        run(experiment, tmp_path / "run", on_nonfinite="skip")
    assert tiny.read_state(tmp_path / "run")["step"] == 6


def test_non_finite_update_of_a_finite_gradient_stops_the_run():
    """Such a step is not skipped, so its parameters are non-finite."""
    meter = metrics.Meter(batch_size=1, flops_per_step=1.0)
    meter.add({"loss": 1.0, "grad_norm": 1.0, "update_norm": np.inf, "skipped": 0.0}, 0.0)
    with pytest.raises(NonFiniteError, match="step 3: update_norm is inf"):
        meter.read(3)


# {case: (bad steps, steps that the final state is trained on, [(bad step, step of the restored checkpoint)])}
ROLLBACKS = {
    "after a checkpoint": ({5}, [1, 2, 3, 6, 7, 8, 9, 10], [(5, 3)]),
    "before the first checkpoint": ({2}, [3, 4, 5, 6, 7, 8, 9, 10], [(2, 0)]),
    "at the step of a checkpoint": ({6}, [1, 2, 3, 7, 8, 9, 10], [(6, 3)]),
    "two between log lines": ({7, 8}, [1, 2, 3, 4, 5, 6, 9, 10], [(7, 6), (8, 6)]),
    "twice": ({5, 10}, [1, 2, 3, 6, 7, 8, 9], [(5, 3), (10, 9)]),
    "at the first step": ({1}, [2, 3, 4, 5, 6, 7, 8, 9, 10], [(1, 0)]),
}


@pytest.mark.parametrize("name", ROLLBACKS)
def test_rollback_equals_training_without_the_discarded_steps(
    session, bad_steps, experiment, tmp_path, name, record_property
):
    case_bad_steps, steps, rollbacks = ROLLBACKS[name]
    bad_steps |= case_bad_steps
    run_dir = tmp_path / "run"
    run(experiment, run_dir, on_nonfinite="rollback")
    bad_steps.clear()
    tiny.assert_same_state(
        tiny.read_state(run_dir), tiny.arrays_by_path(with_step(train_on(session, steps, False), NUM_STEPS))
    )
    rows = read_metrics(run_dir)
    assert [(row["step"], row["rolled_back_to"]) for row in rows if "rolled_back_to" in row] == rollbacks
    assert rows[-1]["rollbacks"] == len(rollbacks)
    assert rows[-1]["skipped_steps"] == NUM_STEPS - len(steps)
    assert rows == sorted(rows, key=lambda row: row["step"])
    if 10 not in case_bad_steps:
        num_updates = len(steps) - 1  # before the last step
        assert rows[-1]["learning_rate"] == experiment.optimizer.learning_rate(NUM_STEPS, num_updates)
    lost = "the updates since the checkpoint, as intended"
    tiny.record_fault(record_property, "a step that is not finite: rollback", len(rollbacks), lost)


def test_rollback_of_an_interrupted_run_equals_that_of_an_uninterrupted_run(
    bad_steps, experiment, tmp_path, monkeypatch
):
    """The signals save newer checkpoints. With max_to_keep=1 they must not replace the one to restore."""
    rollback_options = dict(on_nonfinite="rollback", save_every=4)
    bad_steps.add(7)
    run(experiment, tmp_path / "uninterrupted", **rollback_options)
    for step in (2, 5, 6):
        with monkeypatch.context() as patch:
            patch.setattr(loop.TrainInput, "next", signal_at(step))
            with pytest.raises(Interrupted):
                run(experiment, tmp_path / "interrupted", **rollback_options)
    run(experiment, tmp_path / "interrupted", **rollback_options)
    tiny.assert_same_state(
        tiny.read_state(tmp_path / "interrupted"), tiny.read_state(tmp_path / "uninterrupted")
    )
    for name in ("skipped_steps", "rollbacks", "learning_rate", "loss"):
        last = [read_metrics(tmp_path / d)[-1][name] for d in ("interrupted", "uninterrupted")]
        assert last[0] == last[1], name


@pytest.mark.parametrize("moment", ["before the new checkpoint", "after the new checkpoint"])
def test_rollback_after_a_kill_within_a_rollback_equals_one_without(
    bad_steps, experiment, tmp_path, monkeypatch, moment
):
    rollback_options = dict(on_nonfinite="rollback")
    bad_steps.add(5)
    run(experiment, tmp_path / "not_killed", **rollback_options)

    class Killed(BaseException):
        """Not an Exception, so that no handler catches it."""

    def save_and_die(checkpoints, step, state, save=Checkpoints.save):
        if step == 5 and moment == "before the new checkpoint":
            raise Killed
        save(checkpoints, step, state)
        if step == 5:
            checkpoints.wait()
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_die)
        with pytest.raises(Killed):
            run(experiment, tmp_path / "killed", **rollback_options)
    run(experiment, tmp_path / "killed", **rollback_options)
    tiny.assert_same_state(tiny.read_state(tmp_path / "killed"), tiny.read_state(tmp_path / "not_killed"))
    assert read_metrics(tmp_path / "killed")[-1]["rollbacks"] == 1


def test_too_many_consecutive_rollbacks_stop_the_run(bad_steps, experiment, tmp_path):
    bad_steps |= set(range(5, 11))
    rollback_options = dict(on_nonfinite="rollback")
    for _ in range(2):  # a resume continues the count
        with pytest.raises(
            NonFiniteError, match="rolled back 3 times in a row without success: step 8: objective"
        ):
            run(experiment, tmp_path / "run", **rollback_options)
        rows = read_metrics(tmp_path / "run")
        assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6, 7]
        assert all(np.isfinite(leaf).all() for leaf in tiny.read_state(tmp_path / "run").values())


def test_rollback_without_a_checkpoint_is_refused(bad_steps, experiment, tmp_path, monkeypatch):
    bad_steps.add(5)
    monkeypatch.setattr(rollback.Checkpoints, "restore", lambda *_, **__: None)
    with pytest.raises(NonFiniteError, match="no checkpoint at or before step 3 to roll back to: step 5"):
        run(experiment, tmp_path / "run", on_nonfinite="rollback")


def test_stop_is_the_default_and_the_run_can_resume_with_rollback(
    bad_steps, experiment, tmp_path, record_property
):
    bad_steps.add(5)
    with pytest.raises(NonFiniteError, match="step 5: objective 'pairs' is nan") as stopped:
        run(experiment, tmp_path / "run")
    assert stopped.value.step == 5 and tiny.read_state(tmp_path / "run")["step"] == 3
    tiny.record_fault(record_property, "a step that is not finite: stop (exit 3)", 1)
    run(experiment, tmp_path / "run", on_nonfinite="rollback")
    assert read_metrics(tmp_path / "run")[-1]["rollbacks"] == 1
