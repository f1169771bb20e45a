"""What a run tells people: a line while it trains, the table of results that ends it."""

import time
from collections.abc import Mapping, Sequence

from mmjax.checkpoint.checksums import Entry

SPREAD = ("low", "high")  # ends of an interval: one column


def table(results: Mapping[str, Mapping[str, float]]) -> str:
    """Evaluations as text: a row a metric, and what belongs to it (``metric/chance``, ``/low``) beside it.

    >>> print(table({"words": {"accuracy": 0.75, "accuracy/chance": 0.5, "num_pairs": 40.0}}), end="")
    words      score  chance
    ------------------------
    accuracy   0.750   0.500
    num_pairs     40
    """
    return "\n".join(_one(name, metrics) for name, metrics in results.items())


def _one(name: str, metrics: Mapping[str, float]) -> str:
    rows: dict[str, dict[str, float]] = {}
    for metric, value in metrics.items():
        owner, _, detail = metric.rpartition("/")
        if owner in metrics:
            rows.setdefault(owner, {})[detail] = value
        else:
            rows.setdefault(metric, {})[""] = value
    details = dict.fromkeys(d for row in rows.values() for d in row if d not in ("", *SPREAD))
    has_interval = any("low" in row for row in rows.values())
    header = [name, "score", *(["95 % interval"] if has_interval else []), *details]
    lines = [header]
    for metric, row in rows.items():
        interval = f"{number(row['low'])} - {number(row['high'])}" if "low" in row and "high" in row else ""
        cells = [metric, number(row[""]), *([interval] if has_interval else [])]
        lines.append(cells + [number(row[detail]) if detail in row else "" for detail in details])
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    text = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in lines
    ]
    text.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(text) + "\n"


def number(value: float) -> str:
    """Whole numbers as they are, shares with three decimals."""
    return (
        f"{value:.0f}"
        if value == int(value if value - value == 0 else 0) and abs(value) > 1
        else f"{value:.3f}"
    )


def checkpoints(entries: Sequence[Entry], unfinished: Sequence[str], *, verified: bool) -> str:
    """A line a checkpoint: step, size, when it was saved (UTC), health.

    >>> print(checkpoints([Entry(500, 3_200_000, 0.0, None)], ["600.tmp"], verified=False), end="")
    step  size    saved             health
    500   3.2 MB  1970-01-01 00:00  complete (--verify reads the files)
    unfinished: 600.tmp
    """
    good = "verified" if verified else "complete (--verify reads the files)"
    lines = [("step", "size", "saved", "health")] + [
        (
            str(entry.step),
            f"{entry.num_bytes / 1e6:,.1f} MB",
            time.strftime("%Y-%m-%d %H:%M", time.gmtime(entry.saved)),
            f"DAMAGED: {entry.fault}" if entry.fault else good,
        )
        for entry in entries
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    text = ["  ".join([*map(str.ljust, line[:3], widths), line[3]]) for line in lines]
    text = text if entries else ["no checkpoints yet"]
    return "\n".join(text + [f"unfinished: {name}" for name in unfinished]) + "\n"
