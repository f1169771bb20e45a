"""What an experiment becomes on the devices at hand: its mesh, its state, its batches."""

import dataclasses
import time

import jax
import optax

from mmjax import data, distributed, sharding, train
from mmjax.balance.shared import split
from mmjax.batch import Batch
from mmjax.experiment import Experiment
from mmjax.learner import Learner
from mmjax.validation import names_parameters, tracing, validate


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
        learner = Learner(experiment.model, experiment.objectives, experiment.balance)
        optimizer = experiment.optimizer.make(experiment.num_steps)
        spec = experiment.data.spec()
        with tracing(experiment):
            abstract = train.abstract_state(learner, optimizer, spec, experiment.seed, mesh, experiment.rules)
            if names_parameters(experiment):
                split(abstract.params, experiment.balance)  # refuses prefixes that name none
        return cls(experiment, learner, optimizer, mesh, abstract)

    def new_state(self) -> train.TrainState:
        """The state before the first step."""
        e = self.experiment
        return train.create_state(self.learner, self.optimizer, e.data.spec(), e.seed, self.mesh, e.rules)

    def predictor(self, state: train.TrainState) -> train.Predictor:
        """The model as a function of batches."""
        return train.Predictor(self.learner, state.params, self.mesh, self.experiment.rules)


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
