"""The loss of boxes against loops in NumPy, float64, and the matching against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalog.of_objectives import values
from scipy.optimize import linear_sum_assignment

from mmjax import heads, objectives, sharding
from mmjax.batch import BoxTargets, Encoded
from mmjax.errors import InputError
from mmjax.objectives import Outputs
from mmjax.objectives.boxes import assign_columns, box_overlaps
from mmjax.sharding import MeshShape
from mmjax.testing import TOLERANCE

RTOL = TOLERANCE["fp32_module"]
NUM_CLASSES, QUERIES = 3, 9


def random_boxes(*shape: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    size = rng.uniform(0.1, 0.4, (*shape, 2))
    return np.concatenate([rng.uniform(0.2, 0.8, (*shape, 2)), size], axis=-1).astype(np.float32)


def box_outputs(batch: int = 4, objects: int = 5) -> Outputs:
    """Row 1 has two objects, and row 2 none."""
    rng = np.random.default_rng(1)
    mask = np.arange(objects)[None] < np.array([5, 2, 0, 3] * (batch // 4))[:, None]
    logits = rng.normal(size=(batch, QUERIES, NUM_CLASSES + 1)).astype(np.float32)
    predicted = np.concatenate([random_boxes(batch, QUERIES), logits], axis=-1)
    classes = rng.integers(0, NUM_CLASSES, (batch, objects)).astype(np.int32)
    targets = BoxTargets(random_boxes(batch, objects, seed=2) * mask[..., None], classes, mask)
    return jax.tree.map(jnp.asarray, Outputs({"boxes": predicted}, {}, {"boxes": targets}))


def corners(box) -> tuple:
    x, y, width, height = np.float64(box)
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def loop_overlaps(first, second) -> tuple[float, float]:
    (a, b, c, d), (e, f, g, h) = corners(first), corners(second)
    intersection = max(0.0, min(c, g) - max(a, e)) * max(0.0, min(d, h) - max(b, f))
    union = (c - a) * (d - b) + (g - e) * (h - f) - intersection
    hull = (max(c, g) - min(a, e)) * (max(d, h) - min(b, f))
    return intersection / union, intersection / union - (hull - union) / hull


def loop_loss(outputs: Outputs) -> float:
    predicted, targets = np.float64(outputs.predictions["boxes"]), outputs.batch["boxes"]
    losses, weights, distances, giou_losses = [], [], [], []
    for i in range(len(predicted)):
        objects = np.flatnonzero(targets.mask[i])
        if not len(objects):
            continue
        boxes, logits = predicted[i, :, :4], predicted[i, :, 4:]
        probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        cost = np.zeros((len(objects), QUERIES))
        for n, m in enumerate(objects):
            for q in range(QUERIES):
                distance = np.abs(boxes[q] - targets.boxes[i, m]).sum()
                giou = loop_overlaps(boxes[q], targets.boxes[i, m])[1]
                cost[n, q] = 5 * distance - 2 * giou - probability[q, targets.classes[i, m]]
        labels = np.full(QUERIES, NUM_CLASSES)
        for n, q in zip(*linear_sum_assignment(cost), strict=True):
            labels[q] = targets.classes[i, objects[n]]
            distances.append(np.abs(boxes[q] - targets.boxes[i, objects[n]]).sum())
            giou_losses.append(1 - loop_overlaps(boxes[q], targets.boxes[i, objects[n]])[1])
        for q in range(QUERIES):
            weights.append(0.1 if labels[q] == NUM_CLASSES else 1.0)
            losses.append(-np.log(probability[q, labels[q]]))
    class_loss = np.average(losses, weights=weights)
    return class_loss + 5 * np.mean(distances) + 2 * np.mean(giou_losses)


def test_loss():
    outputs = box_outputs()
    loss, metrics = jax.jit(values(objectives.Boxes("boxes").apply))({}, outputs)
    np.testing.assert_allclose(loss, loop_loss(outputs), rtol=RTOL)
    assert set(metrics) == {"classes", "l1", "giou", "iou", "found"}


def test_perfect_boxes_have_a_loss_near_zero():
    outputs = box_outputs()
    targets = outputs.batch["boxes"]
    predicted = np.zeros((4, QUERIES, 4 + NUM_CLASSES + 1), np.float32)
    predicted[..., 2:4], predicted[..., -1] = 0.1, 20.0
    order = np.array([4, 2, 8, 0, 6])  # the query of each object
    for i, n in np.argwhere(np.asarray(targets.mask)):
        predicted[i, order[n], :4] = targets.boxes[i, n]
        predicted[i, order[n], 4:] = 20.0 * (np.arange(NUM_CLASSES + 1) == targets.classes[i, n])
    outputs = outputs.replace(predictions={"boxes": jnp.asarray(predicted)})
    loss, metrics = values(objectives.Boxes("boxes").apply)({}, outputs)
    np.testing.assert_allclose(loss, 0, atol=1e-5)
    assert metrics["found"] == 1 and metrics["iou"] > 0.999


def test_a_batch_without_boxes_gives_zero_loss_and_gradient():
    outputs = box_outputs()
    empty = outputs.batch["boxes"].replace(mask=jnp.zeros((4, 5), bool))
    outputs = outputs.replace(batch={"boxes": empty})
    module = objectives.Boxes("boxes")
    value, grads = jax.jit(
        jax.value_and_grad(lambda x: values(module.apply)({}, outputs.replace(predictions={"boxes": x}))[0])
    )(outputs.predictions["boxes"])
    assert value == 0
    np.testing.assert_array_equal(grads, 0)


@pytest.mark.parametrize("objects, queries", [(5, 5), (5, 12), (1, 3)])
def test_assignment_equals_scipy(objects, queries):
    cost = np.random.default_rng(0).normal(size=(16, objects, queries)).astype(np.float32)
    found = np.asarray(jax.jit(assign_columns)(cost))
    for i in range(16):
        assert len(set(found[i])) == objects
        total = cost[i][np.arange(objects), found[i]].sum()
        np.testing.assert_allclose(total, cost[i][linear_sum_assignment(cost[i])].sum(), rtol=RTOL)


@pytest.mark.parametrize(
    "first, second, iou, giou",
    [
        ([0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2], 1, 1),
        ([0.25, 0.5, 0.5, 1], [0.75, 0.5, 0.5, 1], 0, 0),  # side by side: the hull is full
        ([0.25, 0.25, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5], 0, -0.5),  # half of the hull is empty
        ([0.5, 0.5, 1, 1], [0.5, 0.5, 0.5, 0.5], 0.25, 0.25),
        ([0, 0, 0, 0], [0, 0, 0, 0], 0, 0),  # a masked box
    ],
)
def test_overlaps(first, second, iou, giou):
    found = box_overlaps(jnp.asarray(first, jnp.float32), jnp.asarray(second, jnp.float32))
    np.testing.assert_allclose(found, (iou, giou), atol=1e-6)


def test_loss_is_equal_on_a_mesh():
    outputs, mesh = box_outputs(batch=8), MeshShape(data=8).make()
    expected = values(objectives.Boxes("boxes").apply)({}, outputs)[0]
    with sharding.using(mesh, sharding.REPLICATED):
        placed = jax.device_put(outputs, sharding.batch_sharding(mesh, sharding.REPLICATED))
        found = jax.jit(values(objectives.Boxes("boxes").apply))({}, placed)[0]
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE["sharded"])


def test_more_objects_than_queries_and_a_grid_that_does_not_fit_are_refused():
    outputs = box_outputs()
    few = outputs.replace(predictions={"boxes": outputs.predictions["boxes"][:, :4]})
    with pytest.raises(InputError, match="gives 4 boxes and the data hold up to 5: .* make its grid finer"):
        values(objectives.Boxes("boxes").apply)({}, few)
    head = heads.Boxes("image", num_classes=3, query_grid=(2, 2), token_grid=(3, 3))
    encoded = Encoded(jnp.ones((2, 6, 16)), jnp.ones((2, 6), bool))
    with pytest.raises(InputError, match=r"expects token_grid=\(3, 3\) in 'image', found 6 positions"):
        head.init(jax.random.key(0), encoded)


def test_initial_boxes_are_near_their_anchors():
    """Before training, each query's box is near its point of the grid."""
    head = heads.Boxes("image", num_classes=3, query_grid=(4, 5))
    encoded = Encoded(jnp.zeros((1, 6, 16)), jnp.ones((1, 6), bool))
    found = head.apply(head.init(jax.random.key(0), encoded), encoded)
    assert found.shape == (1, 20, 8)
    y, x = np.divmod(np.arange(20), 5)
    anchors = np.stack([(x + 0.5) / 5, (y + 0.5) / 4], axis=1)
    inner = (np.abs(anchors - 0.5) < 0.35).all(1)
    assert np.abs(found[0, inner, :2] - anchors[inner]).mean() < 0.2
