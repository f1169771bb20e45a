"""The curves of a run as a picture: losses, learning rate, and evaluations by step."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmjax.errors import InputError
from mmjax.evals.pictures import COLOURS, GRID, INK, new_figure, save_png, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_METRICS = len(COLOURS)  # of one evaluation


@styled
def training_curves(
    path: Path, metrics: Sequence[Mapping[str, Any]], evals: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Draws each loss and the learning rate by step, and each evaluation that was measured several times.

    The number beside a loss is its last logged value. The dark line is a running mean.

    Args:
      metrics: the rows of `metrics.jsonl`.
      evals: the rows of `evals.jsonl`.

    Raises:
      InputError: no row has a loss.
    """
    logged = {name for row in metrics for name, value in row.items() if value is not None}
    losses = sorted(name for name in logged if name == "loss" or name.startswith("loss/"))
    if not losses:
        raise InputError("no logged step has a loss to draw: train at least one logged step")
    scores = _scores_by_eval(evals)
    panels = [*losses, *(["learning_rate"] if "learning_rate" in logged else []), *scores]
    num_columns = min(3, len(panels))
    num_rows = -(-len(panels) // num_columns)
    last = max(row["step"] for row in metrics)
    subtitle = f"{last:,} steps. Pale: as logged; dark: running mean; number: last logged value"
    figure = new_figure(4.1 * num_columns, 2.8 * num_rows + 0.8, "Training", subtitle)
    all_axes = figure.subplots(num_rows, num_columns, squeeze=False).flat
    for number, (axes, name) in enumerate(zip(all_axes, panels, strict=False)):
        if name in scores:
            _draw_scores(axes, name, scores[name])
        elif name == "learning_rate":
            steps, values = _points(metrics, name)
            axes.plot(steps, values, color=INK, linewidth=1.5)
            axes.set(title="learning rate", ylabel="learning rate")
            axes.set_title(f"peak {values.max():.3g}", loc="right")
        else:
            colour = INK if name == "loss" else COLOURS[(number - 1) % len(COLOURS)]
            _draw_loss(axes, name, *_points(metrics, name), colour)
        axes.set_xlabel("step")
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
    for axes in list(figure.axes)[len(panels) :]:
        axes.set_axis_off()
    save_png(figure, path)


def _points(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one metric, where it was logged."""
    points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    steps, values = np.asarray(points, np.float64).T
    return steps, values


def _draw_loss(axes: "Axes", name: str, steps: np.ndarray, values: np.ndarray, colour: str) -> None:
    smooth = _running_mean(values)
    axes.plot(steps, values, color=colour, alpha=0.25, linewidth=1)
    axes.plot(steps, smooth, color=colour, linewidth=2)
    axes.plot(steps[-1], values[-1], "o", color=colour, markersize=4)
    title = "all objectives" if name == "loss" else name.removeprefix("loss/")
    axes.set(title=title, ylabel="weighted sum of losses" if name == "loss" else "loss")
    axes.set_title(f"{values[-1]:.3g}", loc="right", color=colour)


def _scores_by_eval(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """{evaluation: {metric: (steps, values)}}, of those that were measured at two or more steps."""
    scores: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for evaluation in dict.fromkeys(row["eval"] for row in rows if "eval" in row):
        own = [row for row in rows if row.get("eval") == evaluation]
        names = dict.fromkeys(name for row in own for name, value in row.items() if value is not None)
        shown = _comparable([name for name in names if name not in ("step", "eval")])
        if len({row["step"] for row in own}) > 1 and shown:
            scores[evaluation] = {name: _points(own, name) for name in shown[:MAX_METRICS]}
    return scores


def _comparable(names: Sequence[str]) -> list[str]:
    """The metrics of one kind and scale: an evaluation records its most important metric first.

    Those with its last part ("R@1" of each direction) or, if there are no others, with its first ("loss/").
    """
    first = next(iter(names), "")
    same_end = [name for name in names if name.rsplit("/", 1)[-1] == first.rsplit("/", 1)[-1]]
    same_start = [name for name in names if name.split("/")[0] == first.split("/")[0] == "loss"]
    return same_end if len(same_end) > 1 or not same_start else same_start


def _draw_scores(axes: "Axes", name: str, scores: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    for number, (metric, (steps, values)) in enumerate(scores.items()):
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(steps, values, "o-", color=colour, linewidth=1.5, markersize=3, label=metric)
    axes.set(title=f"evaluation {name}", ylabel=next(iter(scores)).rsplit("/", 1)[-1])
    if len(scores) > 1:
        axes.legend(fontsize=6.5)


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Over a centred window of a twentieth of the run, which is cut off at both ends."""
    half = max(1, len(values) // 40)
    sums = np.concatenate([[0], np.cumsum(values)])
    low = np.maximum(0, np.arange(len(values)) - half)
    high = np.minimum(len(values), np.arange(len(values)) + half + 1)
    return (sums[high] - sums[low]) / (high - low)
