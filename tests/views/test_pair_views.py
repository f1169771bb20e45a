"""Sentence pairs, hard negatives, and equality of rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from view_cases import ROWS, encodings, many_texts, maskable_tokens, transform

from mmjax.batch import Image, Labels
from mmjax.testing import tiny_batch
from mmjax.views import HardNegatives, SentencePairs, equal_rows


@pytest.fixture(scope="module")
def batch():
    return many_texts()


def test_second_sentence_is_the_own_one_or_from_another_row(batch):
    first, second = jax.device_get((batch["text"], batch["keywords"]))
    changed, targets = transform(SentencePairs("text", "keywords"), batch)
    pair, is_next, valid = changed["pair"], targets["is_next"], targets["valid"]
    assert abs(is_next.mean() - 0.5) < 4 * 0.5 / np.sqrt(ROWS)
    assert not valid[-1], "the last text is missing"
    length = first.tokens.shape[1]
    np.testing.assert_array_equal(pair.tokens[:, :length], first.tokens)
    np.testing.assert_array_equal(pair.mask[:, :length], first.mask & valid[:, None])
    np.testing.assert_array_equal(
        pair.token_types, np.arange(pair.tokens.shape[1])[None] >= length + 0 * first.tokens[:, :1]
    )
    tail = pair.tokens[:, length:]
    partners = []
    for row in range(ROWS):
        equal = (second.tokens[:, 1:] == tail[row]).all(1) & (
            second.mask[:, 1:].sum(1) == (tail[row] != 0).sum()
        )
        partners.append(np.flatnonzero(equal))
        assert equal[row] if is_next[row] else (not equal[row] or not valid[row])
        assert equal.any()
        words = pair.words[row][maskable_tokens(pair)[row]]
        own = len(set(first.words[row][maskable_tokens(first)[row]]))
        assert not valid[row] or len(set(words)) == own + len(
            set(pair.words[row, length:][maskable_tokens(pair)[row, length:]])
        )
    # Partners are a rotation: no mismatched row is used twice.
    used = [p[0] for p, true in zip(partners, is_next, strict=True) if not true and len(p) == 1]
    assert len(used) == len(set(used)) > 100


def test_mismatched_pair_with_an_equal_second_sentence_is_invalid():
    short = int(np.argmin(tiny_batch()["keywords"].mask.sum(1)))
    batch = jax.tree.map(lambda x: jnp.asarray(np.repeat(x[short : short + 1], 8, 0)), tiny_batch())
    # Different token ids at padding must not matter.
    keywords = batch["keywords"]
    noise = jnp.arange(8, dtype=jnp.int32)[:, None] + 5
    batch["keywords"] = keywords.replace(tokens=jnp.where(keywords.mask, keywords.tokens, noise))
    assert not keywords.mask.all()
    _, targets = transform(SentencePairs("text", "keywords"), batch)
    np.testing.assert_array_equal(targets["valid"], targets["is_next"])
    assert 0 < targets["is_next"].sum() < 8


def test_mismatched_pair_in_a_batch_of_one_is_invalid():
    _, targets = transform(
        SentencePairs("text", "keywords", mismatch_probability=1.0),
        jax.tree.map(lambda x: jnp.asarray(x[:1]), tiny_batch()),
    )
    assert not targets["valid"].any()


HARD = HardNegatives("image", "text", heads=("image", "text"), temperature=0.5)


def hard_negatives(batch, predictions, rows: int, num: int = 1, view=HARD):
    """`num` samples: the image row and text row of every pair, the encodings and the targets."""
    encoded = encodings(rows, image=2, text=3, audio=4)
    encoded = jax.tree.map(lambda x: jnp.ones_like(x) if x.dtype == bool else x, encoded)
    draw = jax.jit(jax.vmap(lambda key: view.transform_encoded(encoded, predictions, batch, key)))
    paired, targets = jax.device_get(draw(jax.random.split(jax.random.key(0), num)))
    images, texts = (
        paired["image"].embeddings[:, :, 0, 0] // 2,
        (paired["text"].embeddings[:, :, 0, 0] - 1e6) // 3,
    )
    return images.astype(int), texts.astype(int), paired, targets


def image_text_batch(rows: int, repeated: tuple[int, int] | None = None):
    """A batch of distinct images and texts, except for two equal texts."""
    batch = jax.tree.map(lambda x: x.copy(), tiny_batch(rows))
    if repeated:
        for leaf in jax.tree.leaves(batch["text"]):
            leaf[repeated[1]] = leaf[repeated[0]]
    rng = np.random.default_rng(0)
    predictions = {
        name: jnp.asarray(rng.normal(size=(rows, 8)) / 3, jnp.float32) for name in ("image", "text")
    }
    return jax.tree.map(jnp.asarray, batch), predictions


def test_hard_negatives_are_true_pairs_then_wrong_texts_then_wrong_images():
    batch, predictions = image_text_batch(8)
    images, texts, paired, targets = hard_negatives(batch, predictions, 8, num=16)
    own = np.arange(8)
    np.testing.assert_array_equal(images[:, :16], np.tile(own, (16, 2)))
    np.testing.assert_array_equal(texts[:, :8], np.tile(own, (16, 1)))
    np.testing.assert_array_equal(texts[:, 16:], np.tile(own, (16, 1)))
    assert (texts[:, 8:16] != own).all() and (images[:, 16:] != own).all()
    assert targets["valid"].all()
    np.testing.assert_array_equal(targets["matches"], np.tile(np.arange(24) < 8, (16, 1)))
    assert paired["image"].mask.all() and paired["text"].mask.all()
    assert not paired["audio"].mask.any(), "a third stream would reveal the mismatch"


def test_hard_negatives_never_include_an_equal_row():
    batch, predictions = image_text_batch(4, repeated=(0, 2))
    # The forbidden pair has by far the highest similarity.
    predictions = {
        name: x.at[2].set(9 * x[0] / jnp.linalg.norm(x[0])).at[0].multiply(9)
        for name, x in predictions.items()
    }
    images, texts, _, targets = hard_negatives(batch, predictions, 4, num=64)
    for row, twin in ((0, 2), (2, 0)):
        assert (texts[:, 4 + row] != twin).all() and (images[:, 8 + row] != twin).all()
    assert targets["valid"].all()


def test_hard_negatives_are_sampled_by_similarity():
    batch, predictions = image_text_batch(4)
    images, texts, _, _ = hard_negatives(batch, predictions, 4, num=4000)
    weights = np.exp(np.float64(predictions["image"] @ predictions["text"].T) / HARD.temperature)
    np.fill_diagonal(weights, 0)
    for row in range(4):
        for sampled, expected in ((texts[:, 4 + row], weights[row]), (images[:, 8 + row], weights[:, row])):
            found = np.bincount(sampled, minlength=4) / len(sampled)
            np.testing.assert_allclose(found, expected / expected.sum(), atol=4 * 0.5 / np.sqrt(len(sampled)))


def test_rows_with_a_missing_stream_are_invalid_and_never_hard_negatives():
    batch, predictions = image_text_batch(4)
    batch["image"] = Image(batch["image"].pixels, jnp.array([True, False, True, True]))
    images, texts, paired, targets = hard_negatives(batch, predictions, 4, num=32)
    np.testing.assert_array_equal(targets["valid"], np.tile([True, False, True, True], (32, 3)))
    assert (texts[:, [4, 6, 7]] != 1).all() and (images[:, [8, 10, 11]] != 1).all()
    assert not paired["text"].mask[:, 1].any()


def test_batch_of_equal_rows_has_no_valid_hard_negatives():
    batch, predictions = image_text_batch(4)
    batch = jax.tree.map(lambda x: jnp.repeat(x[:1], 4, 0), batch)
    *_, targets = hard_negatives(batch, predictions, 4)
    np.testing.assert_array_equal(targets["valid"], targets["matches"])


def image(*values: float) -> Image:
    pixels = np.array(values, np.float32).reshape(len(values), 1, 1, 1) * np.ones((1, 4, 4, 1), np.float32)
    return Image(jnp.asarray(pixels), jnp.ones(len(values), bool))


def test_equal_rows_of_images_and_labels():
    found = equal_rows({"x": image(0.1, 0.2, 0.1, -0.1)}, "x")
    np.testing.assert_array_equal(found, [[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]])
    found = equal_rows({"x": Labels(jnp.array([3, 1, 3]), jnp.ones(3, bool))}, "x")
    np.testing.assert_array_equal(found, [[1, 0, 1], [0, 1, 0], [1, 0, 1]])


def test_images_that_differ_only_in_sign_bits_are_not_equal():
    """A multiply-and-add checksum would only see whether an odd number of signs differ."""
    signs = np.where(np.random.default_rng(0).integers(0, 2, (64, 4, 4, 1)), 1.0, -1.0).astype(np.float32)
    found = equal_rows({"x": Image(jnp.asarray(signs), jnp.ones(64, bool))}, "x")
    np.testing.assert_array_equal(found, np.eye(64, dtype=bool))
    found = equal_rows({"x": Image(jnp.asarray(np.maximum(signs, 0)), jnp.ones(64, bool))}, "x")
    np.testing.assert_array_equal(found, np.eye(64, dtype=bool))


def test_masked_values_do_not_affect_equality():
    images = image(0.1, 0.2, 0.1)
    found = equal_rows({"x": images.replace(mask=jnp.array([True, False, False]))}, "x")
    np.testing.assert_array_equal(found, [[1, 0, 0], [0, 1, 1], [0, 1, 1]])
