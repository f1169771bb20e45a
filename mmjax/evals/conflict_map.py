"""A picture of the conflicts between the objectives' gradients over a training run."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.errors import InputError
from mmjax.evals.pictures import COLOURS, GRID, new_figure, save_png, styled

PREFIX = "conflict/"


def conflict_rows(metrics_file: Path) -> list[dict]:
    """The rows of `metrics.jsonl` that hold a conflict report."""
    rows = [json.loads(line) for line in Path(metrics_file).read_text().splitlines() if line.strip()]
    return [row for row in rows if any(name.startswith(PREFIX) for name in row)]


@styled
def conflict_map(metrics_file: Path, path: Path) -> None:
    """Draws the cosine of each pair of objectives' gradients by step, and the gradient norms below.

    The number beside a pair is the fraction of its measured steps with a negative cosine.
    """
    rows = conflict_rows(metrics_file)
    logged = list(dict.fromkeys(name for row in rows for name in row if name.startswith(PREFIX)))
    pairs = [name.removeprefix(PREFIX) for name in logged if name.count("/") == 1 and "|" in name]
    names = [name.removeprefix(f"{PREFIX}norm/") for name in logged if name.startswith(f"{PREFIX}norm/")]
    if not pairs:
        raise InputError(f"{metrics_file}: no logged step has a conflict report: set conflict_every")
    steps = [row["step"] for row in rows]

    def column(name: str) -> np.ndarray:
        return np.asarray([np.nan if row.get(name) is None else row[name] for row in rows], np.float64)

    height = 0.34 * len(pairs) + 2.2
    subtitle = "cosine of their gradients on the shared parameters; some pair is below 0 in "
    subtitle += f"{np.nanmean(column(f'{PREFIX}share')):.0%} of the steps measured"
    figure = new_figure(11.5, height + 1.6, "Conflicts between objectives", subtitle)
    top, bottom = figure.subplots(2, 1, sharex=False, gridspec_kw={"height_ratios": [height - 1.4, 2.0]})
    edges = np.concatenate([[steps[0]], (np.asarray(steps[1:]) + steps[:-1]) / 2, [steps[-1]]]).astype(float)
    edges[0] -= 0.5
    edges[-1] += 0.5
    cosines = np.stack([column(PREFIX + pair) for pair in pairs])
    image = _draw_cosines(top, edges, pairs, cosines, [column(f"{PREFIX}share/{pair}") for pair in pairs])
    bar = figure.colorbar(image, ax=top, label="cosine", aspect=14, pad=0.07)
    bar.outline.set_visible(False)

    for n, name in enumerate(names):
        norms = column(f"{PREFIX}norm/{name}")
        bottom.plot(steps, np.where(norms > 0, norms, np.nan), label=name, color=COLOURS[n % len(COLOURS)])
    bottom.set(xlabel="step", ylabel="gradient norm", yscale="log", xlim=(edges[0], edges[-1]))
    top.set_xlim(edges[0], edges[-1])
    bottom.yaxis.set_major_formatter("{x:g}")
    bottom.grid(axis="y", color=GRID, linewidth=0.8)
    bottom.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
    save_png(figure, path)


def _draw_cosines(
    axes: Any, edges: np.ndarray, pairs: list[str], cosines: np.ndarray, negative: list[np.ndarray]
) -> Any:
    """A row of colours per pair. `negative` is whether a pair's cosine was below 0, by step."""
    axes.set_facecolor(GRID)  # shows where a pair was not measured, because an objective had no gradient
    image = axes.pcolormesh(
        edges, np.arange(len(pairs) + 1), np.ma.masked_invalid(cosines), cmap="RdBu", vmin=-1, vmax=1
    )
    axes.set_yticks(np.arange(len(pairs)) + 0.5, [pair.replace("|", "  ·  ") for pair in pairs])
    axes.tick_params(length=0)
    axes.invert_yaxis()
    for n, values in enumerate(negative):
        measured = values[np.isfinite(values)]
        text = f"{measured.mean():.0%}" if len(measured) else "-"
        axes.annotate(
            text, (1.01, n + 0.5), xycoords=("axes fraction", "data"), va="center", annotation_clip=False
        )
    axes.annotate("below 0", (1.01, -0.12), xycoords=("axes fraction", "data"), fontsize=7.5, va="bottom")
    axes.spines[:].set_visible(False)
    return image
