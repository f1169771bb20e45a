"""How long does a checkpoint keep training from training?

    python experiments/benchmarks/save_stall.py [EXPERIMENT.py] [--pairs 6] [--steps 10]

Trains in blocks of steps, every other one with a checkpoint before it, and takes the times apart: the stall
(the loop stands still in `Checkpoints.save`, which copies the state to the host), and the drag (steps are
slower while files are written). Prints both, and the share of wall time that they cost at save_every=500.
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
    """Seconds of blocks without and with a save (the stall not counted), and of stalls; megabytes saved."""
    setup = Session.of(experiment, jax.devices()[:1])
    parts = setup.learner, setup.optimizer, setup.abstract, setup.mesh, experiment.rules
    step_function, state = training.jit_step(*parts), setup.new_state()
    times: dict[str, list[float]] = {"without": [], "with": [], "stall": []}
    checkpoints = Checkpoints(folder)
    with contextlib.closing(checkpoints), contextlib.closing(TrainInput(setup, 0, 0)) as feed:
        for block in range(1 + 2 * num_pairs):  # the first compiles and fills caches
            saves = block % 2 == 0
            jax.block_until_ready(state)  # as in the loop, which reads the metrics before it saves
            start = time.perf_counter()
            if saves:
                checkpoints.save(block, state)
            stalled = time.perf_counter() - start
            for _ in range(num_steps):
                batch, _ = feed.next()
                state, _ = step_function(state, batch)
            jax.block_until_ready(state)
            seconds = time.perf_counter() - start - stalled
            if saves:
                checkpoints.wait()
            if block:
                times["with" if saves else "without"].append(seconds / num_steps)
                if saves:
                    times["stall"].append(stalled)
    times["megabytes"] = [entry.num_bytes / 1e6 for entry in checksums.list_checkpoints(folder, verify=True)]
    return times


def report(experiment: Experiment, times: dict[str, list[float]], num_steps: int) -> str:
    """Medians, and what they cost."""
    middle = {name: statistics.median(values) for name, values in times.items()}
    default = Experiment.__dataclass_fields__["save_every"].default
    stall = middle["stall"]
    # Noise may make a block with a save the faster one; a saving is not claimed.
    drag = max(0.0, middle["with"] - middle["without"]) * num_steps
    share = (stall + drag) / (default * middle["without"] + stall + drag)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True
    ).stdout.strip()
    device = f"{jax.devices()[0].device_kind}, jax {jax.__version__}"

    def row(label: str, name: str) -> str:
        low, high = 1e3 * min(times[name]), 1e3 * max(times[name])
        return (
            f"{label:<20}{1e3 * middle[name]:8.1f} ms   ({low:.1f} to {high:.1f}, {len(times[name])} times)"
        )

    return "\n".join(
        [
            f"{experiment.name}, {datetime.date.today()}, {device}, commit {commit or 'unknown'}",
            f"{'checkpoint':<20}{middle['megabytes']:8.1f} MB",
            row("step", "without"),
            row("step while writing", "with"),
            row("stall of a save", "stall"),
            f"of the wall time at save_every={default}: {stall / (default * middle['without']):.3%} by the "
            f"stall, {share:.3%} with the drag",
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", nargs="?", type=Path, default=QUICKSTART)
    parser.add_argument("--pairs", type=int, default=6, help="blocks with and without a save")
    parser.add_argument("--steps", type=int, default=10, help="in a block")
    arguments = parser.parse_args()
    chosen = load(arguments.experiment)
    with tempfile.TemporaryDirectory() as temporary:
        measured = measure(chosen, arguments.pairs, arguments.steps, Path(temporary))
    print(report(chosen, measured, arguments.steps))
