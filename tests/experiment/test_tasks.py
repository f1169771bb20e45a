"""Supervised tasks of several datasets in one run: each head is trained on the rows of its own dataset."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import data, encoders, fusion, heads, objectives
from mmjax.learner import Learner
from mmjax.model import MultimodalModel
from mmjax.sharding import unbox
from mmjax.testing import tiny_trunk

SHAPES, COLOURS = ("square", "circle", "line"), ("red", "blue")


def images(seed: int, **labels: data.Transform) -> data.Dataset:
    """Eight random images with labels."""
    rng = np.random.default_rng(seed)
    source = data.Arrays(
        {
            "image": rng.integers(0, 255, (8, 8, 8, 3), dtype=np.uint8),
            "shape": rng.integers(0, 3, 8),
            "colours": [["red"], ["red", "blue"], [], ["blue"]] * 2,
        }
    )
    return data.Dataset(source, {"image": data.ImageTransform("image", (8, 8)), **labels})


@pytest.fixture(scope="module")
def mixture() -> data.Mixture:
    return data.Mixture(
        {
            "shapes": (1.0, images(0, shape=data.LabelTransform("shape", SHAPES))),
            "colours": (1.0, images(1, colours=data.MultiLabelTransform("colours", COLOURS))),
        },
        batch_size=8,
    )


def learner() -> Learner:
    return Learner(
        model=MultimodalModel(
            encoders={"image": encoders.ViT(encoders.LinearPatches((4, 4)), tiny_trunk(depth=1))},
            fusion=fusion.Late(),
            heads={
                "shape": heads.Classes("image", num_classes=3, pooling="mean", after="encoder"),
                "colours": heads.Classes("image", num_classes=2, pooling="mean", after="encoder"),
            },
        ),
        objectives={
            "shape": objectives.Classification("shape", labels="shape", streams=("image",)),
            "colours": objectives.MultiLabel("colours", labels="colours", streams=("image",)),
        },
    )


def test_each_task_trains_its_head_on_its_own_rows(mixture):
    batch, _ = next(iter(data.batches(mixture, seed=0, start_step=0)))
    has_label = {name: np.asarray(batch[name].mask).reshape(8, -1).any(1) for name in ("shape", "colours")}
    assert has_label["shape"].sum() == has_label["colours"].sum() == 4
    assert not (has_label["shape"] & has_label["colours"]).any()
    model = learner()
    batch = jax.tree.map(jnp.asarray, batch)
    rngs = {"params": jax.random.key(0), "views": jax.random.key(1)}
    params = unbox(model.init(rngs, batch))["params"]

    @jax.jit
    def losses_and_gradient(params, batch):
        def total(params):
            return model.apply({"params": params}, batch, rngs={"views": jax.random.key(1)})

        (_, metrics), gradient = jax.value_and_grad(total, has_aux=True)(params)
        return metrics, gradient

    metrics, gradient = losses_and_gradient(params, batch)
    for task, other in (("shape", "colours"), ("colours", "shape")):
        # Noise in the other task's images changes nothing of this task.
        noise = jax.random.normal(jax.random.key(2), batch["image"].pixels.shape)
        pixels = jnp.where(jnp.asarray(has_label[other])[:, None, None, None], noise, batch["image"].pixels)
        changed, after = losses_and_gradient(params, batch | {"image": batch["image"].replace(pixels=pixels)})
        np.testing.assert_allclose(changed[f"loss/{task}"], metrics[f"loss/{task}"], rtol=1e-6)
        assert abs(changed[f"loss/{other}"] - metrics[f"loss/{other}"]) > 1e-4
        close = jax.tree.map(lambda a, b: np.allclose(a, b, atol=1e-6), after["model"], gradient["model"])
        assert all(jax.tree.leaves(close["heads_" + task])), f"rows of {other} train the head of {task}"
        unlabelled = batch[task].replace(mask=jnp.zeros_like(batch[task].mask))
        without, gradients = losses_and_gradient(params, batch | {task: unlabelled})
        assert without[f"loss/{task}"] == 0
        assert all(np.all(x == 0) for x in jax.tree.leaves(gradients["model"]["heads_" + task]))
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradients))
