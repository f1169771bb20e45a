"""Causal streams: the gradient of position t with respect to later positions is exactly zero."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_parameters import random_parameters

from mmjax import encoders, fusion, heads, objectives, views
from mmjax.batch import Encoded
from mmjax.learner import Learner
from mmjax.model import MultimodalModel
from mmjax.sharding import unbox
from mmjax.testing import VOCAB, WIDTH, tiny_batch, tiny_trunk

pytestmark = pytest.mark.once

LENGTH = 8


def batch() -> dict:
    """Two texts without padding, with their images and audio."""
    streams = tiny_batch(2)
    streams["text"] = streams["text"].replace(mask=np.ones((2, LENGTH), bool))
    return jax.tree.map(jnp.asarray, {name: streams[name] for name in ("text", "image", "audio")})


def coca(causal: bool = True, **fusion_fields) -> MultimodalModel:
    """A causal text encoder with a contrastive embedding, and a caption decoder on top of it."""
    mel = encoders.LogMel(sample_rate_hz=8000, num_mels=16)
    fields = {"updated_streams": ("text",), "causal_streams": ("text",), "depth": 2} | fusion_fields
    return MultimodalModel(
        encoders={
            "text": encoders.TextTransformer(
                vocab=VOCAB, max_length=LENGTH, trunk=tiny_trunk(causal=causal), hash_ngrams=(2,)
            ),
            "image": encoders.ViT(stem=encoders.LinearPatches(patch=(4, 4)), trunk=tiny_trunk(depth=1)),
            "audio": encoders.SpectrogramTransformer(
                mel=mel, stem=encoders.FramePatches(frames=4), trunk=tiny_trunk(depth=1)
            ),
        },
        fusion=fusion.CoAttention(
            streams=("text", "image", "audio"), width=WIDTH, num_heads=8, mlp_width=32, **fields
        ),
        heads={
            "text": heads.PooledEmbedding("text", dim=8, pooling="last"),
            "image": heads.PooledEmbedding("image", dim=8),
            "caption": heads.TokenLogits("text"),
        },
    )


def coca_learner() -> Learner:
    return Learner(
        model=coca(),
        objectives={
            "contrast": objectives.InfoNCE("image", "text"),
            "caption": objectives.CausalLanguage("caption"),
        },
    )


@pytest.fixture(scope="module")
def params():
    return random_parameters(coca_learner(), batch(), scale=0.3)


def test_caption_logits_do_not_depend_on_later_tokens(params):
    """Differentiates by the table of positions, whose row t only position t reads."""
    learner, streams = coca_learner(), batch()

    def caption_logits(table):
        changed = jax.tree.map(lambda x: x, params)
        changed["model"]["encoders_text"]["positions"]["table"] = table
        predictions, _ = learner.apply(
            {"params": changed}, streams, views.Identity(), ("caption",),
            rngs={"views": jax.random.key(0)}, method="predict",
        )  # fmt: skip
        weight = jnp.cos(jnp.arange(predictions["caption"][0, 0].size, dtype=jnp.float32))
        return (predictions["caption"] * weight[None, None]).sum(-1)[0]  # "L"

    table = params["model"]["encoders_text"]["positions"]["table"]
    jacobian = jax.jit(jax.jacrev(caption_logits))(table)
    jacobian = np.abs(np.asarray(jacobian)).max(-1)  # output position, input position
    later = np.triu(np.ones((LENGTH, LENGTH), bool), k=1)
    np.testing.assert_array_equal(jacobian[later], 0)
    assert (jacobian[~later] > 1e-6).all()


def test_captions_depend_on_earlier_tokens_and_the_image_only(params):
    learner, streams = coca_learner(), batch()
    run = jax.jit(
        lambda streams: learner.apply(
            {"params": params}, streams, views.Identity(), ("caption",),
            rngs={"views": jax.random.key(0)}, method="predict",
        )[0]["caption"]
    )  # fmt: skip
    before = np.asarray(run(streams))
    text, cut = streams["text"], 4
    changed = text.replace(
        tokens=text.tokens.at[:, cut:].set((text.tokens[:, cut:] + 7) % VOCAB),
        mask=text.mask.at[:, cut + 1 :].set(False),
    )
    after = np.asarray(run(streams | {"text": changed}))
    np.testing.assert_array_equal(after[:, :cut], before[:, :cut])
    assert (np.abs(after[:, cut] - before[:, cut]).max(-1) > 1e-4).all()
    without_image = np.asarray(run(streams | {"image": streams["image"].replace(mask=jnp.zeros(2, bool))}))
    assert (np.abs(without_image - before).max(-1) > 1e-4).all()


def test_prefix_is_bidirectional_and_the_rest_causal():
    encoder = encoders.TextTransformer(vocab=VOCAB, max_length=LENGTH, trunk=tiny_trunk(num_heads=2))
    text = batch()["text"]
    text = text.replace(prefix=jnp.arange(LENGTH)[None] < jnp.array([[3], [0]]))
    variables = unbox(encoder.init(jax.random.key(0), text))

    def embeddings(table):
        changed = {"params": variables["params"] | {"positions": {"table": table}}}
        x = encoder.apply(changed, text).embeddings
        return (x * jnp.cos(jnp.arange(x.shape[-1], dtype=x.dtype))[None, None]).sum(-1)

    jacobian = jax.jit(jax.jacrev(embeddings))(variables["params"]["positions"]["table"])
    jacobian = np.abs(np.asarray(jacobian)).max(-1)  # row, output position, input position
    position = np.arange(LENGTH)
    for row, prefix in ((0, 3), (1, 0)):
        visible = (position[None, :] <= position[:, None]) | (position[None, :] < prefix)
        np.testing.assert_array_equal(jacobian[row][~visible], 0)
        assert (jacobian[row][visible] > 1e-6).all()


def test_a_prefix_with_a_causal_trunk_is_refused():
    encoder = encoders.TextTransformer(vocab=VOCAB, max_length=LENGTH, trunk=tiny_trunk(causal=True))
    text = batch()["text"]
    with pytest.raises(ValueError, match="needs a trunk with causal=False, found causal=True"):
        jax.eval_shape(lambda: encoder.init(jax.random.key(0), text.replace(prefix=text.mask)))


@pytest.mark.parametrize(
    "fields, is_causal",
    [
        ({"updated_streams": ("text",), "causal_streams": ("text",)}, True),
        ({"updated_streams": ("text",)}, False),
        ({"updated_streams": None, "causal_streams": ("text",)}, False),
        ({"updated_streams": None, "causal_streams": ("text",), "depth": 1}, True),
        ({"updated_streams": ("image",), "depth": 1}, True),
    ],
)
def test_co_attention_is_causal_where_its_gradient_is_zero(fields, is_causal):
    module = fusion.CoAttention(
        **{"streams": ("text", "image"), "depth": 2, "width": WIDTH, "num_heads": 4, "mlp_width": 32} | fields
    )
    rng = np.random.default_rng(0)
    encoded = {
        stream: Encoded(jnp.asarray(rng.normal(size=(1, 4, WIDTH)), jnp.float32), jnp.ones((1, 4), bool))
        for stream in ("text", "image")
    }
    variables = unbox(module.init(jax.random.key(0), encoded))

    def first_position(x):
        fused = module.apply(variables, encoded | {"text": Encoded(x, encoded["text"].mask)})
        return (fused["text"].embeddings[0, 0] * jnp.cos(jnp.arange(WIDTH, dtype=jnp.float32))).sum()

    later = jax.jit(jax.grad(first_position))(encoded["text"].embeddings)[0, 1:]
    assert bool((later == 0).all()) == is_causal == module.is_causal_for("text")


def leak(model: MultimodalModel, view: views.View | None = None, **fields) -> str | None:
    objective = objectives.CausalLanguage("caption", view=view or views.Identity(), **fields)
    return objective.check_compatible(model, {})


def test_causal_language_refuses_a_model_that_leaks_the_target():
    assert leak(coca()) is None
    assert "the encoder of 'text' lets position t read t + 1" in str(leak(coca(causal=False)))
    bidirectional = dataclasses.replace(coca().fusion, causal_streams=())
    assert "CoAttention(updated_streams=('text',), causal_streams=('text',))" in str(
        leak(coca().clone(fusion=bidirectional))
    )
    chain = views.Chain((views.Prefix("text"), views.DropStreams((("image", 0.5),))))
    assert leak(coca(causal=False), view=chain) is None
    assert "the encoder" in str(leak(coca(causal=False), view=views.Prefix("keywords")))
    assert "expected one that reads 'image'" in str(leak(coca(), stream="image"))


def test_coca_is_finite_without_a_text_or_an_image(params):
    learner, streams = coca_learner(), batch()
    streams["text"] = streams["text"].replace(mask=streams["text"].mask & jnp.array([[True], [False]]))
    streams["image"] = streams["image"].replace(mask=jnp.zeros(2, bool))

    def loss(params):
        return learner.apply({"params": params}, streams, rngs={"views": jax.random.key(0)})

    (value, metrics), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert np.isfinite(value) and metrics["loss/contrast"] == 0 and metrics["loss/caption"] > 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


def test_all_sequence_objectives_are_finite_with_missing_streams():
    """Row 1 has no text, and row 2 no audio."""
    mel = encoders.LogMel(sample_rate_hz=8000, num_mels=16)
    vocab = VOCAB + 4  # with the sentinels
    denoise = views.CorruptSpans("text", vocab=VOCAB, target_length=6, num_sentinels=4)
    learner = Learner(
        model=MultimodalModel(
            encoders={
                "audio": encoders.SpectrogramTransformer(
                    mel=mel, stem=encoders.FramePatches(frames=1), trunk=tiny_trunk(depth=1)
                ),
                "text": encoders.TextTransformer(vocab=vocab, max_length=8, trunk=tiny_trunk(depth=1)),
                "target": encoders.TextTransformer(
                    vocab=vocab, max_length=6, trunk=tiny_trunk(depth=1, causal=True)
                ),
            },
            shared={"source": "text"},
            fusion=fusion.CoAttention(
                streams=("target", "source"), updated_streams=("target",), causal_streams=("target",),
                depth=1, width=WIDTH, num_heads=8, mlp_width=32,
            ),
            heads={
                "frames": heads.FrameLogits("audio", vocab=VOCAB),
                "decoded": heads.TokenLogits("target"),
                "words": heads.TokenLogits("text", after="encoder"),
            },
        ),
        objectives={
            "frames": objectives.CTC("frames"),
            "denoise": objectives.CausalLanguage("decoded", stream="target", view=denoise),
            "spans": objectives.MaskedLanguage("words", view=views.MaskSpans("text", vocab=VOCAB)),
            "prefix": objectives.CausalLanguage("words", view=views.Prefix("text")),
        },
    )  # fmt: skip
    assert all(
        objective.check_compatible(learner.model, {}) is None for objective in learner.objectives.values()
    )
    streams = tiny_batch(3)
    streams["text"] = streams["text"].replace(mask=streams["text"].mask & np.array([[True], [False], [True]]))
    streams = {name: jax.tree.map(jnp.asarray, streams[name]) for name in ("text", "audio")}
    assert not streams["audio"].mask[2].any()
    params = random_parameters(learner, streams, scale=0.3)

    @jax.jit
    def run(streams):
        def loss(params):
            return learner.apply({"params": params}, streams, rngs={"views": jax.random.key(1)})

        return jax.value_and_grad(loss, has_aux=True)(params)

    (value, metrics), gradient = run(streams)
    assert np.isfinite(value) and metrics["frames/counted"] == 1
    assert all(metrics[f"loss/{name}"] > 0 for name in learner.objectives)
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all()
    empty = jax.tree.map(jnp.zeros_like, streams)
    (value, metrics), gradient = run(empty)
    assert value == 0 and all(np.isfinite(x) for x in metrics.values())
    assert all(np.isfinite(leaf).all() and not leaf.any() for leaf in jax.tree.leaves(gradient))
