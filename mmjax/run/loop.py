"""Training from beginning to end: restore, steps, logs, checkpoints and evaluations."""

import contextlib
import dataclasses
from pathlib import Path

import jax

from mmjax import training
from mmjax.checkpoint.manager import Checkpoints
from mmjax.checkpoint.retention import RetentionPolicy
from mmjax.cluster import processes
from mmjax.errors import InputError, NonFiniteError
from mmjax.evals import curves
from mmjax.evals.conflict_map import conflict_map, conflict_rows
from mmjax.experiment import Experiment, to_text
from mmjax.experiment.validation import best_metric, validate
from mmjax.run import locations
from mmjax.run.evaluation import Results, due_evaluations, evaluate_due
from mmjax.run.files import METRICS, has_records
from mmjax.run.folder import RunFolder
from mmjax.run.goodput import Goodput
from mmjax.run.input import TrainInput
from mmjax.run.report import Progress
from mmjax.run.rollback import roll_back
from mmjax.run.session import Session
from mmjax.run.signals import StopSignal
from mmjax.run.start import prepare_data
from mmjax.run.steps import Steps
from mmjax.training.optimizer import Optimizer


def run(
    experiment: Experiment,
    run_dir: str | Path,
    stop: StopSignal | None = None,
    *,
    devices: list | None = None,
    goodput: Goodput | None = None,
    accept_data: bool = False,
) -> Results:
    """Trains to the last step, from where `run_dir` stopped, and evaluates: {eval: {metric: value}}.

    With several processes (`processes.initialize` comes first) each of them calls this, and process 0 writes.

    Args:
      stop: asks the run to end early; by default SIGTERM and SIGINT do.
      devices: to train on; by default all that JAX sees.
      goodput: records where the wall time goes; by default one that starts now.
      accept_data: go on with data that are not those that the run was trained with so far.

    Raises:
      InputError: configuration, data or folder do not fit together.
      NonFiniteError: a loss or gradient became NaN or infinite, and `on_nonfinite` is "stop" or did not help.
        The last good checkpoint is kept.
      Interrupted: a signal asked to stop. The state is saved; the same call resumes.
    """
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopSignal()) if stop is None else stop
        goodput = Goodput() if goodput is None else goodput
        trainer = Trainer.open(experiment, run_dir, stop, goodput, devices, stack)
        trainer.accept_data = accept_data
        return trainer.run()


