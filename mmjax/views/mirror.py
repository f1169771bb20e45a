"""Pictures mirrored together with the boxes that are marked in them."""

import dataclasses

import jax
import jax.numpy as jnp

from mmjax.views.base import View


@dataclasses.dataclass(frozen=True)
class Mirror(View):
    """Half of the pictures left to right, half upside down, and their boxes with them.

    Only where neither direction means anything. image, boxes: names of streams.
    """

    image: str = "image"
    boxes: str = "boxes"
    left_right: bool = True
    up_down: bool = True

    def changed_streams(self):
        return (self.image, self.boxes)

    def transform_batch(self, batch, key):
        image, marked = batch[self.image], batch[self.boxes]
        rows = image.pixels.shape[0]
        flips = jax.random.bernoulli(key, 0.5, (2, rows)) & jnp.array([[self.left_right], [self.up_down]])
        pixels, boxes = image.pixels, marked.boxes
        for axis, flip in zip((2, 1), flips, strict=True):  # of pixels; of boxes, x is before y
            place = 2 - axis
            pixels = jnp.where(flip[:, None, None, None], jnp.flip(pixels, axis), pixels)
            moved = boxes.at[..., place].set(1 - boxes[..., place])
            boxes = jnp.where(flip[:, None, None] & marked.mask[..., None], moved, boxes)
        return batch | {self.image: image.replace(pixels=pixels), self.boxes: marked.replace(boxes=boxes)}, {}
