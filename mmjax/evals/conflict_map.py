"""How the objectives' gradients lay to each other over a training run, as one picture."""

import json
from pathlib import Path

import numpy as np

from mmjax.errors import InputError
from mmjax.evals.pictures import COLOURS, new_figure, save_png, styled

PREFIX = "conflict/"


def conflict_rows(metrics_file: Path) -> list[dict]:
    """The logged steps that hold a conflict report."""
    rows = [json.loads(line) for line in Path(metrics_file).read_text().splitlines() if line.strip()]
    return [row for row in rows if any(name.startswith(PREFIX) for name in row)]


@styled
def conflict_map(metrics_file: Path, path: Path) -> None:
    """A row a pair of objectives: cosine of their gradients by step, share of steps below 0; then norms."""
    rows = conflict_rows(metrics_file)
    logged = list(dict.fromkeys(name for row in rows for name in row if name.startswith(PREFIX)))
    pairs = [name.removeprefix(PREFIX) for name in logged if name.count("/") == 1 and "|" in name]
    names = [name.removeprefix(f"{PREFIX}norm/") for name in logged if name.startswith(f"{PREFIX}norm/")]
    if not pairs:
        raise InputError(f"{metrics_file}: no logged step has a conflict report: set conflict_every")
    steps = [row["step"] for row in rows]

    def column(name: str) -> np.ndarray:
        return np.asarray([np.nan if row.get(name) is None else row[name] for row in rows], np.float64)

    cosines = np.stack([column(PREFIX + pair) for pair in pairs])
    shares = [column(f"{PREFIX}share/{pair}") for pair in pairs]
    any_share = column(f"{PREFIX}share")
    height = 0.34 * len(pairs) + 2.2
    figure = new_figure(
        11.5,
        height + 1.6,
        "Conflicts between objectives",
        f"cosine of their gradients on the shared parameters; some pair is below 0 in "
        f"{np.nanmean(any_share):.0%} of the steps measured",
    )
    top, bottom = figure.subplots(2, 1, sharex=False, gridspec_kw={"height_ratios": [height - 1.4, 2.0]})
    edges = np.concatenate([[steps[0]], (np.asarray(steps[1:]) + steps[:-1]) / 2, [steps[-1]]]).astype(float)
    edges[0] -= 0.5
    edges[-1] += 0.5
    top.set_facecolor("#e4e7eb")  # where a pair was not measured: one of them had no gradient
    shown = top.pcolormesh(
        edges, np.arange(len(pairs) + 1), np.ma.masked_invalid(cosines), cmap="RdBu", vmin=-1, vmax=1
    )
    top.set_yticks(np.arange(len(pairs)) + 0.5, [pair.replace("|", "  ·  ") for pair in pairs])
    top.tick_params(length=0)
    top.invert_yaxis()
    for n, share in enumerate(shares):
        known = share[np.isfinite(share)]
        text = f"{known.mean():.0%}" if len(known) else "-"
        top.annotate(
            text, (1.01, n + 0.5), xycoords=("axes fraction", "data"), va="center", annotation_clip=False
        )
    top.annotate("below 0", (1.01, -0.12), xycoords=("axes fraction", "data"), fontsize=7.5, va="bottom")
    for spine in top.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(shown, ax=top, aspect=14, pad=0.07)
    bar.set_label("cosine")
    bar.outline.set_visible(False)

    for n, name in enumerate(names):
        norms = column(f"{PREFIX}norm/{name}")
        bottom.plot(steps, np.where(norms > 0, norms, np.nan), label=name, color=COLOURS[n % len(COLOURS)])
    bottom.set(xlabel="step", ylabel="gradient norm", yscale="log", xlim=(edges[0], edges[-1]))
    top.set_xlim(edges[0], edges[-1])
    bottom.yaxis.set_major_formatter("{x:g}")
    bottom.grid(axis="y", color="#e4e7eb", linewidth=0.8)
    bottom.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
    save_png(figure, path)
