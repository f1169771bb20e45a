"""Training batches on the mesh, with the time that the loop waited for each."""

import logging
import time

from mmjax import data, sharding
from mmjax.batch import Batch
from mmjax.cluster import processes
from mmjax.run.class_numbers import limit_mixture
from mmjax.run.session import Session

log = logging.getLogger(__name__)


class TrainInput:
    """The training batches of a run after `first_step`, as global arrays on the mesh.

    first_step: the number of steps already taken. num_bad: the number of bad examples in them.
    """

    def __init__(self, session: Session, first_step: int, num_bad: int):
        experiment = session.experiment
        self.batch_size = experiment.data.batch_size
        self.sharding = sharding.batch_sharding(session.mesh, experiment.rules)
        rows = sharding.local_rows(self.sharding, self.batch_size)
        # Each start judges the rows that it reads itself, so that mended data or a higher limit let a stopped
        # run go on. The count of the whole run is logged. Each process counts only its fraction of the rows.
        self.counter = data.BadExampleCounter(experiment.data)
        self.num_bad_before, self.fraction = num_bad, len(rows) / self.batch_size
        warn_of_bad_examples(num_bad, first_step * self.batch_size, experiment.data.max_bad_fraction)
        self.batches = data.batches(
            limit_mixture(experiment, experiment.data),
            seed=experiment.seed,
            start_step=first_step,
            rows=rows,
            num_steps=experiment.num_steps,
        )

    def next(self) -> tuple[Batch, float]:
        """The next batch, and the seconds that the loop waited for it."""
        start = time.perf_counter()
        batch, bad = next(self.batches)
        waited = time.perf_counter() - start
        self.counter.add(bad)
        return sharding.to_global(batch, self.sharding, self.batch_size), waited

    def num_bad(self) -> int:
        """Bad examples of the run so far in all processes. A row that several processes load counts once."""
        new_in_all, num_rows = processes.sum_over_processes(
            self.counter.num_bad, round(self.fraction * self.batch_size)
        )
        return self.num_bad_before + round(new_in_all * self.batch_size / num_rows)

    def close(self) -> None:
        """Stops the threads that prefetch."""
        self.batches.close()


def warn_of_bad_examples(num_bad: int, num_rows: int, limit: float) -> None:
    """Logs that the steps before this start read too many: a run that is restarted often must not hide it."""
    if num_bad > limit * num_rows and processes.is_process_zero():
        log.warning(
            "%d of the %d rows before this start were bad examples, more than max_bad_fraction=%g. The rows "
            "from here on are counted anew",
            num_bad,
            num_rows,
            limit,
        )
