"""Mixup: weighted sums of two examples."""

import dataclasses

import jax
import jax.numpy as jnp

from mmjax.batch import Array, Audio, Image, Stream, is_present
from mmjax.errors import InputError
from mmjax.ranges import Positive
from mmjax.views.base import View
from mmjax.views.partners import random_partners


@dataclasses.dataclass(frozen=True)
class Mixup(View):
    """Replaces each row by `weight * row + (1 - weight) * partner` (Zhang et al. 2018, eq. 1).

    Each row's weight is sampled from Beta(alpha, alpha) and applied to all `streams` (Image or Audio). A row
    stays unchanged if it or its partner lacks one of them. Mixed audio has the length of the longer
    recording. Other streams are not mixed, so losses that read them should not use this view.

    Targets: partner int32 "B", mix_weight float32 "B"; Classification and MultiLabel read them.
    """

    streams: tuple[str, ...]
    alpha: Positive = 0.2

    def __post_init__(self):
        if not self.streams:
            raise InputError("Mixup expects at least one stream, found none")

    def changed_streams(self):
        return self.streams

    def needs_other_rows(self):
        return True

    def transform_batch(self, batch, key):
        present = jnp.stack([is_present(batch[stream]) for stream in self.streams]).all(0)
        rows = present.shape[0]
        partner_key, weight_key = jax.random.split(key)
        partner = random_partners(partner_key, rows)
        is_mixed = present & present[partner]
        partner = jnp.where(is_mixed, partner, jnp.arange(rows)).astype(jnp.int32)
        weight = jax.random.beta(weight_key, self.alpha, self.alpha, (rows,))
        weight = jnp.where(is_mixed, weight, 1.0)
        mixed = {stream: mix_rows(stream, batch[stream], partner, weight) for stream in self.streams}
        return batch | mixed, {"partner": partner, "mix_weight": weight}


def mix_rows(stream: str, value: Stream, partner: Array, weight: Array) -> Stream:
    """Mixes each row with row `partner`: partner int "B", weight float32 "B"; `stream` names it in errors."""
    match value:
        case Image(pixels=pixels):
            weight = weight[:, None, None, None]
            return value.replace(pixels=weight * pixels + (1 - weight) * pixels[partner])
        case Audio(samples=samples, mask=mask):
            samples, weight = jnp.where(mask, samples, 0), weight[:, None]
            mixed = weight * samples + (1 - weight) * samples[partner]
            return value.replace(samples=mixed, mask=mask | mask[partner])
    raise InputError(
        f"Mixup expects Image or Audio streams, found {stream!r}, which is a {type(value).__name__}: "
        "remove it from `streams`"
    )
