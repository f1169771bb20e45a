"""The evaluations that are due after a step: each is measured once and recorded."""

import dataclasses
from collections.abc import Mapping

from mmjax import evals, training
from mmjax.cluster import processes
from mmjax.errors import InputError
from mmjax.experiment import Experiment
from mmjax.experiment.validation import best_metric
from mmjax.run.class_numbers import limit_evaluation
from mmjax.run.folder import RunFolder
from mmjax.run.session import Session
from mmjax.run.signals import StopSignal

Results = dict[str, dict[str, float]]


def due_evaluations(experiment: Experiment, step: int) -> dict[str, evals.Eval]:
    """The evaluations to run after a step, by name: all of them after the last step."""
    if step == experiment.num_steps:
        return experiment.evals

    def is_multiple_of(every: int) -> bool:
        return step > 0 and every > 0 and step % every == 0

    return {
        name: e
        for name, e in experiment.evals.items()
        if is_multiple_of(e.every) or is_multiple_of(experiment.eval_every)
    }


def with_limits(experiment: Experiment, evaluation: evals.Eval) -> evals.Eval:
    """The evaluation with the class numbers of the model's heads, and the run's limit of bad examples."""
    if evaluation.max_bad_fraction is None:
        evaluation = dataclasses.replace(evaluation, max_bad_fraction=experiment.data.max_bad_fraction)
    return limit_evaluation(experiment, evaluation)


def evaluate_due(
    session: Session, state: training.TrainState, step: int, folder: RunFolder, stop: StopSignal
) -> Results:
    """Measures the evaluations that are due and not recorded yet; records and draws their results.

    Returns:
      {eval: {metric: value}} of all that are due, those of earlier starts included.

    Raises:
      Interrupted: a signal asked to stop.
    """
    predictor, results = InterruptiblePredictor(session.predictor(state), stop, step), {}
    for name, evaluation in due_evaluations(session.experiment, step).items():
        results[name] = processes.broadcast_from_process_zero(lambda name=name: folder.recorded(step, name))
        if results[name] is None:
            result = evals.measure(with_limits(session.experiment, evaluation), predictor)
            refuse_unknown_best(session.experiment, name, result.metrics)
            results[name] = result.metrics
            folder.write_pictures(name, result.pictures)
            folder.write_eval(step, name, result.metrics)  # last: once recorded, it is not repeated
    return results


@dataclasses.dataclass(frozen=True)
class InterruptiblePredictor:
    """A predictor that raises Interrupted between two batches once a signal asked to stop.

    step: the step that is evaluated, which is saved.
    """

    predictor: training.Predictor
    stop: StopSignal
    step: int

    def __call__(self, *args, **kwargs):
        """Calls the predictor."""
        self._check()
        return self.predictor(*args, **kwargs)

    def losses(self, *args, **kwargs):
        """Calls the predictor's `losses`."""
        self._check()
        return self.predictor.losses(*args, **kwargs)

    def _check(self) -> None:
        if processes.any_process(self.stop.requested):
            self.stop.end(f"while evaluating step {self.step}, which is saved")


def refuse_unknown_best(experiment: Experiment, name: str, metrics: Mapping[str, float]) -> None:
    """Raises InputError if `keep_best` names a metric that the evaluation `name` does not have."""
    if experiment.keep_best is None:
        return
    evaluation, metric = best_metric(experiment)
    if name == evaluation and metric not in metrics:
        raise InputError(
            f"keep_best={experiment.keep_best!r} expects a metric of the evaluation {name!r}, found "
            f"{sorted(metrics)}: correct it, and the same command resumes"
        )
