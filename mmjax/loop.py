"""A run from beginning to end: mesh, state, restore, steps, saving, evaluation."""

import contextlib
import dataclasses
import logging
import time
from pathlib import Path

import jax
import optax
from tqdm import tqdm

from mmjax import data, distributed, evals, sharding, train
from mmjax.batch import Batch
from mmjax.checkpoint import Checkpoints
from mmjax.errors import InputError
from mmjax.evals import pictures
from mmjax.experiment import Experiment, from_text, to_text, tracing, validate
from mmjax.learner import Learner
from mmjax.run_folder import EXPERIMENT, METRICS, RunFolder
from mmjax.stop import StopSignal
from mmjax.train.flops import train_flops
from mmjax.train.metrics import Meter

Results = dict[str, dict[str, float]]
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Setup:
    """What an experiment becomes on the devices at hand."""

    experiment: Experiment
    learner: Learner
    optimizer: optax.GradientTransformation
    mesh: jax.sharding.Mesh
    abstract: train.TrainState  # shapes and shardings

    @classmethod
    def of(cls, experiment: Experiment, devices: list | None = None) -> "Setup":
        """Validates and plans; computes nothing. Raises InputError if experiment and devices do not fit."""
        devices = jax.devices() if devices is None else devices
        validate(experiment, len(devices))
        mesh = experiment.mesh.make(devices)
        learner = Learner(model=experiment.model, objectives=experiment.objectives)
        optimizer = experiment.optimizer.make(experiment.num_steps)
        spec = experiment.data.spec()
        with tracing(experiment):
            abstract = train.abstract_state(learner, optimizer, spec, experiment.seed, mesh, experiment.rules)
        return cls(experiment, learner, optimizer, mesh, abstract)

    def new_state(self) -> train.TrainState:
        """The state before the first step."""
        e = self.experiment
        return train.create_state(self.learner, self.optimizer, e.data.spec(), e.seed, self.mesh, e.rules)

    def predictor(self, state: train.TrainState) -> train.Predictor:
        """The model as a function of batches."""
        return train.Predictor(self.learner, state.params, self.mesh, self.experiment.rules)


def run(experiment: Experiment, run_dir: str | Path, stop: StopSignal | None = None) -> Results:
    """Trains to the end, or from where `run_dir` stopped, and evaluates: {eval: {metric: value}}.

    stop: asks the run to end early; by default SIGTERM and SIGINT do.

    With several processes (`distributed.start` comes first) every one calls this, and process 0 writes.

    Raises:
      InputError: configuration, data or folder do not fit.
      NonFiniteError: a loss or gradient became NaN or infinite; the last good checkpoint is kept.
      Interrupted: asked to stop; the state is saved and the same call goes on.
    """
    with contextlib.ExitStack() as opened:
        stop = opened.enter_context(StopSignal()) if stop is None else stop
        with distributed.together():
            setup, text = Setup.of(experiment), to_text(experiment)
        # In this order on resume: the folder proves to be this experiment's, its state, its data.
        folder = claim(run_dir, text, opened)
        checkpoints = Checkpoints(folder.checkpoints, max_to_keep=experiment.max_to_keep, experiment=text)
        opened.enter_context(contextlib.closing(checkpoints))
        state = checkpoints.restore(setup.abstract)
        if state is None:
            with distributed.together():
                open_data(experiment)
            state = setup.new_state()
        step = int(state.step)
        distributed.from_first(lambda: folder.resume(step))
        keep_vocabularies(experiment, folder)
        state = train_steps(setup, state, folder, checkpoints, stop)
        results = evaluate_due(setup, state, experiment.num_steps, folder, stop)
        if folder.writes:
            pictures.loss_curves(folder.path / METRICS, folder.pictures / "loss_curves.png")
    return results


def claim(run_dir: str | Path, text: str, opened: contextlib.ExitStack) -> RunFolder:
    """The run's folder, claimed by the first process and closed with `opened`; one's refusal is all's."""
    with distributed.together():
        writes = distributed.is_first()
        folder = opened.enter_context(RunFolder.claim(run_dir, text, writes=writes))
    with distributed.together():
        if not folder.path.is_dir():
            raise InputError(
                f"expected the run's folder on a disk that all processes share, found no {run_dir} here: "
                "choose one with --run-dir"
            )
    return folder


