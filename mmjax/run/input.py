"""Training batches on the mesh, with the time that the loop waited for each."""

import time

from mmjax import data, sharding
from mmjax.batch import Batch
from mmjax.cluster import processes
from mmjax.run.session import Session


class TrainInput:
    """Global batches on the mesh, from a step on, with the time spent waiting for them."""

    def __init__(self, session: Session, first_step: int, num_bad: int):
        experiment = session.experiment
        self.batch_size = experiment.data.batch_size
        self.sharding = sharding.batch_sharding(session.mesh, experiment.rules)
        rows = sharding.local_rows(self.sharding, self.batch_size)
        self.counter = data.BadExampleCounter(experiment.data)
        # A resumed run judges the share of bad examples as if it had never stopped; a process, its part.
        self.num_bad_before, self.share = num_bad, len(rows) / self.batch_size
        self.counter.num_bad = self.num_bad_mine = round(num_bad * self.share)
        self.counter.num_rows = first_step * len(rows)
        self.batches = data.batches(
            experiment.data,
            seed=experiment.seed,
            start_step=first_step,
            rows=rows,
            num_steps=experiment.num_steps,
        )

    def next(self) -> tuple[Batch, float]:
        """The next batch, and the seconds that the loop stood still for it."""
        start = time.perf_counter()
        batch, bad = next(self.batches)
        waited = time.perf_counter() - start
        self.counter.add(bad)
        return sharding.to_global(batch, self.sharding, self.batch_size), waited

    def num_bad(self) -> int:
        """Bad examples of the run so far, in all processes. Rows that several of them load count once."""
        new = self.counter.num_bad - self.num_bad_mine
        seen, num_rows = processes.sum_over_processes(new, round(self.share * self.batch_size))
        return self.num_bad_before + round(seen * self.batch_size / num_rows)

    def close(self) -> None:
        """Stops the threads that read ahead."""
        self.batches.close()
