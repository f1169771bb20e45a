"""No position of a causal stream knows of a later one: by gradients that are exactly zero, and end to end."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import encoders, fusion, heads, objectives, views
from mmjax.batch import Encoded
from mmjax.learner import Learner
from mmjax.model import MultimodalModel
from mmjax.sharding import unbox
from mmjax.testing import VOCAB, WIDTH, tiny_batch, tiny_trunk

pytestmark = pytest.mark.once

LENGTH = 8


def batch() -> dict:
    """Two whole texts, their pictures and sounds."""
    made = tiny_batch(2)
    made["text"] = made["text"].replace(mask=np.ones((2, LENGTH), bool))
    return jax.tree.map(jnp.asarray, {name: made[name] for name in ("text", "image", "audio")})


def coca(causal: bool = True, **fusion_fields) -> MultimodalModel:
    """A causal text tower with a contrastive embedding, and a decoder of captions over it."""
    mel = encoders.LogMel(sample_rate_hz=8000, num_mels=16)
    fields = {"updated": ("text",), "causal": ("text",), "depth": 2} | fusion_fields
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
    return drawn(coca_learner(), batch())


def drawn(learner: Learner, made: dict) -> dict:
    """Random parameters, biases too: at their initial zero they would hide what is done with them."""
    rngs = {"params": jax.random.key(0), "views": jax.random.key(1)}
    shapes = jax.eval_shape(lambda: unbox(learner.init(rngs, made)["params"]))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), shapes)


def test_captions_know_no_later_token_through_the_whole_model(params):
    """By the table of positions, whose row t is read at position t alone and nowhere else."""
    learner, made = coca_learner(), batch()

    def said(table):
        changed = jax.tree.map(lambda x: x, params)
        changed["model"]["encoders_text"]["positions"]["table"] = table
        predictions, _ = learner.apply(
            {"params": changed}, made, views.Identity(), ("caption",),
            rngs={"views": jax.random.key(0)}, method="predict",
        )  # fmt: skip
        weight = jnp.cos(jnp.arange(predictions["caption"][0, 0].size, dtype=jnp.float32))
        return (predictions["caption"] * weight[None, None]).sum(-1)[0]  # "L"

    table = params["model"]["encoders_text"]["positions"]["table"]
    jacobian = np.abs(np.asarray(jax.jit(jax.jacrev(said))(table))).max(-1)  # what is said, the position read
    later = np.triu(np.ones((LENGTH, LENGTH), bool), k=1)
    np.testing.assert_array_equal(jacobian[later], 0)
    assert (jacobian[~later] > 1e-6).all()


def test_captions_do_not_change_with_later_tokens_and_do_with_earlier_ones_and_the_picture(params):
    learner, made = coca_learner(), batch()
    run = jax.jit(
        lambda made: learner.apply(
            {"params": params}, made, views.Identity(), ("caption",),
            rngs={"views": jax.random.key(0)}, method="predict",
        )[0]["caption"]
    )  # fmt: skip
    before = np.asarray(run(made))
    text, cut = made["text"], 4
    other = text.replace(
        tokens=text.tokens.at[:, cut:].set((text.tokens[:, cut:] + 7) % VOCAB),
        mask=text.mask.at[:, cut + 1 :].set(False),
    )
    after = np.asarray(run(made | {"text": other}))
    np.testing.assert_array_equal(after[:, :cut], before[:, :cut])
    assert (np.abs(after[:, cut] - before[:, cut]).max(-1) > 1e-4).all()
    blind = np.asarray(run(made | {"image": made["image"].replace(mask=jnp.zeros(2, bool))}))
    assert (np.abs(blind - before).max(-1) > 1e-4).all()


def test_prefix_is_read_both_ways_and_the_rest_causally():
    tower = encoders.TextTransformer(vocab=VOCAB, max_length=LENGTH, trunk=tiny_trunk(num_heads=2))
    text = batch()["text"]
    text = text.replace(prefix=jnp.arange(LENGTH)[None] < jnp.array([[3], [0]]))
    variables = unbox(tower.init(jax.random.key(0), text))

    def read(table):
        changed = {"params": variables["params"] | {"positions": {"table": table}}}
        x = tower.apply(changed, text).embeddings
        return (x * jnp.cos(jnp.arange(x.shape[-1], dtype=x.dtype))[None, None]).sum(-1)

    jacobian = jax.jit(jax.jacrev(read))(variables["params"]["positions"]["table"])
    jacobian = np.abs(np.asarray(jacobian)).max(-1)  # row, position that reads, position that is read
    place = np.arange(LENGTH)
    for row, prefix in ((0, 3), (1, 0)):
        may = (place[None, :] <= place[:, None]) | (place[None, :] < prefix)
        np.testing.assert_array_equal(jacobian[row][~may], 0)
        assert (jacobian[row][may] > 1e-6).all()


def test_a_prefix_and_a_causal_trunk_are_refused():
    tower = encoders.TextTransformer(vocab=VOCAB, max_length=LENGTH, trunk=tiny_trunk(causal=True))
    text = batch()["text"]
    with pytest.raises(ValueError, match="needs a trunk with causal=False, found causal=True"):
        jax.eval_shape(lambda: tower.init(jax.random.key(0), text.replace(prefix=text.mask)))


@pytest.mark.parametrize(
    "fields, keeps",
    [
        ({"updated": ("text",), "causal": ("text",)}, True),
        ({"updated": ("text",)}, False),
        ({"updated": None, "causal": ("text",)}, False),
        ({"updated": None, "causal": ("text",), "depth": 1}, True),
        ({"updated": ("image",), "depth": 1}, True),
    ],
)
def test_co_attention_says_what_its_gradient_does(fields, keeps):
    module = fusion.CoAttention(
        **{"streams": ("text", "image"), "depth": 2, "width": WIDTH, "num_heads": 4, "mlp_width": 32} | fields
    )
    rng = np.random.default_rng(0)
    encoded = {
        stream: Encoded(jnp.asarray(rng.normal(size=(1, 4, WIDTH)), jnp.float32), jnp.ones((1, 4), bool))
        for stream in ("text", "image")
    }
    variables = unbox(module.init(jax.random.key(0), encoded))

    def first(x):
        fused = module.apply(variables, encoded | {"text": Encoded(x, encoded["text"].mask)})
        return (fused["text"].embeddings[0, 0] * jnp.cos(jnp.arange(WIDTH, dtype=jnp.float32))).sum()

    later = jax.jit(jax.grad(first))(encoded["text"].embeddings)[0, 1:]
    assert bool((later == 0).all()) == keeps == module.is_causal_for("text")


def leak(model: MultimodalModel, view: views.Identity | None = None, **fields) -> str | None:
    objective = objectives.CausalLanguage("caption", view=view or views.Identity(), **fields)
    return objective.check_compatible(model, {})


def test_a_model_that_would_be_told_the_answer_is_refused():
    assert leak(coca()) is None
    assert "the tower of 'text' reads later tokens" in str(leak(coca(causal=False)))
    two_ways = dataclasses.replace(coca().fusion, causal=())
    assert "CoAttention(updated=('text',), causal=('text',))" in str(leak(coca().clone(fusion=two_ways)))
    chain = views.Chain((views.Prefix("text"), views.DropStreams((("image", 0.5),))))
    assert leak(coca(causal=False), view=chain) is None
    assert "the tower" in str(leak(coca(causal=False), view=views.Prefix("keywords")))
    assert "expected one that reads 'image'" in str(leak(coca(), stream="image"))


def test_coca_trains_and_a_row_without_a_text_or_picture_makes_no_nan(params):
    learner, made = coca_learner(), batch()
    made["text"] = made["text"].replace(mask=made["text"].mask & jnp.array([[True], [False]]))
    made["image"] = made["image"].replace(mask=jnp.zeros(2, bool))

    def loss(params):
        return learner.apply({"params": params}, made, rngs={"views": jax.random.key(0)})

    (value, metrics), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert np.isfinite(value) and metrics["loss/contrast"] == 0 and metrics["loss/caption"] > 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


def test_every_sequence_objective_at_once_survives_rows_that_miss_everything():
    """Frames, denoising, spans and prefixes over one batch, in which row 1 has no text and row 2 no sound."""
    mel = encoders.LogMel(sample_rate_hz=8000, num_mels=16)
    vocab = VOCAB + 4  # and sentinels
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
                streams=("target", "source"), updated=("target",), causal=("target",), depth=1, width=WIDTH,
                num_heads=8, mlp_width=32,
            ),
            heads={
                "frames": heads.FrameLogits("audio", vocab=VOCAB),
                "said": heads.TokenLogits("target"),
                "words": heads.TokenLogits("text", after="encoder"),
            },
        ),
        objectives={
            "frames": objectives.CTC("frames"),
            "denoise": objectives.CausalLanguage("said", stream="target", view=denoise),
            "spans": objectives.MaskedLanguage("words", view=views.MaskSpans("text", vocab=VOCAB)),
            "prefix": objectives.CausalLanguage("words", view=views.Prefix("text")),
        },
    )  # fmt: skip
    assert all(
        objective.check_compatible(learner.model, {}) is None
        for objective in learner.objectives.values()
        if hasattr(objective, "check_compatible")
    )
    made = tiny_batch(3)
    made["text"] = made["text"].replace(mask=made["text"].mask & np.array([[True], [False], [True]]))
    made = {name: jax.tree.map(jnp.asarray, made[name]) for name in ("text", "audio")}  # row 2 has no sound
    assert not made["audio"].mask[2].any()
    params = drawn(learner, made)

    @jax.jit
    def run(made):
        def loss(params):
            return learner.apply({"params": params}, made, rngs={"views": jax.random.key(1)})

        return jax.value_and_grad(loss, has_aux=True)(params)

    (value, metrics), gradient = run(made)
    assert np.isfinite(value) and metrics["frames/counted"] == 1
    assert all(metrics[f"loss/{name}"] > 0 for name in learner.objectives)
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all()
    empty = jax.tree.map(jnp.zeros_like, made)
    (nothing, metrics), gradient = run(empty)
    assert nothing == 0 and all(np.isfinite(x) for x in metrics.values())
    assert all(np.isfinite(leaf).all() and not leaf.any() for leaf in jax.tree.leaves(gradient))
