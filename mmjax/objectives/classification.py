"""Which class, or which classes?"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32, Int

from mmjax.batch import Labels, MultiLabels, is_present
from mmjax.objectives.base import Outputs, masked_mean
from mmjax.views import Identity, View


class Classification(nn.Module):
    """Softmax cross-entropy with label smoothing (Szegedy et al. 2016, section 7).

    head: a Classes head. labels: the stream of Labels; a row without one does not count, so that in a mixture
    of datasets each task learns from its own rows. streams: a row counts only if it has one of these (None:
    whatever it has). Under a Mixup view a row has two labels, by their shares (Zhang et al. 2018, eq. 1),
    in the loss and in the accuracy.
    """

    head: str
    labels: str = "label"
    streams: tuple[str, ...] | None = None
    label_smoothing: float = 0.0
    view: View = Identity()
    weight: float = 1.0

    def required_heads(self) -> tuple[str, ...]:
        """The heads that it needs."""
        return (self.head,)

    def target_streams(self) -> tuple[str, ...]:
        """The labels, and the streams that say which rows count."""
        return (self.labels, *(self.streams or ()))

    def __call__(self, outputs: Outputs) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits, labels = outputs.predictions[self.head], outputs.batch[self.labels]
        if not isinstance(labels, Labels):
            raise ValueError(f"Classification reads Labels, and {self.labels!r} is {type(labels).__name__}")
        valid = labels.mask & rows_that_count(outputs, self.streams)
        loss = cross_entropy(logits, labels.values, self.label_smoothing)
        said = logits.argmax(-1)
        right = (said == labels.values).astype(jnp.float32)
        if "partner" in outputs.targets:
            partner, share = outputs.targets["partner"], outputs.targets["share"]
            other = cross_entropy(logits, labels.values[partner], self.label_smoothing)
            # A partner without a label leaves the row with nothing to say about its other part.
            loss, valid = share * loss + (1 - share) * other, valid & labels.mask[partner]
            right = share * right + (1 - share) * (said == labels.values[partner])
        return masked_mean(loss, valid), {"accuracy": masked_mean(right, valid)}


class MultiLabel(nn.Module):
    """Sigmoid cross-entropy: each class a question of its own. Fields as Classification's.

    labels: the stream of MultiLabels; an answer that nobody knows does not count. Metric f1: of yes, over all
    classes together. Smoothing moves each answer to ``1 - smoothing / 2`` and ``smoothing / 2``.
    """

    head: str
    labels: str = "labels"
    streams: tuple[str, ...] | None = None
    label_smoothing: float = 0.0
    view: View = Identity()
    weight: float = 1.0

    def required_heads(self) -> tuple[str, ...]:
        """The heads that it needs."""
        return (self.head,)

    def target_streams(self) -> tuple[str, ...]:
        """The labels, and the streams that say which rows count."""
        return (self.labels, *(self.streams or ()))

    def __call__(self, outputs: Outputs) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits, labels = outputs.predictions[self.head], outputs.batch[self.labels]
        if not isinstance(labels, MultiLabels) or logits.shape != labels.values.shape:
            raise ValueError(
                f"MultiLabel compares logits of shape {logits.shape} of head {self.head!r} with MultiLabels "
                f"of that shape, and {self.labels!r} is {type(labels).__name__} {labels.values.shape}"
            )
        valid = labels.mask & rows_that_count(outputs, self.streams)[:, None]
        yes = labels.values.astype(jnp.float32)
        if "partner" in outputs.targets:
            partner, share = outputs.targets["partner"], outputs.targets["share"][:, None]
            yes, valid = share * yes + (1 - share) * yes[partner], valid & labels.mask[partner]
        loss = masked_mean(sigmoid_cross_entropy(logits, yes, self.label_smoothing), valid)
        said = (logits > 0) & valid
        hits = (said & labels.values).sum()
        f1 = 2 * hits / jnp.maximum(said.sum() + (labels.values & valid).sum(), 1)
        return loss, {"f1": f1.astype(jnp.float32)}


def rows_that_count(outputs: Outputs, streams: tuple[str, ...] | None) -> Bool[jax.Array, " B"]:
    """Which rows have any of the streams."""
    if streams is None:
        return jnp.asarray(True)[None]
    return jnp.stack([is_present(outputs.batch[stream]) for stream in streams]).any(0)


def cross_entropy(
    logits: Float[jax.Array, "B classes"], labels: Int[jax.Array, " B"], label_smoothing: float
) -> Float32[jax.Array, " B"]:
    """``-(1 - smoothing) log p(label) - smoothing * mean over classes of log p``."""
    log_probability = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    picked = jnp.take_along_axis(log_probability, labels[:, None], axis=-1)[:, 0]
    return -(1 - label_smoothing) * picked - label_smoothing * log_probability.mean(-1)


def sigmoid_cross_entropy(
    logits: Float[jax.Array, "B classes"], yes: Float[jax.Array, "B classes"], label_smoothing: float
) -> Float32[jax.Array, "B classes"]:
    """``-yes log sigmoid(logit) - (1 - yes) log sigmoid(-logit)``."""
    yes = (1 - label_smoothing) * yes + label_smoothing / 2
    logits = logits.astype(jnp.float32)
    return -yes * jax.nn.log_sigmoid(logits) - (1 - yes) * jax.nn.log_sigmoid(-logits)
