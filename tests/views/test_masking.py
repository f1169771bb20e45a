"""Masked patches and Mixup: the views, encoders of visible patches, and decoders of masked ones."""

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
from mmjax.views import MaskPatches, Mixup, equal_rows

pytestmark = pytest.mark.once

ROWS = 256
GRID, NUM_PATCHES = (6, 8), 48


@pytest.fixture(scope="module")
def batch():
    """Images, and audio of 0 to 10 time steps of 80 samples; the last image is missing."""
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(ROWS, 800)).astype(np.float32)
    ends = np.arange(ROWS) % 11 * 80
    pixels = rng.normal(size=(ROWS, 12, 16, 1)).astype(np.float32)
    batch = {
        "image": Image(pixels, np.arange(ROWS) < ROWS - 1),
        "audio": Audio(samples, np.arange(800)[None] < ends[:, None]),
        "text": tiny_batch(ROWS)["text"],
    }
    return jax.tree.map(jnp.asarray, batch)


def transform(view, batch, seed: int = 0):
    return jax.device_get(jax.jit(view.transform_batch)(batch, jax.random.key(seed)))


def visible_set(visible: np.ndarray, num_patches: int) -> np.ndarray:
    """bool "B L"."""
    found = np.zeros((len(visible), num_patches), bool)
    np.put_along_axis(found, visible, True, axis=1)
    return found


@pytest.mark.parametrize("unit", ["patch", "block"])
def test_mask_patches_masks_the_rate_and_keeps_the_rest_visible(batch, unit):
    changed, targets = transform(
        MaskPatches("image", GRID, rate=0.75, unit=unit, unmasked_stream="all"), batch
    )
    visible = visible_set(changed["image"].visible, NUM_PATCHES)
    assert (visible.sum(1) == 12).all(), "no patch is visible twice"
    np.testing.assert_array_equal(targets["masked_patches"][:-1], ~visible[:-1])
    assert not targets["masked_patches"][-1].any(), "a missing image has no masked patches"
    np.testing.assert_array_equal(changed["image"].pixels, batch["image"].pixels)
    assert changed["all"].visible is None
    fraction = targets["masked_patches"][:-1].mean(0)
    if unit == "patch":
        assert abs(fraction - 0.75).max() < 0.12
    else:  # blocks cover the border less often
        assert 0.2 < fraction.min() < fraction.max() < 0.98
    assert len({row.tobytes() for row in targets["masked_patches"]}) > ROWS // 2


def test_block_masking_masks_neighbours(batch):
    """How often the patch to the right of a masked one is masked too."""
    rates = {}
    for unit in ("patch", "block"):
        _, targets = transform(MaskPatches("image", GRID, rate=0.4, unit=unit), batch)
        masked = targets["masked_patches"][:-1].reshape(-1, *GRID)
        rates[unit] = masked[:, :, 1:][masked[:, :, :-1]].mean()
    assert abs(rates["patch"] - 0.4) < 0.05 and rates["block"] > 0.7


