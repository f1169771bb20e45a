"""Object detection as set prediction."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Float32, Int

from mmjax.batch import BoxTargets, is_present
from mmjax.errors import InputError
from mmjax.objectives.base import Metrics, OneHeadObjective, Outputs, masked_mean, mean_where
from mmjax.objectives.means import Mean, count
from mmjax.ranges import NonNegative
from mmjax.sharding import map_batch_shards


class Boxes(OneHeadObjective):
    """Each object is matched to one query; the loss compares the two (Carion et al. 2020, DETR, section 3.1).

    head: a heads.Boxes head.
    boxes: the stream of BoxTargets.
    l1_weight: multiplies the L1 distance of boxes, in the matching and in the loss.
    giou_weight: multiplies `1 - generalised IoU`, in both as well.
    no_object_weight: the weight, in the class cross-entropy, of queries that no object is matched to.
    """

    boxes: str = "boxes"
    l1_weight: NonNegative = 5.0
    giou_weight: NonNegative = 2.0
    no_object_weight: NonNegative = 0.1

    def target_streams(self):
        return (self.boxes,)

    def __call__(self, outputs: Outputs) -> tuple[Mean, Metrics]:
        targets, predicted = outputs.batch[self.boxes], outputs.predictions[self.head]
        boxes, logits = predicted[..., :4], predicted[..., 4:]
        if targets.boxes.shape[1] > boxes.shape[1]:
            raise InputError(
                f"the head {self.head!r} gives {boxes.shape[1]} boxes and the data hold up to "
                f"{targets.boxes.shape[1]}: expected at least as many; make its grid finer"
            )
        queries = match_queries(boxes, logits, targets, self.l1_weight, self.giou_weight)
        class_loss = self.class_loss(logits, queries, targets)
        matched = jnp.take_along_axis(boxes, queries[..., None], axis=1)
        iou, giou = box_overlaps(matched, targets.boxes)
        l1_loss = masked_mean(jnp.abs(matched - targets.boxes).sum(-1), targets.mask)
        giou_loss = masked_mean(1 - giou, targets.mask)
        predicted_classes = jnp.take_along_axis(logits.argmax(-1), queries, axis=1)
        found = ((predicted_classes == targets.classes) & (iou > 0.5)).astype(jnp.float32)
        num = count(targets.mask)
        loss = class_loss + self.l1_weight * l1_loss + self.giou_weight * giou_loss
        losses = {"classes": class_loss, "l1": l1_loss, "giou": giou_loss}
        metrics = {name: Mean(value, num) for name, value in losses.items()}
        metrics |= {"iou": mean_where(iou, targets.mask), "found": mean_where(found, targets.mask)}
        return Mean(loss, num), metrics

    def class_loss(
        self, logits: Float[jax.Array, "B Q C"], queries: Int[jax.Array, "B N"], targets: BoxTargets
    ) -> Float32[jax.Array, ""]:
        """Weighted mean cross-entropy of all queries' classes; unmatched queries have the last class."""
        no_object = logits.shape[-1] - 1
        rows = jnp.arange(len(queries))[:, None]
        labels = jnp.full(logits.shape[:2], no_object)
        labels = labels.at[rows, queries].set(jnp.where(targets.mask, targets.classes, no_object))
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)[..., 0]
        weights = jnp.where(labels == no_object, self.no_object_weight, 1.0) * is_present(targets)[:, None]
        return (losses * weights).sum() / jnp.maximum(weights.sum(), 1e-6)


def match_queries(
    boxes: Float[jax.Array, "B Q 4"],
    logits: Float[jax.Array, "B Q C"],
    targets: BoxTargets,
    l1_weight: float,
    giou_weight: float,
) -> Int[jax.Array, "B N"]:
    """The query of each object, at minimal total cost (DETR, eq. 1); masked objects get unused queries."""
    shape = (*targets.classes.shape, boxes.shape[1])
    probabilities = jnp.swapaxes(jax.nn.softmax(logits), 1, 2)
    label_probabilities = jnp.take_along_axis(probabilities, targets.classes[..., None], axis=1)
    predicted, target = (
        jnp.broadcast_to(x, (*shape, 4)) for x in (boxes[:, None], targets.boxes[:, :, None])
    )
    giou = box_overlaps(predicted, target)[1]
    cost = l1_weight * jnp.abs(predicted - target).sum(-1) - giou_weight * giou - label_probabilities
    # A constant row has no influence on the queries of the other objects.
    cost = jnp.where(targets.mask[..., None], jax.lax.stop_gradient(cost), 0.0)
    return map_batch_shards(assign_columns, cost, check_vma=False)


def assign_columns(cost: Float[jax.Array, "B N Q"]) -> Int[jax.Array, "B N"]:
    """For each row a different column, at minimal total cost (Kuhn 1955); N <= Q."""

    def assign_example(cost):
        rows, columns = optax.assignment.hungarian_algorithm(cost)
        return jnp.zeros(cost.shape[0], columns.dtype).at[rows].set(columns)

    return jax.vmap(assign_example)(cost)


def box_overlaps(
    first: Float[jax.Array, "*B 4"], second: Float[jax.Array, "*B 4"]
) -> tuple[Float32[jax.Array, "*B"], Float32[jax.Array, "*B"]]:
    """(IoU, generalised IoU) of each pair (Rezatofighi et al. 2019, algorithm 1); boxes as in BoxTargets."""

    def area(sides):
        return sides[..., 0] * sides[..., 1]

    (low, high), (second_low, second_high) = (
        (box[..., :2] - box[..., 2:] / 2, box[..., :2] + box[..., 2:] / 2) for box in (first, second)
    )
    intersection = area(jnp.maximum(jnp.minimum(high, second_high) - jnp.maximum(low, second_low), 0))
    union = jnp.maximum(area(first[..., 2:]) + area(second[..., 2:]) - intersection, 1e-9)
    hull = jnp.maximum(area(jnp.maximum(high, second_high) - jnp.minimum(low, second_low)), 1e-9)
    return intersection / union, intersection / union - (hull - union) / hull
