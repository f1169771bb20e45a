"""CutMix: images with a rectangle of another row's image."""

import dataclasses

import jax
import jax.numpy as jnp

from mmjax.batch import Image, is_present
from mmjax.ranges import Fraction, Positive
from mmjax.views.base import View
from mmjax.views.partners import random_partners


@dataclasses.dataclass(frozen=True)
class CutMix(View):
    """Replaces a rectangle of each image by another row's (Yun et al. 2019, section 3.1), for soft labels.

    The rectangle has the image's aspect ratio, the area 1 - Beta(alpha, alpha) and a uniform centre; it is
    clipped at the border. Unlike in the paper, each row samples its own rectangle. A row stays unchanged if
    its image or its partner's image is missing. Other streams are not mixed, so losses that pair images with
    them should not use this view.

    Targets: partner int32 "B", the row that the rectangle comes from; mix_weight float32 "B", the fraction of
    pixels that are the row's own.
    """

    stream: str = "image"
    alpha: Positive = 1.0
    probability: Fraction = 1.0  # that a row is mixed

    def changed_streams(self):
        return (self.stream,)

    def needs_other_rows(self):
        return True

    def transform_batch(self, batch, key):
        image: Image = batch[self.stream]
        rows, height, width = image.pixels.shape[:3]
        partner_key, area_key, centre_key, choose_key = jax.random.split(key, 4)
        partner = random_partners(partner_key, rows)
        present = is_present(image)
        is_mixed = present & present[partner]
        is_mixed &= jax.random.uniform(choose_key, (rows,)) < self.probability
        partner = jnp.where(is_mixed, partner, jnp.arange(rows)).astype(jnp.int32)
        side = jnp.sqrt(1 - jax.random.beta(area_key, self.alpha, self.alpha, (rows,)))
        centre = jax.random.uniform(centre_key, (2, rows))
        in_rows = is_within(jnp.arange(height) + 0.5, centre[0] * height, side * height)
        in_columns = is_within(jnp.arange(width) + 0.5, centre[1] * width, side * width)
        rectangle = in_rows[:, :, None] & in_columns[:, None, :] & is_mixed[:, None, None]
        pixels = jnp.where(rectangle[..., None], image.pixels[partner], image.pixels)
        mix_weight = 1 - rectangle.mean(axis=(1, 2), dtype=jnp.float32)
        targets = {"partner": partner, "mix_weight": mix_weight}
        return batch | {self.stream: image.replace(pixels=pixels)}, targets


def is_within(positions: jax.Array, centre: jax.Array, size: jax.Array) -> jax.Array:
    """Whether positions "N" are less than size / 2 "B" away from centre "B": bool "B N"."""
    return jnp.abs(positions[None, :] - centre[:, None]) < size[:, None] / 2
