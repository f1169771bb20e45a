"""Random flips of images together with their bounding boxes."""

import dataclasses

import jax
import jax.numpy as jnp

from mmjax.views.base import View


@dataclasses.dataclass(frozen=True)
class Flip(View):
    """Flips each image and its boxes along each enabled axis with probability 1/2.

    Use it only where orientation carries no meaning.

    image: an Image stream. boxes: its BoxTargets stream. horizontal, vertical: flip left-right, top-bottom.
    """

    image: str = "image"
    boxes: str = "boxes"
    horizontal: bool = True
    vertical: bool = True

    def changed_streams(self):
        return (self.image, self.boxes)

    def transform_batch(self, batch, key):
        image, box_targets = batch[self.image], batch[self.boxes]
        rows = image.pixels.shape[0]
        flips = jax.random.bernoulli(key, 0.5, (2, rows)) & jnp.array([[self.horizontal], [self.vertical]])
        pixels, boxes = image.pixels, box_targets.boxes
        # Pixels are "B height width channel", box centres are (x, y).
        for pixel_axis, coordinate, flip in zip((2, 1), (0, 1), flips, strict=True):
            pixels = jnp.where(flip[:, None, None, None], jnp.flip(pixels, pixel_axis), pixels)
            flipped = boxes.at[..., coordinate].set(1 - boxes[..., coordinate])
            boxes = jnp.where(flip[:, None, None] & box_targets.mask[..., None], flipped, boxes)
        changed = {self.image: image.replace(pixels=pixels), self.boxes: box_targets.replace(boxes=boxes)}
        return batch | changed, {}
