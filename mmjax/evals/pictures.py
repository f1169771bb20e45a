"""Pictures of a run, for people: loss curves, nearest neighbours, similarities, confusions, bars. PNG by Agg.

Every function draws on its own ``Figure`` and never touches pyplot: a notebook's own figures are safe.
"""

import functools
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmjax.errors import InputError
from mmjax.evals.cards import Preview

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, PALE, PAPER = "#1f2933", "#9aa5b1", "#f5f7fa"
RIGHT, WRONG = "#1a7f4b", "#c0392b"
COLOURS = ("#2563a8", "#d9822b", "#1a7f4b", "#8e44ad", "#c0392b", "#1398a5", "#7f6b3f", "#5b6770")
# The first ships with matplotlib (Latin, Greek, Cyrillic, Arabic); of the others, the installed ones help.
FONTS = ("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans Devanagari", "Noto Sans", "Arial Unicode MS")


@functools.cache
def _style() -> dict[str, Any]:
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    return {
        "font.family": [font for font in FONTS if font in installed],
        "font.size": 9,
        "text.color": INK,
        "text.parse_math": False,  # a caption with a dollar sign is no formula
        "axes.labelcolor": INK,
        "axes.edgecolor": PALE,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": INK,
        "ytick.color": INK,
        "legend.frameon": False,
    }


def new_figure(width: float, height: float, title: str, subtitle: str = "") -> "Figure":
    """An empty figure with its title at the top left; sizes in inches. Only within the style's context."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    top = 1 - 0.74 / height if subtitle else 1 - 0.5 / height
    layout = ConstrainedLayoutEngine(rect=(0, 0, 1, top), w_pad=0.06, h_pad=0.06)
    figure = Figure(figsize=(width, height), layout=layout, facecolor="white")
    figure.text(0.12 / width, 1 - 0.14 / height, title, fontsize=13, fontweight="bold", va="top")
    figure.text(0.12 / width, 1 - 0.44 / height, subtitle, fontsize=9, color="#52606d", va="top")
    return figure


def save_png(figure: "Figure", path: Path) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, format="png")


def styled(function):
    """Runs a drawing function under the style; matplotlib is imported only now, because it costs a second."""

    @functools.wraps(function)
    def drawn(*args, **kwargs):
        import matplotlib

        with matplotlib.rc_context(_style()):
            return function(*args, **kwargs)

    return drawn


def _show(axes: "Axes", card: Preview, colour: str | None = None, size: float = 9) -> None:
    """One example: its picture, its spectrogram (time to the right, pitch upwards) or its words, framed."""
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        # Wrong answers are many: a thin pale frame leaves the eye to the right ones.
        spine.set(visible=True, color=colour or PALE, linewidth=3 if colour == RIGHT else 1)
    if card.kind == "text":
        axes.set(xlim=(0, 1), ylim=(0, 1), facecolor=PAPER, box_aspect=1)
        words = textwrap.wrap(_legible(card.caption), 16, max_lines=6, placeholder=" …")
        axes.text(0.5, 0.5, "\n".join(words), ha="center", va="center", fontsize=size, linespacing=1.25)
    elif card.kind == "audio":
        axes.imshow(card.values.T, origin="lower", aspect="auto", cmap="magma")
        axes.set(box_aspect=1)
    else:
        axes.imshow(card.values, cmap="gray", interpolation="lanczos", aspect="equal")


@styled
def retrieval_sheet(
    path: Path,
    *,
    title: str,
    subtitle: str,
    queries: Sequence[Preview],
    nearest: Sequence[Sequence[tuple[Preview, bool, float]]],
    ranks: Sequence[int],
    num_candidates: int,
) -> None:
    """A row per query: the query, its nearest candidates as (card, right?, cosine), the right one's rank."""
    num_rows, num_columns = len(queries), max(len(row) for row in nearest)
    figure = new_figure(1.55 * (num_columns + 1) + 0.35, 1.86 * num_rows + 0.95, title, subtitle)
    grid = figure.subplots(
        num_rows, num_columns + 2, squeeze=False, gridspec_kw={"width_ratios": [1, 0.12] + [1] * num_columns}
    )
    for row, (query, found, rank) in enumerate(zip(queries, nearest, ranks, strict=True)):
        _show(grid[row, 0], query)
        grid[row, 0].set_xlabel(
            ("" if query.kind == "text" else _short(query.caption) + "\n")
            + f"right at rank {rank} of {num_candidates}",
            fontsize=8,
            color=RIGHT if rank <= num_columns else WRONG,
        )
        grid[row, 1].set_axis_off()
        for column in range(num_columns):
            axes = grid[row, column + 2]
            if column >= len(found):
                axes.set_axis_off()
                continue
            card, right, cosine = found[column]
            _show(axes, card, RIGHT if right else "#dfa39b")
            label = f"{'✓' if right else '✗'} {cosine:.2f}" + (
                "" if card.kind == "text" else f"\n{_short(card.caption)}"
            )
            axes.set_xlabel(label, fontsize=8, color=RIGHT if right else WRONG)
    for column, name in [(0, "query"), *((c + 2, f"{c + 1}") for c in range(num_columns))]:
        grid[0, column].set_title(name, loc="center", fontsize=9, color="#52606d", fontweight="normal")
    save_png(figure, path)


