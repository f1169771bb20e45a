"""Is a fusion's place in fusion.py's table its own, or that of one learning rate? Each at several, on val.

    python experiments/benchmarks/fusion_rates.py train grid_s1 [NAME ...]
    python experiments/benchmarks/fusion_rates.py table grid_s1

Seed 0 of fusion.py's runs, scored on the val split; 2e-3 is the rate of that table. Runs lie under
runs/fusion_rates/, and what is finished is skipped. Results, with date and commit: docs/fusion.md.
"""

import argparse
import dataclasses
from pathlib import Path

import jax
from fusion_models import FUSIONS, TASKS
from seeds import recorded

from mmjax.run import loop

RUNS = Path("runs") / "fusion_rates"
RATES = (5e-4, 2e-3)


def train_all(task_name: str, names: list[str]) -> None:
    """Trains what is not finished."""
    for name in names:
        for rate in RATES:
            made = TASKS[task_name].experiment(name, seed=0, split="val")
            optimizer = dataclasses.replace(made.optimizer, peak_learning_rate=rate)
            folder = RUNS / task_name / name / str(rate)
            if not recorded(folder, made.num_steps):
                loop.run(dataclasses.replace(made, optimizer=optimizer), folder, devices=jax.devices()[:1])


def table(task_name: str) -> str:
    """Share of the words of val that are read right from both, all hidden, a column a learning rate."""
    lines = [f"| given both | {' | '.join(map(str, RATES))} |", "|---|" + "---|" * len(RATES)]
    for name in FUSIONS:
        found = [recorded(RUNS / task_name / name / str(rate)) for rate in RATES]
        if any(found):
            cells = [f"{run['all_masked/image+audio/word']:.3f}" if run else "" for run in found]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("verb", choices=("train", "table"))
    parser.add_argument("task", choices=sorted(TASKS))
    parser.add_argument("names", nargs="*", help=f"of {', '.join(FUSIONS)}; all by default")
    given = parser.parse_args()
    unknown = sorted(set(given.names) - {*FUSIONS})
    if unknown:
        parser.error(f"unknown fusions {unknown}; known: {[*FUSIONS]}")
    if given.verb == "table":
        print(table(given.task))
        return
    jax.config.update("jax_compilation_cache_dir", str(RUNS / "compiled"))
    train_all(given.task, given.names or [*FUSIONS])


if __name__ == "__main__":
    main()