def test_mask_patches_depends_only_on_the_key(batch):
    view = MaskPatches("image", GRID)
    first, again, other = (transform(view, batch, seed)[0]["image"].visible for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_short_recordings_are_masked_at_the_same_rate(batch):
    """Ten time steps by two bands, of which n time steps are sound."""
    changed, targets = transform(MaskPatches("audio", (10, 2), rate=0.5, samples_per_patch=80), batch)
    num = 2 * (np.arange(ROWS) % 11)
    valid = np.arange(20)[None] < num[:, None]
    assert not (targets["masked_patches"] & ~valid).any()
    visible = visible_set(changed["audio"].visible, 20)
    assert (visible.sum(1) == 10).all()
    np.testing.assert_array_equal((visible & valid).sum(1), np.where(num, np.maximum(1, num // 2), 0))
    np.testing.assert_array_equal(targets["masked_patches"], valid & ~visible)


def test_invalid_fields_and_streams_are_refused(batch):
    with pytest.raises(InputError, match="'MaskPatches.rate' expects float above 0, below 1"):
        MaskPatches("image", GRID, rate=1.0)
    with pytest.raises(InputError, match="found 'text', which is a Text: to mask words, use MaskTokens"):
        transform(MaskPatches("text", GRID), batch)
    with pytest.raises(
        InputError, match="samples_per_patch from 1 to the 800 samples of 'audio', found 10 x None"
    ):
        transform(MaskPatches("audio", (10, 1)), batch)
    with pytest.raises(InputError, match="'Mixup.alpha' expects float above 0, finite, found float 0.0"):
        Mixup(("image",), alpha=0.0)
    with pytest.raises(InputError, match="found 'text', which is a Text: remove it from `streams`"):
        transform(Mixup(("text",)), batch)


def test_mixup_is_a_weighted_sum_with_another_row(batch):
    changed, targets = transform(Mixup(("image", "audio"), alpha=0.4), batch)
    weight, partner = np.float64(targets["mix_weight"]), targets["partner"]
    present = batch["audio"].mask.any(1) & batch["image"].mask
    is_mixed = partner != np.arange(ROWS)
    np.testing.assert_array_equal(
        is_mixed, present & present[(np.arange(ROWS) + (partner - np.arange(ROWS))[1]) % ROWS]
    )
    assert (weight[~is_mixed] == 1).all() and is_mixed.mean() > 0.7
    assert len(set(partner[is_mixed])) == is_mixed.sum(), "no partner is used twice"
    # Beta(a, a): mean 1/2, variance 1 / (4 (2 a + 1)).
    assert abs(weight[is_mixed].mean() - 0.5) < 0.1 and abs(weight[is_mixed].var() - 1 / (4 * 1.8)) < 0.03
    image, audio = jax.device_get((batch["image"], batch["audio"]))
    for row in range(ROWS):
        a, b, other = weight[row], 1 - weight[row], partner[row]
        pixels = a * image.pixels[row] + b * image.pixels[other]
        np.testing.assert_allclose(changed["image"].pixels[row], pixels, atol=1e-5)
        samples = a * audio.samples[row] * audio.mask[row] + b * audio.samples[other] * audio.mask[other]
        np.testing.assert_allclose(changed["audio"].samples[row], samples, atol=1e-5)
        np.testing.assert_array_equal(changed["audio"].mask[row], audio.mask[row] | audio.mask[other])
    assert changed["text"] is not None and changed.keys() == batch.keys()


def test_masking_patches_does_not_affect_row_equality(batch):
    few = jax.tree.map(lambda x: x[:4], batch)
    for stream, view in (
        ("image", MaskPatches("image", GRID)),
        ("audio", MaskPatches("audio", (10, 1), samples_per_patch=80)),
    ):
        changed, _ = view.transform_batch(few, jax.random.key(0))
        np.testing.assert_array_equal(equal_rows(changed, stream), equal_rows(few, stream))


def vit(**changes) -> encoders.ViT:
    return encoders.ViT(**{"stem": encoders.LinearPatches((4, 4)), "trunk": tiny_trunk(depth=1)} | changes)


MEL = encoders.LogMel(sample_rate_hz=8000, num_mels=16)


def audio_encoder(**changes) -> encoders.SpectrogramTransformer:
    fields = {"mel": MEL, "stem": encoders.FramePatches(frames=2, mels=8), "trunk": tiny_trunk(depth=1)}
    return encoders.SpectrogramTransformer(**fields | changes)


IMAGE = Image(
    jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 12, 1)), jnp.float32), jnp.ones(2, bool)
)
VISIBLE = jnp.array([[4, 1], [0, 5]], jnp.int32)


@pytest.mark.parametrize("mask_token", [False, True])
def test_encoder_output_does_not_depend_on_masked_patches(mask_token):
    """The gradient is exactly zero for masked patches, and nonzero for visible ones."""
    encoder = vit(mask_token=mask_token)
    image = IMAGE.replace(visible=VISIBLE)
    params = encoder.init(jax.random.key(0), image)

    def total(pixels):
        return jnp.square(encoder.apply(params, image.replace(pixels=pixels)).embeddings).sum() ** 2

    gradient = np.abs(np.asarray(jax.jit(jax.grad(total))(image.pixels)))
    per_patch = gradient.reshape(2, 2, 4, 3, 4).sum((2, 4)).reshape(2, 6)
    np.testing.assert_array_equal(per_patch > 0, visible_set(np.asarray(VISIBLE), 6))


def test_encoding_holds_patch_indices_after_registers():
    encoder = vit(num_registers=2)
    found, _ = encoder.init_with_output(jax.random.key(0), IMAGE.replace(visible=VISIBLE))
    assert found.embeddings.shape == (2, 4, WIDTH)
    np.testing.assert_array_equal(found.patch_indices, [[-1, -1, 4, 1], [-1, -1, 0, 5]])
    assert encoder.init_with_output(jax.random.key(0), IMAGE)[0].patch_indices is None


def test_order_of_visible_patches_does_not_change_their_encodings():
    """Position embeddings follow their patches."""
    encoder = vit()
    params = encoder.init(jax.random.key(0), IMAGE)
    order = jnp.array([[5, 3, 0, 1, 4, 2]] * 2, jnp.int32)
    permuted = encoder.apply(params, IMAGE.replace(visible=order)).embeddings
    expected = encoder.apply(params, IMAGE).embeddings[:, order[0]]
    np.testing.assert_allclose(permuted, expected, atol=TOLERANCE["fp32_stack"])


def test_masked_audio_skips_spec_augment_and_refuses_overlapping_windows():
    audio = Audio(
        jnp.ones((2, 800)), jnp.ones((2, 800), bool), visible=jnp.array([[3, 0], [7, 2]], jnp.int32)
    )
    augment = encoders.SpecAugment(num_time_masks=2, max_mask_frames=9)
    encoder = audio_encoder(augment=augment)
    params = encoder.init(jax.random.key(0), audio)
    trained = encoder.apply(params, audio, train=True)  # SpecAugment would fail without a "views" key
    np.testing.assert_array_equal(trained.embeddings, encoder.apply(params, audio).embeddings)
    np.testing.assert_array_equal(trained.patch_indices, audio.visible)
    with pytest.raises(ValueError, match="windows of ConvFrames overlap: .* use the stem FramePatches"):
        audio_encoder(stem=encoders.ConvFrames()).init(jax.random.key(0), audio)


class IgnoresVisible(encoders.Encoder):
    """An encoder that does not respect `Image.visible`."""

    @nn.compact
    def __call__(self, image: Image, train: bool = False) -> Encoded:
        return Encoded(image.pixels[:, :, 0], jnp.ones((2, 8), bool))


def test_encoder_that_would_read_masked_patches_is_refused():
    model = MultimodalModel(encoders={"image": IgnoresVisible()}, fusion=fusion.Late(), heads={})
    with pytest.raises(
        ValueError, match="patches of the stream 'image', but its encoder IgnoresVisible reads all of them"
    ):
        model.init(jax.random.key(0), "image", IMAGE.replace(visible=VISIBLE), method="encode")
    model.init(jax.random.key(0), "image", IMAGE, method="encode")


def reconstruction(**changes) -> heads.Reconstruction:
    fields = {"stream": "image", "num_patches": 6, "patch_dim": 3, "trunk": tiny_trunk(depth=1)}
    return heads.Reconstruction(**fields | changes)


def test_decoder_reads_visible_patches_by_their_indices():
    """Their order does not matter; registers and padding have no influence."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(1, 4, WIDTH)), jnp.float32)
    indices, mask = jnp.array([[-1, 4, 1, 2]], jnp.int32), jnp.array([[True, True, True, False]])
    head = reconstruction()
    params = head.init(jax.random.key(0), Encoded(x, mask, patch_indices=indices))
    found = head.apply(params, Encoded(x, mask, patch_indices=indices))
    assert found.shape == (1, 6, 3)
    order = jnp.array([2, 0, 3, 1])
    permuted = head.apply(params, Encoded(x[:, order], mask[:, order], patch_indices=indices[:, order]))
    np.testing.assert_allclose(found, permuted, atol=TOLERANCE["fp32_stack"])
    noise = x.at[:, jnp.array([0, 3])].add(9.0)
    np.testing.assert_allclose(
        found, head.apply(params, Encoded(noise, mask, patch_indices=indices)), rtol=1e-6
    )
    other = head.apply(params, Encoded(x, mask, patch_indices=indices.at[0, 1].set(5)))
    assert not np.allclose(found, other, atol=1e-3)


def test_decoder_errors_name_the_field_to_change():
    x, mask = jnp.ones((1, 4, WIDTH)), jnp.ones((1, 4), bool)
    with pytest.raises(ValueError, match="give it a `trunk`, or the encoder `mask_token=True`"):
        reconstruction(trunk=None).init(
            jax.random.key(0), Encoded(x, mask, patch_indices=jnp.zeros((1, 4), jnp.int32))
        )
    with pytest.raises(
        ValueError, match="expects num_patches=6 positions, or patch_indices of some of them, found 4"
    ):
        reconstruction().init(jax.random.key(0), Encoded(x, mask))


def test_codes_are_the_nearest_and_gradients_pass_straight_through():
    head = heads.PatchQuantiser("image", num_codes=7, code_dim=3, patch_dim=4, trunk=tiny_trunk(depth=1))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, WIDTH)), jnp.float32)
    encoded = Encoded(x, jnp.ones((2, 5), bool))
    quantised, params = head.init_with_output(jax.random.key(0), encoded)
    codebook = np.float64(params["params"]["codebook"].unbox())
    codebook /= np.linalg.norm(codebook, axis=1, keepdims=True)
    for row, number in np.ndindex(2, 5):
        distance = [np.sum((np.float64(quantised.latents[row, number]) - code) ** 2) for code in codebook]
        assert quantised.codes[row, number] == np.argmin(distance)
        np.testing.assert_allclose(
            quantised.code_vectors[row, number], codebook[np.argmin(distance)], atol=1e-6
        )
    decoded = jax.grad(lambda x: jnp.square(head.apply(params, encoded.replace(embeddings=x)).patches).sum())(
        x
    )
    assert np.abs(np.asarray(decoded)).max() > 1e-4, (
        "the decoder's gradient must reach the encoder through the codes"
    )


def test_visible_is_none_until_a_view_sets_it():
    names = {field.name for field in dataclasses.fields(Image)}
    assert "visible" in names and IMAGE.visible is None
    assert len(jax.tree.leaves(IMAGE)) == len(jax.tree.leaves(IMAGE.replace(visible=VISIBLE))) - 1
