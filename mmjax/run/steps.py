"""The compiled programs of a run's steps."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from mmjax import training
from mmjax.balance import conflict
from mmjax.batch import Batch
from mmjax.run.goodput import Goodput
from mmjax.run.session import Session
from mmjax.training.flops import train_flops
from mmjax.training.metrics import Meter


@dataclasses.dataclass
class Steps:
    """The compiled programs of a run's steps, and the meter that averages their metrics."""

    train_step: Callable[[training.TrainState, Batch], tuple[training.TrainState, dict]]
    measure_conflicts: Callable[[training.TrainState, Batch], dict]
    conflict_every: int
    meter: Meter
    conflicts_compiled: bool = False  # whether this process has measured conflicts
    conflicts: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # since the last log line

    @classmethod
    def compile(cls, session: Session, num_skipped: int) -> "Steps":
        """Compiles nothing yet: each program compiles at its first call."""
        experiment = session.experiment
        train_step = training.jit_step(
            session.learner,
            session.optimizer,
            session.abstract,
            session.mesh,
            experiment.rules,
            skip_nonfinite=experiment.on_nonfinite == "skip",
        )
        conflicts = training.jit_conflicts(session.learner, session.abstract, session.mesh, experiment.rules)
        flops = train_flops(session.learner, session.abstract.params, experiment.data.spec())
        devices = list(session.mesh.devices.flat)
        meter = Meter(experiment.data.batch_size, flops, num_skipped, devices)
        return cls(train_step, conflicts, experiment.conflict_every, meter)

    def take(
        self, step: int, state: training.TrainState, batch: Batch, waited: float, goodput: Goodput
    ) -> training.TrainState:
        """One step: the next state. Its metrics stay on the device.

        The first step of a process compiles, and so does its first conflict report.

        Args:
          waited: seconds that the loop waited for the batch.
        """
        measures_conflicts = self.conflict_every and step % self.conflict_every == 0
        compiles = not self.meter.compiled or (measures_conflicts and not self.conflicts_compiled)
        goodput.enter("compile" if compiles else "step")
        with jax.transfer_guard("disallow"):
            if measures_conflicts:
                self.conflicts.append(self.measure_conflicts(state, batch))
                self.conflicts_compiled = True
            state, metrics = self.train_step(state, batch)
        self.meter.add(metrics, waited)
        if compiles:
            self.meter.restart_clock()
            goodput.enter("step")
        return state

    def read_conflicts(self) -> dict[str, float]:
        """The mean of the conflict reports since the last call; empty if there were none."""
        reports = jax.device_get(self.conflicts)
        self.conflicts.clear()
        return conflict.mean_report(reports) if reports else {}
