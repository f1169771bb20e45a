"""Describes an experiment without running it: parameters, FLOPs, views and every field."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import jax

from mmjax.cli.tables import align_columns
from mmjax.experiment import Experiment, load, override, to_text
from mmjax.experiment.validation import tracing, validate
from mmjax.learner import Learner
from mmjax.run.data_checks import describe_records
from mmjax.run.export import flatten
from mmjax.run.folder import RunFolder
from mmjax.run.handle import experiment_of
from mmjax.sharding import unbox
from mmjax.training.flops import train_flops

MODEL_PARTS = ("encoders", "fusion", "heads", "objectives")


def describe(experiment: Experiment) -> str:
    """Parameters per part of the model, FLOPs per example, records, views and every field.

    Computes only shapes, and looks at a sample of the records.
    """
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
        "records",
        *(f"  {line}" for line in describe_records(experiment)),
        "",
    ]
    lines += ["views", *(f"  {line}" for line in learner.describe_views()), "", "experiment"]
    return "\n".join(lines) + "\n" + to_text(experiment)


def describe_run(run_dir: Path, file: Path | None = None, overrides: Sequence[str] = ()) -> str:
    """`describe` of the experiment of a run.

    Args:
      file: that of the experiment, needed only if it uses classes that are not mmjax's.
      overrides: with a file, those that the run was trained with.

    Raises:
      InputError: the folder is no run, or the file's experiment is another.
    """
    folder = RunFolder(run_dir)
    experiment = experiment_of(folder, None if file is None else load(file, overrides))
    for assignment in overrides if file is None else ():
        experiment = override(experiment, assignment)
    validate(experiment)
    return describe(experiment)


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
