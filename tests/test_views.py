"""What each view hides, pairs and drops, and what it never does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.batch import Boxes, Encoded, Image, Labels, Text, present
from mmjax.errors import InputError
from mmjax.testing import VOCAB, tiny_batch
from mmjax.views import Chain, Clean, CutMix, Drop, HardNegatives, MaskTokens, Mirror, Pairs, same_content

ROWS = 512
MASK_ID, NUM_SPECIAL = 4, 5


@pytest.fixture(scope="module")
def batch():
    """Many random texts; the last is missing."""
    made = tiny_batch(ROWS)
    mask = made["text"].mask & (np.arange(ROWS) < ROWS - 1)[:, None]
    return jax.tree.map(jnp.asarray, made | {"text": made["text"].replace(mask=mask)})


@functools.partial(jax.jit, static_argnums=0)
def looked_at(view, batch, key):
    return view.inputs(batch, key)


def seen(view, batch, seed: int = 0):
    """(the view's batch, its targets), NumPy."""
    return jax.device_get(looked_at(view, batch, jax.random.key(seed)))


def words_of(text: Text) -> np.ndarray:
    """Where a token may be hidden: bool "B L"."""
    return np.asarray(text.mask & (text.words >= 0))


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


def encodings(rows: int = ROWS, **lengths: int) -> dict[str, Encoded]:
    """Every number tells its stream, its row and its position."""
    return {
        name: Encoded(
            jnp.arange(rows * length, dtype=jnp.float32).reshape(rows, length, 1) + 1e6 * i,
            jnp.ones((rows, length), bool).at[0].set(False),
        )
        for i, (name, length) in enumerate(lengths.items())
    }


def dropped(view: Drop, seed: int = 0):
    """What `view` makes of a batch and its encodings; the first row has no picture."""
    batch = jax.tree.map(jnp.asarray, tiny_batch(ROWS))
    batch["image"] = batch["image"].replace(mask=jnp.arange(ROWS) > 0)
    encoded = encodings(text=3, image=2, audio=4)

    @jax.jit
    def look(key):
        seen, none = view.inputs(batch, key)
        made, nor = view.encodings(encoded, {}, seen, key)
        assert none == nor == {}
        return seen, made

    return (batch, encoded), jax.device_get(look(jax.random.key(seed)))


def test_drop_makes_streams_missing_each_by_itself():
    view = Drop((("image", 0.3), ("text", 0.6)))
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
        np.testing.assert_array_equal(present(seen[stream])[1:], mask.any(1))
        assert abs(gone[stream].mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / ROWS)
    both = (gone["image"] & gone["text"]).mean()
    assert abs(both - 0.18) < 4 * np.sqrt(0.18 * 0.82 / ROWS)
    np.testing.assert_array_equal(seen["image"].pixels, batch["image"].pixels)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_drop_of_none_and_of_all(rate):
    (_, encoded), (_, made) = dropped(Drop((("image", rate),)))
    np.testing.assert_array_equal(made["image"].mask, encoded["image"].mask & (rate == 0))


@pytest.mark.parametrize("rates", [(0.9, 0.9), (1.0, 1.0), (0.5, 1.0)])
def test_drop_can_leave_every_example_one_of_its_streams(rates):
    view = Drop(tuple(zip(("image", "text"), rates, strict=True)), keep_one=True)
    _, (seen, _) = dropped(view)
    image, text = present(seen["image"]), present(seen["text"])
    assert (image | text).all(), "an example lost all"
    assert not image[0], "a missing stream came back"
    free = (1 - rates[0]) * (1 - rates[1])  # the first row is left out
    assert abs((image & text)[1:].mean() - free) < 4 * np.sqrt(free * (1 - free) / ROWS) + 1e-9
    if rates[0] == rates[1]:
        assert abs(image[1:].mean() - text[1:].mean()) < 4 / np.sqrt(ROWS), "kept equally often"


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ((), "Drop expects each stream once, and at least one, found []"),
        ((("image", 0.1), ("image", 0.2)), "found ['image', 'image']"),
        ((("image", 1.5), ("audio", 0.5)), "probabilities from 0 to 1, found [('image', 1.5)]"),
    ],
)
def test_ill_made_drops_are_refused(rates, words):
    with pytest.raises(InputError) as caught:
        Drop(rates)
    assert words in str(caught.value)


