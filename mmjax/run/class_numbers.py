"""Class numbers without names are limited by the head that learns them, so that others are bad examples."""

import dataclasses

from mmjax import evals
from mmjax.data import Dataset, LabelTransform, Mixture
from mmjax.experiment import Experiment


def limit_mixture(experiment: Experiment, mixture: Mixture) -> Mixture:
    """The mixture with limited class numbers; see `limit_dataset`."""
    limited = {
        name: (weight, limit_dataset(experiment, each)) for name, (weight, each) in mixture.datasets.items()
    }
    return dataclasses.replace(mixture, datasets=limited)


def limit_evaluation(experiment: Experiment, evaluation: evals.Eval) -> evals.Eval:
    """The evaluation with limited class numbers in its data; see `limit_dataset`."""
    dataset = limit_dataset(experiment, evaluation.data)
    return evaluation if dataset is evaluation.data else dataclasses.replace(evaluation, data=dataset)


def limit_dataset(experiment: Experiment, dataset: Dataset) -> Dataset:
    """The dataset, each of whose LabelTransforms without `classes` has the `num_classes` of its head.

    A class that the head does not have would make the loss NaN.
    """
    limits: dict[str, int] = {}
    for objective in experiment.objectives.values():
        for stream, number in objective.num_classes(experiment.model).items():
            limits[stream] = min(number, limits.get(stream, number))
    changed = {}
    for stream, transform in dataset.streams.items():
        if isinstance(transform, LabelTransform) and stream in limits and transform.classes is None:
            number = min(limits[stream], transform.num_classes or limits[stream])
            changed[stream] = dataclasses.replace(transform, num_classes=number)
    return dataclasses.replace(dataset, streams=dataset.streams | changed) if changed else dataset
