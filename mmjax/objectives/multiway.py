"""Contrastive loss between more than two modalities."""

import itertools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from mmjax.batch import Array, is_present
from mmjax.objectives.base import Metrics, Outputs
from mmjax.objectives.contrastive import ContrastiveObjective, info_nce
from mmjax.objectives.means import Mean
from mmjax.objectives.scalars import learned_scale
from mmjax.ranges import Decay, Positive


class MultiwayInfoNCE(ContrastiveObjective):
    """The mean of InfoNCE losses between any number of heads, each with a learned temperature.

    heads: their names, and those of their streams unless `streams` names these.
    against: "each" contrasts each two heads (the full graph of Tian et al. 2020, CMC), over the rows with
      both. "others" contrasts each head with the mean of the others that are present, scaled to unit length,
      over the rows that have the head and any other (after Poklukar et al. 2022, GMC).

    Contrasts in which no row of the batch has a negative are left out of the mean. Other fields as InfoNCE's.
    """

    heads: tuple[str, ...]
    against: Literal["each", "others"] = "each"
    initial_temperature: Positive = 0.07
    label_smoothing: Decay = 0.0

    def required_heads(self):
        return self.heads

    def paired_streams(self):
        return ()  # any two of them suffice

    @nn.compact
    def __call__(self, outputs: Outputs) -> tuple[Mean, Metrics]:
        pairs = self.pair_mask(outputs.batch)
        losses, accuracies, metrics = [], [], {}
        for name, (first, second, valid) in self.contrasts(outputs).items():
            scale = learned_scale(self, self.initial_temperature, max_scale=100.0, name=f"log_scale_{name}")
            loss, accuracy, num = info_nce(
                first,
                second,
                scale,
                pairs.replace(valid=valid),
                label_smoothing=self.label_smoothing,
                tile_size=self.tile_size,
            )
            losses.append(Mean(loss, num))
            accuracies.append(Mean(accuracy, num))
            metrics[f"temperature_{name}"] = 1 / scale
        return mean_of_contrasts(losses), {"accuracy": mean_of_contrasts(accuracies)} | metrics

    def contrasts(self, outputs: Outputs) -> dict[str, tuple[Array, Array, Array]]:
        """{name: (first "B E", second "B E", valid rows "B")}."""
        embeddings = self.embeddings(outputs)
        present = {
            head: is_present(outputs.batch[stream])
            for head, stream in zip(self.heads, self.streams or self.heads, strict=True)
        }
        if self.against == "each":
            return {
                f"{a}_{b}": (embeddings[a], embeddings[b], present[a] & present[b])
                for a, b in itertools.combinations(self.heads, 2)
            }
        contrasts = {}
        for head in self.heads:
            others = [other for other in self.heads if other != head]
            mean, any_present = mean_direction(
                [embeddings[other] for other in others], [present[other] for other in others]
            )
            contrasts[f"{head}_others"] = embeddings[head], mean, present[head] & any_present
        return contrasts


def mean_of_contrasts(means: list[Mean]) -> Mean:
    """The mean of those means whose weight is not 0; its weight is the sum of theirs."""
    counts = [mean.weight > 0 for mean in means]
    total = sum(jnp.where(counted, mean.value, 0.0) for mean, counted in zip(means, counts, strict=True))
    return Mean(total / jnp.maximum(sum(counts), 1), sum(mean.weight for mean in means))


def mean_direction(
    vectors: list[Float[jax.Array, "B E"]], present: list[Bool[jax.Array, " B"]]
) -> tuple[Float[jax.Array, "B E"], Bool[jax.Array, " B"]]:
    """The unit vector along the mean of the present vectors, and whether any is present."""
    total = sum(jnp.where(mask[:, None], x, 0.0) for x, mask in zip(vectors, present, strict=True))
    any_present = jnp.stack(present).any(0)
    # The lower bound keeps the gradient finite where no vector is present, or where they cancel.
    return total * jax.lax.rsqrt(jnp.maximum(jnp.square(total).sum(-1, keepdims=True), 1e-12)), any_present
