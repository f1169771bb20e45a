"""The training losses on held-out examples.

loss/<objective>           not weighted
<objective>/<metric>       accuracy, perplexity, and whatever else the objective logs
num_examples               the number of examples with any stream
"""

import collections
import dataclasses

import numpy as np

from mmjax.batch import is_present
from mmjax.errors import InputError
from mmjax.evals.base import Eval, Predictor, Result, check_finite


@dataclasses.dataclass(frozen=True, kw_only=True)
class Losses(Eval):
    """Every objective's loss and metrics without dropout and augmentation; the data need all its streams.

    A metric is the mean over batches, weighted by their numbers of examples. A loss that compares rows
    depends on `batch_size`, and is easier in a last batch that is not full. Views sample with `seed` plus the
    batch's number, so that checkpoints are compared on equal samples.
    """

    seed: int = 0

    def required_heads(self) -> tuple[str, ...]:
        return ()

    def __call__(self, predictor: Predictor) -> Result:
        sums: dict[str, float] = collections.defaultdict(float)
        total = 0
        for number, batch in enumerate(self.batches()):
            rows = np.logical_or.reduce([np.asarray(is_present(stream)) for stream in batch.values()]).sum()
            for name, value in predictor.losses(batch, seed=self.seed + number).items():
                sums[name] += float(check_finite(name, value)) * int(rows)
            total += int(rows)
        if not total:
            raise InputError("losses: no example of the data has any stream")
        return Result({name: value / total for name, value in sums.items()} | {"num_examples": float(total)})
