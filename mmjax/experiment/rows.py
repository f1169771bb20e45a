"""Checks that every dataset and every objective gets the rows that it needs."""

from mmjax.errors import InputError
from mmjax.experiment.value import Experiment


def refuse_lonely_rows(experiment: Experiment) -> None:
    """Refuses a batch of one row where rows are compared: its loss would be 0 and its accuracy 1.

    On a mesh the global batch counts, because losses compare rows across devices.
    """
    from mmjax.evals import Losses
    from mmjax.views import View

    comparing = [name for name, objective in experiment.objectives.items() if objective.needs_other_rows()]
    if comparing and experiment.data.batch_size < 2:
        raise InputError(
            f"objective {comparing[0]!r} compares or combines the rows of a batch: expected data.batch_size "
            f"of at least 2, found {experiment.data.batch_size}"
        )
    for name, evaluation in experiment.evals.items():
        views = [value for value in vars(evaluation).values() if isinstance(value, View)]
        compares = any(view.needs_other_rows() for view in views)
        compares |= isinstance(evaluation, Losses) and bool(comparing)
        if compares and evaluation.batch_size < 2:
            raise InputError(
                f"eval {name!r} compares or combines the rows of a batch: expected evals.{name}.batch_size "
                f"of at least 2, found {evaluation.batch_size}"
            )


def refuse_unused_datasets(experiment: Experiment) -> None:
    """Refuses a weight so small that the run ends before the dataset's first row."""
    mixture = experiment.data
    total = experiment.num_steps * mixture.batch_size
    for name, rows in mixture.num_rows(experiment.num_steps).items():
        if not rows:
            weight, _ = mixture.datasets[name]
            raise InputError(
                f"the dataset {name!r}, of weight {weight}, gives none of the {total:,} rows of this run "
                "(num_steps x batch_size): increase its weight or num_steps, or remove it"
            )