def keep_vocabularies(experiment: Experiment, folder: RunFolder) -> None:
    """The first process records, then the others compare: each trains them on the data that it sees."""
    for turn in (True, False):
        with distributed.together():
            if distributed.is_first() == turn:
                folder.keep_vocabularies(experiment.data.vocabularies())


def open_data(experiment: Experiment) -> None:
    """Opens all that will be read, evaluations' too: what is missing is said now rather than hours later."""
    for dataset in (d for _, d in experiment.data.datasets.values()):
        dataset.open()
    for evaluation in experiment.evals.values():
        evaluation.data.open()


def train_steps(
    setup: Setup, state: train.TrainState, folder: RunFolder, checkpoints: Checkpoints, stop: StopSignal
) -> train.TrainState:
    """Steps from the state's to the experiment's last, with logs, checkpoints and evaluations on the way."""
    experiment, first = setup.experiment, int(state.step)
    if first >= experiment.num_steps:
        return state
    if distributed.any_process(stop.requested):
        stop.end(f"before step {first + 1}")
    step_function = train.compile_step(
        setup.learner, setup.optimizer, setup.abstract, setup.mesh, experiment.rules
    )
    flops = train_flops(setup.learner, setup.abstract.params, experiment.data.spec())
    meter = Meter(experiment.data.batch_size, flops)
    num_steps = experiment.num_steps
    shown = dict(desc=experiment.name, unit="step", dynamic_ncols=True, disable=not folder.writes)
    feed = Feed(setup, first, distributed.from_first(folder.num_bad))
    vote = distributed.Vote()
    with contextlib.closing(feed), tqdm(total=num_steps, initial=first, **shown) as bar:
        for step in range(first + 1, num_steps + 1):
            if due(experiment, step - 1):  # after a resume too: the kill may have come before or within it
                evaluate_due(setup, state, step - 1, folder, stop)
                meter.restart()
            batch, waited = feed.next()
            with jax.transfer_guard("disallow"):
                state, metrics = step_function(state, batch)
            meter.add(metrics, waited)
            if step == first + 1:
                meter.start_clock()  # this step compiled
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
                row["learning_rate"] = float(experiment.optimizer.learning_rate(num_steps, step - 1))
                folder.write_metrics(step, row | {"bad_examples": feed.num_bad()})
                bar.set_postfix_str(progress(row), refresh=False)
            if saving:
                checkpoints.save(step, state)
            if stopping:
                checkpoints.wait()
                stop.end(f"after step {step}, which is saved")
    checkpoints.wait()
    return state


class Feed:
    """Global batches on the mesh, from a step on, with the time spent waiting for them."""

    def __init__(self, setup: Setup, first_step: int, num_bad: int):
        experiment = setup.experiment
        self.batch_size = experiment.data.batch_size
        self.sharding = sharding.batch_sharding(setup.mesh, experiment.rules)
        rows = sharding.local_rows(self.sharding, self.batch_size)
        self.counter = data.BadCounter(experiment.data)
        # A resumed run judges the share of bad examples as if it had never stopped; a process, its part.
        self.num_bad_before, self.share = num_bad, len(rows) / self.batch_size
        self.counter.num_bad = self.num_bad_mine = round(num_bad * self.share)
        self.counter.num_rows = first_step * len(rows)
        self.batches = data.batches(
            experiment.data,
            seed=experiment.seed,
            start_step=first_step,
            rows=rows,
            num_steps=experiment.num_steps,
        )

    def next(self) -> tuple[Batch, float]:
        """The next batch, and the seconds that the loop stood still for it."""
        start = time.perf_counter()
        batch, bad = next(self.batches)
        waited = time.perf_counter() - start
        self.counter.add(bad)
        return sharding.to_global(batch, self.sharding, self.batch_size), waited

    def num_bad(self) -> int:
        """Bad examples of the run so far, in all processes. Rows that several of them load count once."""
        new = self.counter.num_bad - self.num_bad_mine
        seen, num_rows = distributed.total(new, round(self.share * self.batch_size))
        return self.num_bad_before + round(seen * self.batch_size / num_rows)

    def close(self) -> None:
        """Stops the threads that read ahead."""
        self.batches.close()


