"""What an objective is, and what it is given."""

from typing import Protocol

from flax import struct

from mmjax.batch import Array, Batch
from mmjax.views import Identity


@struct.dataclass
class Outputs:
    """All that one view of a batch showed."""

    predictions: dict[str, Array]  # head -> prediction
    targets: dict[str, Array]  # the view's own
    batch: Batch  # the view's inputs

    def target(self, name: str) -> Array:
        """A target of the view's own, or a ValueError that lists those that it has."""
        if name not in self.targets:
            raise ValueError(
                f"the objective needs a view with the target {name!r}, and its view gives "
                f"{sorted(self.targets)}"
            )
        return self.targets[name]


class Objective(Protocol):
    """A module that turns what one view showed into a loss and metrics."""

    @property
    def view(self) -> Identity:
        """What it looks at."""
        ...

    @property
    def weight(self) -> float:
        """Its share in the sum of losses."""
        ...

    def required_heads(self) -> tuple[str, ...]:
        """The heads that it needs."""
        ...

    def target_streams(self) -> tuple[str, ...]:
        """The streams that it reads itself, which the data or the view must give."""
        ...

    # Optional, called when an experiment is built:
    # misfit(model, streams: {stream: transform}) -> str | None, what is wrong with them for this objective.

    def __call__(self, outputs: Outputs) -> tuple[Array, dict[str, Array]]:
        """(loss, {metric: scalar}); a batch that holds nothing for it gives 0, not NaN."""
        ...


def masked_mean(values: Array, mask: Array) -> Array:
    """Mean of values where mask is True; 0 where it is nowhere, so that an empty batch gives no NaN."""
    weight = mask.astype(values.dtype)
    return (values * weight).sum() / weight.sum().clip(1)
