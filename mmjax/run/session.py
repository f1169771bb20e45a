"""What an experiment becomes on the devices at hand: its mesh, its state, its batches."""

import dataclasses

import jax
import optax

from mmjax import train
from mmjax.balance.shared import split
from mmjax.experiment import Experiment
from mmjax.experiment.validation import names_parameters, tracing, validate
from mmjax.learner import Learner


@dataclasses.dataclass(frozen=True)
class Session:
    """What an experiment becomes on the devices at hand."""

    experiment: Experiment
    learner: Learner
    optimizer: optax.GradientTransformation
    mesh: jax.sharding.Mesh
    abstract: train.TrainState  # shapes and shardings

    @classmethod
    def of(cls, experiment: Experiment, devices: list | None = None) -> "Session":
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
