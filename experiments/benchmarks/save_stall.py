"""How much do checkpoints slow training?

    python experiments/benchmarks/save_stall.py [EXPERIMENT.py] [--pairs 6] [--steps 10]

Trains in blocks of steps; every other block starts with a checkpoint. Two costs are measured: the stall (the
loop waits for `Checkpoints.save` to copy the state to the host), and the drag (steps are slower while files
are written). Prints both, and the fraction of wall time that they take at save_every=500.
"""

import argparse
import contextlib
import datetime
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import jax

from mmjax import training
from mmjax.checkpoint import checksums
from mmjax.checkpoint.manager import Checkpoints
from mmjax.experiment import Experiment, load
from mmjax.run.input import TrainInput
from mmjax.run.session import Session

QUICKSTART = Path(__file__).parents[1] / "quickstart.py"


def measure(experiment: Experiment, num_pairs: int, num_steps: int, folder: Path) -> dict[str, list[float]]:
    """Seconds per step without and with a save (excluding the stall), seconds of stalls, megabytes saved."""
    session = Session.of(experiment, jax.devices()[:1])
    parts = session.learner, session.optimizer, session.abstract, session.mesh, experiment.rules
    step_function, state = training.jit_step(*parts), session.new_state()
    times: dict[str, list[float]] = {"without": [], "with": [], "stall": []}
    checkpoints = Checkpoints(folder)
    with contextlib.closing(checkpoints), contextlib.closing(TrainInput(session, 0, 0)) as train_input:
        for block in range(
            1 + 2 * num_pairs
        ):  # the first block compiles and fills caches, and is not measured
            has_save = block % 2 == 0
            jax.block_until_ready(state)  # as in the loop, which reads the metrics before it saves
            start = time.perf_counter()
            if has_save:
                checkpoints.save(block, state)
            stalled = time.perf_counter() - start
            for _ in range(num_steps):
                batch, _ = train_input.next()
                state, _ = step_function(state, batch)
            jax.block_until_ready(state)
            seconds = time.perf_counter() - start - stalled
            if has_save:
                checkpoints.wait()
            if block:
                times["with" if has_save else "without"].append(seconds / num_steps)
                if has_save:
                    times["stall"].append(stalled)
    times["megabytes"] = [entry.num_bytes / 1e6 for entry in checksums.list_checkpoints(folder, verify=True)]
    return times


def report(experiment: Experiment, times: dict[str, list[float]], num_steps: int) -> str:
    """Medians, and the fraction of wall time that saves take."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    save_every = Experiment.__dataclass_fields__["save_every"].default
    stall = medians["stall"]
    # By noise, blocks with a save can be faster than those without: count that as no drag.
    drag = max(0.0, medians["with"] - medians["without"]) * num_steps
    fraction = (stall + drag) / (save_every * medians["without"] + stall + drag)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True
    ).stdout.strip()
    device = f"{jax.devices()[0].device_kind}, jax {jax.__version__}"

    def row(label: str, name: str) -> str:
        low, high = 1e3 * min(times[name]), 1e3 * max(times[name])
        return (
            f"{label:<20}{1e3 * medians[name]:8.1f} ms   ({low:.1f} to {high:.1f}, {len(times[name])} times)"
        )

    return "\n".join(
        [
            f"{experiment.name}, {datetime.date.today()}, {device}, commit {commit or 'unknown'}",
            f"{'checkpoint':<20}{medians['megabytes']:8.1f} MB",
            row("step", "without"),
            row("step while writing", "with"),
            row("stall of a save", "stall"),
            f"of the wall time at save_every={save_every}: "
            f"{stall / (save_every * medians['without']):.3%} by the stall, {fraction:.3%} with the drag",
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", nargs="?", type=Path, default=QUICKSTART)
    parser.add_argument(
        "--pairs", type=int, default=6, help="number of pairs of blocks, with and without a save"
    )
    parser.add_argument("--steps", type=int, default=10, help="steps per block")
    arguments = parser.parse_args()
    experiment = load(arguments.experiment)
    with tempfile.TemporaryDirectory() as temporary:
        times = measure(experiment, arguments.pairs, arguments.steps, Path(temporary))
    print(report(experiment, times, arguments.steps))