@functools.cache
def _drawable() -> frozenset[int]:
    """The characters that the installed FONTS can draw."""
    from matplotlib import font_manager

    files = [
        font.fname
        for font in font_manager.fontManager.ttflist
        if font.name in FONTS and font.style == "normal"
    ]
    return frozenset().union(*(font_manager.get_font(file).get_charmap() for file in files))


def _legible(caption: str) -> str:
    """The caption with a box for each character that no font has: a name may be in any script."""
    return "".join(letter if ord(letter) in _drawable() else "□" for letter in caption)


def _short(caption: str, width: int = 22) -> str:
    caption = _legible(caption)
    return caption if len(caption) <= width else caption[: width - 1].rstrip() + "…"


@styled
def similarity_matrix(
    path: Path,
    *,
    title: str,
    subtitle: str,
    axes_names: tuple[str, str],
    names: Sequence[str],
    similarities: np.ndarray,
    right: np.ndarray,
    wrong: np.ndarray,
) -> None:
    """Cosines of a few named examples "n n" (a good model: a bright diagonal), and the spread of all pairs.

    ``right`` and ``wrong`` are cosines of pairs that belong together and of pairs that do not.
    """
    figure = new_figure(11.5, 6.6, title, subtitle)
    matrix, spread = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1.75, 1]})
    shown = matrix.imshow(
        similarities, cmap="magma", vmin=np.quantile(similarities, 0.02), interpolation="nearest"
    )
    places, labels = np.arange(len(names)), [_short(name, 24) for name in names]
    matrix.set_xticks(places, labels, rotation=90, fontsize=6.5)
    matrix.set_yticks(places, labels, fontsize=6.5)
    matrix.tick_params(length=0)
    matrix.set(xlabel=axes_names[1], ylabel=axes_names[0])
    for spine in matrix.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(shown, ax=matrix, shrink=0.6, aspect=30, pad=0.01)
    bar.set_label("cosine")
    bar.outline.set_visible(False)

    bins = np.linspace(
        min(wrong.min(initial=0), right.min()), max(wrong.max(initial=0), right.max()) + 1e-6, 41
    )
    for values, colour, name in ((wrong, PALE, "do not belong together"), (right, RIGHT, "belong together")):
        if len(values):
            spread.hist(values, bins, density=True, color=colour, alpha=0.65)
            spread.axvline(np.median(values), color=colour, linewidth=1.5)
            name = f"{name}: median {round(float(np.median(values)), 2) + 0.0:.2f}"
            spread.plot([], [], color=colour, linewidth=6, alpha=0.65, label=name)
    spread.set(xlabel="cosine", yticks=[], title="All pairs")
    spread.spines["left"].set_visible(False)
    spread.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), fontsize=8.5)
    save_png(figure, path)


