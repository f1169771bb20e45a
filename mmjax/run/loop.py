"""A run from beginning to end: mesh, state, restore, steps, saving, evaluation."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

import jax
from tqdm import tqdm

from mmjax import data, evals, sharding, train
from mmjax.balance import conflict
from mmjax.checkpoint.manager import Checkpoints
from mmjax.checkpoint.retention import Retention
from mmjax.cluster import processes
from mmjax.errors import InputError, NonFiniteError
from mmjax.evals import pictures
from mmjax.evals.conflict_map import conflict_map, rows_of
from mmjax.experiment import Experiment, from_text, to_text
from mmjax.experiment.validation import best_metric
from mmjax.learner import Learner
from mmjax.run.evaluation import Results, due, evaluate_due
from mmjax.run.folder import EXPERIMENT, METRICS, RunFolder
from mmjax.run.goodput import Goodput
from mmjax.run.input import TrainInput
from mmjax.run.report import progress
from mmjax.run.rollback import roll_back
from mmjax.run.session import Session
from mmjax.run.signals import StopSignal
from mmjax.train.flops import train_flops
from mmjax.train.metrics import Meter

log = logging.getLogger(__name__)


def run(
    experiment: Experiment,
    run_dir: str | Path,
    stop: StopSignal | None = None,
    *,
    devices: list | None = None,
    goodput: Goodput | None = None,
) -> Results:
    """Trains to the end, or from where `run_dir` stopped, and evaluates: {eval: {metric: value}}.

    stop: asks the run to end early; by default SIGTERM and SIGINT do.
    devices: to train on; by default all that JAX sees.
    goodput: takes down where the time goes; by default one that starts now.

    With several processes (`distributed.start` comes first) every one calls this, and process 0 writes.

    Raises:
      InputError: configuration, data or folder do not fit.
      NonFiniteError: a loss or gradient became NaN or infinite, and on_nonfinite is "stop" or has been of no
        help; the last good checkpoint is kept.
      Interrupted: asked to stop; the state is saved and the same call goes on.
    """
    with contextlib.ExitStack() as opened:
        stop = opened.enter_context(StopSignal()) if stop is None else stop
        goodput = Goodput() if goodput is None else goodput
        with processes.fail_together():
            session, text = Session.of(experiment, devices), to_text(experiment)
        # In this order on resume: the folder proves to be this experiment's, its state, its data.
        folder = claim(run_dir, text, opened)
        checkpoints = Checkpoints(folder.checkpoints, keep=retention(experiment, folder), experiment=text)
        opened.enter_context(contextlib.closing(checkpoints))
        state = checkpoints.restore(session.abstract)
        if state is None:
            with processes.fail_together():
                open_data(experiment)
            state = session.new_state()
        first = int(state.step)
        goodput.carry_on(folder.metrics() if folder.writes else [], first)
        if processes.broadcast_from_first(lambda: folder.resume(first)):
            # At once: a process that dies before its first log line must not hide it.
            folder.amend_metrics(goodput.row())
        keep_vocabularies(experiment, folder)
        state = train_steps(session, state, folder, checkpoints, stop, goodput)
        with goodput.during("evaluation"):
            results = evaluate_due(session, state, experiment.num_steps, folder, stop)
        if first < experiment.num_steps:
            folder.amend_metrics(goodput.row())
        if folder.writes:
            pictures.loss_curves(folder.path / METRICS, folder.pictures / "loss_curves.png")
            if rows_of(folder.path / METRICS):
                conflict_map(folder.path / METRICS, folder.pictures / "conflicts.png")
    return results


def retention(experiment: Experiment, folder: RunFolder) -> Retention:
    """Which checkpoints stay. The best is known by evals.jsonl, which a resume finds again."""
    name, metric = (None, None) if experiment.keep_best is None else best_metric(experiment)
    return Retention(
        last=experiment.max_to_keep,
        every=experiment.keep_every,
        newest_multiple_of=experiment.save_every if experiment.on_nonfinite == "rollback" else 0,
        scores=dict if name is None else lambda: folder.scores(name, metric),
        mode=experiment.best_mode,
    )


def claim(run_dir: str | Path, text: str, opened: contextlib.ExitStack) -> RunFolder:
    """The run's folder, claimed by the first process and closed with `opened`; one's refusal is all's."""
    with processes.fail_together():
        writes = processes.is_first()
        folder = opened.enter_context(RunFolder.claim(run_dir, text, writes=writes))
    with processes.fail_together():
        if not folder.path.is_dir():
            raise InputError(
                f"expected the run's folder on a disk that all processes share, found no {run_dir} here: "
                "choose one with --run-dir"
            )
    return folder


