"""Checks that the parts of an experiment fit together, before any of them costs time."""

import contextlib
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from mmjax.errors import InputError, excerpt, one_line
from mmjax.experiment.rows import refuse_lonely_rows, refuse_unused_datasets
from mmjax.experiment.value import Experiment
from mmjax.spec import fields, is_module


def validate(experiment: Experiment, num_devices: int | None = None) -> None:
    """Raises InputError if the parts of the experiment do not fit together.

    Args:
      num_devices: resolves a mesh size of -1; without it such a size is not checked.
    """
    if not re.fullmatch(r"\w[\w.-]*", experiment.name):
        raise InputError(
            f"expected a name of letters, digits, '_', '-' and '.', found {excerpt(experiment.name)}"
        )
    if not experiment.objectives:
        raise InputError("expected at least one objective, found none: a model without one learns nothing")
    experiment.optimizer.check_steps(experiment.num_steps)
    _refuse_shared_modules(experiment)
    _refuse_missing_heads(experiment)
    _refuse_unencoded_streams(experiment)
    _refuse_missing_streams(experiment)
    _refuse_small_tables(experiment)
    _refuse_incompatible_objectives(experiment)
    _refuse_useless_retention(experiment)
    _refuse_unusable_balance(experiment)
    refuse_lonely_rows(experiment)
    refuse_unused_datasets(experiment)

    sizes = dataclasses.asdict(experiment.mesh)
    if num_devices is not None:
        sizes = experiment.mesh.resolve(num_devices)
    axes = experiment.rules.mesh_axes("act_batch")
    num_splits = math.prod(sizes[axis] for axis in axes if sizes[axis] != -1)
    if experiment.data.batch_size % num_splits:
        raise InputError(
            f"the batch is split over mesh.{' x mesh.'.join(axes)} = {num_splits} devices: expected "
            f"data.batch_size to be a multiple of {num_splits}, found {experiment.data.batch_size}"
        )


@contextlib.contextmanager
def tracing(experiment: Experiment) -> Iterator[None]:
    """Raises InputError for any exception within `with`, where the model's shapes are traced."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of many types, some of flax and jaxtyping
        reason = one_line(str(error).strip().split("\n")[0]).rstrip(".")
        raise InputError(
            f"{experiment.name}: the model cannot be built for these data: {type(error).__name__}: {reason}. "
            "Run with --debug for the traceback"
        ) from error


def _refuse_missing_streams(experiment: Experiment) -> None:
    """Streams of an objective's heads and targets must exist, and those of its heads have an encoder."""
    model, sources = experiment.model, _streams_by_data(experiment)
    for name, objective in experiment.objectives.items():
        streams = model.streams_for(objective.required_heads())
        for stream in objective.view.required_streams():
            if stream not in streams:
                raise InputError(
                    f"the view of objective {name!r} needs the encoding of {stream!r}, but the heads "
                    f"{list(objective.required_heads())} read only {list(streams)}: take it out of the view, "
                    "or have the fusion read it"
                )
        for stream in streams:
            if model.encoder_name(stream) not in model.encoders:
                raise InputError(
                    f"objective {name!r} needs the stream {stream!r}, but the model encodes "
                    f"{sorted(model.encoders)}: add an encoder, or name in `shared` one that reads it"
                )
            _refuse_absent_stream(objective, stream, sources, f"{name!r} needs the stream")
        for stream in objective.target_streams():
            _refuse_absent_stream(objective, stream, sources, f"{name!r} has its targets in the stream")


def _refuse_absent_stream(objective: Any, stream: str, sources: dict[str, set[str]], message: str) -> None:
    """A stream must come from the data, those of evals.Losses included, or from the objective's view."""
    for data, provided in sources.items():
        if stream not in provided | set(objective.view.changed_streams()):
            raise InputError(
                f"objective {message} {stream!r}, but {data} give {sorted(provided)}: add a transform that "
                "makes it, or name another stream"
            )


def _streams_by_data(experiment: Experiment) -> dict[str, set[str]]:
    """{description of the data: their streams}, for training and for evals.Losses, which run objectives."""
    from mmjax.evals import Losses

    held_out = {name: each for name, each in experiment.evals.items() if isinstance(each, Losses)}
    return {"the data": set(experiment.data.streams())} | {
        f"the data of eval {name!r}": set(each.data.streams) for name, each in held_out.items()
    }


def _refuse_unencoded_streams(experiment: Experiment) -> None:
    """A stream that the fusion or a head reads must come from an encoder, or be made by the fusion."""
    model = experiment.model
    encoded = sorted({*model.encoders, *(model.shared or {})})
    fusion = f"model.fusion ({type(model.fusion).__name__})"
    fused = model.fusion.made_streams()
    for stream in model.fusion.streams:
        if model.encoder_name(stream) not in model.encoders:
            raise InputError(
                f"{fusion} fuses the stream {stream!r}, but the model encodes {encoded}: name one of those, "
                "add an encoder, or name in `shared` one that reads it"
            )
    for stream in fused:
        if stream in encoded:
            raise InputError(
                f"{fusion} makes the stream {stream!r}, which the model encodes: expected a name other than "
                f"{encoded}"
            )
    for name, head in model.heads.items():
        if model.encoder_name(head.stream) in model.encoders:
            continue
        if head.stream not in fused:
            raise InputError(
                f"model.heads.{name} reads the stream {head.stream!r}, but the model encodes {encoded} and "
                f"its fusion makes {list(fused)}: name one of those"
            )
        if head.after != "fusion":
            raise InputError(
                f"model.heads.{name} reads the stream {head.stream!r} after its encoder, but {fusion} makes "
                "it: set after='fusion'"
            )


