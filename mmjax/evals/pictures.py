"""Pictures of evaluations as PNG: nearest neighbours, similarities, confusions, bars, boxes.

Every function draws on its own `Figure` and never uses pyplot, so that a notebook's figures stay untouched.
"""

import functools
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmjax.evals.previews import Preview

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, PALE, PAPER = "#1f2933", "#9aa5b1", "#f5f7fa"
SUBTITLE, GRID = "#52606d", "#e4e7eb"
RIGHT, WRONG = "#1a7f4b", "#c0392b"
COLOURS = ("#2563a8", "#d9822b", "#1a7f4b", "#8e44ad", "#c0392b", "#1398a5", "#7f6b3f", "#5b6770")
# matplotlib ships the first (Latin, Greek, Cyrillic, Arabic). The others are used where they are installed.
FONTS = ("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans Devanagari", "Noto Sans", "Arial Unicode MS")


@functools.cache
def _style() -> dict[str, Any]:
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    return {
        "font.family": [font for font in FONTS if font in installed],
        "font.size": 9,
        "text.color": INK,
        "text.parse_math": False,  # a dollar sign in a caption does not start a formula
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


def styled(draw):
    """Decorates a function that draws. matplotlib is imported only when called: it takes a second."""

    @functools.wraps(draw)
    def draw_in_style(*args, **kwargs):
        import matplotlib

        with matplotlib.rc_context(_style()):
            return draw(*args, **kwargs)

    return draw_in_style


def new_figure(width: float, height: float, title: str, subtitle: str = "") -> "Figure":
    """An empty figure with a title at the top left, sizes in inches. Call it in a `styled` function."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    top = 1 - 0.74 / height if subtitle else 1 - 0.5 / height
    layout = ConstrainedLayoutEngine(rect=(0, 0, 1, top), w_pad=0.06, h_pad=0.06)
    figure = Figure(figsize=(width, height), layout=layout, facecolor="white")
    figure.text(0.12 / width, 1 - 0.14 / height, title, fontsize=13, fontweight="bold", va="top")
    figure.text(0.12 / width, 1 - 0.44 / height, subtitle, fontsize=9, color=SUBTITLE, va="top")
    return figure


def save_png(figure: "Figure", path: Path) -> None:
    """Writes the figure, and creates the folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, format="png")


def _draw_preview(axes: "Axes", preview: Preview, colour: str | None = None, size: float = 9) -> None:
    """One framed example: its image, its spectrogram (time to the right, pitch upwards) or its words."""
    axes.set(xticks=[], yticks=[])
    # Only right answers get a thick frame: most answers are wrong.
    axes.spines[:].set(visible=True, color=colour or PALE, linewidth=3 if colour == RIGHT else 1)
    if preview.kind == "text":
        axes.set(xlim=(0, 1), ylim=(0, 1), facecolor=PAPER, box_aspect=1)
        words = textwrap.wrap(_replace_undrawable(preview.caption), 16, max_lines=6, placeholder=" …")
        axes.text(0.5, 0.5, "\n".join(words), ha="center", va="center", fontsize=size, linespacing=1.25)
    elif preview.kind == "audio":
        axes.imshow(preview.values.T, origin="lower", aspect="auto", cmap="magma")
        axes.set(box_aspect=1)
    else:
        axes.imshow(preview.values, cmap="gray", interpolation="lanczos", aspect="equal")


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
    """Draws a row per query: the query, its nearest candidates and the rank of the best relevant one.

    nearest: for each query, (candidate, whether it is relevant, cosine) from the nearest on.
    """
    num_rows, num_columns = len(queries), max(len(row) for row in nearest)
    figure = new_figure(1.55 * (num_columns + 1) + 0.35, 1.98 * num_rows + 0.95, title, subtitle)
    grid = figure.subplots(
        num_rows, num_columns + 2, squeeze=False, gridspec_kw={"width_ratios": [1, 0.12] + [1] * num_columns}
    )
    for row, (query, candidates, rank) in enumerate(zip(queries, nearest, ranks, strict=True)):
        _draw_preview(grid[row, 0], query)
        label = "\n".join([*_labels(query), f"right at rank {rank} of {num_candidates}"])
        grid[row, 0].set_xlabel(label, fontsize=8, color=RIGHT if rank <= num_columns else WRONG)
        for axes in grid[row, [1, *range(2 + len(candidates), num_columns + 2)]]:
            axes.set_axis_off()
        for axes, (preview, is_relevant, cosine) in zip(grid[row, 2:], candidates, strict=False):
            _draw_preview(axes, preview, RIGHT if is_relevant else "#dfa39b")
            label = "\n".join([f"{'✓' if is_relevant else '✗'} {cosine:.2f}", *_labels(preview)])
            axes.set_xlabel(label, fontsize=8, color=RIGHT if is_relevant else WRONG)
    for column, name in [(0, "query"), *((c + 2, f"{c + 1}") for c in range(num_columns))]:
        grid[0, column].set_title(name, loc="center", fontsize=9, color=SUBTITLE, fontweight="normal")
    save_png(figure, path)


