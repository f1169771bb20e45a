"""MaskTokens, DropStreams, CutMix, Flip and Chain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from view_cases import ROWS, encodings, many_texts, maskable_tokens, transform

from mmjax.batch import BoxTargets, Image, is_present
from mmjax.errors import InputError
from mmjax.testing import VOCAB, tiny_batch
from mmjax.views import Chain, CutMix, DropStreams, Flip, HardNegatives, Identity, MaskTokens, SentencePairs

MASK_ID, NUM_SPECIAL = 4, 5
HARD = HardNegatives("image", "text", heads=("image", "text"), temperature=0.5)


@pytest.fixture(scope="module")
def batch():
    return many_texts()


@pytest.mark.parametrize("unit", ["token", "word", "all"])
def test_mask_tokens_masks_at_least_a_word_of_every_text_and_no_special_token(batch, unit):
    text = batch["text"]
    changed, targets = transform(MaskTokens("text", vocab=VOCAB, unit=unit), batch)
    masked, maskable = targets["masked"], maskable_tokens(text)
    assert not (masked & ~maskable).any()
    np.testing.assert_array_equal(masked.any(1), maskable.any(1))
    np.testing.assert_array_equal(targets["tokens"], text.tokens)
    np.testing.assert_array_equal(changed["text"].tokens[~masked], np.asarray(text.tokens)[~masked])
    for name in ("mask", "token_types", "words"):
        np.testing.assert_array_equal(getattr(changed["text"], name), getattr(text, name))
    assert all(changed[name] is not None for name in batch) and changed.keys() == batch.keys()
    if unit == "all":
        np.testing.assert_array_equal(masked, maskable)
    if unit == "word":
        words = np.asarray(text.words)
        for row in range(ROWS):
            for word in set(words[row][maskable[row]]):
                assert len(set(masked[row][maskable[row] & (words[row] == word)])) == 1


def test_masked_tokens_are_80_mask_10_random_10_unchanged(batch):
    """In percent; within four standard deviations."""
    text = batch["text"]
    changed, targets = transform(MaskTokens("text", vocab=VOCAB, unit="all"), batch)
    before, after = np.asarray(text.tokens)[targets["masked"]], changed["text"].tokens[targets["masked"]]
    num = len(before)

    def within(fraction, expected):
        return abs(fraction - expected) < 4 * np.sqrt(expected * (1 - expected) / num)

    assert within((after == MASK_ID).mean(), 0.8)
    # A random token may equal the original by chance.
    unchanged = 0.1 + 0.1 / (VOCAB - NUM_SPECIAL)
    assert within((after == before).mean(), unchanged)
    random = after[(after != MASK_ID) & (after != before)]
    assert within(len(random) / num, 0.2 - unchanged)
    assert set(random) == set(range(NUM_SPECIAL, VOCAB))


def test_masked_fraction_is_the_rate(batch):
    """The texts are long, since one unit is masked even where sampling selects none."""
    text = jax.tree.map(lambda x: jnp.concatenate([x] * 8, 1), batch["text"])
    text = text.replace(words=jnp.where(text.words >= 0, jnp.arange(64)[None], -1))
    _, targets = transform(MaskTokens("text", vocab=VOCAB, rate=0.3, unit="token"), {"text": text})
    assert abs(targets["masked"].sum() / maskable_tokens(text).sum() - 0.3) < 0.02


def test_mask_tokens_depends_only_on_the_key(batch):
    view = MaskTokens("text", vocab=VOCAB)
    first, again, other = (transform(view, batch, seed)[0]["text"].tokens for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def drop_streams(view: DropStreams, seed: int = 0):
    """((batch, encodings), the same as `view` changes them); the first row has no image."""
    batch = jax.tree.map(jnp.asarray, tiny_batch(ROWS))
    batch["image"] = batch["image"].replace(mask=jnp.arange(ROWS) > 0)
    encoded = encodings(text=3, image=2, audio=4)

    @jax.jit
    def apply(key):
        changed, batch_targets = view.transform_batch(batch, key)
        changed_encoded, encoded_targets = view.transform_encoded(encoded, {}, changed, key)
        assert batch_targets == encoded_targets == {}
        return changed, changed_encoded

    return (batch, encoded), jax.device_get(apply(jax.random.key(seed)))


def test_drop_streams_drops_each_stream_independently():
    view = DropStreams((("image", 0.3), ("text", 0.6)))
    (batch, encoded), (changed, changed_encoded) = drop_streams(view)
    for name in ("audio", "keywords"):
        jax.tree.map(np.testing.assert_array_equal, changed[name], batch[name])
    jax.tree.map(np.testing.assert_array_equal, changed_encoded["audio"], encoded["audio"])
    dropped = {}
    for stream, rate in view.rates:
        np.testing.assert_array_equal(changed_encoded[stream].embeddings, encoded[stream].embeddings)
        mask = changed_encoded[stream].mask[1:]
        np.testing.assert_array_equal(mask.all(1), mask.any(1))
        assert not changed_encoded[stream].mask[0].any(), "a missing stream must stay missing"
        dropped[stream] = ~mask.any(1)
        np.testing.assert_array_equal(is_present(changed[stream])[1:], mask.any(1))
        assert abs(dropped[stream].mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / ROWS)
    both = (dropped["image"] & dropped["text"]).mean()
    assert abs(both - 0.18) < 4 * np.sqrt(0.18 * 0.82 / ROWS)
    np.testing.assert_array_equal(changed["image"].pixels, batch["image"].pixels)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_drop_streams_at_rates_0_and_1(rate):
    (_, encoded), (_, changed_encoded) = drop_streams(DropStreams((("image", rate),)))
    np.testing.assert_array_equal(changed_encoded["image"].mask, encoded["image"].mask & (rate == 0))


@pytest.mark.parametrize("rates", [(0.9, 0.9), (1.0, 1.0), (0.5, 1.0)])
def test_keep_one_leaves_every_example_one_of_its_streams(rates):
    view = DropStreams(tuple(zip(("image", "text"), rates, strict=True)), keep_one=True)
    _, (changed, _) = drop_streams(view)
    image, text = is_present(changed["image"]), is_present(changed["text"])
    assert (image | text).all(), "an example lost all its streams"
    assert not image[0], "a missing stream must stay missing"
    both = (1 - rates[0]) * (1 - rates[1])  # of the rows that have both, all but the first
    assert abs((image & text)[1:].mean() - both) < 4 * np.sqrt(both * (1 - both) / ROWS) + 1e-9
    if rates[0] == rates[1]:
        assert abs(image[1:].mean() - text[1:].mean()) < 4 / np.sqrt(ROWS), "kept equally often"


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ((), "DropStreams expects at least one stream, and each only once, found []"),
        ((("image", 0.1), ("image", 0.2)), "found ['image', 'image']"),
        (
            (("image", 1.5), ("audio", 0.5)),
            "'DropStreams.rates.0.1' expects float from 0 to 1, found float 1.5",
        ),
    ],
)
def test_invalid_drop_rates_are_refused(rates, message):
    with pytest.raises(InputError) as caught:
        DropStreams(rates)
    assert message in str(caught.value)


def test_drop_streams_after_a_view_that_repairs_rows_is_refused():
    encoded = encodings(3 * 4, image=2)
    with pytest.raises(
        InputError,
        match="expects the batch's 4 rows in the encoding of 'image', found 12: place DropStreams before",
    ):
        DropStreams((("image", 0.5),)).transform_encoded(encoded, {}, tiny_batch(4), jax.random.key(0))


def numbered_images(rows: int = ROWS, size: tuple[int, int] = (16, 24)) -> dict:
    """Every pixel holds the number of its row; the image of row 1 is missing."""
    pixels = jnp.broadcast_to(jnp.arange(rows, dtype=jnp.float32)[:, None, None, None], (rows, *size, 3))
    return {"image": Image(pixels, jnp.arange(rows) != 1)}


def test_cutmix_pastes_one_rectangle_of_the_partner():
    changed, targets = transform(CutMix(), numbered_images())
    pixels, partner, mix_weight = changed["image"].pixels[..., 0], targets["partner"], targets["mix_weight"]
    assert partner.dtype == np.int32 and mix_weight.dtype == np.float32
    own = np.arange(ROWS)
    for row in range(ROWS):
        rectangle = pixels[row] != row
        np.testing.assert_array_equal(pixels[row][rectangle], partner[row])
        assert mix_weight[row] == pytest.approx(1 - rectangle.mean(), abs=1e-6)
        in_rows, in_columns = rectangle.any(1), rectangle.any(0)
        np.testing.assert_array_equal(rectangle, in_rows[:, None] & in_columns[None, :])
        assert np.diff(np.flatnonzero(in_rows)).max(initial=1) == 1
    unmixed = partner == own
    assert unmixed[1] and mix_weight[1] == 1
    assert unmixed.sum() == 2, "the missing row, and the row whose partner it is"
    assert len(set(partner[~unmixed])) == ROWS - 2
    assert 0.2 < 1 - mix_weight.mean() < 0.5, "the mean of Beta(1, 1) is 1/2, less what was clipped"


def test_cutmix_mixes_with_the_given_probability_and_depends_only_on_the_key():
    view = CutMix(probability=0.25)
    assert view.changed_streams() == ("image",)
    (first, targets), (again, _), (other, _) = (
        transform(view, numbered_images(), seed) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first["image"].pixels, again["image"].pixels)
    assert not np.array_equal(first["image"].pixels, other["image"].pixels)
    assert abs((targets["partner"] != np.arange(ROWS)).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / ROWS)


def test_cutmix_with_an_invalid_alpha_is_refused():
    with pytest.raises(InputError, match="'CutMix.alpha' expects float above 0, finite, found float 0.0"):
        CutMix(alpha=0.0)


def test_chain_applies_its_views_in_order(batch):
    view = Chain(
        (SentencePairs("text", "keywords"), MaskTokens("pair", vocab=VOCAB), DropStreams((("image", 1.0),)))
    )
    assert set(view.changed_streams()) == {"pair"} and view.compared_heads() == ()
    changed, targets = transform(view, batch)
    assert targets.keys() == {"is_next", "valid", "tokens", "masked"}
    pair = changed["pair"]
    assert targets["masked"].any() and not (targets["masked"] & ~maskable_tokens(pair)).any()
    np.testing.assert_array_equal(pair.tokens[~targets["masked"]], targets["tokens"][~targets["masked"]])
    encoded, _ = view.transform_encoded(encodings(ROWS, image=2), {}, changed, jax.random.key(0))
    assert not encoded["image"].mask.any() and not is_present(changed["image"]).any()


def test_views_are_equal_and_hashed_by_value():
    """The learner computes equal views once, and views are static arguments of jitted functions."""
    assert (
        MaskTokens("text", vocab=VOCAB)
        == MaskTokens("text", vocab=VOCAB)
        != MaskTokens("text", vocab=VOCAB, rate=0.3)
    )
    assert len({Identity(), Identity(), HARD, Chain((HARD,)), Chain((HARD,))}) == 3


def test_flip_moves_an_object_together_with_its_box():
    """Each image has one bright pixel with a box around it."""
    rng = np.random.default_rng(0)
    position = rng.integers(0, 6, (32, 2))
    pixels = np.zeros((32, 6, 6, 1), np.float32)
    pixels[np.arange(32), position[:, 0], position[:, 1]] = 1
    centre = (position[:, None, ::-1] + 0.5) / 6
    boxes = np.concatenate([centre, np.full((32, 1, 2), 1 / 6)], axis=-1).astype(np.float32)
    boxes = np.concatenate([boxes, np.zeros_like(boxes)], axis=1)
    box_targets = BoxTargets(boxes, np.zeros((32, 2), np.int32), np.arange(2)[None] < np.ones((32, 1)))
    batch = jax.tree.map(jnp.asarray, {"image": Image(pixels, np.ones(32, bool)), "boxes": box_targets})
    for view in (Flip(), Flip(horizontal=False), Flip(vertical=False)):
        changed, _ = view.transform_batch(batch, jax.random.key(0))
        row, column = np.divmod(np.asarray(changed["image"].pixels).reshape(32, 36).argmax(1), 6)
        centres = np.stack([column + 0.5, row + 0.5], axis=1) / 6
        np.testing.assert_allclose(changed["boxes"].boxes[:, 0, :2], centres, atol=1e-6)
        np.testing.assert_array_equal(changed["boxes"].boxes[:, 1], 0)
        moved = np.stack([row, column], axis=1) != position
        assert moved.any(0).tolist() == [view.vertical, view.horizontal]
    assert set(Flip().changed_streams()) == {"image", "boxes"}
