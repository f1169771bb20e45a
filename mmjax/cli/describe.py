"""What an experiment amounts to, said before it runs: parameters, arithmetic, what is encoded for whom."""

import math
from collections import Counter

import jax

from mmjax.experiment import Experiment, to_text
from mmjax.experiment.validation import tracing
from mmjax.learner import Learner
from mmjax.run.export import flatten
from mmjax.sharding import unbox
from mmjax.train.flops import train_flops


def describe(experiment: Experiment) -> str:
    """Parameters per tower, FLOPs per example, the plan of views, then every field. Computes only shapes."""
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
    ]
    lines += ["parameters", *_counts(params), ""]
    lines += [
        f"arithmetic: {_big(flops)}FLOPs per example and train step (matrix products, forward and backward)",
        "",
    ]
    lines += ["views", *(f"  {line}" for line in learner.plan()), "", "experiment"]
    return "\n".join(lines) + "\n" + to_text(experiment)


def _counts(params: dict) -> list[str]:
    """A line per encoder, the fusion, per head and per objective, and their sum."""
    sizes: Counter[str] = Counter()
    for name, array in flatten(params):
        parts = name.split(".")
        sizes[" ".join(parts[:2]) if parts[0] in ("encoders", "heads", "objectives") else parts[0]] += (
            math.prod(array.shape)
        )
    rows = [*sorted(sizes.items(), key=lambda row: _ORDER.index(row[0].split()[0])), ("total", sizes.total())]
    width = max(len(f"{size:,}") for _, size in rows)
    return [f"  {size:>{width},}  {name}" for name, size in rows]


_ORDER = ("encoders", "fusion", "heads", "objectives")


def _big(value: float) -> str:
    """1.2e9 -> "1.20 G"."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f} "
