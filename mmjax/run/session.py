"""An experiment on devices: its mesh, model, optimizer and the layout of its state."""

import dataclasses

import jax
import optax

from mmjax import training
from mmjax.balance.shared import split_params
from mmjax.cluster import processes
from mmjax.experiment import Experiment
from mmjax.experiment.validation import tracing, uses_shared_parameters, validate
from mmjax.interop.initial import initial_parts, place
from mmjax.learner import Learner


@dataclasses.dataclass(frozen=True)
class Session:
    """A validated experiment on devices.

    abstract: shapes, dtypes and shardings of the train state.
    """

    experiment: Experiment
    learner: Learner
    optimizer: optax.GradientTransformation
    mesh: jax.sharding.Mesh
    abstract: training.TrainState

    @classmethod
    def of(cls, experiment: Experiment, devices: list | None = None) -> "Session":
        """Validates the experiment and traces shapes; computes nothing.

        Args:
          devices: None: all that JAX sees.

        Raises:
          InputError: the experiment does not fit together, or does not fit the devices.
        """
        devices = jax.devices() if devices is None else devices
        validate(experiment, len(devices))
        mesh = experiment.mesh.make(devices)
        learner = Learner(experiment.model, experiment.objectives, experiment.balance)
        optimizer = experiment.optimizer.make(experiment.num_steps)
        spec = experiment.data.spec()
        with tracing(experiment):
            abstract = training.abstract_state(
                learner, optimizer, spec, experiment.seed, mesh, experiment.rules
            )
            if uses_shared_parameters(experiment):
                split_params(abstract.params, experiment.balance)  # raises for prefixes without parameters
        return cls(experiment, learner, optimizer, mesh, abstract)

    def new_state(self) -> training.TrainState:
        """The state before the first step.

        Raises:
          InputError: `init_from` names files that are missing, damaged or of another architecture.
        """
        e = self.experiment
        with processes.fail_together():
            parts = initial_parts(e.init_from, e.model, self.abstract.params) if e.init_from else {}
        state = training.create_state(self.learner, self.optimizer, e.data.spec(), e.seed, self.mesh, e.rules)
        if not parts:
            return state
        return training.with_params(state, place(state.params, parts), self.optimizer, self.abstract)

    def predictor(self, state: training.TrainState) -> training.Predictor:
        """The trained model as a function of NumPy batches."""
        return training.Predictor(self.learner, state.params, self.mesh, self.experiment.rules)