def progress(row: dict[str, float]) -> str:
    """One line of numbers beside the bar."""
    losses = [
        f"{name.removeprefix('loss/')} {value:.3f}" for name, value in row.items() if name.startswith("loss/")
    ]
    speed = ""
    if "examples_per_second" in row:
        speed = f"; {row['examples_per_second']:.0f} ex/s, input wait {row['input_wait_share']:.0%}"
    return f"loss {row['loss']:.3f}: {', '.join(losses)}{speed}"


def due(experiment: Experiment, step: int) -> dict[str, evals.Eval]:
    """The evals that belong after a step: all of them after the last."""
    if step == experiment.num_steps:
        return experiment.evals

    def falls(every: int) -> bool:
        return step > 0 and every > 0 and step % every == 0

    return {name: e for name, e in experiment.evals.items() if falls(e.every) or falls(experiment.eval_every)}


def evaluate_due(
    setup: Setup, state: train.TrainState, step: int, folder: RunFolder, stop: StopSignal
) -> Results:
    """Runs the evals that are due and not recorded yet, records their numbers and draws their pictures."""
    predictor, results = setup.predictor(state), {}

    def watched(*args, **kwargs):
        if distributed.any_process(stop.requested):
            stop.end(f"while evaluating step {step}, which is saved")
        return predictor(*args, **kwargs)

    for name, evaluation in due(setup.experiment, step).items():
        results[name] = distributed.from_first(lambda name=name: folder.recorded(step, name))
        if results[name] is None:
            result = evaluation(watched)
            results[name] = result.metrics
            folder.write_pictures(name, result.pictures)
            folder.write_eval(step, name, result.metrics)  # last: the record says that it is all there
    return results


def open_run(run_dir: str | Path, experiment: Experiment | None = None) -> tuple[Setup, train.TrainState]:
    """The set-up and newest state of a run; `experiment` only if its text names classes not mmjax's."""
    folder = RunFolder(run_dir)
    if experiment is None:
        try:
            experiment = from_text(folder.text)
        except InputError as error:
            raise InputError(f"{folder.path / EXPERIMENT}: {error}") from error
    # Whatever mesh the run used, one device serves to look at it.
    experiment = dataclasses.replace(experiment, mesh=sharding.MeshShape(), rules=sharding.REPLICATED)
    setup = Setup.of(experiment, jax.local_devices()[:1])
    state = None
    if folder.checkpoints.is_dir():
        with contextlib.closing(Checkpoints(folder.checkpoints, read_only=True)) as checkpoints:
            state = checkpoints.restore(setup.abstract)
    if state is None:
        raise InputError(
            f"expected a checkpoint in {run_dir}, found none yet: train until the first is saved"
        )
    return setup, state


def restore(run_dir: str | Path, experiment: Experiment | None = None) -> tuple[Learner, train.TrainState]:
    """(learner, state) of a run's newest checkpoint, for notebooks."""
    setup, state = open_run(run_dir, experiment)
    return setup.learner, state


def evaluate(run_dir: str | Path, path: str | None = None, experiment: Experiment | None = None) -> Results:
    """The experiment's evals on a run's newest checkpoint, on data in the same layout at `path` if given."""
    setup, state = open_run(run_dir, experiment)
    predictor, step, results = setup.predictor(state), int(state.step), {}
    with RunFolder(run_dir) as folder:
        folder.keep_vocabularies(setup.experiment.data.vocabularies())
        for name, evaluation in setup.experiment.evals.items():
            if path is not None:
                evaluation = dataclasses.replace(evaluation, data=data.with_path(evaluation.data, path))
            results[name] = evaluation(predictor).metrics
            # The run may be somebody else's: looking at it needs no leave to write.
            if path is None and folder.recorded(step, name) is None:
                try:
                    folder.write_eval(step, name, results[name])
                except OSError as error:
                    log.warning("the result is not recorded in %s: %s", run_dir, error)
    return results
