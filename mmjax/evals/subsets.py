"""What is a model worth with each subset of some streams? Any evaluation, measured once for each of them.

audio/accuracy                    the evaluation's own metric, with audio there and the other streams not
audio+image/accuracy              with both
"""

import dataclasses
import itertools
from functools import partial

import numpy as np

from mmjax import data
from mmjax.batch import Stream
from mmjax.errors import InputError
from mmjax.evals import pictures
from mmjax.evals.base import DrawPicture, Eval, Predictor, Result

NO_STREAMS = "nothing"


def measure(evaluation: Eval, predictor: Predictor) -> Result:
    """The evaluation's result: of one measurement, or of one for each subset of its `subsets_of`.

    Only examples with all these streams count, so that the subsets are compared on the same ones. A subset in
    which the evaluation finds nothing to measure is left out. The compiled program is one and the same.
    """
    streams = evaluation.subsets_of
    if not streams:
        return evaluation(predictor)
    results: dict[str, Result] = {}
    # All of them first: what is refused there is wrong with the data or the model, and not with a subset.
    for given in [streams, *subsets(streams)[1:-1]]:
        shown = _Shown(
            **_fields(evaluation.data), hidden=tuple(s for s in streams if s not in given), needed=streams
        )
        try:
            results[named(given)] = dataclasses.replace(evaluation, data=shown)(predictor)
        except InputError:
            if given == streams:
                raise
    order = [named(given) for given in subsets(streams)[1:]]
    metrics = {
        f"{name}/{metric}": value
        for name in order
        if name in results
        for metric, value in results[name].metrics.items()
    }
    drawn = results[named(streams)].pictures
    return Result(metrics, drawn | _picture(type(evaluation).__name__, order, results))


def subsets(streams: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Every subset: none, each alone, ..., all."""
    sizes = range(len(streams) + 1)
    return [given for size in sizes for given in itertools.combinations(streams, size)]


def named(given: tuple[str, ...]) -> str:
    """The subset in the name of a metric."""
    return "+".join(given) or NO_STREAMS


def missing(stream: Stream) -> Stream:
    """The stream with a mask that is False everywhere."""
    return stream.replace(mask=np.zeros_like(np.asarray(stream.mask)))  # type: ignore[attr-defined]  # flax's


def _fields(dataset: data.Dataset) -> dict:
    return {field.name: getattr(dataset, field.name) for field in dataclasses.fields(dataset)}


@dataclasses.dataclass(frozen=True)
class _Shown(data.Dataset):
    """A dataset of which some streams are missing; an example that lacks a needed one misses everything."""

    hidden: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()

    def open(self):
        return _ShownExamples(super().open(), self.hidden, self.needed)


@dataclasses.dataclass(frozen=True)
class _ShownExamples:
    examples: data.Examples
    hidden: tuple[str, ...]
    needed: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.examples)

    def example(self, index: int, rng: np.random.Generator | None = None) -> dict[str, Stream]:
        found = self.examples.example(index, rng)
        if not set(self.needed) <= found.keys():
            return {}
        return {name: stream for name, stream in found.items() if name not in self.hidden}


def _picture(kind: str, order: list[str], results: dict[str, Result]) -> dict[str, DrawPicture]:
    """Bars of the metrics that have an interval, or else of all shares, with guessing where it is known."""
    found = {name: results[name].metrics for name in order if name in results}
    whole = found[order[-1]]
    groups = [metric for metric in whole if f"{metric}/low" in whole]
    groups = groups or [metric for metric, value in whole.items() if 0 <= value <= 1]
    if not groups:
        return {}
    guessed = [
        next((whole[f"{metric}/{by}"] for by in ("majority", "chance") if f"{metric}/{by}" in whole), np.nan)
        for metric in groups
    ]
    return {
        "subsets": partial(
            pictures.bars,
            title=f"{kind} given ...",
            subtitle="the other streams missing; an empty place: nothing to measure",
            groups=groups,
            heights={
                name.replace("+", " + "): [metrics.get(metric, np.nan) for metric in groups]
                for name, metrics in found.items()
            },
            lines=guessed if np.isfinite(guessed).any() else [],
            line_name="guessing",
        )
    }
