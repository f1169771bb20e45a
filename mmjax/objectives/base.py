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
from mmjax.data import Vocabulary
from mmjax.objectives.means import Mean, count
from mmjax.ranges import NonNegative
from mmjax.views import Identity, View

Metrics = dict[str, Mean | jax.Array]  # of an objective: {name: Mean, or a scalar}


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
    weight: NonNegative = 1.0

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

    def num_classes(self, model: nn.Module) -> dict[str, int]:
        """{stream of Labels: the number of classes of the head that learns them}."""
        return {}

    def needs_other_rows(self) -> bool:
        """Whether a batch of one row teaches it nothing, because it compares or combines rows."""
        return self.view.needs_other_rows()

    def paired_streams(self) -> tuple[str, ...]:
        """Streams of which a row must have all to count."""
        return ()

    def compared_streams(self) -> tuple[str, ...]:
        """The streams whose contents, before any view, tell it which rows are equal."""
        return ()

    def check_vocabularies(self, vocabularies: Mapping[str, Vocabulary]) -> str | None:
        """Why ids of its own, or of its view, do not fit {stream: opened vocabulary}, or None."""
        return self.view.check_vocabularies(vocabularies)

    def __call__(self, outputs: Outputs) -> tuple[Mean | jax.Array, Metrics]:
        """Returns (loss, {metric: value}). A batch without a valid row gives 0, not NaN, of weight 0.

        Each is a `Mean`: its weight is the number of rows (or tokens, or values) that it is a mean over, by
        which logs and evaluations average batches. A plain scalar, such as a temperature, counts equally in
        each batch.
        """
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


def mean_where(values: Array, mask: Array) -> Mean:
    """`masked_mean` of values "B ...", with the number of values as its weight."""
    return Mean(masked_mean(values, mask), count(jnp.broadcast_to(mask, values.shape)))


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
