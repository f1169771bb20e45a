"""Gradients of encoders on eight devices equal those on one, for encoders without another sharding test."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalog import row

from mmjax import encoders, fusion, heads, layers, objectives, sharding
from mmjax.batch import Patches, Video
from mmjax.learner import Learner
from mmjax.model import MultimodalModel
from mmjax.sharding import array_shardings, unbox, using
from mmjax.testing import TOLERANCE, VOCAB, tiny_batch

B, WIDTH = 8, 16


def learner() -> Learner:
    """InfoNCE between neighbouring streams, and an adversarial loss on the audio."""
    mel = encoders.LogMel(sample_rate_hz=8000, num_mels=8)
    trunk = dict(depth=1, width=WIDTH, num_heads=4, mlp_width=16, scan=False)
    stream_encoders = {
        "text": encoders.RecurrentText(VOCAB, layers.Recurrent(depth=1, width=WIDTH)),
        "image": encoders.ResNet(stages=(1,), width=8, stem="small", num_groups=2),
        "patches": encoders.NaViT(
            layers.Transformer(**trunk), packing=encoders.Packing(examples_per_row=2, row_length=8)
        ),
        "audio": encoders.AdversarialSpectrogram(
            mel=mel,
            generator=encoders.SpectrogramGenerator(channels=(8, 8)),
            discriminator=encoders.ConvSpectrogram(channels=(8, 8)),
            width=WIDTH,
        ),
        "video": encoders.FactorisedVideo(
            encoders.ViT(encoders.ConvNeXtStem(2, (8,), (1,)), layers.Transformer(**trunk)),
            layers.Transformer(**trunk),
        ),
    }  # fmt: skip
    streams = list(stream_encoders)
    pairs = zip(streams, [*streams[1:], streams[0]], strict=True)
    return Learner(
        model=MultimodalModel(
            encoders=stream_encoders,
            fusion=fusion.Late(tuple(streams)),
            heads={"real": heads.RealOrGenerated("audio")}
            | {stream: heads.PooledEmbedding(stream, dim=8) for stream in streams},
        ),
        objectives={"gan": objectives.Adversarial("real", "audio")}
        | {f"{a}_{b}": objectives.InfoNCE(a, b) for a, b in pairs},
    )


def batch() -> dict:
    streams = tiny_batch(B)
    index = np.broadcast_to(np.arange(4, dtype=np.int32), (B, 4))
    mask = np.arange(4)[None] < np.arange(B)[:, None] % 4 + 1
    return {name: streams[name] for name in ("text", "image", "audio")} | {
        "patches": Patches(row.normal(B, 4, 12), index // 2, index % 2, mask),
        "video": Video(row.normal(B, 2, 4, 4, 3), np.ones((B, 2), bool)),
    }


def gradient(learner: Learner, params, inputs):
    def loss(params):
        rngs = {"views": jax.random.key(1), "dropout": jax.random.key(2)}
        return learner.apply({"params": params}, inputs, train=True, rngs=rngs)[0]

    return jax.value_and_grad(loss)(params)


@pytest.mark.once
def test_gradients_are_the_same_on_one_device_and_on_eight():
    module, inputs = learner(), jax.tree.map(jnp.asarray, batch())
    mesh, rules = sharding.MeshShape(data=2, fsdp=2, tensor=2).make(jax.devices()), sharding.FSDP_TENSOR
    boxed = jax.eval_shape(
        lambda: module.init({"params": jax.random.key(0), "views": jax.random.key(0)}, inputs)["params"]
    )
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: 0.2 * rng.normal(size=x.shape).astype(np.float32), unbox(boxed))
    loss, expected = jax.jit(lambda p, x: gradient(module, p, x))(params, inputs)
    with using(mesh, rules):
        param_shardings = array_shardings({"params": boxed}, mesh, rules)["params"]
        batch_sharding = sharding.batch_sharding(mesh, rules)
        run = jax.jit(
            lambda p, x: gradient(module, p, x),
            in_shardings=(param_shardings, batch_sharding),
            out_shardings=(None, param_shardings),
        )
        found_loss, found = run(
            jax.device_put(params, param_shardings), jax.device_put(inputs, batch_sharding)
        )
    np.testing.assert_allclose(found_loss, loss, rtol=TOLERANCE["sharded"])
    tolerance = TOLERANCE["sharded"]
    max_abs = max(float(np.abs(x).max()) for x in jax.tree.leaves(expected))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max_abs),
        found,
        expected,
    )
