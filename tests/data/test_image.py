"""ImageTransform: geometry, colour modes, augmentation, bad images."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mmjax import data
from mmjax.errors import InputError

PLAIN = dict(mean=0.0, std=1.0)


def transformed(transform, value, rng=None):
    return transform.augment(transform.decode({"__key__": "k", "png": value}), rng).pixels


def bad_reason(transform, value) -> str:
    with pytest.raises(data.BadExample) as caught:
        transform.decode({"__key__": "k", "png": value})
    return str(caught.value)


def halves(height=8, width=8):
    """Left black, right white."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, width // 2 :] = 255
    return pixels


def test_an_image_becomes_normalised_pixels_of_the_size(make):
    transform = data.ImageTransform("png", (4, 6))
    pixels = transformed(transform, make.image(np.full((9, 20, 3), 255)))
    assert pixels.shape == (4, 6, 3) and pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, 1.0, atol=1e-6)
    by_channel = data.ImageTransform("png", (2, 2), mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25))
    np.testing.assert_allclose(
        transformed(by_channel, make.image(np.full((2, 2, 3), 255)))[0, 0], [1, 1, 0], atol=1e-6
    )


def test_scaling_covers_the_size_and_crops_the_centre(make):
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 4:8] = 255  # a centred square contains only the middle third
    np.testing.assert_allclose(
        transformed(data.ImageTransform("png", (4, 4), **PLAIN), make.image(wide)), 1.0
    )


@pytest.mark.parametrize(
    "mode, expected",
    [
        ("RGB", 0.0),
        ("L", 0.0),
        ("1", 0.0),
        ("P", 0.0),
        ("CMYK", 0.0),
        ("I;16", 0.0),
        ("RGBA", 1.0),
        ("LA", 1.0),
    ],
)
def test_every_mode_is_converted_and_transparency_becomes_white(make, mode, expected):
    if mode == "CMYK":
        image = make.image(Image.new("RGB", (8, 8)).convert("CMYK"), "JPEG")
    else:
        image = make.image(Image.new(mode, (8, 8)))  # black, and fully transparent in modes with alpha
    for channels in (1, 3):
        pixels = transformed(data.ImageTransform("png", (4, 4), channels=channels, **PLAIN), image)
        assert pixels.shape == (4, 4, channels)
        np.testing.assert_allclose(pixels, expected, atol=0.01)


def test_16_bit_grey_keeps_its_brightness(make):
    image = make.image(Image.fromarray(np.full((4, 4), 0x8000, np.uint16)))
    np.testing.assert_allclose(
        transformed(data.ImageTransform("png", (4, 4), **PLAIN), image), 0x80 / 255, atol=1e-6
    )


def test_exif_orientation_is_applied(make):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    turned = make.image(halves(16, 16), "JPEG", exif=exif.tobytes(), quality=95)
    pixels = transformed(data.ImageTransform("png", (4, 4), **PLAIN), turned)
    assert pixels[0].mean() < 0.1 and pixels[-1].mean() > 0.9


def test_arrays_equal_encoded_images(make):
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    transform = data.ImageTransform("png", (4, 4))
    np.testing.assert_array_equal(transformed(transform, pixels), transformed(transform, make.image(pixels)))
    assert transformed(data.ImageTransform("png", (4, 4), channels=1), pixels[..., 0]).shape == (4, 4, 1)
    assert "expected a uint8 array" in bad_reason(transform, np.zeros((4, 4)))
    assert "found uint8 [4, 4, 7]" in bad_reason(transform, np.zeros((4, 4, 7), np.uint8))


def test_crops_are_random_in_training_only_and_repeat_with_the_seed(make):
    gradient = np.tile(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], (64, 1, 3))
    transform = data.ImageTransform("png", (8, 8), crop_scale=(0.2, 0.5), **PLAIN)
    decoded = transform.decode({"__key__": "k", "png": make.image(gradient)})
    assert decoded[0].shape == (18, 18, 3)  # the smallest crop has the size, and larger pixels are not kept
    crops = [transform.augment(decoded, np.random.default_rng(seed)).pixels for seed in (1, 1, 2)]
    np.testing.assert_array_equal(crops[0], crops[1])
    assert np.abs(crops[0] - crops[2]).max() > 0.01
    spread = [np.ptp(crop) for crop in crops]
    assert max(spread) < 0.85 < np.ptp(transform.augment(decoded, None).pixels)


