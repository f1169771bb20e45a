"""What each view hides and drops, and what it never does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from view_cases import ROWS, encodings, many_texts, seen, words_of

from mmjax.batch import BoxTargets, Image, is_present
from mmjax.errors import InputError
from mmjax.testing import VOCAB, tiny_batch
from mmjax.views import Chain, CutMix, DropStreams, HardNegatives, Identity, MaskTokens, Mirror, SentencePairs

MASK_ID, NUM_SPECIAL = 4, 5
HARD = HardNegatives("image", "text", heads=("image", "text"), temperature=0.5)


@pytest.fixture(scope="module")
def batch():
    return many_texts()


@pytest.mark.parametrize("unit", ["token", "word", "all"])
def test_masking_hides_at_least_a_word_of_every_text_and_never_a_special_token(batch, unit):
    text = batch["text"]
    made, targets = seen(MaskTokens("text", vocab=VOCAB, unit=unit), batch)
    masked, maskable = targets["masked"], words_of(text)
    assert not (masked & ~maskable).any()
    np.testing.assert_array_equal(masked.any(1), maskable.any(1))
    np.testing.assert_array_equal(targets["tokens"], text.tokens)
    np.testing.assert_array_equal(made["text"].tokens[~masked], np.asarray(text.tokens)[~masked])
    for name in ("mask", "token_types", "words"):
        np.testing.assert_array_equal(getattr(made["text"], name), getattr(text, name))
    assert all(made[name] is not None for name in batch) and made.keys() == batch.keys()
    if unit == "all":
        np.testing.assert_array_equal(masked, maskable)
    if unit == "word":
        words = np.asarray(text.words)
        for row in range(ROWS):
            for word in set(words[row][maskable[row]]):
                assert len(set(masked[row][maskable[row] & (words[row] == word)])) == 1


def test_hidden_tokens_are_masked_replaced_and_kept_8_1_1(batch):
    """Within four standard deviations."""
    text = batch["text"]
    made, targets = seen(MaskTokens("text", vocab=VOCAB, unit="all"), batch)
    before, after = np.asarray(text.tokens)[targets["masked"]], made["text"].tokens[targets["masked"]]
    num = len(before)
    within = lambda share, expected: abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / num)  # noqa: E731
    assert within((after == MASK_ID).mean(), 0.8)
    # A random token is the same token by chance.
    kept = 0.1 + 0.1 / (VOCAB - NUM_SPECIAL)
    assert within((after == before).mean(), kept)
    other = after[(after != MASK_ID) & (after != before)]
    assert within(len(other) / num, 0.2 - kept)
    assert set(other) == set(range(NUM_SPECIAL, VOCAB))


def test_masked_share_is_the_rate(batch):
    """Texts in which it hides nothing by chance hide one unit all the same."""
    text = jax.tree.map(lambda x: jnp.concatenate([x] * 8, 1), batch["text"])
    text = text.replace(words=jnp.where(text.words >= 0, jnp.arange(64)[None], -1))
    _, targets = seen(MaskTokens("text", vocab=VOCAB, rate=0.3, unit="token"), {"text": text})
    assert abs(targets["masked"].sum() / words_of(text).sum() - 0.3) < 0.02


def test_masking_is_a_function_of_the_key(batch):
    view = MaskTokens("text", vocab=VOCAB)
    first, again, other = (seen(view, batch, seed)[0]["text"].tokens for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def dropped(view: DropStreams, seed: int = 0):
    """What `view` makes of a batch and its encodings; the first row has no picture."""
    batch = jax.tree.map(jnp.asarray, tiny_batch(ROWS))
    batch["image"] = batch["image"].replace(mask=jnp.arange(ROWS) > 0)
    encoded = encodings(text=3, image=2, audio=4)

    @jax.jit
    def forward_views(key):
        seen, none = view.transform_batch(batch, key)
        made, nor = view.transform_encoded(encoded, {}, seen, key)
        assert none == nor == {}
        return seen, made

    return (batch, encoded), jax.device_get(forward_views(jax.random.key(seed)))


def test_drop_makes_streams_missing_each_by_itself():
    view = DropStreams((("image", 0.3), ("text", 0.6)))
    (batch, encoded), (seen, made) = dropped(view)
    for name in ("audio", "keywords"):
        jax.tree.map(np.testing.assert_array_equal, seen[name], batch[name])
    jax.tree.map(np.testing.assert_array_equal, made["audio"], encoded["audio"])
    gone = {}
    for stream, rate in view.rates:
        np.testing.assert_array_equal(made[stream].embeddings, encoded[stream].embeddings)
        mask = made[stream].mask[1:]
        np.testing.assert_array_equal(mask.all(1), mask.any(1))
        assert not made[stream].mask[0].any(), "a missing stream came back"
        gone[stream] = ~mask.any(1)
        np.testing.assert_array_equal(is_present(seen[stream])[1:], mask.any(1))
        assert abs(gone[stream].mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / ROWS)
    both = (gone["image"] & gone["text"]).mean()
    assert abs(both - 0.18) < 4 * np.sqrt(0.18 * 0.82 / ROWS)
    np.testing.assert_array_equal(seen["image"].pixels, batch["image"].pixels)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_drop_of_none_and_of_all(rate):
    (_, encoded), (_, made) = dropped(DropStreams((("image", rate),)))
    np.testing.assert_array_equal(made["image"].mask, encoded["image"].mask & (rate == 0))


@pytest.mark.parametrize("rates", [(0.9, 0.9), (1.0, 1.0), (0.5, 1.0)])
def test_drop_can_leave_every_example_one_of_its_streams(rates):
    view = DropStreams(tuple(zip(("image", "text"), rates, strict=True)), keep_one=True)
    _, (seen, _) = dropped(view)
    image, text = is_present(seen["image"]), is_present(seen["text"])
    assert (image | text).all(), "an example lost all"
    assert not image[0], "a missing stream came back"
    free = (1 - rates[0]) * (1 - rates[1])  # the first row is left out
    assert abs((image & text)[1:].mean() - free) < 4 * np.sqrt(free * (1 - free) / ROWS) + 1e-9
    if rates[0] == rates[1]:
        assert abs(image[1:].mean() - text[1:].mean()) < 4 / np.sqrt(ROWS), "kept equally often"


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ((), "DropStreams expects each stream once, and at least one, found []"),
        ((("image", 0.1), ("image", 0.2)), "found ['image', 'image']"),
        ((("image", 1.5), ("audio", 0.5)), "probabilities from 0 to 1, found [('image', 1.5)]"),
    ],
)
def test_ill_made_drops_are_refused(rates, words):
    with pytest.raises(InputError) as caught:
        DropStreams(rates)
    assert words in str(caught.value)


def test_drop_after_pairs_were_made_anew_is_refused():
    encoded = encodings(3 * 4, image=2)
    with pytest.raises(
        InputError, match="expects the 4 rows of the batch in 'image', found 12: put it before"
    ):
        DropStreams((("image", 0.5),)).transform_encoded(encoded, {}, tiny_batch(4), jax.random.key(0))


def numbered(rows: int = ROWS, size: tuple[int, int] = (16, 24)) -> dict:
    """Every pixel tells its row; row 1 has no picture."""
    pixels = jnp.broadcast_to(jnp.arange(rows, dtype=jnp.float32)[:, None, None, None], (rows, *size, 3))
    return {"image": Image(pixels, jnp.arange(rows) != 1)}


def test_cutmix_pastes_one_rectangle_of_the_partner():
    made, targets = seen(CutMix(), numbered())
    pixels, partner, share = made["image"].pixels[..., 0], targets["partner"], targets["share"]
    assert partner.dtype == np.int32 and share.dtype == np.float32
    own = np.arange(ROWS)
    for row in range(ROWS):
        piece = pixels[row] != row
        np.testing.assert_array_equal(pixels[row][piece], partner[row])
        assert share[row] == pytest.approx(1 - piece.mean(), abs=1e-6)
        down, right = piece.any(1), piece.any(0)
        np.testing.assert_array_equal(piece, down[:, None] & right[None, :])
        assert np.diff(np.flatnonzero(down)).max(initial=1) == 1
    alone = partner == own
    assert alone[1] and share[1] == 1 and alone.sum() == 2, "who gave to the missing one, and the missing one"
    assert len(set(partner[~alone])) == ROWS - 2
    assert 0.2 < 1 - share.mean() < 0.5, "half of Beta(1, 1), less what stood over"


def test_cutmix_leaves_some_rows_alone_and_is_a_function_of_the_key():
    view = CutMix(rate=0.25)
    assert view.changed_streams() == ("image",)
    (first, targets), (again, _), (other, _) = (seen(view, numbered(), seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first["image"].pixels, again["image"].pixels)
    assert not np.array_equal(first["image"].pixels, other["image"].pixels)
    assert abs((targets["partner"] != np.arange(ROWS)).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / ROWS)


def test_cutmix_with_impossible_numbers_is_refused():
    with pytest.raises(
        InputError, match="CutMix expects alpha > 0 and a rate from 0 to 1, found 0.0 and 1.0"
    ):
        CutMix(alpha=0.0)


def test_views_in_a_chain_act_one_after_the_other(batch):
    view = Chain(
        (SentencePairs("text", "keywords"), MaskTokens("pair", vocab=VOCAB), DropStreams((("image", 1.0),)))
    )
    assert set(view.changed_streams()) == {"pair"} and view.compared_heads() == ()
    made, targets = seen(view, batch)
    assert targets.keys() == {"is_next", "valid", "tokens", "masked"}
    pair = made["pair"]
    assert targets["masked"].any() and not (targets["masked"] & ~words_of(pair)).any()
    np.testing.assert_array_equal(pair.tokens[~targets["masked"]], targets["tokens"][~targets["masked"]])
    encoded, _ = view.transform_encoded(encodings(ROWS, image=2), {}, made, jax.random.key(0))
    assert not encoded["image"].mask.any() and not is_present(made["image"]).any()


def test_views_are_values():
    """Equal views are looked at once; and a view is a key of compiled functions."""
    assert (
        MaskTokens("text", vocab=VOCAB)
        == MaskTokens("text", vocab=VOCAB)
        != MaskTokens("text", vocab=VOCAB, rate=0.3)
    )
    assert len({Identity(), Identity(), HARD, Chain((HARD,)), Chain((HARD,))}) == 3


def test_mirror_moves_a_mark_with_its_box():
    """One bright pixel a picture, and the box around it."""
    rng = np.random.default_rng(0)
    place = rng.integers(0, 6, (32, 2))
    pixels = np.zeros((32, 6, 6, 1), np.float32)
    pixels[np.arange(32), place[:, 0], place[:, 1]] = 1
    centre = (place[:, None, ::-1] + 0.5) / 6
    boxes = np.concatenate([centre, np.full((32, 1, 2), 1 / 6)], axis=-1).astype(np.float32)
    boxes = np.concatenate([boxes, np.zeros_like(boxes)], axis=1)
    marked = BoxTargets(boxes, np.zeros((32, 2), np.int32), np.arange(2)[None] < np.ones((32, 1)))
    batch = jax.tree.map(jnp.asarray, {"image": Image(pixels, np.ones(32, bool)), "boxes": marked})
    for view in (Mirror(), Mirror(left_right=False), Mirror(up_down=False)):
        made, _ = view.transform_batch(batch, jax.random.key(0))
        row, column = np.divmod(np.asarray(made["image"].pixels).reshape(32, 36).argmax(1), 6)
        found = np.stack([column + 0.5, row + 0.5], axis=1) / 6
        np.testing.assert_allclose(made["boxes"].boxes[:, 0, :2], found, atol=1e-6)
        np.testing.assert_array_equal(made["boxes"].boxes[:, 1], 0)
        moved = np.stack([row, column], axis=1) != place
        assert moved.any(0).tolist() == [view.up_down, view.left_right]
    assert set(Mirror().changed_streams()) == {"image", "boxes"}