def _labels(preview: Preview) -> list[str]:
    """The caption, which a text shows itself, and the record's key, where it is another."""
    caption = [] if preview.kind == "text" else [_shorten(preview.caption)]
    return caption + ([_shorten(preview.key)] if preview.key not in ("", preview.caption) else [])


@functools.cache
def _drawable() -> frozenset[int]:
    """The code points that the installed FONTS can draw."""
    from matplotlib import font_manager

    fonts = [f for f in font_manager.fontManager.ttflist if f.name in FONTS and f.style == "normal"]
    return frozenset().union(*(font_manager.get_font(font.fname).get_charmap() for font in fonts))


def _replace_undrawable(caption: str) -> str:
    """Replaces each character that no installed font has by a box."""
    return "".join(letter if ord(letter) in _drawable() else "□" for letter in caption)


def _shorten(caption: str, width: int = 22) -> str:
    caption = _replace_undrawable(caption)
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
    matching: np.ndarray,
    mismatched: np.ndarray,
) -> None:
    """Draws the cosines "n n" of a few named examples, and a histogram of all true and mismatched pairs'.

    A good model has a bright diagonal. `matching` "P" and `mismatched` "Q" are the cosines of all pairs.
    """
    figure = new_figure(11.5, 6.6, title, subtitle)
    matrix, histogram = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1.75, 1]})
    image = matrix.imshow(
        similarities, cmap="magma", vmin=np.quantile(similarities, 0.02), interpolation="nearest"
    )
    ticks, labels = np.arange(len(names)), [_shorten(name, 24) for name in names]
    matrix.set_xticks(ticks, labels, rotation=90, fontsize=6.5)
    matrix.set_yticks(ticks, labels, fontsize=6.5)
    matrix.tick_params(length=0)
    matrix.set(xlabel=axes_names[1], ylabel=axes_names[0])
    matrix.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=matrix, label="cosine", shrink=0.6, aspect=30, pad=0.01)
    bar.outline.set_visible(False)

    low = min(mismatched.min(initial=0), matching.min())
    bins = np.linspace(low, max(mismatched.max(initial=0), matching.max()) + 1e-6, 41)
    for values, colour, name in ((mismatched, PALE, "other pairs"), (matching, RIGHT, "true pairs")):
        if len(values):
            histogram.hist(values, bins, density=True, color=colour, alpha=0.65)
            histogram.axvline(np.median(values), color=colour, linewidth=1.5)
            name = f"{name}: median {round(float(np.median(values)), 2) + 0.0:.2f}"
            histogram.plot([], [], color=colour, linewidth=6, alpha=0.65, label=name)
    histogram.set(xlabel="cosine", yticks=[], title="All pairs")
    histogram.spines["left"].set_visible(False)
    histogram.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), fontsize=8.5)
    save_png(figure, path)


@styled
def confusion(path: Path, *, title: str, subtitle: str, classes: Sequence[str], counts: np.ndarray) -> None:
    """Draws a confusion matrix of counts, int "target predicted"; colours are fractions of a true class."""
    size = max(4.2, 0.5 * len(classes) + 2)
    figure = new_figure(size + 0.6, size + 0.6, title, subtitle)
    axes = figure.subplots()
    fractions = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    names = [_shorten(name) for name in classes]
    axes.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 5 else 0)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.set(xlabel="predicted", ylabel="true")
    if len(classes) <= 30:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if fractions[row, column] > 0.5 else INK
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
    """Draws a bar per group and series, in 0..1, and a baseline across each group.

    heights: {series: a height per group}; NaN: no bar. lines: the baseline of each group; empty: none.
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
    axes.set(ylim=(0, 1.06), ylabel="fraction right")
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
    # matplotlib lists the line first; the legend names the baseline last.
    handles, labels = axes.get_legend_handles_labels()
    order = [*range(1, len(labels)), 0] if len(lines) else range(len(labels))
    handles, labels = [handles[n] for n in order], [labels[n] for n in order]
    axes.legend(
        handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.1), fontsize=8.5,
        ncols=min(5, len(heights) + 1),
    )  # fmt: skip
    save_png(figure, path)


@styled
def box_sheet(
    path: Path,
    *,
    title: str,
    subtitle: str,
    images: Sequence[Preview],
    targets: Sequence[np.ndarray],
    detections: Sequence[tuple[np.ndarray, np.ndarray]],
    classes: Sequence[str],
) -> None:
    """Draws images with their true boxes in white and the detected boxes in the colours of their classes.

    targets: of each image the boxes "N 4", centre and size as fractions of the image.
    detections: of each image the boxes "M 4" and their classes "M".
    """
    from matplotlib.patches import Rectangle

    columns = min(3, len(images))
    rows = -(-len(images) // columns)
    figure = new_figure(3.2 * columns, 2.5 * rows + 1.2, title, subtitle)
    all_axes = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for axes in all_axes[len(images) :]:
        axes.set_axis_off()
    for axes, image, true, (boxes, kinds) in zip(all_axes, images, targets, detections, strict=False):
        _draw_preview(axes, image)
        height, width = image.values.shape[:2]
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
