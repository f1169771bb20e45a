"""Hidden patches and mixed rows: what the views do, what an encoder sees, and what decoders make of it."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import encoders, fusion, heads
from mmjax.batch import Audio, Encoded, Image
from mmjax.errors import InputError
from mmjax.model import MultimodalModel
from mmjax.testing import TOLERANCE, WIDTH, tiny_batch, tiny_trunk
from mmjax.views import MaskPatches, Mixup, same_content

pytestmark = pytest.mark.once

ROWS = 256
GRID, NUM_PATCHES = (6, 8), 48


@pytest.fixture(scope="module")
def batch():
    """Pictures, and recordings of 0 to 10 moments of 80 samples; the last picture is missing."""
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(ROWS, 800)).astype(np.float32)
    ends = np.arange(ROWS) % 11 * 80
    pixels = rng.normal(size=(ROWS, 12, 16, 1)).astype(np.float32)
    made = {
        "image": Image(pixels, np.arange(ROWS) < ROWS - 1),
        "audio": Audio(samples, np.arange(800)[None] < ends[:, None]),
        "text": tiny_batch(ROWS)["text"],
    }
    return jax.tree.map(jnp.asarray, made)


def seen(view, batch, seed: int = 0):
    return jax.device_get(jax.jit(view.transform_batch)(batch, jax.random.key(seed)))


def visible_set(visible: np.ndarray, num_patches: int) -> np.ndarray:
    """bool "B L"."""
    found = np.zeros((len(visible), num_patches), bool)
    np.put_along_axis(found, visible, True, axis=1)
    return found


@pytest.mark.parametrize("unit", ["patch", "block"])
def test_masking_hides_the_share_and_shows_the_rest(batch, unit):
    made, targets = seen(MaskPatches("image", GRID, rate=0.75, unit=unit, whole="all"), batch)
    visible = visible_set(made["image"].visible, NUM_PATCHES)
    assert (visible.sum(1) == 12).all(), "no patch is shown twice"
    np.testing.assert_array_equal(targets["hidden"][:-1], ~visible[:-1])
    assert not targets["hidden"][-1].any(), "a missing picture has nothing to guess"
    np.testing.assert_array_equal(made["image"].pixels, batch["image"].pixels)
    assert made["all"].visible is None
    share = targets["hidden"][:-1].mean(0)
    # Blocks reach the border less often.
    assert abs(share - 0.75).max() < 0.12 if unit == "patch" else 0.2 < share.min() < share.max() < 0.98
    assert len({row.tobytes() for row in targets["hidden"]}) > ROWS // 2


def test_blocks_are_of_neighbours(batch):
    """How often the patch to the right of a hidden one is hidden too, beside the share that is hidden."""
    rates = {}
    for unit in ("patch", "block"):
        _, targets = seen(MaskPatches("image", GRID, rate=0.4, unit=unit), batch)
        hidden = targets["hidden"][:-1].reshape(-1, *GRID)
        rates[unit] = hidden[:, :, 1:][hidden[:, :, :-1]].mean()
    assert abs(rates["patch"] - 0.4) < 0.05 and rates["block"] > 0.7


def test_masking_is_a_function_of_the_key(batch):
    view = MaskPatches("image", GRID)
    first, again, other = (
        seen(view, batch, seed)[0]["image"].visible for seen_of in (seen,) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_short_recordings_hide_the_same_share_of_their_own(batch):
    """Ten moments by two bands, of which n moments are sound."""
    made, targets = seen(MaskPatches("audio", (10, 2), rate=0.5, samples=80), batch)
    num = 2 * (np.arange(ROWS) % 11)
    there = np.arange(20)[None] < num[:, None]
    assert not (targets["hidden"] & ~there).any()
    shown = visible_set(made["audio"].visible, 20)
    assert (shown.sum(1) == 10).all()
    np.testing.assert_array_equal((shown & there).sum(1), np.where(num, np.maximum(1, num // 2), 0))
    np.testing.assert_array_equal(targets["hidden"], there & ~shown)


def test_refusals_of_views_say_what_they_expect(batch):
    with pytest.raises(InputError, match="rate between 0 and 1 and a grid of at least"):
        MaskPatches("image", GRID, rate=1.0)
    with pytest.raises(InputError, match="'text' is a Text: for words there is MaskTokens"):
        seen(MaskPatches("text", GRID), batch)
    with pytest.raises(
        InputError, match="10 moments of samples=None do not fit the recordings of 800 samples"
    ):
        seen(MaskPatches("audio", (10, 1)), batch)
    with pytest.raises(
        InputError, match=r"expects alpha > 0 and at least one stream, found 0.0 and \('image',\)"
    ):
        Mixup(("image",), alpha=0.0)
    with pytest.raises(InputError, match="'text' is a Text: leave it out of `streams`"):
        seen(Mixup(("text",)), batch)


def test_mixup_is_a_weighted_sum_with_another_row(batch):
    made, targets = seen(Mixup(("image", "audio"), alpha=0.4), batch)
    share, partner = np.float64(targets["share"]), targets["partner"]
    audio = batch["audio"].mask.any(1) & batch["image"].mask
    mixed = partner != np.arange(ROWS)
    np.testing.assert_array_equal(
        mixed, audio & audio[(np.arange(ROWS) + (partner - np.arange(ROWS))[1]) % ROWS]
    )
    assert (share[~mixed] == 1).all() and mixed.mean() > 0.7
    assert len(set(partner[mixed])) == mixed.sum(), "no partner is used twice"
    # Beta(a, a): mean 1/2, variance 1 / (4 (2 a + 1)).
    assert abs(share[mixed].mean() - 0.5) < 0.1 and abs(share[mixed].var() - 1 / (4 * 1.8)) < 0.03
    image, audio = jax.device_get((batch["image"], batch["audio"]))
    for row in range(ROWS):
        a, b, one = share[row], 1 - share[row], partner[row]
        picture = a * image.pixels[row] + b * image.pixels[one]
        np.testing.assert_allclose(made["image"].pixels[row], picture, atol=1e-5)
        sound = a * audio.samples[row] * audio.mask[row] + b * audio.samples[one] * audio.mask[one]
        np.testing.assert_allclose(made["audio"].samples[row], sound, atol=1e-5)
        np.testing.assert_array_equal(made["audio"].mask[row], audio.mask[row] | audio.mask[one])
    assert made["text"] is not None and made.keys() == batch.keys()


def test_what_is_hidden_changes_no_content(batch):
    few = jax.tree.map(lambda x: x[:4], batch)
    for stream, view in (
        ("image", MaskPatches("image", GRID)),
        ("audio", MaskPatches("audio", (10, 1), samples=80)),
    ):
        made, _ = view.transform_batch(few, jax.random.key(0))
        np.testing.assert_array_equal(same_content(made[stream]), same_content(few[stream]))


def vit(**changes) -> encoders.ViT:
    return encoders.ViT(**{"stem": encoders.LinearPatches((4, 4)), "trunk": tiny_trunk(depth=1)} | changes)


MEL = encoders.LogMel(sample_rate_hz=8000, num_mels=16)


def sound_tower(**changes) -> encoders.SpectrogramTransformer:
    fields = {"mel": MEL, "stem": encoders.FramePatches(frames=2, mels=8), "trunk": tiny_trunk(depth=1)}
    return encoders.SpectrogramTransformer(**fields | changes)


PICTURE = Image(
    jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 12, 1)), jnp.float32), jnp.ones(2, bool)
)
VISIBLE = jnp.array([[4, 1], [0, 5]], jnp.int32)


@pytest.mark.parametrize("mask_token", [False, True])
def test_an_encoder_sees_no_pixel_of_a_hidden_patch(mask_token):
    """By gradients: exactly zero for the hidden patches, and not for the visible ones."""
    tower = vit(mask_token=mask_token)
    image = PICTURE.replace(visible=VISIBLE)
    params = tower.init(jax.random.key(0), image)

    def total(pixels):
        return jnp.square(tower.apply(params, image.replace(pixels=pixels)).embeddings).sum() ** 2

    gradient = np.abs(np.asarray(jax.jit(jax.grad(total))(image.pixels)))
    of_patch = gradient.reshape(2, 2, 4, 3, 4).sum((2, 4)).reshape(2, 6)
    np.testing.assert_array_equal(of_patch > 0, visible_set(np.asarray(VISIBLE), 6))


def test_positions_carry_their_places_behind_registers():
    tower = vit(num_registers=2)
    found, _ = tower.init_with_output(jax.random.key(0), PICTURE.replace(visible=VISIBLE))
    assert found.embeddings.shape == (2, 4, WIDTH)
    np.testing.assert_array_equal(found.places, [[-1, -1, 4, 1], [-1, -1, 0, 5]])
    assert tower.init_with_output(jax.random.key(0), PICTURE)[0].places is None


def test_all_patches_shown_in_any_order_is_the_same_picture():
    """What makes of a patch a position travels with it."""
    tower = vit()
    params = tower.init(jax.random.key(0), PICTURE)
    order = jnp.array([[5, 3, 0, 1, 4, 2]] * 2, jnp.int32)
    shown = tower.apply(params, PICTURE.replace(visible=order)).embeddings
    expected = tower.apply(params, PICTURE).embeddings[:, order[0]]
    np.testing.assert_allclose(shown, expected, atol=TOLERANCE["fp32_stack"])


def test_masked_sound_is_neither_augmented_nor_read_through_overlapping_windows():
    audio = Audio(
        jnp.ones((2, 800)), jnp.ones((2, 800), bool), visible=jnp.array([[3, 0], [7, 2]], jnp.int32)
    )
    augment = encoders.SpecAugment(num_time_masks=2, max_time_frames=9)
    tower = sound_tower(augment=augment)
    params = tower.init(jax.random.key(0), audio)
    trained = tower.apply(params, audio, train=True)  # without a key for views it could draw nothing
    np.testing.assert_array_equal(trained.embeddings, tower.apply(params, audio).embeddings)
    np.testing.assert_array_equal(trained.places, audio.visible)
    with pytest.raises(ValueError, match="windows of ConvFrames overlap: .* use the stem FramePatches"):
        sound_tower(stem=encoders.ConvFrames()).init(jax.random.key(0), audio)


class IgnoresVisible(encoders.Encoder):
    """An encoder that does not respect `Image.visible`."""

    @nn.compact
    def __call__(self, image: Image, train: bool = False) -> Encoded:
        return Encoded(image.pixels[:, :, 0], jnp.ones((2, 8), bool))


def test_an_encoder_that_would_see_what_is_hidden_is_refused():
    model = MultimodalModel(encoders={"image": IgnoresVisible()}, fusion=fusion.Late(), heads={})
    with pytest.raises(
        ValueError, match="patches of the stream 'image', but its encoder IgnoresVisible reads all of them"
    ):
        model.init(jax.random.key(0), "image", PICTURE.replace(visible=VISIBLE), method="encode")
    model.init(jax.random.key(0), "image", PICTURE, method="encode")


def reconstruction(**changes) -> heads.Reconstruction:
    fields = {"stream": "image", "num_patches": 6, "patch_dim": 3, "trunk": tiny_trunk(depth=1)}
    return heads.Reconstruction(**fields | changes)


def test_decoder_puts_each_position_in_its_place():
    """The same answer whatever the order of the visible patches; registers and padding say nothing."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(1, 4, WIDTH)), jnp.float32)
    places, mask = jnp.array([[-1, 4, 1, 2]], jnp.int32), jnp.array([[True, True, True, False]])
    head = reconstruction()
    params = head.init(jax.random.key(0), Encoded(x, mask, patch_indices=places))
    found = head.apply(params, Encoded(x, mask, patch_indices=places))
    assert found.shape == (1, 6, 3)
    order = jnp.array([2, 0, 3, 1])
    moved = head.apply(params, Encoded(x[:, order], mask[:, order], patch_indices=places[:, order]))
    np.testing.assert_allclose(found, moved, atol=TOLERANCE["fp32_stack"])
    noise = x.at[:, jnp.array([0, 3])].add(9.0)
    np.testing.assert_allclose(
        found, head.apply(params, Encoded(noise, mask, patch_indices=places)), rtol=1e-6
    )
    other = head.apply(params, Encoded(x, mask, patch_indices=places.at[0, 1].set(5)))
    assert not np.allclose(found, other, atol=1e-3)


