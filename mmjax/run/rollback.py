"""After a non-finite step: restore a checkpoint, skip the data up to that step, and continue."""

import itertools
import logging

import jax
import numpy as np

from mmjax.checkpoint.manager import Checkpoints
from mmjax.cluster import processes
from mmjax.errors import NonFiniteError
from mmjax.run.folder import RunFolder
from mmjax.run.goodput import Goodput, newest_row
from mmjax.run.session import Session
from mmjax.training import TrainState
from mmjax.training.nonfinite import MAX_CONSECUTIVE_ROLLBACKS

log = logging.getLogger(__name__)


def roll_back(
    session: Session, folder: RunFolder, checkpoints: Checkpoints, goodput: Goodput, error: NonFiniteError
) -> TrainState:
    """The parameters of a checkpoint before the bad step, with the step number of the bad step, saved.

    The batches between the checkpoint and the bad step are skipped (as for PaLM, Chowdhery et al. 2022,
    section 5.1). The step number only grows, so the run cannot loop for ever, and the new checkpoint is all
    that a resume needs. The checkpoint is the newest at a multiple of `save_every`. Checkpoints made for a
    signal or an evaluation are not used: an interrupted run rolls back as far as an uninterrupted one.

    Args:
      error: the exception of the bad step.

    Raises:
      NonFiniteError: `error` itself if the experiment does not roll back; another after
        MAX_CONSECUTIVE_ROLLBACKS rollbacks without a finite log line, or where no checkpoint is left.
    """
    experiment, bad = session.experiment, error.step
    rows = processes.broadcast_from_process_zero(folder.metrics)
    if experiment.on_nonfinite != "rollback" or bad is None:
        raise error
    in_a_row = len(list(itertools.takewhile(lambda row: "rolled_back_to" in row, reversed(rows))))
    if in_a_row >= MAX_CONSECUTIVE_ROLLBACKS:
        raise NonFiniteError(f"rolled back {in_a_row} times in a row without success: {error}") from error
    target = (bad - 1) // experiment.save_every * experiment.save_every
    checkpoints.wait()
    state = checkpoints.restore(session.abstract, max_step=target) if target else session.new_state()
    if state is None:
        raise NonFiniteError(f"no checkpoint at or before step {target} to roll back to: {error}") from error
    step = int(state.step)
    log.warning("%s. Rolled back to step %d; continuing with step %d", error, step, bad + 1)
    goodput.roll_back(rows, step)
    counts = {
        "skipped_steps": bad - step + int(newest_row(rows, step).get("skipped_steps") or 0),
        "rollbacks": 1 + folder.running_count("rollbacks"),
        "bad_examples": folder.running_count("bad_examples"),
    }
    folder.write_metrics(bad, counts | {"rolled_back_to": step} | goodput.row())
    state = state.replace(step=jax.device_put(np.int32(bad), state.step.sharding))
    checkpoints.save(bad, state)
    return state
