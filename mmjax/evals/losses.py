"""The training losses on held-out examples.

loss/<objective>           not weighted
<objective>/<metric>       accuracy, perplexity, and whatever else the objective logs
num_examples               the number of examples with any stream
"""

import dataclasses

import numpy as np

from mmjax.batch import is_present
from mmjax.errors import InputError
from mmjax.evals.base import Eval, Predictor, Result, check_finite
from mmjax.objectives import mean_over_batches
from mmjax.ranges import Seed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Losses(Eval):
    """Every objective's loss and metrics without dropout and augmentation; the data need all its streams.

    A metric is the mean over batches, weighted by the numbers of rows (tokens, values) that it is a mean over
    in each; a metric without such numbers, by the examples of the batches. An objective for which no example
    has all streams is left out. A loss that compares rows depends on `batch_size`, and is easier in a last
    batch that is not full. Views sample with `seed` plus the batch's number, so that checkpoints are compared
    on equal samples.
    """

    seed: Seed = 0

    def required_heads(self) -> tuple[str, ...]:
        return ()

    def __call__(self, predictor: Predictor) -> Result:
        batches, sizes = [], []
        for number, batch in enumerate(self.batches()):
            rows = np.logical_or.reduce([np.asarray(is_present(stream)) for stream in batch.values()]).sum()
            losses = predictor.losses(batch, seed=self.seed + number)
            batches.append({name: float(check_finite(name, value)) for name, value in losses.items()})
            sizes.append(float(rows))
        if not sum(sizes):
            raise InputError("losses: no example of the data has any stream")
        return Result(mean_over_batches(batches, sizes) | {"num_examples": sum(sizes)})
