"""Plain-text tables for the terminal."""

import time
from collections.abc import Mapping, Sequence

from mmjax.checkpoint.checksums import CheckpointInfo

INTERVAL_ENDS = ("low", "high")  # shown together in one column


def align_columns(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    """One line per row, with two spaces between columns. The columns in `left` are aligned to the left.

    >>> align_columns([["name", "size"], ["a", "12"]])
    ['name  size', 'a       12']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def align(row: Sequence[str]) -> str:
        cells = enumerate(zip(row, widths, strict=True))
        return "  ".join(cell.ljust(width) if i in left else cell.rjust(width) for i, (cell, width) in cells)

    return [align(row).rstrip() for row in rows]


def results_table(results: Mapping[str, Mapping[str, float]]) -> str:
    """A table per evaluation with a row per metric; `metric/chance` and the like are columns of its row.

    >>> words = {"accuracy": 0.75, "accuracy/chance": 0.5, "num_pairs": 40.0}
    >>> print(results_table({"words": words}), end="")
    words      score  chance
    ------------------------
    accuracy   0.750   0.500
    num_pairs     40
    """
    return "\n".join(_evaluation_table(name, metrics) for name, metrics in results.items())


def _evaluation_table(name: str, metrics: Mapping[str, float]) -> str:
    values: dict[str, dict[str, float]] = {}  # metric -> {"" (its score) | detail: value}
    for metric, value in metrics.items():
        owner, _, detail = metric.rpartition("/")
        if owner in metrics:
            values.setdefault(owner, {})[detail] = value
        else:
            values.setdefault(metric, {})[""] = value
    details = dict.fromkeys(d for row in values.values() for d in row if d not in ("", *INTERVAL_ENDS))
    has_interval = any("low" in row for row in values.values())
    rows = [[name, "score", *(["95 % interval"] if has_interval else []), *details]]
    for metric, row in values.items():
        ends = [format_number(row[end]) for end in INTERVAL_ENDS if end in row]
        interval = " - ".join(ends) if len(ends) == 2 else ""
        cells = [metric, format_number(row[""]), *([interval] if has_interval else [])]
        rows.append(cells + [format_number(row[detail]) if detail in row else "" for detail in details])
    header, *lines = align_columns(rows)
    return "\n".join([header, "-" * len(header), *lines]) + "\n"


def format_number(value: float) -> str:
    """Whole numbers above 1 without decimals, all others with three."""
    # value - value is NaN, not 0, for an infinite value.
    is_whole = value == int(value if value - value == 0 else 0)
    return f"{value:.0f}" if is_whole and abs(value) > 1 else f"{value:.3f}"


def checkpoints_table(
    checkpoints: Sequence[CheckpointInfo], unfinished: Sequence[str], *, verified: bool
) -> str:
    """A line per checkpoint: step, size, time of saving (UTC), health; then the unfinished saves.

    >>> checkpoints = [CheckpointInfo(500, 3_200_000, 0.0, None)]
    >>> print(checkpoints_table(checkpoints, ["600.tmp"], verified=False), end="")
    step  size    saved             health
    500   3.2 MB  1970-01-01 00:00  complete (--verify reads the files)
    unfinished: 600.tmp
    """
    undamaged = "verified" if verified else "complete (--verify reads the files)"
    rows = [["step", "size", "saved", "health"]] + [
        [
            str(info.step),
            f"{info.num_bytes / 1e6:,.1f} MB",
            time.strftime("%Y-%m-%d %H:%M", time.gmtime(info.saved)),
            f"DAMAGED: {info.fault}" if info.fault else undamaged,
        ]
        for info in checkpoints
    ]
    lines = align_columns(rows, left=range(4)) if checkpoints else ["no checkpoints yet"]
    return "\n".join(lines + [f"unfinished: {name}" for name in unfinished]) + "\n"
