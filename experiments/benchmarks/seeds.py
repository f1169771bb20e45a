"""What runs of several seeds came to."""

import json
from pathlib import Path

import numpy as np
import scipy.stats


def recorded(folder: Path, num_steps: int | None = None) -> dict[str, float]:
    """The metrics of a finished run's last evaluation; {} if it is not finished.

    num_steps: what counts as finished; None: any evaluation does.
    """
    file = folder / "evals.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    last = rows[-1] if rows else {}
    return last if last and num_steps in (None, last["step"]) else {}


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean over seeds and half the 95 % interval of it (Student's t); NaN for one seed."""
    if len(values) < 2:
        return float(np.mean(values)), float("nan")
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return float(np.mean(values)), float(half)


def cell(values: np.ndarray, sign: str = "") -> str:
    """The interval as a table says it. sign: "+" where it is a difference."""
    mean, half = interval(values)
    return f"{mean:{sign}.3f} ± {half:.3f}"
