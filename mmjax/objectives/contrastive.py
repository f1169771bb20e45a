"""Pull the two sides of a pair together and push the others away."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32

from mmjax.batch import present
from mmjax.objectives.outputs import Outputs, masked_mean
from mmjax.sharding import param_axes
from mmjax.views import Clean, same_content


class InfoNCE(nn.Module):
    """Symmetric softmax over the batch (van den Oord et al. 2018; CLIP) between two embedding heads.

    first, second: names of heads, and of their streams unless `streams` says otherwise.
    same: a stream; rows that hold the same input there are positives of each other (Yang et al. 2022, UniCL).
      Use it where a batch repeats captions, or repetitions are pushed apart.
    Only pairs of which both sides exist count. The temperature is learned (its logarithm, at most log 100).
    """

    first: str
    second: str
    streams: tuple[str, str] | None = None
    same: str | None = None
    weight: float = 1.0
    initial_temperature: float = 0.07
    label_smoothing: float = 0.0
    view: Clean = Clean()

    def reads(self) -> tuple[str, ...]:
        """The heads that it needs."""
        return (self.first, self.second)

    def targets(self) -> tuple[str, ...]:
        """The streams that say which rows count and which are alike."""
        return (*(self.streams or (self.first, self.second)), *((self.same,) if self.same else ()))

    @nn.compact
    def __call__(self, outputs: Outputs) -> tuple[jax.Array, dict[str, jax.Array]]:
        init = nn.initializers.constant(-jnp.log(self.initial_temperature))
        log_scale = self.param("log_scale", param_axes(init), ())
        scale = jnp.exp(jnp.minimum(log_scale, jnp.log(100.0)))
        first, second = outputs.predictions[self.first], outputs.predictions[self.second]
        valid, positives = pairs(outputs, self.streams or (self.first, self.second), self.same)
        loss, accuracy = info_nce(scale * (first @ second.T), valid, positives, self.label_smoothing)
        return loss, {"accuracy": accuracy, "temperature": 1 / scale}


class SigmoidPairs(nn.Module):
    """Every pair of the batch is a yes-or-no question (Zhai et al. 2023, SigLIP). Fields as InfoNCE's."""

    first: str
    second: str
    streams: tuple[str, str] | None = None
    same: str | None = None
    weight: float = 1.0
    initial_temperature: float = 0.1
    initial_bias: float = -10.0
    view: Clean = Clean()

    def reads(self) -> tuple[str, ...]:
        """The heads that it needs."""
        return (self.first, self.second)

    def targets(self) -> tuple[str, ...]:
        """The streams that say which rows count and which are alike."""
        return (*(self.streams or (self.first, self.second)), *((self.same,) if self.same else ()))

    @nn.compact
    def __call__(self, outputs: Outputs) -> tuple[jax.Array, dict[str, jax.Array]]:
        init = nn.initializers.constant(-jnp.log(self.initial_temperature))
        scale = jnp.exp(self.param("log_scale", param_axes(init), ()))
        bias = self.param("bias", param_axes(nn.initializers.constant(self.initial_bias)), ())
        first, second = outputs.predictions[self.first], outputs.predictions[self.second]
        valid, positives = pairs(outputs, self.streams or (self.first, self.second), self.same)
        loss = sigmoid_pairs(scale * (first @ second.T) + bias, valid, positives)
        return loss, {"temperature": 1 / scale}


def pairs(
    outputs: Outputs, streams: tuple[str, str], same: str | None
) -> tuple[Bool[jax.Array, " B"], Bool[jax.Array, "B B"]]:
    """Which rows have both sides, and which (row, column) belong together."""
    valid = present(outputs.batch[streams[0]]) & present(outputs.batch[streams[1]])
    positives = jnp.eye(valid.shape[0], dtype=bool)
    if same is not None:
        known = present(outputs.batch[same])
        positives |= same_content(outputs.batch[same]) & known[:, None] & known[None, :]
    return valid, positives & valid[:, None] & valid[None, :]


def info_nce(
    logits: Float[jax.Array, "B B"],
    valid: Bool[jax.Array, " B"],
    positives: Bool[jax.Array, "B B"],
    label_smoothing: float = 0.0,
) -> tuple[Float32[jax.Array, ""], Float32[jax.Array, ""]]:
    """Mean over valid rows and both directions of ``-mean over positives of log softmax``; top-1 accuracy.

    A tie is a miss.
    positives is a subset of valid x valid.
    Smoothing gives that share of the target to all valid columns alike.
    """
    losses, hits = [], []
    for scores, wanted in ((logits, positives), (logits.T, positives.T)):
        scores = jnp.where(valid[None, :], scores, -1e9)
        log_probability = jax.nn.log_softmax(scores, axis=1)
        target = wanted / jnp.maximum(wanted.sum(1, keepdims=True), 1)
        if label_smoothing:
            target = (1 - label_smoothing) * target + label_smoothing * valid[None, :] / jnp.maximum(
                valid.sum(), 1
            )
        losses.append(masked_mean(-(target * log_probability).sum(1), valid))
        # Not argmax: over columns that devices share out, XLA gathers every device's best and its place.
        best_right = jnp.where(wanted, scores, -jnp.inf).max(1)
        best_wrong = jnp.where(wanted, -jnp.inf, scores).max(1)
        hits.append(masked_mean((best_right > best_wrong).astype(jnp.float32), valid))
    return (losses[0] + losses[1]) / 2, (hits[0] + hits[1]) / 2


def sigmoid_pairs(
    logits: Float[jax.Array, "B B"], valid: Bool[jax.Array, " B"], positives: Bool[jax.Array, "B B"]
) -> Float32[jax.Array, ""]:
    """``-sum over valid pairs of log sigmoid(+-logit) / number of valid rows``."""
    sign = jnp.where(positives, 1.0, -1.0)
    counted = valid[:, None] & valid[None, :]
    return -(jax.nn.log_sigmoid(sign * logits) * counted).sum() / jnp.maximum(valid.sum(), 1)
