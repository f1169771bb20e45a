"""MaskPatches and Mixup objectives in one learner: it learns, and gives the same losses on any mesh."""

import functools

import jax
import numpy as np
import optax
import pytest

from mmjax import encoders, fusion, heads, objectives, views
from mmjax.batch import Audio, Image, Labels
from mmjax.learner import Learner
from mmjax.model import MultimodalModel
from mmjax.sharding import FSDP_TENSOR, MeshShape, batch_sharding, to_global, unbox, using
from mmjax.testing import TOLERANCE, tiny_trunk
from mmjax.training.state import init_state, state_shardings

pytestmark = pytest.mark.once

ROWS = 16
MEL = encoders.LogMel(sample_rate_hz=8000, num_mels=8)


def trunk():
    return tiny_trunk(depth=1, scan=False)


def learner() -> Learner:
    """Pixels and codes share one view; a spectrogram and classes have one each."""
    masked_image = views.MaskPatches("image", (2, 2), rate=0.5, unmasked_stream="patches")
    masked_audio = views.MaskPatches("audio", (5, 1), rate=0.5, samples_per_patch=160)
    return Learner(
        model=MultimodalModel(
            encoders={
                "image": encoders.ViT(encoders.LinearPatches((4, 4)), trunk()),
                "patches": encoders.ViT(encoders.LinearPatches((4, 4)), trunk()),
                "audio": encoders.SpectrogramTransformer(MEL, encoders.FramePatches(2), trunk()),
            },
            fusion=fusion.Late(),
            heads={
                "pixels": heads.Reconstruction("image", 4, 48, trunk()),
                "guess": heads.Reconstruction("image", 4, 8, trunk()),
                "codes": heads.PatchQuantiser(
                    "patches", num_codes=8, code_dim=4, patch_dim=48, trunk=trunk()
                ),
                "sound": heads.Reconstruction("audio", 5, 16, trunk()),
                "colour": heads.Classes("image", num_classes=4, pooling="mean", after="encoder"),
            },
        ),
        objectives={
            "pixels": objectives.MaskedPatches("pixels", "image", (4, 4), view=masked_image),
            "codes": objectives.MaskedCodes("guess", "codes", view=masked_image),
            "quantiser": objectives.VectorQuantised("codes", "patches", (4, 4), view=masked_image),
            "sound": objectives.MaskedSpectrogram("sound", "audio", MEL, 2, view=masked_audio),
            "colour": objectives.Classification(
                "colour", streams=("image",), label_smoothing=0.1, view=views.Mixup(("image",))
            ),
        },
    )


@pytest.fixture(scope="module")
def batch():
    """Images of one of four colours, and tones: the visible part determines the masked part."""
    label = np.arange(ROWS) % 4
    colours = np.array([[1, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, 1]], np.float32)
    pixels = np.broadcast_to(colours[label][:, None, None], (ROWS, 8, 8, 3)).copy()
    tones = np.sin(2 * np.pi * (500 + 800 * (label % 4))[:, None] * np.arange(800)[None] / 8000)
    ends = np.where(np.arange(ROWS) % 5 == 4, 400, 800)[:, None]
    return {
        "image": Image(pixels, np.arange(ROWS) != 3),
        "audio": Audio(tones.astype(np.float32), np.arange(800)[None] < ends),
        "label": Labels(label.astype(np.int32), np.arange(ROWS) != 2),
    }


def losses_and_gradient(params, batch, key):
    def total(params):
        return learner().apply({"params": params}, batch, train=True, rngs={"views": key, "dropout": key})

    (loss, metrics), gradient = jax.value_and_grad(total, has_aux=True)(params)
    return loss, metrics, gradient


@pytest.fixture(scope="module")
def params(batch):
    key = jax.random.key(0)
    return unbox(jax.jit(learner().init)({"params": key, "views": key}, batch)["params"])


@pytest.fixture(scope="module")
def compiled():
    return jax.jit(losses_and_gradient)


def test_learner_learns_to_predict_masked_patches(compiled, params, batch):
    optimizer = optax.adam(1e-2)

    @jax.jit
    def update(params, state, gradient):
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state

    state, history = optimizer.init(params), []
    for step in range(80):
        _, metrics, gradient = compiled(params, batch, jax.random.key(step))
        params, state = update(params, state, gradient)
        history.append({name: float(value) for name, value in metrics.items()})
    first, last = history[0], {name: np.mean([h[name] for h in history[-10:]]) for name in history[0]}
    assert all(last[f"loss/{name}"] < first[f"loss/{name}"] for name in ("pixels", "sound", "colour"))
    assert last["pixels/explained"] > 0.9
    # Two of the four colours may keep sharing a code: VQ-VAE's loss does not separate them.
    assert last["quantiser/explained"] > 0.5 and last["quantiser/perplexity"] > 1.9
    assert last["sound/explained"] > 0.5 > first["sound/explained"]
    assert last["codes/accuracy"] > 0.9 and last["colour/accuracy"] > 0.7


@pytest.mark.parametrize("missing", [("image",), ("audio",), ("image", "audio", "label")])
def test_stream_missing_from_the_whole_batch_gives_zero_loss(compiled, params, batch, missing):
    without = {
        name: stream.replace(mask=np.zeros_like(stream.mask)) if name in missing else stream
        for name, stream in batch.items()
    }
    loss, metrics, gradient = compiled(params, without, jax.random.key(0))
    objectives_of = {
        "image": ("pixels", "codes", "quantiser", "colour"),
        "audio": ("sound",),
        "label": ("colour",),
    }
    for name in (name for stream in missing for name in objectives_of[stream]):
        assert metrics[f"loss/{name}"] == 0
    assert np.isfinite(loss) and jax.tree.all(jax.tree.map(lambda x: np.isfinite(x).all(), gradient))
    if len(missing) == 3:
        assert loss == 0 and jax.tree.all(jax.tree.map(lambda x: np.all(x == 0), gradient))


def test_losses_and_gradients_on_a_mesh_equal_those_on_one_device(compiled, params, batch):
    key = jax.random.key(0)
    loss, metrics, gradient = jax.device_get(compiled(params, batch, key))
    mesh = MeshShape(data=2, fsdp=2, tensor=2).make(jax.devices())
    make = functools.partial(init_state, learner(), optax.sgd(0.1), batch, seed=0)
    shardings = state_shardings(jax.eval_shape(make), mesh, FSDP_TENSOR).params
    rows = batch_sharding(mesh, FSDP_TENSOR)
    with using(mesh, FSDP_TENSOR):
        sharded = jax.tree.map(jax.device_put, jax.device_get(params), shardings)
        found = jax.device_get(jax.jit(losses_and_gradient)(sharded, to_global(batch, rows, ROWS), key))
    rtol = 10 * TOLERANCE["sharded"]  # a sum of squares of a trunk's outputs, and its gradient
    np.testing.assert_allclose(found[0], loss, rtol=rtol)
    for name, value in metrics.items():
        np.testing.assert_allclose(found[1][name], value, rtol=rtol, atol=1e-5, err_msg=name)
    norms = [float(optax.global_norm(tree)) for tree in (found[2], gradient)]
    np.testing.assert_allclose(*norms, rtol=rtol)
