"""The interface of objectives, and the masked reductions that they share."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Bool, Float, Float32, Int

from mmjax.batch import Array, Batch
from mmjax.views import Identity, View


@struct.dataclass
class Outputs:
    """The model's outputs under one view of a batch."""

    predictions: dict[str, Array]  # head -> prediction
    targets: dict[str, Array]  # the targets that the view returned
    batch: Batch  # the batch that the view returned

    def target(self, name: str) -> Array:
        """A target "B ..." of the view. Raises ValueError if the view returns none of that name."""
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

    _: dataclasses.KW_ONLY
    view: View = Identity()
    weight: float = 1.0

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

    def __call__(self, outputs: Outputs) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns (loss, {metric: value}), scalars. A batch without a valid row gives 0, not NaN."""
        raise NotImplementedError


class OneHeadObjective(Objective):
    """An objective that reads the predictions of one head, whose name is `head`."""

    head: str

    def required_heads(self):
        return (self.head,)


def masked_mean(values: Array, mask: Array) -> Array:
    """The mean of values "B ..." where mask is True; 0, not NaN, if it is True nowhere."""
    weight = mask.astype(values.dtype)
    return (values * weight).sum() / weight.sum().clip(1)


def masked_accuracy(
    logits: Float[jax.Array, "*B V"], labels: Int[jax.Array, "*B"], mask: Bool[jax.Array, "*B"]
) -> Float32[jax.Array, ""]:
    """The fraction of unmasked positions at which the label has the largest logit."""
    return masked_mean((logits.argmax(-1) == labels).astype(jnp.float32), mask)


def masked_cross_entropy(
    logits: Float[jax.Array, "*B V"], labels: Int[jax.Array, "*B"], mask: Bool[jax.Array, "*B"]
) -> Float32[jax.Array, ""]:
    """Mean of -log p(label) over unmasked positions."""
    log_probability = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    picked = jnp.take_along_axis(log_probability, labels[..., None], axis=-1)[..., 0]
    return masked_mean(-picked, mask)