@styled
def loss_curves(metrics_file: Path, path: Path) -> None:
    """The loss and each objective's loss by step, from ``metrics.jsonl``: as logged, and a running mean."""
    lines = Path(metrics_file).read_text().splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    logged = {name for row in rows for name, value in row.items() if value is not None}
    names = sorted(name for name in logged if name == "loss" or name.startswith("loss/"))
    if not names:
        raise InputError(f"{metrics_file}: no logged step has a loss to draw: train at least one logged step")
    num_columns = min(3, len(names))
    num_rows = -(-len(names) // num_columns)
    last = max(row["step"] for row in rows)
    figure = new_figure(
        4.1 * num_columns, 2.7 * num_rows + 0.8, "Training loss", f"{last:,} steps; pale: as logged"
    )
    for n, axes in enumerate(figure.subplots(num_rows, num_columns, squeeze=False).flat):
        if n >= len(names):
            axes.set_axis_off()
            continue
        points = [(row["step"], row[names[n]]) for row in rows if row.get(names[n]) is not None]
        steps, values = np.asarray(points, np.float64).T
        smooth, colour = _running_mean(values), INK if n == 0 else COLOURS[(n - 1) % len(COLOURS)]
        axes.plot(steps, values, color=colour, alpha=0.25, linewidth=1)
        axes.plot(steps, smooth, color=colour, linewidth=2)
        axes.plot(steps[-1], smooth[-1], "o", color=colour, markersize=4)
        axes.set_title("all objectives, weighted" if names[n] == "loss" else names[n].removeprefix("loss/"))
        axes.set_title(f"{smooth[-1]:.3g}", loc="right", color=colour)
        axes.grid(axis="y", color="#e4e7eb", linewidth=0.8)
        axes.set_axisbelow(True)
        if n >= len(names) - num_columns:
            axes.set_xlabel("step")
    save_png(figure, path)


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Over a centred window of a twentieth of the run, cut off at both ends: it does not lag behind."""
    half = max(1, len(values) // 40)
    sums = np.concatenate([[0], np.cumsum(values)])
    low = np.maximum(0, np.arange(len(values)) - half)
    high = np.minimum(len(values), np.arange(len(values)) + half + 1)
    return (sums[high] - sums[low]) / (high - low)


@styled
def confusion(path: Path, *, title: str, subtitle: str, classes: Sequence[str], counts: np.ndarray) -> None:
    """``counts`` int "true said": shares of each true class, the counts written in."""
    size = max(4.2, 0.5 * len(classes) + 2)
    figure = new_figure(size + 0.6, size + 0.6, title, subtitle)
    axes = figure.subplots()
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [_short(name) for name in classes]
    axes.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 5 else 0)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.set(xlabel="the model says", ylabel="true")
    if len(classes) <= 30:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.5 else INK
                axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=colour)
    save_png(figure, path)


@styled
def bars(
    path: Path,
    *,
    title: str,
    subtitle: str,
    groups: Sequence[str],
    heights: dict[str, Sequence[float]],
    lines: Sequence[float],
    line_name: str,
) -> None:
    """Grouped bars of shares in 0..1: a group per slot, a bar per series, a baseline across each group.

    NaN leaves its place empty; without `lines` there is no baseline.
    """
    figure = new_figure(max(6.0, 0.35 * len(groups) * len(heights) + 2.5), 4.4, title, subtitle)
    axes = figure.subplots()
    width = 0.84 / len(heights)
    for n, (name, values) in enumerate(heights.items()):
        left = np.arange(len(groups)) - 0.42 + n * width
        colour = PALE if name == "nothing" else COLOURS[(n - 1) % len(COLOURS)]
        axes.bar(left, values, width * 0.92, align="edge", color=colour, label=name)
        for x, value in zip(left, values, strict=True):
            if not np.isfinite(value):
                continue
            number = axes.text(
                x + width * 0.46, value + 0.012, f"{value:.2f}".lstrip("0"), ha="center", fontsize=6.5
            )
            number.set(zorder=3, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6})
    for n, level in enumerate(lines):
        axes.plot([n - 0.44, n + 0.44], [level, level], color=INK, linewidth=1.4, linestyle=(0, (3, 2)))
    if len(lines):
        axes.plot([], [], color=INK, linewidth=1.4, linestyle=(0, (3, 2)), label=line_name)
    axes.set_xticks(range(len(groups)), groups)
    axes.tick_params(axis="x", length=0)
    axes.set(ylim=(0, 1.06), ylabel="share right")
    axes.grid(axis="y", color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
    handles, labels = axes.get_legend_handles_labels()  # the baseline's comes first, being a line
    order = [*range(1, len(labels)), 0] if len(lines) else range(len(labels))
    handles, labels = [handles[n] for n in order], [labels[n] for n in order]
    axes.legend(
        handles,
        labels,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.1),
        ncols=min(5, len(heights) + 1),
        fontsize=8.5,
    )
    save_png(figure, path)


@styled
def box_sheet(
    path: Path,
    *,
    title: str,
    subtitle: str,
    cards: Sequence[Preview],
    marked: Sequence[np.ndarray],
    found: Sequence[tuple[np.ndarray, np.ndarray]],
    classes: Sequence[str],
) -> None:
    """Pictures with boxes (centre and size, in shares): white what is marked, in colour what is found."""
    from matplotlib.patches import Rectangle

    columns = min(3, len(cards))
    rows = -(-len(cards) // columns)
    figure = new_figure(3.2 * columns, 2.5 * rows + 1.2, title, subtitle)
    all_axes = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for axes in all_axes[len(cards) :]:
        axes.set_axis_off()
    for axes, card, true, (boxes, kinds) in zip(all_axes, cards, marked, found, strict=False):
        _show(axes, card)
        height, width = card.values.shape[:2]
        styles = [(box, "white", 0.8) for box in true]
        styles += [(box, COLOURS[kind % len(COLOURS)], 1.8) for box, kind in zip(boxes, kinds, strict=True)]
        for (x, y, wide, high), colour, line in styles:
            corner = ((x - wide / 2) * width - 0.5, (y - high / 2) * height - 0.5)
            axes.add_patch(
                Rectangle(corner, wide * width, high * height, fill=False, edgecolor=colour, linewidth=line)
            )
    handles = [
        Rectangle((0, 0), 1, 1, fill=False, edgecolor=COLOURS[n % len(COLOURS)]) for n in range(len(classes))
    ]
    figure.legend(handles, classes, loc="outside lower center", ncols=min(6, len(classes)))
    save_png(figure, path)