def test_drop_after_pairs_were_made_anew_is_refused():
    encoded = encodings(3 * 4, image=2)
    with pytest.raises(
        InputError, match="expects the 4 rows of the batch in 'image', found 12: put it before"
    ):
        Drop((("image", 0.5),)).encodings(encoded, {}, tiny_batch(4), jax.random.key(0))


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
    assert view.changes() == ("image",)
    (first, targets), (again, _), (other, _) = (seen(view, numbered(), seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first["image"].pixels, again["image"].pixels)
    assert not np.array_equal(first["image"].pixels, other["image"].pixels)
    assert abs((targets["partner"] != np.arange(ROWS)).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / ROWS)


def test_cutmix_with_impossible_numbers_is_refused():
    with pytest.raises(
        InputError, match="CutMix expects alpha > 0 and a rate from 0 to 1, found 0.0 and 1.0"
    ):
        CutMix(alpha=0.0)


def test_pairs_are_true_or_from_another_row(batch):
    first, second = jax.device_get((batch["text"], batch["keywords"]))
    made, targets = seen(Pairs("text", "keywords"), batch)
    pair, is_next, valid = made["pair"], targets["is_next"], targets["valid"]
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
        words = pair.words[row][words_of(pair)[row]]
        own = len(set(first.words[row][words_of(first)[row]]))
        assert not valid[row] or len(set(words)) == own + len(
            set(pair.words[row, length:][words_of(pair)[row, length:]])
        )
    # A rotation: of the mismatched, no partner is used twice.
    used = [p[0] for p, true in zip(partners, is_next, strict=True) if not true and len(p) == 1]
    assert len(used) == len(set(used)) > 100


def test_a_pair_with_an_equal_second_is_no_mismatch():
    short = int(np.argmin(tiny_batch()["keywords"].mask.sum(1)))
    batch = jax.tree.map(lambda x: jnp.asarray(np.repeat(x[short : short + 1], 8, 0)), tiny_batch())
    # Padding that differs makes no difference.
    keywords = batch["keywords"]
    noise = jnp.arange(8, dtype=jnp.int32)[:, None] + 5
    batch["keywords"] = keywords.replace(tokens=jnp.where(keywords.mask, keywords.tokens, noise))
    assert not keywords.mask.all()
    _, targets = seen(Pairs("text", "keywords"), batch)
    np.testing.assert_array_equal(targets["valid"], targets["is_next"])
    assert 0 < targets["is_next"].sum() < 8


def test_a_batch_of_one_has_no_mismatch():
    _, targets = seen(
        Pairs("text", "keywords", mismatched=1.0), jax.tree.map(lambda x: jnp.asarray(x[:1]), tiny_batch())
    )
    assert not targets["valid"].any()


HARD = HardNegatives("image", "text", heads=("image", "text"), temperature=0.5)


def hard_negatives(batch, predictions, rows: int, num: int = 1, view=HARD):
    """`num` draws: (which image, which text) of every row, the encodings and the targets."""
    encoded = encodings(rows, image=2, text=3, audio=4)
    encoded = jax.tree.map(lambda x: jnp.ones_like(x) if x.dtype == bool else x, encoded)
    draw = jax.jit(jax.vmap(lambda key: view.encodings(encoded, predictions, batch, key)))
    paired, targets = jax.device_get(draw(jax.random.split(jax.random.key(0), num)))
    images, texts = (
        paired["image"].embeddings[:, :, 0, 0] // 2,
        (paired["text"].embeddings[:, :, 0, 0] - 1e6) // 3,
    )
    return images.astype(int), texts.astype(int), paired, targets


def some(rows: int, repeated: tuple[int, int] | None = None):
    """A batch of distinct images and texts, but for two texts that are equal."""
    made = jax.tree.map(lambda x: x.copy(), tiny_batch(rows))
    if repeated:
        for leaf in jax.tree.leaves(made["text"]):
            leaf[repeated[1]] = leaf[repeated[0]]
    rng = np.random.default_rng(0)
    predictions = {
        name: jnp.asarray(rng.normal(size=(rows, 8)) / 3, jnp.float32) for name in ("image", "text")
    }
    return jax.tree.map(jnp.asarray, made), predictions


def test_hard_negatives_are_true_pairs_then_wrong_texts_then_wrong_images():
    batch, predictions = some(8)
    images, texts, paired, targets = hard_negatives(batch, predictions, 8, num=16)
    own = np.arange(8)
    np.testing.assert_array_equal(images[:, :16], np.tile(own, (16, 2)))
    np.testing.assert_array_equal(texts[:, :8], np.tile(own, (16, 1)))
    np.testing.assert_array_equal(texts[:, 16:], np.tile(own, (16, 1)))
    assert (texts[:, 8:16] != own).all() and (images[:, 16:] != own).all()
    assert targets["valid"].all()
    np.testing.assert_array_equal(targets["matches"], np.tile(np.arange(24) < 8, (16, 1)))
    assert paired["image"].mask.all() and paired["text"].mask.all()
    assert not paired["audio"].mask.any(), "a third stream would give the mismatch away"


def test_hard_negatives_never_pick_an_identical_item():
    batch, predictions = some(4, repeated=(0, 2))
    # The forbidden pair is by far the most alike.
    similar = {
        name: x.at[2].set(9 * x[0] / jnp.linalg.norm(x[0])).at[0].multiply(9)
        for name, x in predictions.items()
    }
    images, texts, _, targets = hard_negatives(batch, similar, 4, num=64)
    for row, twin in ((0, 2), (2, 0)):
        assert (texts[:, 4 + row] != twin).all() and (images[:, 8 + row] != twin).all()
    assert targets["valid"].all()


def test_hard_negatives_are_drawn_by_similarity():
    batch, predictions = some(4)
    images, texts, _, _ = hard_negatives(batch, predictions, 4, num=4000)
    likely = np.exp(np.float64(predictions["image"] @ predictions["text"].T) / HARD.temperature)
    np.fill_diagonal(likely, 0)
    for row in range(4):
        for drawn, expected in ((texts[:, 4 + row], likely[row]), (images[:, 8 + row], likely[:, row])):
            share = np.bincount(drawn, minlength=4) / len(drawn)
            np.testing.assert_allclose(share, expected / expected.sum(), atol=4 * 0.5 / np.sqrt(len(drawn)))


def test_hard_negatives_leave_out_who_is_missing():
    batch, predictions = some(4)
    batch["image"] = Image(batch["image"].pixels, jnp.array([True, False, True, True]))
    images, texts, paired, targets = hard_negatives(batch, predictions, 4, num=32)
    np.testing.assert_array_equal(targets["valid"], np.tile([True, False, True, True], (32, 3)))
    assert (texts[:, [4, 6, 7]] != 1).all() and (images[:, [8, 10, 11]] != 1).all()
    assert not paired["text"].mask[:, 1].any()


def test_a_batch_of_equals_has_no_hard_negatives():
    batch, predictions = some(4)
    batch = jax.tree.map(lambda x: jnp.repeat(x[:1], 4, 0), batch)
    *_, targets = hard_negatives(batch, predictions, 4)
    np.testing.assert_array_equal(targets["valid"], targets["matches"])


def test_views_in_a_chain_act_one_after_the_other(batch):
    view = Chain((Pairs("text", "keywords"), MaskTokens("pair", vocab=VOCAB), Drop((("image", 1.0),))))
    assert set(view.changes()) == {"pair"} and view.compares() == ()
    made, targets = seen(view, batch)
    assert targets.keys() == {"is_next", "valid", "tokens", "masked"}
    pair = made["pair"]
    assert targets["masked"].any() and not (targets["masked"] & ~words_of(pair)).any()
    np.testing.assert_array_equal(pair.tokens[~targets["masked"]], targets["tokens"][~targets["masked"]])
    encoded, _ = view.encodings(encodings(ROWS, image=2), {}, made, jax.random.key(0))
    assert not encoded["image"].mask.any() and not present(made["image"]).any()


def test_views_are_values():
    """Equal views are looked at once; and a view is a key of compiled functions."""
    assert (
        MaskTokens("text", vocab=VOCAB)
        == MaskTokens("text", vocab=VOCAB)
        != MaskTokens("text", vocab=VOCAB, rate=0.3)
    )
    assert len({Clean(), Clean(), HARD, Chain((HARD,)), Chain((HARD,))}) == 3


def image(*values: float) -> Image:
    pixels = np.array(values, np.float32).reshape(len(values), 1, 1, 1) * np.ones((1, 4, 4, 1), np.float32)
    return Image(jnp.asarray(pixels), jnp.ones(len(values), bool))


def test_same_content():
    found = same_content(image(0.1, 0.2, 0.1, -0.1))
    np.testing.assert_array_equal(found, [[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]])
    found = same_content(Labels(jnp.array([3, 1, 3]), jnp.ones(3, bool)))
    np.testing.assert_array_equal(found, [[1, 0, 1], [0, 1, 0], [1, 0, 1]])


def test_black_and_white_pictures_that_differ_are_not_the_same():
    """Their pixels differ in the sign bit: a sum of multiples sees only whether an odd number of them do."""
    signs = np.where(np.random.default_rng(0).integers(0, 2, (64, 4, 4, 1)), 1.0, -1.0).astype(np.float32)
    found = same_content(Image(jnp.asarray(signs), jnp.ones(64, bool)))
    np.testing.assert_array_equal(found, np.eye(64, dtype=bool))
    found = same_content(Image(jnp.asarray(np.maximum(signs, 0)), jnp.ones(64, bool)))
    np.testing.assert_array_equal(found, np.eye(64, dtype=bool))


def test_contents_are_compared_only_where_they_are_there():
    pictures = image(0.1, 0.2, 0.1)
    found = same_content(pictures.replace(mask=jnp.array([True, False, False])))
    np.testing.assert_array_equal(found, [[1, 0, 0], [0, 1, 1], [0, 1, 1]])


def test_mirror_moves_a_mark_with_its_box():
    """One bright pixel a picture, and the box around it."""
    rng = np.random.default_rng(0)
    place = rng.integers(0, 6, (32, 2))
    pixels = np.zeros((32, 6, 6, 1), np.float32)
    pixels[np.arange(32), place[:, 0], place[:, 1]] = 1
    centre = (place[:, None, ::-1] + 0.5) / 6
    boxes = np.concatenate([centre, np.full((32, 1, 2), 1 / 6)], axis=-1).astype(np.float32)
    boxes = np.concatenate([boxes, np.zeros_like(boxes)], axis=1)
    marked = Boxes(boxes, np.zeros((32, 2), np.int32), np.arange(2)[None] < np.ones((32, 1)))
    batch = jax.tree.map(jnp.asarray, {"image": Image(pixels, np.ones(32, bool)), "boxes": marked})
    for view in (Mirror(), Mirror(left_right=False), Mirror(up_down=False)):
        made, _ = view.inputs(batch, jax.random.key(0))
        row, column = np.divmod(np.asarray(made["image"].pixels).reshape(32, 36).argmax(1), 6)
        found = np.stack([column + 0.5, row + 0.5], axis=1) / 6
        np.testing.assert_allclose(made["boxes"].boxes[:, 0, :2], found, atol=1e-6)
        np.testing.assert_array_equal(made["boxes"].boxes[:, 1], 0)
        moved = np.stack([row, column], axis=1) != place
        assert moved.any(0).tolist() == [view.up_down, view.left_right]
    assert set(Mirror().changes()) == {"image", "boxes"}