def test_refusals_of_the_decoder_say_what_to_change():
    x, mask = jnp.ones((1, 4, WIDTH)), jnp.ones((1, 4), bool)
    with pytest.raises(ValueError, match="give it a `trunk`, or the encoder `mask_token=True`"):
        reconstruction(trunk=None).init(
            jax.random.key(0), Encoded(x, mask, patch_indices=jnp.zeros((1, 4), jnp.int32))
        )
    with pytest.raises(
        ValueError, match="expects num_patches=6 positions, or places of some of them, found 4"
    ):
        reconstruction().init(jax.random.key(0), Encoded(x, mask))


def test_codes_are_the_nearest_and_gradients_pass_straight():
    head = heads.PatchQuantiser("image", num_codes=7, code_dim=3, patch_dim=4, trunk=tiny_trunk(depth=1))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, WIDTH)), jnp.float32)
    encoded = Encoded(x, jnp.ones((2, 5), bool))
    made, params = head.init_with_output(jax.random.key(0), encoded)
    codebook = np.float64(params["params"]["codebook"].unbox())
    codebook /= np.linalg.norm(codebook, axis=1, keepdims=True)
    for row, number in np.ndindex(2, 5):
        distance = [np.sum((np.float64(made.found[row, number]) - code) ** 2) for code in codebook]
        assert made.codes[row, number] == np.argmin(distance)
        np.testing.assert_allclose(made.nearest[row, number], codebook[np.argmin(distance)], atol=1e-6)
    decoded = jax.grad(lambda x: jnp.square(head.apply(params, encoded.replace(embeddings=x)).patches).sum())(
        x
    )
    assert np.abs(np.asarray(decoded)).max() > 1e-4, "the decoder teaches the encoder through the codes"


def test_a_batch_of_a_view_is_of_the_same_kind():
    """What only views fill is absent from data, and present where a view has filled it."""
    names = {field.name for field in dataclasses.fields(Image)}
    assert "visible" in names and PICTURE.visible is None
    assert len(jax.tree.leaves(PICTURE)) == len(jax.tree.leaves(PICTURE.replace(visible=VISIBLE))) - 1
