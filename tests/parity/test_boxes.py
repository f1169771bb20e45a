"""Sets of boxes: matched as SciPy does, and the loss by loops in NumPy, float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
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


def draw_boxes(*shape: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    size = rng.uniform(0.1, 0.4, (*shape, 2))
    return np.concatenate([rng.uniform(0.2, 0.8, (*shape, 2)), size], axis=-1).astype(np.float32)


def problem(batch: int = 4, objects: int = 5) -> Outputs:
    """Row 1 has two objects, and row 2 none."""
    rng = np.random.default_rng(1)
    mask = np.arange(objects)[None] < np.array([5, 2, 0, 3] * (batch // 4))[:, None]
    logits = rng.normal(size=(batch, QUERIES, NUM_CLASSES + 1)).astype(np.float32)
    predicted = np.concatenate([draw_boxes(batch, QUERIES), logits], axis=-1)
    classes = rng.integers(0, NUM_CLASSES, (batch, objects)).astype(np.int32)
    marked = BoxTargets(draw_boxes(batch, objects, seed=2) * mask[..., None], classes, mask)
    return jax.tree.map(jnp.asarray, Outputs({"boxes": predicted}, {}, {"boxes": marked}))


def corners(box) -> tuple:
    x, y, width, height = np.float64(box)
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def loop_overlaps(one, other) -> tuple[float, float]:
    (a, b, c, d), (e, f, g, h) = corners(one), corners(other)
    common = max(0.0, min(c, g) - max(a, e)) * max(0.0, min(d, h) - max(b, f))
    union = (c - a) * (d - b) + (g - e) * (h - f) - common
    hull = (max(c, g) - min(a, e)) * (max(d, h) - min(b, f))
    return common / union, common / union - (hull - union) / hull


def loop_loss(made: Outputs) -> float:
    predicted, marked = np.float64(made.predictions["boxes"]), made.batch["boxes"]
    surprises, weights, distances, generals = [], [], [], []
    for i in range(len(predicted)):
        here = np.flatnonzero(marked.mask[i])
        if not len(here):
            continue
        boxes, logits = predicted[i, :, :4], predicted[i, :, 4:]
        probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        cost = np.zeros((len(here), QUERIES))
        for n, m in enumerate(here):
            for q in range(QUERIES):
                distance = np.abs(boxes[q] - marked.boxes[i, m]).sum()
                general = loop_overlaps(boxes[q], marked.boxes[i, m])[1]
                cost[n, q] = 5 * distance - 2 * general - probability[q, marked.classes[i, m]]
        wanted = np.full(QUERIES, NUM_CLASSES)
        for n, q in zip(*linear_sum_assignment(cost), strict=True):
            wanted[q] = marked.classes[i, here[n]]
            distances.append(np.abs(boxes[q] - marked.boxes[i, here[n]]).sum())
            generals.append(1 - loop_overlaps(boxes[q], marked.boxes[i, here[n]])[1])
        for q in range(QUERIES):
            weights.append(0.1 if wanted[q] == NUM_CLASSES else 1.0)
            surprises.append(-np.log(probability[q, wanted[q]]))
    classes = np.average(surprises, weights=weights)
    return classes + 5 * np.mean(distances) + 2 * np.mean(generals)


def test_loss():
    made = problem()
    loss, metrics = jax.jit(objectives.Boxes("boxes").apply)({}, made)
    np.testing.assert_allclose(loss, loop_loss(made), rtol=RTOL)
    assert set(metrics) == {"classes", "l1", "giou", "iou", "found"}


def test_perfect_boxes_cost_nothing_but_the_size_of_the_logits():
    made = problem()
    marked = made.batch["boxes"]
    predicted = np.zeros((4, QUERIES, 4 + NUM_CLASSES + 1), np.float32)
    predicted[..., 2:4], predicted[..., -1] = 0.1, 20.0
    order = np.array([4, 2, 8, 0, 6])  # the objects, at queries out of order
    for i, n in np.argwhere(np.asarray(marked.mask)):
        predicted[i, order[n], :4] = marked.boxes[i, n]
        predicted[i, order[n], 4:] = 20.0 * (np.arange(NUM_CLASSES + 1) == marked.classes[i, n])
    made = made.replace(predictions={"boxes": jnp.asarray(predicted)})
    loss, metrics = objectives.Boxes("boxes").apply({}, made)
    np.testing.assert_allclose(loss, 0, atol=1e-5)
    assert metrics["found"] == 1 and metrics["iou"] > 0.999


def test_a_batch_without_a_marked_picture_costs_nothing():
    made = problem()
    nobody = made.batch["boxes"].replace(mask=jnp.zeros((4, 5), bool))
    made = made.replace(batch={"boxes": nobody})
    module = objectives.Boxes("boxes")
    value, grads = jax.jit(
        jax.value_and_grad(lambda x: module.apply({}, made.replace(predictions={"boxes": x}))[0])
    )(made.predictions["boxes"])
    assert value == 0
    np.testing.assert_array_equal(grads, 0)


@pytest.mark.parametrize("objects, queries", [(5, 5), (5, 12), (1, 3)])
def test_assignment_is_scipys(objects, queries):
    cost = np.random.default_rng(0).normal(size=(16, objects, queries)).astype(np.float32)
    found = np.asarray(jax.jit(assign_columns)(cost))
    for i in range(16):
        assert len(set(found[i])) == objects
        total = cost[i][np.arange(objects), found[i]].sum()
        np.testing.assert_allclose(total, cost[i][linear_sum_assignment(cost[i])].sum(), rtol=RTOL)


@pytest.mark.parametrize(
    "one, other, overlap, general",
    [
        ([0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2], 1, 1),
        ([0.25, 0.5, 0.5, 1], [0.75, 0.5, 0.5, 1], 0, 0),  # side by side: the hull is full
        ([0.25, 0.25, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5], 0, -0.5),  # half of the hull is empty
        ([0.5, 0.5, 1, 1], [0.5, 0.5, 0.5, 0.5], 0.25, 0.25),
        ([0, 0, 0, 0], [0, 0, 0, 0], 0, 0),  # what is masked
    ],
)
def test_overlaps(one, other, overlap, general):
    found = box_overlaps(jnp.asarray(one, jnp.float32), jnp.asarray(other, jnp.float32))
    np.testing.assert_allclose(found, (overlap, general), atol=1e-6)


def test_devices_match_their_own_pictures():
    made, mesh = problem(batch=8), MeshShape(data=8).make()
    expected = objectives.Boxes("boxes").apply({}, made)[0]
    with sharding.using(mesh, sharding.REPLICATED):
        placed = jax.device_put(made, sharding.batch_sharding(mesh, sharding.REPLICATED))
        found = jax.jit(objectives.Boxes("boxes").apply)({}, placed)[0]
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE["sharded"])


def test_more_objects_than_queries_and_a_grid_that_does_not_fit_are_refused():
    made = problem()
    few = made.replace(predictions={"boxes": made.predictions["boxes"][:, :4]})
    with pytest.raises(InputError, match="gives 4 boxes and the data hold up to 5: .* make its grid finer"):
        objectives.Boxes("boxes").apply({}, few)
    head = heads.Boxes("image", num_classes=3, query_grid=(2, 2), token_grid=(3, 3))
    encoded = Encoded(jnp.ones((2, 6, 16)), jnp.ones((2, 6), bool))
    with pytest.raises(InputError, match=r"expects token_grid=\(3, 3\) in 'image', found 6 positions"):
        head.init(jax.random.key(0), encoded)


def test_boxes_begin_about_their_anchors():
    """Before anything is learned, a query's box lies near its own point of the grid."""
    head = heads.Boxes("image", num_classes=3, query_grid=(4, 5))
    encoded = Encoded(jnp.zeros((1, 6, 16)), jnp.ones((1, 6), bool))
    found = head.apply(head.init(jax.random.key(0), encoded), encoded)
    assert found.shape == (1, 20, 8)
    y, x = np.divmod(np.arange(20), 5)
    anchors = np.stack([(x + 0.5) / 5, (y + 0.5) / 4], axis=1)
    inner = (np.abs(anchors - 0.5) < 0.35).all(1)
    assert np.abs(found[0, inner, :2] - anchors[inner]).mean() < 0.2
