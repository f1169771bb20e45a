"""Contrastive loss between more than two modalities."""

import itertools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from mmjax.batch import Array, is_present
from mmjax.objectives.base import Outputs
from mmjax.objectives.contrastive import ContrastiveObjective, info_nce
from mmjax.objectives.scalars import learned_scale


class MultiwayInfoNCE(ContrastiveObjective):
    """The mean of InfoNCE losses between any number of heads, each with a learned temperature.

    heads: their names, and those of their streams unless `streams` names these.
    against: "each" contrasts each two heads (the full graph of Tian et al. 2020, CMC), over the rows with
      both. "others" contrasts each head with the mean of the others that are present, scaled to unit length,
      over the rows that have the head and any other (after Poklukar et al. 2022, GMC).

    Contrasts without a valid row in the batch are left out of the mean. Other fields as InfoNCE's.
    """

    heads: tuple[str, ...]
    against: Literal["each", "others"] = "each"
    initial_temperature: float = 0.07
    label_smoothing: float = 0.0

    def required_heads(self):
        return self.heads

    @nn.compact
    def __call__(self, outputs: Outputs) -> tuple[jax.Array, dict[str, jax.Array]]:
        pairs = self.pair_mask(outputs.batch)
        losses, accuracies, has_rows, metrics = [], [], [], {}
        for name, (first, second, valid) in self.contrasts(outputs).items():
            scale = learned_scale(self, self.initial_temperature, max_scale=100.0, name=f"log_scale_{name}")
            loss, accuracy = info_nce(
                first,
                second,
                scale,
                pairs.replace(valid=valid),
                label_smoothing=self.label_smoothing,
                tile_size=self.tile_size,
            )
            losses.append(loss)
            accuracies.append(accuracy)
            has_rows.append(valid.any().astype(jnp.float32))
            metrics[f"temperature_{name}"] = 1 / scale
        num_contrasts = jnp.maximum(sum(has_rows), 1)
        # A contrast without a valid row has a loss and an accuracy of 0.
        return sum(losses) / num_contrasts, {"accuracy": sum(accuracies) / num_contrasts} | metrics

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


def mean_direction(
    vectors: list[Float[jax.Array, "B E"]], present: list[Bool[jax.Array, " B"]]
) -> tuple[Float[jax.Array, "B E"], Bool[jax.Array, " B"]]:
    """The unit vector along the mean of the present vectors, and whether any is present."""
    total = sum(jnp.where(mask[:, None], x, 0.0) for x, mask in zip(vectors, present, strict=True))
    any_present = jnp.stack(present).any(0)
    # The lower bound keeps the gradient finite where no vector is present, or where they cancel.
    return total * jax.lax.rsqrt(jnp.maximum(jnp.square(total).sum(-1, keepdims=True), 1e-12)), any_present