def test_shift_and_flip_move_whole_pixels(make):
    image = make.image(halves())
    shifted = data.ImageTransform("png", (8, 8), shift=2, **PLAIN)
    seen = {
        int(transformed(shifted, image, np.random.default_rng(seed)).mean() * 8 + 0.5) for seed in range(40)
    }
    assert seen == {2, 3, 4, 5, 6}
    flipped = data.ImageTransform("png", (8, 8), flip=True, **PLAIN)
    means = {
        float(transformed(flipped, image, np.random.default_rng(seed))[:, :4].mean()) for seed in range(20)
    }
    assert means == {0.0, 1.0}
    assert transformed(flipped, image)[:, :4].mean() == 0.0


def test_tiles_shift_alike_and_have_mean_zero(make):
    rng = np.random.default_rng(0)
    sheet = rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)  # 2 x 3 tiles of 4 x 4
    transform = data.ImageTransform("png", (8, 12), channels=1, std=1.0, shift=1, subtract_mean_tile=(2, 3))
    tiles = transformed(transform, make.image(sheet)).reshape(2, 4, 3, 4)
    np.testing.assert_allclose(tiles.mean(axis=(0, 2)), 0.0, atol=1e-6)
    grey = np.asarray(Image.fromarray(sheet).convert("L"), np.float32).reshape(2, 4, 3, 4) / 255
    np.testing.assert_allclose(tiles, grey - grey.mean(axis=(0, 2), keepdims=True), atol=1e-6)
    for seed in range(9):
        down, right = np.random.default_rng(seed).integers(-1, 2, 2)
        moved = transformed(transform, make.image(sheet), np.random.default_rng(seed)).reshape(2, 4, 3, 4)
        rows, columns = np.clip(np.arange(4) - down, 0, 3), np.clip(np.arange(4) - right, 0, 3)
        np.testing.assert_allclose(moved, tiles[:, rows][..., columns], atol=1e-6)
    assert "expected a sheet of 2 x 3 equal tiles in 'png', found 9 x 12 pixels" in bad_reason(
        transform, make.image(np.zeros((9, 12, 3)))
    )


def test_tiles_are_scaled_separately(make):
    sheet = halves(8, 16)  # one black and one white tile: no grey pixels may appear between them
    transform = data.ImageTransform("png", (4, 8), channels=1, subtract_mean_tile=(1, 2))
    assert set(np.unique(transform.decode({"__key__": "k", "png": make.image(sheet)})[0])) == {0, 255}


def test_crops_of_a_clip_are_the_same_in_every_tile(make):
    frame = np.random.default_rng(0).integers(0, 256, (12, 12, 1), dtype=np.uint8)
    sheet = np.tile(
        frame, (2, 3, 1)
    )  # six equal tiles: after the mean is subtracted, any difference between crops shows
    transform = data.ImageTransform(
        "png", (12, 18), channels=1, std=1.0, crop_scale=(0.3, 0.5), subtract_mean_tile=(2, 3)
    )
    decoded = transform.decode({"__key__": "k", "png": sheet})
    assert decoded[0].shape == (22, 33, 1)  # each tile has the resolution that the smallest crop needs
    crops = [transform.augment(decoded, np.random.default_rng(seed)).pixels for seed in range(5)]
    for crop in crops:
        np.testing.assert_allclose(crop, 0, atol=1e-6)  # equal crops of equal tiles
    one_tile = dict(channels=1, crop_scale=(0.3, 0.5), **PLAIN)
    alone = data.ImageTransform("png", (6, 6), **one_tile)
    cut = alone.augment([decoded[0][:11, :11]], np.random.default_rng(0)).pixels
    assert np.abs(cut - alone.augment([decoded[0][:11, :11]], None).pixels).max() > 0.1
    moving = np.concatenate([sheet[:12], 255 - sheet[:12]])
    drawn = [
        transformed(transform, moving, None if seed is None else np.random.default_rng(seed))
        for seed in (None, 0, 1)
    ]
    assert np.abs(drawn[1] - drawn[2]).max() > 0.05 and np.abs(drawn[0] - drawn[1]).max() > 0.05


