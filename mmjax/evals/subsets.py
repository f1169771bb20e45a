"""Evaluations given each subset of some streams, the others missing.

audio/accuracy          the evaluation's own metric, given audio
audio+image/accuracy    given both
"""

import dataclasses
import itertools
from functools import partial

import numpy as np

from mmjax import data
from mmjax.batch import Batch, Stream
from mmjax.errors import InputError
from mmjax.evals import pictures
from mmjax.evals.base import DrawPicture, Eval, Predictor, Result

NO_STREAMS = "nothing"


def subsets(streams: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Every subset, from the empty one to all streams."""
    sizes = range(len(streams) + 1)
    return [subset for size in sizes for subset in itertools.combinations(streams, size)]


def subset_name(subset: tuple[str, ...]) -> str:
    """The subset as it stands in the names of metrics."""
    return "+".join(subset) or NO_STREAMS


def keep_only(batch: Batch, streams: tuple[str, ...], subset: tuple[str, ...]) -> Batch:
    """The batch in which those of `streams` that are not in `subset` have a mask that is False everywhere."""
    dropped = {
        stream: batch[stream].replace(mask=np.zeros_like(np.asarray(batch[stream].mask)))  # type: ignore[attr-defined]
        for stream in streams
        if stream not in subset
    }
    return batch | dropped


def measure(evaluation: Eval, predictor: Predictor) -> Result:
    """Evaluates the model: once, or once for each non-empty subset of the evaluation's `subsets_of`.

    Only examples with all these streams are counted, so that every subset is measured on the same examples.
    A subset is left out if the evaluation finds nothing to measure in it. All use one compiled program.
    """
    streams = evaluation.subsets_of
    if not streams:
        return evaluation(predictor)
    fields = {f.name: getattr(evaluation.data, f.name) for f in dataclasses.fields(evaluation.data)}
    results: dict[str, Result] = {}
    # All streams come first: an error there concerns the data or the model, and not a subset.
    for subset in [streams, *subsets(streams)[1:-1]]:
        dropped = tuple(stream for stream in streams if stream not in subset)
        dataset = _SubsetDataset(**fields, dropped=dropped, required=streams)
        try:
            results[subset_name(subset)] = dataclasses.replace(evaluation, data=dataset)(predictor)
        except InputError:
            if subset == streams:
                raise
    order = [name for name in map(subset_name, subsets(streams)) if name in results]
    metrics = {f"{name}/{metric}": value for name in order for metric, value in results[name].metrics.items()}
    drawn = results[subset_name(streams)].pictures
    return Result(metrics, drawn | _picture(type(evaluation).__name__, order, results))


@dataclasses.dataclass(frozen=True)
class _SubsetDataset(data.Dataset):
    """A dataset without the `dropped` streams. Examples without all `required` streams have no stream."""

    dropped: tuple[str, ...] = ()
    required: tuple[str, ...] = ()

    def open(self):
        return _SubsetExamples(super().open(), self.dropped, self.required)


@dataclasses.dataclass(frozen=True)
class _SubsetExamples:
    examples: data.Examples
    dropped: tuple[str, ...]
    required: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.examples)

    def example(self, index: int, rng: np.random.Generator | None = None) -> dict[str, Stream]:
        example = self.examples.example(index, rng)
        if not set(self.required) <= example.keys():
            return {}
        return {name: stream for name, stream in example.items() if name not in self.dropped}


def _picture(kind: str, order: list[str], results: dict[str, Result]) -> dict[str, DrawPicture]:
    """Bars of the metrics with an interval, or else of all fractions, beside the majority or chance."""
    metrics = {name: results[name].metrics for name in order}
    all_streams = metrics[order[-1]]
    groups = [metric for metric in all_streams if f"{metric}/low" in all_streams]
    groups = groups or [metric for metric, value in all_streams.items() if 0 <= value <= 1]
    if not groups:
        return {}
    chance = {metric: all_streams.get(f"{metric}/chance", np.nan) for metric in groups}
    guessing = [all_streams.get(f"{metric}/majority", chance[metric]) for metric in groups]
    return {
        "subsets": partial(
            pictures.bars,
            title=f"{kind} given ...",
            subtitle="the other streams are missing; no bar: nothing to measure",
            groups=groups,
            heights={
                name.replace("+", " + "): [values.get(metric, np.nan) for metric in groups]
                for name, values in metrics.items()
            },
            lines=guessing if np.isfinite(guessing).any() else [],
            line_name="guessing",
        )
    }
