"""Describes an experiment without running it: parameters, FLOPs, views and every field."""

import math
from collections import Counter

import jax

from mmjax.cli.tables import align_columns
from mmjax.experiment import Experiment, to_text
from mmjax.experiment.validation import tracing
from mmjax.learner import Learner
from mmjax.run.export import flatten
from mmjax.sharding import unbox
from mmjax.training.flops import train_flops

MODEL_PARTS = ("encoders", "fusion", "heads", "objectives")


def describe(experiment: Experiment) -> str:
    """Parameters per part of the model, FLOPs per example, views and every field. Computes only shapes."""
    learner = Learner(experiment.model, experiment.objectives, experiment.balance)
    batch = experiment.data.spec()

    def init(batch: dict) -> dict:
        key = jax.random.key(0)
        return unbox(learner.init({"params": key, "dropout": key, "views": key}, batch)["params"])

    with tracing(experiment):
        params = jax.eval_shape(init, batch)
        flops = train_flops(learner, params, batch) / experiment.data.batch_size
    lines = [
        f"{experiment.name}: {experiment.num_steps:,} steps of {experiment.data.batch_size:,} examples",
        "",
        "parameters",
        *_parameter_counts(params),
        "",
        f"arithmetic: {_with_si_prefix(flops)}FLOPs per example and train step (matrix products, forward and "
        "backward)",
        "",
    ]
    lines += ["views", *(f"  {line}" for line in learner.describe_views()), "", "experiment"]
    return "\n".join(lines) + "\n" + to_text(experiment)


def _parameter_counts(params: dict) -> list[str]:
    """A line per encoder, the fusion, per head and per objective, and their sum."""
    sizes: Counter[str] = Counter()
    for name, array in flatten(params):
        part, *names = name.split(".")
        sizes[part if part == "fusion" else f"{part} {names[0]}"] += math.prod(array.shape)
    parts = sorted(sizes.items(), key=lambda item: MODEL_PARTS.index(item[0].split()[0]))
    rows = [[f"{size:,}", name] for name, size in [*parts, ("total", sizes.total())]]
    return [f"  {line}" for line in align_columns(rows, left=(1,))]


def _with_si_prefix(value: float) -> str:
    """1.2e9 -> "1.20 G"."""
    for prefix, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:.2f} {prefix}"
    return f"{value:.0f} "
