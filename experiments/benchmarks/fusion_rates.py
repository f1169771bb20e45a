"""Does the ranking of fusions in fusion.py depend on the learning rate? Trains each with two, scored on val.

    python experiments/benchmarks/fusion_rates.py train grid_s1 [NAME ...]
    python experiments/benchmarks/fusion_rates.py table grid_s1

The runs are those of fusion.py with seed 0, scored on the val split; fusion.py's learning rate is 2e-3. Runs
are in runs/fusion_rates/, and finished ones are skipped. Results, with date and commit: docs/fusion.md.
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
    """Trains the runs that are not finished."""
    for name in names:
        for rate in RATES:
            experiment = TASKS[task_name].experiment(name, seed=0, split="val")
            optimizer = dataclasses.replace(experiment.optimizer, peak_learning_rate=rate)
            folder = RUNS / task_name / name / str(rate)
            if not recorded(folder, experiment.num_steps):
                experiment = dataclasses.replace(experiment, optimizer=optimizer)
                loop.run(experiment, folder, devices=jax.devices()[:1])


def table(task_name: str) -> str:
    """Fraction of val words predicted correctly from both, all masked; a column per learning rate."""
    lines = [f"| given both | {' | '.join(map(str, RATES))} |", "|---|" + "---|" * len(RATES)]
    for name in FUSIONS:
        runs = [recorded(RUNS / task_name / name / str(rate)) for rate in RATES]
        if any(runs):
            cells = [f"{run['all_masked/image+audio/word']:.3f}" if run else "" for run in runs]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("verb", choices=("train", "table"))
    parser.add_argument("task", choices=sorted(TASKS))
    parser.add_argument("names", nargs="*", help=f"any of {', '.join(FUSIONS)}; all by default")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - {*FUSIONS})
    if unknown:
        parser.error(f"unknown fusions {unknown}; known: {[*FUSIONS]}")
    if arguments.verb == "table":
        print(table(arguments.task))
        return
    jax.config.update("jax_compilation_cache_dir", str(RUNS / "compiled"))
    train_all(arguments.task, arguments.names or [*FUSIONS])


if __name__ == "__main__":
    main()
