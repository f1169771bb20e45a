"""Contrast of more than two modalities at once."""

import itertools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.batch import is_present
from mmjax.objectives.base import Outputs
from mmjax.objectives.contrastive import TILE, PairMask, check_equal_widths, info_nce
from mmjax.objectives.scalars import learned_scale
from mmjax.views import Identity, View, row_checksums


class MultiwayInfoNCE(nn.Module):
    """InfoNCE between any number of embedding heads; the mean of its contrasts, each with a temperature.

    heads: their names, which are those of their streams unless `streams` says otherwise.
    against: "each" contrasts every two heads (the full graph of Tian et al. 2020, CMC), and a pair
      counts where both are there. "others" contrasts each head with the mean of the others, scaled to unit
      length; who is missing is left out of the mean, and a row counts where one of them is there (as each
      modality meets the joint representation in Poklukar et al. 2022, GMC).
    A contrast that no row of the batch has is left out of the mean. Other fields as InfoNCE's.
    """

    heads: tuple[str, ...]
    against: Literal["each", "others"] = "each"
    streams: tuple[str, ...] | None = None
    match_by: str | None = None
    weight: float = 1.0
    initial_temperature: float = 0.07
    label_smoothing: float = 0.0
    tile: int = TILE
    view: View = Identity()

    def required_heads(self) -> tuple[str, ...]:
        """The heads that it needs."""
        return self.heads

    def target_streams(self) -> tuple[str, ...]:
        """The streams that the data must hold."""
        return (*(self.streams or self.heads), *((self.match_by,) if self.match_by else ()))

    @nn.compact
    def __call__(self, outputs: Outputs) -> tuple[jax.Array, dict[str, jax.Array]]:
        there = {
            head: is_present(outputs.batch[stream])
            for head, stream in zip(self.heads, self.streams or self.heads, strict=True)
        }
        check_equal_widths(outputs, self.heads)
        embeddings = {head: outputs.predictions[head] for head in self.heads}
        content, known = None, None
        if self.match_by is not None:
            content, known = (
                row_checksums(outputs.batch[self.match_by]),
                is_present(outputs.batch[self.match_by]),
            )
        contrasts = {}
        if self.against == "each":
            for a, b in itertools.combinations(self.heads, 2):
                contrasts[f"{a}_{b}"] = embeddings[a], embeddings[b], there[a] & there[b]
        else:
            for head in self.heads:
                others = [other for other in self.heads if other != head]
                mean, any_there = mean_direction(
                    [embeddings[other] for other in others], [there[other] for other in others]
                )
                contrasts[f"{head}_others"] = embeddings[head], mean, there[head] & any_there
        losses, hits, counts, metrics = [], [], [], {}
        for name, (first, second, valid) in contrasts.items():
            scale = learned_scale(self, self.initial_temperature, most=100.0, name=f"log_scale_{name}")
            loss, accuracy = info_nce(
                first,
                second,
                scale,
                PairMask(valid, content, known),
                label_smoothing=self.label_smoothing,
                tile=self.tile,
            )
            losses.append(loss)
            hits.append(accuracy)
            counts.append(valid.any().astype(jnp.float32))
            metrics[f"temperature_{name}"] = 1 / scale
        num = jnp.maximum(sum(counts), 1)
        # A contrast without a row gives 0 by itself.
        return sum(losses) / num, {"accuracy": sum(hits) / num} | metrics


def mean_direction(vectors: list[jax.Array], there: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """The unit vector ``"B E"`` along the mean of those of `vectors` that are there, and whether any is."""
    total = sum(jnp.where(here[:, None], x, 0.0) for x, here in zip(vectors, there, strict=True))
    any_there = jnp.stack(there).any(0)
    # The floor keeps the gradient finite where none is there, or where they cancel.
    return total * jax.lax.rsqrt(jnp.maximum(jnp.square(total).sum(-1, keepdims=True), 1e-12)), any_there
