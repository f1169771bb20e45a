"""The Learner encodes each distinct input once, and missing streams contribute no loss and no gradient."""

import collections

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_parameters import random_parameters

from mmjax import objectives, views
from mmjax.errors import InputError
from mmjax.learner import Learner
from mmjax.testing import VOCAB, tiny_batch, tiny_learner, tiny_model

# One xdist worker compiles for all of these tests.
pytestmark = pytest.mark.xdist_group("learner")

STREAMS = ("text", "keywords", "image", "audio")
WEIGHTS = {"words": 0.5, "follows": 2.0}


@pytest.fixture(scope="module")
def learner() -> Learner:
    learner = tiny_learner(depth=1, scan=False)
    weighted = {name: o.clone(weight=WEIGHTS.get(name, 1.0)) for name, o in learner.objectives.items()}
    return learner.clone(objectives=weighted)


@pytest.fixture(scope="module")
def params(learner):
    return random_parameters(learner, tiny_batch())


@pytest.fixture(scope="module")
def learn(learner, params):
    """batch -> (loss, metrics), (gradients of parameters, of pixels and samples)."""

    def loss(params, raw, batch):
        batch = batch | {
            "image": batch["image"].replace(pixels=raw["image"]),
            "audio": batch["audio"].replace(samples=raw["audio"]),
        }
        return learner.apply({"params": params}, batch, train=True, rngs={"views": jax.random.key(1)})

    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))

    def run(batch):
        return compiled(params, {"image": batch["image"].pixels, "audio": batch["audio"].samples}, batch)

    return run


def test_the_loss_is_the_weighted_sum_of_the_objectives(learn):
    (loss, metrics), _ = learn(tiny_batch())
    losses = {name: metrics[f"loss/{name}"] for name in tiny_learner().objectives}
    np.testing.assert_allclose(
        loss, sum(WEIGHTS.get(name, 1) * value for name, value in losses.items()), rtol=1e-6
    )
    assert all(value > 0 for value in losses.values())
    assert {"image_text/accuracy", "audio_text/temperature", "words/accuracy"} <= metrics.keys()


@pytest.mark.parametrize(
    "missing", [(), *((stream,) for stream in STREAMS), ("image", "audio"), STREAMS], ids="+".join
)
def test_missing_streams_give_zero_losses_and_finite_gradients(learn, missing):
    (loss, metrics), grads = learn(tiny_batch(missing=missing))
    assert np.isfinite(loss) and all(np.isfinite(value) for value in metrics.values())
    assert all(np.isfinite(grad).all() for grad in jax.tree.leaves(grads))
    reads = {
        "image_text": {"image", "text"}, "audio_text": {"audio", "text"}, "words": {"text"},
        "follows": {"text", "keywords"}, "matches": {"image", "text"},
    }  # fmt: skip
    for name, streams in reads.items():
        assert (metrics[f"loss/{name}"] == 0) == bool(streams & set(missing)), name
    for stream in set(missing) & {"image", "audio"}:
        encoder = jax.tree.leaves(grads[0]["model"][f"encoders_{stream}"])
        assert all((np.asarray(grad) == 0).all() for grad in encoder), stream


def test_missing_rows_and_padding_get_no_gradient(learn):
    batch = tiny_batch()
    has_image = np.arange(8) % 4 != 0
    batch["image"] = batch["image"].replace(mask=has_image)
    has_sample = batch["audio"].mask
    assert not has_sample.any(1).all() and not has_sample[has_sample.any(1)].all()
    _, (_, raw) = learn(batch)
    has_gradient = np.abs(raw["image"]).reshape(8, -1).max(1) > 0
    np.testing.assert_array_equal(has_gradient, has_image)
    assert (np.asarray(raw["audio"])[~has_sample] == 0).all()
    np.testing.assert_array_equal(np.abs(raw["audio"]).max(1) > 0, has_sample.any(1))