@dataclasses.dataclass
class Trainer:
    """One process's part in the training of one run."""

    session: Session
    folder: RunFolder
    checkpoints: Checkpoints
    stop: StopSignal
    goodput: Goodput
    accept_data: bool = False

    @classmethod
    def open(
        cls,
        experiment: Experiment,
        run_dir: str | Path,
        stop: StopSignal,
        goodput: Goodput,
        devices: list | None,
        stack: contextlib.ExitStack,
    ) -> "Trainer":
        """Validates the experiment and claims the run's folder, which `stack` releases.

        What is cheap is refused first: fields, then missing data, then shapes, then the folder.
        """
        with processes.fail_together():
            validate(experiment, len(jax.devices() if devices is None else devices))
            if not has_records(Path(run_dir)):  # a run that resumes may know better where its data are
                locations.refuse_missing(experiment)
            session, text = Session.of(experiment, devices), to_text(experiment)
        folder = claim(run_dir, text, stack, experiment.optimizer)
        checkpoints = Checkpoints(
            folder.checkpoints, retention=retention(experiment, folder), experiment=text
        )
        stack.enter_context(contextlib.closing(checkpoints))
        return cls(session, folder, checkpoints, stop, goodput)

    @property
    def experiment(self) -> Experiment:
        """The experiment of the session."""
        return self.session.experiment

    def run(self) -> Results:
        """Restores or creates the state, trains, evaluates and draws: {eval: {metric: value}}."""
        state = self.restore_or_create()
        first_step = int(state.step)
        state = self.train_to_end(state)
        with self.goodput.during("evaluation"):
            results = evaluate_due(self.session, state, self.experiment.num_steps, self.folder, self.stop)
        if first_step < self.experiment.num_steps:
            self.folder.amend_metrics(self.goodput.row())
        if self.folder.writes:
            draw_curves(self.folder)
        return results

    def restore_or_create(self) -> training.TrainState:
        """The newest checkpoint's state, or a new one. The logs and the data resume from its step."""
        state = self.checkpoints.restore(self.session.abstract)
        first_step = 0 if state is None else int(state.step)
        self.goodput.restore(self.folder.metrics() if self.folder.writes else [], first_step)
        if processes.broadcast_from_process_zero(lambda: self.folder.resume(first_step)):
            # Record the lost time now: the process may die before its first log line.
            self.folder.amend_metrics(self.goodput.row())
        if not self.is_complete(first_step):  # before compiling, which takes longer
            experiment = prepare_data(self.experiment, self.folder, accept_data=self.accept_data)
            self.session = dataclasses.replace(self.session, experiment=experiment)
        return self.session.new_state() if state is None else state

    def is_complete(self, step: int) -> bool:
        """Whether the run is at its end and evaluated, so that it needs no data."""
        experiment = self.experiment
        return step >= experiment.num_steps and processes.broadcast_from_process_zero(
            lambda: all(self.folder.recorded(step, name) is not None for name in experiment.evals)
        )

    def train_to_end(self, state: training.TrainState) -> training.TrainState:
        """Trains up to the last step. After a non-finite step it rolls back, if the experiment says so."""
        experiment, session = self.experiment, self.session
        if int(state.step) >= experiment.num_steps:
            return state
        if processes.any_process(self.stop.requested):
            self.stop.end(f"before step {int(state.step) + 1}")
        steps = Steps.compile(session, num_skipped=self.counts()["skipped_steps"])
        while int(state.step) < experiment.num_steps:
            try:
                state = self.train_until_nonfinite(state, steps)
            except NonFiniteError as error:
                with self.goodput.during("restart"):
                    state = roll_back(session, self.folder, self.checkpoints, self.goodput, error)
                steps.meter.num_skipped = self.counts()["skipped_steps"]
        with self.goodput.during("save_stall"):
            self.checkpoints.wait()
        return state

    def train_until_nonfinite(self, state: training.TrainState, steps: Steps) -> training.TrainState:
        """Steps with logs, checkpoints and evaluations, up to the last one or to the first NonFiniteError."""
        experiment, first_step, num_steps = self.experiment, int(state.step), self.experiment.num_steps
        counts, stop_flag = self.counts(), processes.SharedStopFlag()
        train_input = TrainInput(self.session, first_step, counts["bad_examples"])
        steps.meter.reset()
        bar = Progress(experiment.name, first_step, num_steps, shows=self.folder.writes)
        with contextlib.closing(train_input), contextlib.closing(bar):
            for step in range(first_step + 1, num_steps + 1):
                if due_evaluations(experiment, step - 1):  # also after a resume from a kill during it
                    with self.goodput.during("evaluation"):
                        evaluate_due(self.session, state, step - 1, self.folder, self.stop)
                    steps.meter.reset()
                with self.goodput.during("input_wait"):
                    batch, waited = train_input.next()
                state = steps.take(step, state, batch, waited, self.goodput)
                bar.advance()
                is_last, is_stopping = step == num_steps, stop_flag(self.stop.requested)
                # A state is saved before it is evaluated, so that evaluations may be interrupted.
                saves = is_last or is_stopping or step % experiment.save_every == 0
                saves = saves or bool(due_evaluations(experiment, step))
                if is_last:
                    train_input.counter.check()
                is_due = step == 1 or is_last or step % experiment.log_every == 0
                if saves or is_due:
                    # Read before saving: a non-finite state must never become the newest checkpoint.
                    row = self.log(step, steps, train_input.num_bad(), counts["rollbacks"])
                    bar.show(step, row, line=is_due)
                if saves:
                    with self.goodput.during("save_stall"):
                        self.checkpoints.save(step, state)
                if is_stopping:
                    self.end_early(step)
        return state

    def log(self, step: int, steps: Steps, num_bad: int, num_rollbacks: int) -> dict[str, float]:
        """Writes the means since the last log line; returns them.

        Raises:
          NonFiniteError: one of the steps since then was not finite and not skipped.
        """
        experiment, meter = self.experiment, steps.meter
        row = meter.read(step)
        num_updates = max(0, step - 1 - meter.num_skipped)  # before this step's
        row["learning_rate"] = float(experiment.optimizer.learning_rate(experiment.num_steps, num_updates))
        row["bad_examples"] = num_bad
        row |= steps.read_conflicts()
        if experiment.on_nonfinite != "stop":
            row |= {"skipped_steps": meter.num_skipped, "rollbacks": num_rollbacks}
        self.folder.write_metrics(step, row | self.goodput.row())
        return row

    def counts(self) -> dict[str, int]:
        """The run's counts up to its last logged step, as process 0 reads them."""
        names = ("bad_examples", "skipped_steps", "rollbacks")
        return processes.broadcast_from_process_zero(
            lambda: {name: self.folder.running_count(name) for name in names}
        )

    def end_early(self, step: int) -> None:
        """Waits for the checkpoint of this step, then raises Interrupted."""
        with self.goodput.during("save_stall"):
            self.checkpoints.wait()
        self.folder.amend_metrics(self.goodput.row())
        self.stop.end(f"after step {step}, which is saved")


def retention(experiment: Experiment, folder: RunFolder) -> RetentionPolicy:
    """The experiment's retention policy. It reads scores from evals.jsonl, which also hold after a resume."""
    name, metric = (None, None) if experiment.keep_best is None else best_metric(experiment)
    return RetentionPolicy(
        max_to_keep=experiment.max_to_keep,
        keep_every=experiment.keep_every,
        newest_multiple_of=experiment.save_every if experiment.on_nonfinite == "rollback" else 0,
        scores=dict if name is None else lambda: folder.scores(name, metric),
        best_mode=experiment.best_mode,
    )


def claim(run_dir: str | Path, text: str, stack: contextlib.ExitStack, optimizer: Optimizer) -> RunFolder:
    """The run's folder, claimed by process 0 until `stack` closes. If one process fails, all do.

    Args:
      text: the experiment as `to_text` prints it.
      optimizer: the experiment's.
    """
    with processes.fail_together():
        writes = processes.is_process_zero()
        folder = stack.enter_context(RunFolder.claim(run_dir, text, optimizer, writes=writes))
    with processes.fail_together():
        if not folder.path.is_dir():
            raise InputError(
                f"expected the run's folder on a disk that all processes share, found no {run_dir} on this "
                "host: choose one with --run-dir"
            )
    return folder


def draw_curves(folder: RunFolder) -> None:
    """Draws the curves of the run, and the conflicts between objectives where they were measured."""
    curves.training_curves(folder.pictures / "curves.png", folder.metrics(), folder.evals())
    metrics = folder.path / METRICS
    if conflict_rows(metrics):
        conflict_map(metrics, folder.pictures / "conflicts.png")
