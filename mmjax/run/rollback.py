"""Back to a checkpoint, and on behind the step that was not finite."""

import itertools
import logging

import jax
import numpy as np

from mmjax.checkpoint.manager import Checkpoints
from mmjax.cluster import processes
from mmjax.errors import NonFiniteError
from mmjax.run.folder import RunFolder
from mmjax.run.goodput import Goodput, newest
from mmjax.run.session import Session
from mmjax.train import TrainState
from mmjax.train.nonfinite import MAX_ROLLBACKS_IN_A_ROW

log = logging.getLogger(__name__)


def roll_back(
    session: Session, folder: RunFolder, checkpoints: Checkpoints, goodput: Goodput, error: NonFiniteError
) -> TrainState:
    """The state of a checkpoint before the bad step, at the position behind that step, and saved there.

    The data from the checkpoint to the bad step are passed over (as for PaLM, Chowdhery et al. 2022, 5.1):
    the step only ever grows, so the run cannot go round in circles, and the new checkpoint is all that a
    resume needs. The checkpoint is the newest multiple of save_every, and none that a signal or an evaluation
    made: a run that was stopped on the way goes back as far as one that was not.

    Raises `error` if it is not to be rolled back, or after MAX_ROLLBACKS_IN_A_ROW without a finite log line.
    """
    experiment, bad = session.experiment, error.step
    rows = processes.broadcast_from_first(folder.metrics)
    if experiment.on_nonfinite != "rollback" or bad is None:
        raise error
    in_a_row = len(list(itertools.takewhile(lambda row: "rolled_back_to" in row, reversed(rows))))
    if in_a_row >= MAX_ROLLBACKS_IN_A_ROW:
        raise NonFiniteError(f"rolled back {in_a_row} times in a row, to no avail: {error}") from error
    target = (bad - 1) // experiment.save_every * experiment.save_every
    checkpoints.wait()
    state = checkpoints.restore(session.abstract, at_most=target) if target else session.new_state()
    if state is None:
        raise NonFiniteError(f"no checkpoint at or before step {target} to roll back to: {error}") from error
    step = int(state.step)
    log.warning("%s. Rolled back to step %d; going on with step %d", error, step, bad + 1)
    goodput.roll_back(rows, step)
    counts = {
        "skipped_steps": bad - step + int(newest(rows, step).get("skipped_steps") or 0),
        "rollbacks": 1 + folder.counted("rollbacks"),
        "bad_examples": folder.counted("bad_examples"),
    }
    folder.write_metrics(bad, counts | {"rolled_back_to": step} | goodput.row())
    state = state.replace(step=jax.device_put(np.int32(bad), state.step.sharding))
    checkpoints.save(bad, state)
    return state