def test_one_of_several_fields_is_chosen_at_random_in_training(make):
    record = {
        "__key__": "k",
        "a": make.image(np.zeros((2, 2, 3))),
        "b": make.image(np.full((2, 2, 3), 255)),
    }
    transform = data.ImageTransform(("none", "a", "b"), (2, 2), **PLAIN)
    decoded = transform.decode(record)
    seen = {
        float(transform.augment(decoded, np.random.default_rng(seed)).pixels.mean()) for seed in range(20)
    }
    assert seen == {0.0, 1.0} and transform.augment(decoded, None).pixels.mean() == 0.0
    with pytest.raises(data.MissingField, match="expected the field 'x'"):
        data.ImageTransform(("x", "y"), (2, 2)).decode(record)


def test_truncated_jpeg_is_a_bad_example(make):
    whole = make.image(np.random.default_rng(0).integers(0, 256, (64, 64, 3)), "JPEG")
    message = bad_reason(data.ImageTransform("png", (8, 8)), whole[: len(whole) // 2])
    assert "k: expected an image in 'png' that Pillow can decode, found image file is truncated" in message


@pytest.mark.parametrize(
    "value", [b"", b"no image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "text"]
)
def test_other_data_are_bad_examples(value):
    message = bad_reason(data.ImageTransform("png", (8, 8)), value)
    assert message.startswith("k: expected an") and "image in 'png'" in message
    if value[:2] == b"%!":  # refused by its format, and not because Ghostscript is not installed
        assert "cannot identify" in message


def png_header(width, height):
    """A PNG whose header declares many pixels, without any data."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("width, height", [(9000, 8000), (10000, 10000), (60000, 60000)])
def test_huge_images_are_refused_before_they_are_decoded(monkeypatch, width, height):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    message = bad_reason(data.ImageTransform("png", (8, 8)), png_header(width, height))
    assert "k: expected at most 67108864 pixels (max_pixels) in 'png', found" in message


def test_max_pixels_can_be_set(make):
    image = make.image(np.zeros((10, 11, 3)))
    assert transformed(data.ImageTransform("png", (2, 2), max_pixels=110), image).shape == (2, 2, 3)
    assert "at most 109 pixels (max_pixels) in 'png', found 11 x 10" in bad_reason(
        data.ImageTransform("png", (2, 2), max_pixels=109), image
    )


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(channels=2), "expected channels 1 (grey) or 3 (RGB), found 2"),
        (dict(mean=(0.5, 0.5)), "expected mean as one number or 3"),
        (dict(crop_scale=(0.0, 1.0)), "expected crop_scale (min, max) between 0 and 1"),
        (dict(subtract_mean_tile=(3, 1)), "expected a size that divides into 3 x 1 tiles, found (8, 8)"),
        (dict(shift=-1), "expected shift >= 0, found -1"),
    ],
)
def test_invalid_settings_are_refused(options, message):
    with pytest.raises(InputError) as caught:
        data.ImageTransform("png", (8, 8), **options)
    assert message in str(caught.value)


def test_empty_has_the_shapes_of_an_image(make):
    transform = data.ImageTransform("png", (3, 5), channels=1)
    full, empty = transformed(transform, make.image(np.zeros((3, 5, 3)))), transform.empty()
    assert empty.pixels.shape == full.shape and empty.pixels.dtype == full.dtype and not empty.mask


def test_jpegs_are_decoded_at_a_sufficient_resolution(make):
    jpeg = make.image(halves(64, 64), "JPEG", quality=95)  # decoded at an eighth, it would be 8 pixels wide
    pixels = transformed(data.ImageTransform("png", (16, 16), **PLAIN), jpeg)
    np.testing.assert_allclose(pixels[0, :, 0], [0.0] * 8 + [1.0] * 8, atol=0.05)
