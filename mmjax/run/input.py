"""Training batches on the mesh, with the time that the loop waited for each."""

import time

from mmjax import data, sharding
from mmjax.batch import Batch
from mmjax.cluster import processes
from mmjax.run.session import Session


class TrainInput:
    """The training batches of a run after `first_step`, as global arrays on the mesh.

    first_step: the number of steps already taken. num_bad: the number of bad examples in them.
    """

    def __init__(self, session: Session, first_step: int, num_bad: int):
        experiment = session.experiment
        self.batch_size = experiment.data.batch_size
        self.sharding = sharding.batch_sharding(session.mesh, experiment.rules)
        rows = sharding.local_rows(self.sharding, self.batch_size)
        self.counter = data.BadExampleCounter(experiment.data)
        # Restore the bad-example count, so that the limit also covers the steps before a resume. Each process
        # counts only its fraction of the rows.
        self.num_bad_before, self.fraction = num_bad, len(rows) / self.batch_size
        self.counter.num_bad = self.num_bad_at_start = round(num_bad * self.fraction)
        self.counter.num_rows = first_step * len(rows)
        self.batches = data.batches(
            experiment.data,
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
        new = self.counter.num_bad - self.num_bad_at_start
        new_in_all, num_rows = processes.sum_over_processes(new, round(self.fraction * self.batch_size))
        return self.num_bad_before + round(new_in_all * self.batch_size / num_rows)

    def close(self) -> None:
        """Stops the threads that prefetch."""
        self.batches.close()
