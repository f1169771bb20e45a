"""A run from beginning to end: mesh, state, restore, steps, saving, evaluation."""

import contextlib
import dataclasses
import signal
import time
from pathlib import Path

import jax
from tqdm import tqdm

from mmjax import data, evals, sharding, train
from mmjax.batch import Batch
from mmjax.checkpoint import Checkpoints
from mmjax.errors import InputError, Interrupted
from mmjax.evals import pictures
from mmjax.experiment import Experiment, from_text, to_text, validate
from mmjax.learner import Learner
from mmjax.run_folder import RunFolder
from mmjax.train.flops import train_flops
from mmjax.train.metrics import Meter

Results = dict[str, dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Setup:
    """What an experiment becomes on the devices at hand."""

    experiment: Experiment
    learner: Learner
    optimizer: object  # optax.GradientTransformation
    mesh: jax.sharding.Mesh
    abstract: train.TrainState  # shapes and shardings

    @classmethod
    def of(cls, experiment: Experiment) -> "Setup":
        """Validates and plans; computes nothing. Raises InputError if experiment and devices do not fit."""
        validate(experiment, jax.device_count())
        mesh = experiment.mesh.make()
        learner = Learner(model=experiment.model, objectives=experiment.objectives)
        optimizer = experiment.optimizer.make(experiment.num_steps)
        spec = experiment.data.spec()
        abstract = train.abstract_state(learner, optimizer, spec, experiment.seed, mesh, experiment.rules)
        return cls(experiment, learner, optimizer, mesh, abstract)

    def new_state(self) -> train.TrainState:
        """The state before the first step."""
        e = self.experiment
        return train.create_state(self.learner, self.optimizer, e.data.spec(), e.seed, self.mesh, e.rules)

    def predictor(self, state: train.TrainState) -> train.Predictor:
        """The model as a function of batches."""
        return train.Predictor(self.learner, state.params, self.mesh, self.experiment.rules)


def run(experiment: Experiment, run_dir: str | Path) -> Results:
    """Trains to the end, or from where `run_dir` stopped, and evaluates: {eval: {metric: value}}.

    Raises:
      InputError: configuration, data or folder do not fit.
      NonFiniteError: a loss or gradient became NaN or infinite; the last good checkpoint is kept.
      Interrupted: SIGTERM or SIGINT came; the state is saved and the same call goes on.
    """
    setup, text = Setup.of(experiment), to_text(experiment)
    # In this order on resume: the folder proves to be this experiment's, the state, then the data from its step.
    with RunFolder.claim(run_dir, text) as folder:
        checkpoints = Checkpoints(folder.checkpoints, max_to_keep=experiment.max_to_keep, experiment=text)
        with contextlib.closing(checkpoints), StopSignal() as stop:
            state = checkpoints.restore(setup.abstract)
            state = setup.new_state() if state is None else state
            folder.resume(int(state.step))
            state = train_steps(setup, state, folder, checkpoints, stop)
            results = evaluate_all(setup, state, folder)
        pictures.loss_curves(folder.path / "metrics.jsonl", folder.pictures / "loss_curves.png")
    return results


def train_steps(
    setup: Setup, state: train.TrainState, folder: RunFolder, checkpoints: Checkpoints, stop: "StopSignal"
) -> train.TrainState:
    """Steps from the state's to the experiment's last, with logs, checkpoints and evaluations on the way."""
    experiment, first = setup.experiment, int(state.step)
    if first >= experiment.num_steps:
        return state
    step_function = train.compile_step(
        setup.learner, setup.optimizer, setup.abstract, setup.mesh, experiment.rules
    )
    flops = train_flops(setup.learner, setup.abstract.params, experiment.data.spec())
    meter = Meter(experiment.data.batch_size, flops)
    bar = tqdm(
        total=experiment.num_steps, initial=first, desc=experiment.name, unit="step", dynamic_ncols=True
    )
    with contextlib.closing(Feed(setup, first)) as feed, bar:
        unread = first + 1
        for step in range(first + 1, experiment.num_steps + 1):
            batch, waited = feed.next()
            with jax.transfer_guard("disallow"):
                state, metrics = step_function(state, batch)
            meter.add(metrics, waited)
            if step == first + 1:
                meter.start_clock()  # the first step compiled
            bar.update()
            last, stopping = step == experiment.num_steps, stop.requested
            saving = last or stopping or step % experiment.save_every == 0
            # Read before saving: a state that is not finite must never become the newest checkpoint.
            if saving or step % experiment.log_every == 0 or step == first + 1:
                row = meter.read(unread)
                unread = step + 1
                row["learning_rate"] = float(
                    experiment.optimizer.learning_rate(experiment.num_steps, step - 1)
                )
                folder.write_metrics(step, row | {"bad_examples": feed.counter.num_bad})
                bar.set_postfix_str(progress(row), refresh=False)
            if saving:
                checkpoints.save(step, state)
            if stopping and not last:
                checkpoints.wait()
                raise Interrupted(
                    f"stopped by {stop.name} after step {step}, which is saved; the same command goes on"
                )
            if not last:
                due = {name: e for name, e in experiment.evals.items() if e.every and step % e.every == 0}
                if experiment.eval_every and step % experiment.eval_every == 0:
                    due = experiment.evals
                if due:
                    evaluate_all(setup, state, folder, due)
                    meter.restart()
        feed.counter.finish()
    checkpoints.wait()
    return state


class Feed:
    """Global batches on the mesh, from a step on, with the time spent waiting for them."""

    def __init__(self, setup: Setup, first_step: int):
        experiment = setup.experiment
        self.batch_size = experiment.data.batch_size
        self.sharding = sharding.batch_sharding(setup.mesh, experiment.rules)
        self.counter = data.BadCounter(experiment.data)
        self.batches = data.batches(
            experiment.data, seed=experiment.seed, start_step=first_step,
            rows=sharding.local_rows(self.sharding, self.batch_size), num_steps=experiment.num_steps,
        )  # fmt: skip

    def next(self) -> tuple[Batch, float]:
        """The next batch, and the seconds that the loop stood still for it."""
        start = time.perf_counter()
        batch, bad = next(self.batches)
        waited = time.perf_counter() - start
        self.counter.add(bad)
        return sharding.to_global(batch, self.sharding, self.batch_size), waited

    def close(self) -> None:
        """Stops the threads that read ahead."""
        close = getattr(self.batches, "close", None)
        if close is not None:
            close()


class StopSignal:
    """Notes SIGTERM and SIGINT, so that the loop can stop between two steps. A second one acts at once."""

    def __init__(self):
        self.name: str | None = None
        self._before: dict[int, object] = {}

    @property
    def requested(self) -> bool:
        """A signal has come."""
        return self.name is not None

    def __enter__(self) -> "StopSignal":
        with contextlib.suppress(ValueError):  # not the main thread: signals are not ours to handle
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        self.name = signal.Signals(number).name
        signal.signal(number, self._before[number])


def progress(row: dict[str, float]) -> str:
    """One line of numbers beside the bar."""
    losses = [
        f"{name.removeprefix('loss/')} {value:.3f}" for name, value in row.items() if name.startswith("loss/")
    ]
    speed = ""
    if "examples_per_second" in row:
        speed = f"; {row['examples_per_second']:.0f} ex/s, input wait {row['input_wait_share']:.0%}"
    return f"loss {row['loss']:.3f}: {', '.join(losses)}{speed}"


def evaluate_all(
    setup: Setup, state: train.TrainState, folder: RunFolder, chosen: dict[str, evals.Eval] | None = None
) -> Results:
    """Runs evals (default: all of the experiment's), records their numbers and draws their pictures."""
    predictor, step, results = setup.predictor(state), int(state.step), {}
    for name, evaluation in (setup.experiment.evals if chosen is None else chosen).items():
        result = evaluation(predictor)
        results[name] = result.metrics
        folder.write_eval(step, name, result.metrics)
        folder.write_pictures(name, result.pictures)
    return results


def open_run(run_dir: str | Path, experiment: Experiment | None = None) -> tuple[Setup, train.TrainState]:
    """The set-up and newest state of a run; `experiment` only where its text names classes from outside mmjax."""
    folder = RunFolder(run_dir)
    # Evaluation needs no mesh: whatever the run used, it is restored onto the devices that are here.
    experiment = from_text(folder.text) if experiment is None else experiment
    setup = Setup.of(dataclasses.replace(experiment, mesh=sharding.MeshShape(), rules=sharding.REPLICATED))
    with contextlib.closing(Checkpoints(folder.checkpoints, read_only=True)) as checkpoints:
        state = checkpoints.restore(setup.abstract)
    if state is None:
        raise InputError(f"{run_dir} has no checkpoint yet: train it first with `mmjax train`")
    return setup, state


def restore(run_dir: str | Path, experiment: Experiment | None = None) -> tuple[Learner, train.TrainState]:
    """(learner, state) of a run's newest checkpoint, for notebooks."""
    setup, state = open_run(run_dir, experiment)
    return setup.learner, state


def evaluate(run_dir: str | Path, path: str | None = None) -> Results:
    """The experiment's evals on a run's newest checkpoint, on the data at `path` (a shard in the same layout) if given."""
    setup, state = open_run(run_dir)
    chosen = setup.experiment.evals
    if path is not None:
        chosen = {
            name: dataclasses.replace(e, data=data.with_path(e.data, path)) for name, e in chosen.items()
        }
    predictor = setup.predictor(state)
    with RunFolder(run_dir) as folder:
        results = {}
        for name, evaluation in chosen.items():
            results[name] = evaluation(predictor).metrics
            if path is None:
                folder.write_eval(int(state.step), name, results[name])
    return results
