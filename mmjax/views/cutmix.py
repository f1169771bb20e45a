"""Pictures with a piece of another."""

import dataclasses

import jax
import jax.numpy as jnp

from mmjax.batch import Image, is_present
from mmjax.errors import InputError
from mmjax.views.base import View


@dataclasses.dataclass(frozen=True)
class CutMix(View):
    """A rectangle of each picture comes from another row's (Yun et al. 2019, section 3.1), for soft labels.

    The rectangle has the picture's aspect and the area 1 - Beta(alpha, alpha), its centre is anywhere, and
    what would stand over is cut off. Unlike there, each row draws its own. A row without a picture, or whose
    partner has none, stays as it is. Other streams stay too: a loss that pairs pictures with them has no use
    for this. Targets: partner int32 ``"B"``, the row that the piece is from; share float32 ``"B"``, of the
    pixels that are the row's own.
    """

    stream: str = "image"
    alpha: float = 1.0
    rate: float = 1.0  # probability that a row is mixed

    def __post_init__(self):
        if self.alpha <= 0 or not 0 <= self.rate <= 1:
            raise InputError(
                f"CutMix expects alpha > 0 and a rate from 0 to 1, found {self.alpha} and {self.rate}"
            )

    def changed_streams(self):
        return (self.stream,)

    def transform_batch(self, batch, key):
        image: Image = batch[self.stream]
        rows, height, width = image.pixels.shape[:3]
        other_key, area_key, place_key, choose_key = jax.random.split(key, 4)
        # One random rotation: every row gives a piece once, and none to itself.
        own = jnp.arange(rows)
        partner = (own + jax.random.randint(other_key, (), 1, max(rows, 2))) % rows
        there = is_present(image)
        mixed = there & there[partner] & (jax.random.uniform(choose_key, (rows,)) < self.rate)
        partner = jnp.where(mixed, partner, own).astype(jnp.int32)
        side = jnp.sqrt(1 - jax.random.beta(area_key, self.alpha, self.alpha, (rows,)))
        centre = jax.random.uniform(place_key, (2, rows))
        down = within(jnp.arange(height) + 0.5, centre[0] * height, side * height)
        right = within(jnp.arange(width) + 0.5, centre[1] * width, side * width)
        piece = down[:, :, None] & right[:, None, :] & mixed[:, None, None]
        pixels = jnp.where(piece[..., None], image.pixels[partner], image.pixels)
        share = 1 - piece.mean(axis=(1, 2), dtype=jnp.float32)
        return batch | {self.stream: image.replace(pixels=pixels)}, {"partner": partner, "share": share}


def within(places: jax.Array, centre: jax.Array, size: jax.Array) -> jax.Array:
    """Which places "N" are less than half a size "B" from the centre "B": bool "B N"."""
    return jnp.abs(places[None, :] - centre[:, None]) < size[:, None] / 2