def _refuse_missing_heads(experiment: Experiment) -> None:
    names = sorted(experiment.model.head_names())
    readers = [("objective", *item) for item in experiment.objectives.items()]
    readers += [("eval", *item) for item in experiment.evals.items()]
    for kind, name, reader in readers:
        reads = sorted(reader.required_heads())
        if not set(reads) <= set(names):
            raise InputError(f"{kind} {name!r} reads {reads}, but the model's heads produce {names}")


def _refuse_useless_retention(experiment: Experiment) -> None:
    """Refuses a policy that would never keep a checkpoint: the user would notice only when it is gone."""
    if experiment.keep_every % experiment.save_every:
        raise InputError(
            f"keep_every expects a multiple of save_every={experiment.save_every}, found "
            f"{experiment.keep_every}: no other step is sure to be saved"
        )
    if experiment.keep_best is None:
        return
    name, _ = best_metric(experiment)
    if not (experiment.eval_every or experiment.evals[name].every):
        raise InputError(
            f"keep_best expects evaluations during the run, found {name!r} only at its end: set "
            f"eval_every or evals.{name}.every"
        )


def uses_shared_parameters(experiment: Experiment) -> bool:
    """Whether the run uses the balance's shared parameters."""
    balance = experiment.balance
    return balance.shared_params is not None or balance.reads_gradients or experiment.conflict_every > 0


def _refuse_unusable_balance(experiment: Experiment) -> None:
    """A balance must name existing objectives, and the gradients that it compares must share parameters."""
    from mmjax.balance.shared import check_objectives_share

    balance, objectives = experiment.balance, experiment.objectives
    unknown = sorted(set(balance.required_objectives()) - set(objectives))
    if unknown:
        raise InputError(
            f"{type(balance).__name__} expects names of objectives, found {unknown}: the experiment has "
            f"{sorted(objectives)}"
        )
    if uses_shared_parameters(experiment):
        check_objectives_share(balance, experiment.model, objectives)


def best_metric(experiment: Experiment) -> tuple[str, str]:
    """The (eval, metric) that `keep_best` names.

    Raises:
      InputError: the experiment has no such eval.
    """
    found = experiment.keep_best
    for name in experiment.evals:
        if isinstance(found, str) and found.startswith(f"{name}/") and found != f"{name}/":
            return name, found.removeprefix(f"{name}/")
    raise InputError(
        f"keep_best expects 'eval/metric' with an eval among {sorted(experiment.evals)}, found {found!r}"
    )


def _refuse_small_tables(experiment: Experiment) -> None:
    """Refuses a table smaller than its vocabulary: JAX clamps indices, so words would share its last row."""
    from mmjax.data import TextTransform
    from mmjax.encoders import RecurrentText, TextTransformer

    model = experiment.model
    datasets = [dataset for _, dataset in experiment.data.datasets.values()]
    for dataset in [*datasets, *(evaluation.data for evaluation in experiment.evals.values())]:
        for stream, transform in dataset.streams.items():
            encoder = model.encoders.get(model.encoder_name(stream))
            if isinstance(transform, TextTransform) and isinstance(encoder, RecurrentText | TextTransformer):
                size = transform.tokenizer.vocab_size
                if encoder.vocab < size:
                    raise InputError(
                        f"the stream {stream!r} has a vocabulary of {size}: expected at least that in "
                        f"model.encoders.{model.encoder_name(stream)}.vocab, found {encoder.vocab}"
                    )


def _refuse_incompatible_objectives(experiment: Experiment) -> None:
    """Raises InputError with the reason that an objective's `check_compatible` returns."""
    for name, objective in experiment.objectives.items():
        for _, dataset in experiment.data.datasets.values():
            if reason := objective.check_compatible(experiment.model, dataset.streams):
                raise InputError(f"objective {name!r}: {reason}")


def _refuse_shared_modules(experiment: Experiment) -> None:
    """Refuses a module object that stands in two places: flax would silently share its weights."""
    paths: dict[int, str] = {}
    for path, module in _modules(experiment, ()):
        first = paths.setdefault(id(module), path)
        if first != path:
            raise InputError(
                f"'{first}' and '{path}' are the same {type(module).__name__} object, so would share "
                "their weights: expected one module each; call a function that makes it twice"
            )


def _modules(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if is_module(value):
        yield ".".join(path), value
    if isinstance(value, Mapping):
        children = [(str(key), child) for key, child in value.items()]
    elif isinstance(value, tuple | list):
        children = [(str(index), child) for index, child in enumerate(value)]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        children = [(f.name, getattr(value, f.name)) for f in fields(value)]
    else:
        return
    for name, child in children:
        yield from _modules(child, (*path, name))
