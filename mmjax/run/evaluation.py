"""The evaluations of a run: which are due after a step, measured once and recorded."""

import dataclasses
from collections.abc import Mapping

from mmjax import evals, train
from mmjax.cluster import processes
from mmjax.errors import InputError
from mmjax.experiment import Experiment
from mmjax.experiment.validation import best_metric
from mmjax.run.folder import RunFolder
from mmjax.run.session import Session
from mmjax.run.signals import StopSignal

Results = dict[str, dict[str, float]]


def due(experiment: Experiment, step: int) -> dict[str, evals.Eval]:
    """The evals that belong after a step: all of them after the last."""
    if step == experiment.num_steps:
        return experiment.evals

    def falls(every: int) -> bool:
        return step > 0 and every > 0 and step % every == 0

    return {name: e for name, e in experiment.evals.items() if falls(e.every) or falls(experiment.eval_every)}


def evaluate_due(
    session: Session, state: train.TrainState, step: int, folder: RunFolder, stop: StopSignal
) -> Results:
    """Runs the evals that are due and not recorded yet, records their numbers and draws their pictures."""
    watched, results = InterruptiblePredictor(session.predictor(state), stop, step), {}
    for name, evaluation in due(session.experiment, step).items():
        results[name] = processes.broadcast_from_first(lambda name=name: folder.recorded(step, name))
        if results[name] is None:
            result = evals.measure(evaluation, watched)
            refuse_unknown_best(session.experiment, name, result.metrics)
            results[name] = result.metrics
            folder.write_pictures(name, result.pictures)
            folder.write_eval(step, name, result.metrics)  # last: the record says that it is all there
    return results


@dataclasses.dataclass(frozen=True)
class InterruptiblePredictor:
    """A predictor that ends the run when it is asked to stop."""

    predictor: train.Predictor
    stop: StopSignal
    step: int

    def __call__(self, *args, **kwargs):
        """As the predictor's own."""
        self._heed()
        return self.predictor(*args, **kwargs)

    def losses(self, *args, **kwargs):
        """As the predictor's own."""
        self._heed()
        return self.predictor.losses(*args, **kwargs)

    def _heed(self) -> None:
        if processes.any_process(self.stop.requested):
            self.stop.end(f"while evaluating step {self.step}, which is saved")


def refuse_unknown_best(experiment: Experiment, name: str, metrics: Mapping[str, float]) -> None:
    """Raises InputError at the first evaluation whose metrics are not those that keep_best waits for."""
    if experiment.keep_best is None:
        return
    evaluation, metric = best_metric(experiment)
    if name == evaluation and metric not in metrics:
        raise InputError(
            f"keep_best={experiment.keep_best!r} expects a metric of the evaluation {name!r}, found "
            f"{sorted(metrics)}: correct it, and the same command goes on"
        )
