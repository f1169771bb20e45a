"""What an objective is, and what it is given."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from flax import struct

from mmjax.batch import Array, Batch
from mmjax.views import Identity, View


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


class Objective(nn.Module):
    """The interface of objectives: a weighted loss on what some heads predict under one view.

    view: how the objective sees the batch. weight: multiplies its loss in the sum of losses.
    """

    view: View = dataclasses.field(default=Identity(), kw_only=True)
    weight: float = dataclasses.field(default=1.0, kw_only=True)

    def required_heads(self) -> tuple[str, ...]:
        """The names of the heads whose predictions it reads."""
        raise NotImplementedError

    def target_streams(self) -> tuple[str, ...]:
        """The streams that it compares predictions with: the data or the view must provide them."""
        return ()

    def check_compatible(self, model: nn.Module, transforms: Mapping[str, Any]) -> str | None:
        """Why the objective cannot train this model on these data, or None. Called before training.

        Args:
          model: the MultimodalModel.
          transforms: {stream: transform} of one dataset.
        """
        return None

    def __call__(self, outputs: Outputs) -> tuple[Array, dict[str, Array]]:
        """Returns (loss, {metric: value}), scalars. A batch with no row to learn from gives 0, not NaN."""
        raise NotImplementedError


def masked_mean(values: Array, mask: Array) -> Array:
    """Mean of values where mask is True; 0 where it is nowhere, so that an empty batch gives no NaN."""
    weight = mask.astype(values.dtype)
    return (values * weight).sum() / weight.sum().clip(1)
