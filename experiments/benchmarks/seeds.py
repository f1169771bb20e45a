"""Statistics of runs with several seeds."""

import json
from pathlib import Path

import numpy as np
import scipy.stats


def recorded(folder: Path, num_steps: int | None = None) -> dict[str, float]:
    """The metrics of a finished run's last evaluation; {} if the run is not finished.

    num_steps: the step of the last evaluation of a finished run. None: any evaluation counts as finished.
    """
    file = folder / "evals.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    last = rows[-1] if rows else {}
    return last if last and num_steps in (None, last["step"]) else {}


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean over seeds and half its 95 % interval (Student's t), which is NaN for one seed."""
    if len(values) < 2:
        return float(np.mean(values)), float("nan")
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return float(np.mean(values)), float(half)


def cell(values: np.ndarray, sign: str = "") -> str:
    """The interval as text for a table. sign: "+" for differences."""
    mean, half = interval(values)
    return f"{mean:{sign}.3f} ± {half:.3f}"