def keep_vocabularies(experiment: Experiment, folder: RunFolder) -> None:
    """The first process records, then the others compare: each trains them on the data that it sees."""
    for turn in (True, False):
        with processes.fail_together():
            if processes.is_first() == turn:
                folder.keep_vocabularies(experiment.data.vocabularies())


def open_data(experiment: Experiment) -> None:
    """Opens all that will be read, evaluations' too: what is missing is said now rather than hours later."""
    for dataset in (d for _, d in experiment.data.datasets.values()):
        dataset.open()
    for evaluation in experiment.evals.values():
        evaluation.data.open()


def train_steps(
    session: Session,
    state: train.TrainState,
    folder: RunFolder,
    checkpoints: Checkpoints,
    stop: StopSignal,
    goodput: Goodput,
) -> train.TrainState:
    """Steps from the state's to the experiment's last, and back where one is not finite, if so asked."""
    experiment, first = session.experiment, int(state.step)
    if first >= experiment.num_steps:
        return state
    if processes.any_process(stop.requested):
        stop.end(f"before step {first + 1}")
    step_function = train.compile_step(
        session.learner,
        session.optimizer,
        session.abstract,
        session.mesh,
        experiment.rules,
        skip_nonfinite=experiment.on_nonfinite == "skip",
    )
    report = train.compile_conflicts(session.learner, session.abstract, session.mesh, experiment.rules)
    flops = train_flops(session.learner, session.abstract.params, experiment.data.spec())
    meter = Meter(experiment.data.batch_size, flops, num_skipped=counted(folder)["skipped_steps"])
    while int(state.step) < experiment.num_steps:
        try:
            state = steps(session, state, step_function, report, meter, folder, checkpoints, stop, goodput)
        except NonFiniteError as error:
            with goodput.during("restart"):
                state = roll_back(session, folder, checkpoints, goodput, error)
            meter.num_skipped = counted(folder)["skipped_steps"]
    with goodput.during("save_stall"):
        checkpoints.wait()
    return state


