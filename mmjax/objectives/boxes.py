"""Where are the objects, and what?"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Float32, Int

from mmjax.batch import BoxTargets, is_present
from mmjax.errors import InputError
from mmjax.objectives.base import Outputs, masked_mean
from mmjax.sharding import map_batch_shards
from mmjax.views import Identity, View


class Boxes(nn.Module):
    """Set prediction (Carion et al. 2020, DETR, section 3.1): each object is matched to one query.

    head: a `heads.Boxes`. boxes: the stream of `batch.BoxTargets`.
    l1, giou: weights of the absolute difference and of the generalised IoU, in the matching and in the loss.
    no_object: weight in the class cross-entropy of queries that no object is matched to.
    """

    head: str
    boxes: str = "boxes"
    l1: float = 5.0
    giou: float = 2.0
    no_object: float = 0.1
    weight: float = 1.0
    view: View = Identity()

    def required_heads(self) -> tuple[str, ...]:
        """The heads that it needs."""
        return (self.head,)

    def target_streams(self) -> tuple[str, ...]:
        """The streams that the data must hold."""
        return (self.boxes,)

    def __call__(self, outputs: Outputs) -> tuple[jax.Array, dict[str, jax.Array]]:
        marked, predicted = outputs.batch[self.boxes], outputs.predictions[self.head]
        boxes, logits = predicted[..., :4], predicted[..., 4:]
        if marked.boxes.shape[1] > boxes.shape[1]:
            raise InputError(
                f"the head {self.head!r} gives {boxes.shape[1]} boxes and the data hold up to "
                f"{marked.boxes.shape[1]}: expected at least as many; make its grid finer"
            )
        queries = match(boxes, logits, marked, self.l1, self.giou)
        nothing = logits.shape[-1] - 1
        rows = jnp.arange(len(queries))[:, None]
        wanted = jnp.full(boxes.shape[:2], nothing)
        wanted = wanted.at[rows, queries].set(jnp.where(marked.mask, marked.classes, nothing))
        surprise = -jnp.take_along_axis(jax.nn.log_softmax(logits), wanted[..., None], axis=-1)[..., 0]
        counted = jnp.where(wanted == nothing, self.no_object, 1.0) * is_present(marked)[:, None]
        # Weighted mean; without an example it is 0.
        classes = (surprise * counted).sum() / jnp.maximum(counted.sum(), 1e-6)
        found = jnp.take_along_axis(boxes, queries[..., None], axis=1)
        overlap, general = overlaps(found, marked.boxes)
        l1 = masked_mean(jnp.abs(found - marked.boxes).sum(-1), marked.mask)
        giou = masked_mean(1 - general, marked.mask)
        said = jnp.take_along_axis(logits.argmax(-1), queries, axis=1)
        right = ((said == marked.classes) & (overlap > 0.5)).astype(jnp.float32)
        metrics = {"classes": classes, "l1": l1, "giou": giou}
        metrics |= {"iou": masked_mean(overlap, marked.mask), "found": masked_mean(right, marked.mask)}
        return classes + self.l1 * l1 + self.giou * giou, metrics


def match(
    boxes: Float[jax.Array, "B Q 4"],
    logits: Float[jax.Array, "B Q C"],
    marked: BoxTargets,
    l1: float,
    giou: float,
) -> Int[jax.Array, "B N"]:
    """The query of each object, at the least total cost (DETR, eq. 1); masked ones get what is left."""
    shape = (*marked.classes.shape, boxes.shape[1])
    probability = jnp.swapaxes(jax.nn.softmax(logits), 1, 2)
    likely = jnp.take_along_axis(probability, marked.classes[..., None], axis=1)
    one, other = (jnp.broadcast_to(x, (*shape, 4)) for x in (boxes[:, None], marked.boxes[:, :, None]))
    cost = l1 * jnp.abs(one - other).sum(-1) - giou * overlaps(one, other)[1] - likely
    # The same cost everywhere decides nothing.
    cost = jnp.where(marked.mask[..., None], jax.lax.stop_gradient(cost), 0.0)
    return map_batch_shards(assign, cost, check=False)


def assign(cost: Float[jax.Array, "B N Q"]) -> Int[jax.Array, "B N"]:
    """For each row a column of its own, at the least total cost (Kuhn 1955); N <= Q."""

    def one(cost):
        rows, columns = optax.assignment.hungarian_algorithm(cost)
        return jnp.zeros(cost.shape[0], columns.dtype).at[rows].set(columns)

    return jax.vmap(one)(cost)


def overlaps(
    one: Float[jax.Array, "*B 4"], other: Float[jax.Array, "*B 4"]
) -> tuple[Float32[jax.Array, "*B"], Float32[jax.Array, "*B"]]:
    """Intersection over union, and its generalisation (Rezatofighi et al. 2019, algorithm 1)."""

    def area(sides):
        return sides[..., 0] * sides[..., 1]

    (low, high), (other_low, other_high) = (
        (box[..., :2] - box[..., 2:] / 2, box[..., :2] + box[..., 2:] / 2) for box in (one, other)
    )
    common = area(jnp.maximum(jnp.minimum(high, other_high) - jnp.maximum(low, other_low), 0))
    union = jnp.maximum(area(one[..., 2:]) + area(other[..., 2:]) - common, 1e-9)
    hull = jnp.maximum(area(jnp.maximum(high, other_high) - jnp.minimum(low, other_low)), 1e-9)
    return common / union, common / union - (hull - union) / hull