def test_masked_values_change_neither_loss_nor_gradient(learn):
    batch = tiny_batch()
    batch["image"] = batch["image"].replace(mask=np.arange(8) % 4 != 0)
    rng = np.random.default_rng(0)
    noise = lambda x, mask: np.where(mask, x, rng.normal(size=x.shape)).astype(x.dtype)  # noqa: E731
    changed = batch | {
        "image": batch["image"].replace(
            pixels=noise(batch["image"].pixels, batch["image"].mask[:, None, None, None])
        ),
        "audio": batch["audio"].replace(samples=noise(batch["audio"].samples, batch["audio"].mask)),
    }
    for name in ("text", "keywords"):
        tokens = rng.integers(0, VOCAB, batch[name].tokens.shape).astype(np.int32)
        changed[name] = batch[name].replace(tokens=np.where(batch[name].mask, batch[name].tokens, tokens))
    expected, found = learn(batch), learn(changed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


def calls(learner: Learner) -> collections.Counter:
    """How often each encoder, the fusion and each head is called in one train step; traced, not run."""
    counter = collections.Counter()

    def count(call, args, kwargs, context):
        path = context.module.path
        if context.method_name == "__call__" and path[:1] == ("model",) and len(path) == 2:
            counter[path[1]] += 1
        return call(*args, **kwargs)

    key = jax.random.key(0)

    def run(batch):
        params = learner.init({"params": key, "views": key}, batch)
        with nn.intercept_methods(count):
            return learner.apply(params, batch, train=True, rngs={"views": key, "dropout": key})

    jax.eval_shape(run, tiny_batch())
    return counter


def test_each_distinct_input_is_encoded_once(learner):
    assert calls(learner) == {
        "encoders_text": 3,  # unchanged, with masked words, and paired with keywords
        "encoders_image": 1,
        "encoders_audio": 1,
        "fusion": 2,  # for the masked words, and for matching and mismatched pairs
        **{f"heads_{name}": 1 for name in ("text", "image", "audio", "words", "follows", "matches")},
    }


def test_objectives_with_equal_views_share_one_forward_pass():
    mask = lambda: views.MaskTokens("text", vocab=VOCAB)  # noqa: E731
    chosen = {
        "words": objectives.MaskedLanguage("words", view=mask()),
        "again": objectives.MaskedLanguage("words", view=mask(), weight=0.5),
        "image_text": objectives.InfoNCE("image", "text"),
        "text_image": objectives.InfoNCE("text", "image"),
    }
    found = calls(Learner(model=tiny_model(depth=1), objectives=chosen))
    assert found["encoders_text"] == 2 and found["encoders_image"] == 1 and found["heads_text"] == 1
    assert found["heads_words"] == 1 and found["fusion"] == 1


def test_views_of_encodings_call_no_encoder():
    drop = views.Chain((views.MaskTokens("text", vocab=VOCAB), views.DropStreams((("image", 0.5),))))
    chosen = {
        "words": objectives.MaskedLanguage("words", view=drop),
        "matches": tiny_learner().objectives["matches"],
    }
    found = calls(Learner(model=tiny_model(depth=1), objectives=chosen))
    assert (found["encoders_text"], found["encoders_image"], found["encoders_audio"]) == (2, 1, 1)


def test_streams_that_no_objective_reads_are_not_encoded():
    chosen = {"image_text": objectives.InfoNCE("image", "text")}
    found = calls(Learner(model=tiny_model(depth=1), objectives=chosen))
    assert found == {"encoders_text": 1, "encoders_image": 1, "heads_text": 1, "heads_image": 1}


def test_description_of_views(learner):
    assert learner.describe_views() == [
        "Identity: encodes ['image', 'text', 'audio'], reuses [], no fusion, "
        "heads ['image', 'text', 'audio'], for ['image_text', 'audio_text']",
        "MaskTokens: encodes ['text'], reuses ['image', 'audio'], fuses, heads ['words'], for ['words']",
        "SentencePairs: encodes ['pair'], reuses [], no fusion, heads ['follows'], for ['follows']",
        "HardNegatives: encodes [], reuses ['text', 'image', 'audio'], fuses, heads ['matches'], "
        "for ['matches']",
    ]


def test_a_stream_missing_from_the_data_is_named(learner):
    batch = {name: stream for name, stream in tiny_batch().items() if name != "audio"}
    key = jax.random.key(0)
    message = r"reads the stream 'audio', and the data gives \['image', 'keywords', 'text'\]"
    with pytest.raises(InputError, match=message):
        jax.eval_shape(lambda: learner.init({"params": key, "views": key}, jax.tree.map(jnp.asarray, batch)))