def steps(
    session: Session,
    state: train.TrainState,
    step_function: Callable,
    report: Callable,
    meter: Meter,
    folder: RunFolder,
    checkpoints: Checkpoints,
    stop: StopSignal,
    goodput: Goodput,
) -> train.TrainState:
    """As `train_steps`, up to the first NonFiniteError: with logs, checkpoints and evaluations on the way."""
    experiment, first, num_steps = session.experiment, int(state.step), session.experiment.num_steps
    shown = dict(desc=experiment.name, unit="step", dynamic_ncols=True, disable=not folder.writes)
    counts, reports = counted(folder), []
    feed, vote = TrainInput(session, first, counts["bad_examples"]), processes.StopVote()
    meter.restart()
    with contextlib.closing(feed), tqdm(total=num_steps, initial=first, **shown) as bar:
        for step in range(first + 1, num_steps + 1):
            if due(experiment, step - 1):  # after a resume too: the kill may have come before or within it
                with goodput.during("evaluation"):
                    evaluate_due(session, state, step - 1, folder, stop)
                meter.restart()
            with goodput.during("input_wait"):
                batch, waited = feed.next()
            goodput.enter("step" if meter.compiled else "compile")
            with jax.transfer_guard("disallow"):
                if experiment.conflict_every and step % experiment.conflict_every == 0:
                    reports.append(report(state, batch))
                state, metrics = step_function(state, batch)
            meter.add(metrics, waited)
            if not meter.compiled:
                meter.start_clock()  # this step compiled
                goodput.enter("step")
            bar.update()
            last = step == num_steps
            telling = step == 1 or last or step % experiment.log_every == 0
            stopping = vote(stop.requested)
            # What is evaluated is saved first, so that evaluations may be interrupted.
            saving = last or stopping or step % experiment.save_every == 0 or bool(due(experiment, step))
            if last:
                feed.counter.finish()
            if saving or telling:
                # Read before saving: a state that is not finite must never become the newest checkpoint.
                row = meter.read(step - len(meter.pending) + 1)
                num_updates = max(0, step - 1 - meter.num_skipped)  # before this step's
                row["learning_rate"] = float(experiment.optimizer.learning_rate(num_steps, num_updates))
                row["bad_examples"] = feed.num_bad()
                row |= conflict.mean(jax.device_get(reports)) if reports else {}
                reports.clear()
                if experiment.on_nonfinite != "stop":
                    row |= {"skipped_steps": meter.num_skipped, "rollbacks": counts["rollbacks"]}
                folder.write_metrics(step, row | goodput.row())
                bar.set_postfix_str(progress(row), refresh=False)
            if saving:
                with goodput.during("save_stall"):
                    checkpoints.save(step, state)
            if stopping:
                with goodput.during("save_stall"):
                    checkpoints.wait()
                folder.amend_metrics(goodput.row())
                stop.end(f"after step {step}, which is saved")
    return state


def counted(folder: RunFolder) -> dict[str, int]:
    """What the run has counted until its last logged step, as process 0 reads it."""
    names = ("bad_examples", "skipped_steps", "rollbacks")
    return processes.broadcast_from_first(lambda: {name: folder.counted(name) for name in names})


def open_run(run_dir: str | Path, experiment: Experiment | None = None) -> tuple[Session, train.TrainState]:
    """The set-up and newest state of a run; `experiment` only if its text names classes not mmjax's."""
    folder = RunFolder(run_dir)
    if experiment is None:
        try:
            experiment = from_text(folder.text)
        except InputError as error:
            raise InputError(f"{folder.path / EXPERIMENT}: {error}") from error
    # Whatever mesh the run used, one device serves to look at it.
    experiment = dataclasses.replace(experiment, mesh=sharding.MeshShape(), rules=sharding.REPLICATED)
    session = Session.of(experiment, jax.local_devices()[:1])
    state = None
    if folder.checkpoints.is_dir():
        with contextlib.closing(Checkpoints(folder.checkpoints, read_only=True)) as checkpoints:
            state = checkpoints.restore(session.abstract)
    if state is None:
        raise InputError(
            f"expected a checkpoint in {run_dir}, found none yet: train until the first is saved"
        )
    return session, state


def restore(run_dir: str | Path, experiment: Experiment | None = None) -> tuple[Learner, train.TrainState]:
    """(learner, state) of a run's newest checkpoint, for notebooks."""
    session, state = open_run(run_dir, experiment)
    return session.learner, state


def evaluate(run_dir: str | Path, path: str | None = None, experiment: Experiment | None = None) -> Results:
    """The experiment's evals on a run's newest checkpoint, on data in the same layout at `path` if given."""
    session, state = open_run(run_dir, experiment)
    predictor, step, results = session.predictor(state), int(state.step), {}
    with RunFolder(run_dir) as folder:
        folder.keep_vocabularies(session.experiment.data.vocabularies())
        for name, evaluation in session.experiment.evals.items():
            if path is not None:
                evaluation = dataclasses.replace(evaluation, data=data.with_path(evaluation.data, path))
            results[name] = evals.measure(evaluation, predictor).metrics
            # The run may be somebody else's: looking at it needs no leave to write.
            if path is None and folder.recorded(step, name) is None:
                try:
                    folder.write_eval(step, name, results[name])
                except OSError as error:
                    log.warning("the result is not recorded in %s: %s", run_dir, error)
    return results
