"""ImageTransform: geometry, colour modes, augmentation, bad images."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mmjax import data
from mmjax.data.image import random_box
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
    assert "found uint8 [4, 4, 7]" in bad_reason(transform, np.zeros((4, 4, 7), np.uint8))


RAMP = np.linspace(0, 255, 64).round().astype(np.uint8).reshape(8, 8)


@pytest.mark.parametrize(
    "value",
    [
        RAMP / 255,
        (RAMP / 255).astype(np.float16),
        RAMP.astype(np.float32),
        RAMP.astype(np.int64),
        RAMP.astype(np.uint16) * 257,
        np.repeat(RAMP[..., None] / 255, 3, axis=2),
        Image.fromarray((RAMP / 255).astype(np.float32)),
        Image.fromarray(RAMP.astype(np.float32)),
        Image.fromarray(RAMP.astype(np.int32)),
        Image.fromarray(RAMP.astype(np.uint16) * 257),
    ],
    ids=lambda value: f"{type(value).__name__} {getattr(value, 'dtype', getattr(value, 'mode', ''))}",
)
def test_pixels_are_scaled_by_their_range(make, value):
    value = make.image(value, "TIFF") if isinstance(value, Image.Image) else value
    decoded = data.ImageTransform("png", (8, 8), channels=1).decode({"__key__": "k", "png": value})[0]
    assert decoded.dtype == np.uint8 and np.abs(decoded[..., 0].astype(int) - RAMP).max() <= 1


@pytest.mark.parametrize(
    "value, message",
    [
        (np.array([[0.5, np.nan]]), "expected finite pixels"),
        (np.array([[0.5, np.inf]]), "expected finite pixels"),
        (np.array([[0.5, -0.1]]), "expected pixels from 0 to 1, found -0.1 to 0.5"),
        (np.array([[0.5, 1.5]]), "float64 pixels of 0 to 1 or of 0 to 255, found at most 1.5"),
        (np.array([[0.5, 300.0]]), "float64 pixels of 0 to 1 or of 0 to 255, found at most 300"),
        (np.array([[0, 1]]), "int64 pixels of 0 to 255, found at most 1"),
        (np.array([[0, 256]]), "int64 pixels of 0 to 255, found at most 256"),
        (np.array([[-1, 200]]), "expected pixels from 0 to 255, found -1 to 200"),
        (np.array([[0, 100]], np.uint16), "expected pixels of 16 bits, up to 65535, found at most 100"),
        (np.array([[1j]]), "expected pixels as numbers, found the type complex128"),
        (np.array([["a"]]), "expected pixels as numbers, found the type <U1"),
        (np.array([[None]]), "object [1, 1]"),
        (np.zeros((3, 8, 8), np.uint8), "found uint8 [3, 8, 8]: move the channels to the end"),
        (np.zeros((0, 8), np.uint8), "found uint8 [0, 8]"),
        (np.zeros(8, np.uint8), "found uint8 [8]"),
        (np.zeros((8, 8, 2), np.uint8), "found uint8 [8, 8, 2]"),
        (np.zeros((65, 2), np.uint8), "expected at most 128 pixels (max_pixels) in 'png', found 2 x 65"),
    ],
)
def test_other_arrays_are_bad_examples(value, message):
    assert message in bad_reason(data.ImageTransform("png", (8, 8), max_pixels=128), value)


def test_the_range_of_pixels_can_be_declared():
    transform = data.ImageTransform("png", (1, 2), channels=1, value_range=(-1000, 3095))

    def decoded(*values):
        return transform.decode({"__key__": "k", "png": np.array([values])})[0].ravel().tolist()

    assert decoded(-1000, 3095) == [0, 255] and decoded(-999.0, 1047.5) == [0, 128]
    message = bad_reason(transform, np.array([[0, 3096]]))
    assert "expected pixels from -1000 to 3095, found 0 to 3096" in message
    with pytest.raises(InputError, match=r"expected value_range \(black, white\), black below white"):
        data.ImageTransform("png", (8, 8), value_range=(1.0, 1.0))


def test_grey_levels_of_16_bits_can_be_transparent(make):
    grey = Image.fromarray(np.array([[1000, 65535, 2000]], np.uint16))
    image = make.image(grey, transparency=2000)
    transform = data.ImageTransform("png", (1, 3), channels=1)
    assert transform.decode({"__key__": "k", "png": image})[0].ravel().tolist() == [4, 255, 255]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "PPM"])
def test_an_image_that_is_cut_anywhere_is_a_bad_example_or_whole(make, format):
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3))
    raw = make.image(noise, format)
    transform = data.ImageTransform("png", (16, 16))
    whole = transform.decode({"__key__": "k", "png": raw})[0]
    for end in range(0, len(raw), max(1, len(raw) // 150)):
        try:
            decoded = transform.decode({"__key__": "k", "png": raw[:end]})[0]
        except data.BadExample:
            continue
        np.testing.assert_array_equal(decoded, whole, err_msg=f"cut at {end} of {len(raw)}")


def test_a_jpeg_of_a_thousand_scans_is_refused(make):
    raw = make.image(np.zeros((64, 64, 3)), "JPEG", progressive=True)
    start = raw.rindex(b"\xff\xda")
    bomb = raw[:start] + raw[start:-2] * 1000 + raw[-2:]
    message = bad_reason(data.ImageTransform("png", (8, 8)), bomb)
    assert "expected at most 100 scans in the JPEG in 'png', found 10" in message


def test_extreme_aspect_ratios_take_no_memory():
    for shape in ((1, 10000), (10000, 1)):
        value = np.full(shape, 200, np.uint8)
        for crop_scale in (None, (0.2, 0.3)):
            transform = data.ImageTransform("png", (224, 224), channels=1, crop_scale=crop_scale, **PLAIN)
            for rng in (None, np.random.default_rng(0)):
                pixels = transformed(transform, value, rng)
                assert pixels.shape == (224, 224, 1)
                np.testing.assert_allclose(pixels, 200 / 255, atol=1e-6)


def clip_pixels(image, side):
    """CLIP's preprocessing in Pillow: Resize(side, BICUBIC) and CenterCrop(side) of torchvision on images."""
    width, height = image.size
    if width < height:
        size = (side, int(side * height / width))
    else:
        size = (int(side * width / height), side)
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = int(round((size[0] - side) / 2.0)), int(round((size[1] - side) / 2.0))
    return np.asarray(image.crop((left, top, left + side, top + side)).convert("RGB"))


@pytest.mark.parametrize(
    "size", [(64, 48), (48, 64), (333, 517), (517, 333), (20, 31), (224, 224), (640, 97)]
)
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_evaluation_can_equal_clips_preprocessing(make, size, format):
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    raw = make.image(noise, format)
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    transform = data.ImageTransform(
        "png", (56, 56), interpolation="bicubic", reduced_jpeg=False, mean=mean, std=std
    )
    expected = clip_pixels(Image.open(io.BytesIO(raw)), 56)
    decoded = transform.decode({"__key__": "k", "png": raw})[0]
    np.testing.assert_array_equal(decoded, expected)
    np.testing.assert_allclose(
        transformed(transform, raw), (expected / 255 - np.array(mean)) / np.array(std), atol=1e-5
    )


def test_without_antialias_only_the_nearest_pixels_are_read():
    impulse = np.zeros((64, 64), np.uint8)
    impulse[::8, ::8] = 255  # one of 64 pixels
    kept = {}
    for antialias in (True, False):
        transform = data.ImageTransform("png", (8, 8), channels=1, antialias=antialias)
        kept[antialias] = transform.decode({"__key__": "k", "png": impulse})[0].max()
    assert kept[True] > 0 and kept[False] == 0


def torchvision_box(height, width, scale, ratio, rng):
    """RandomResizedCrop.get_params of torchvision, in NumPy: (top, left, height, width)."""
    area = height * width
    for _ in range(10):
        target_area = area * rng.uniform(*scale)
        aspect = np.exp(rng.uniform(np.log(ratio[0]), np.log(ratio[1])))
        w, h = round(np.sqrt(target_area * aspect)), round(np.sqrt(target_area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w
    if width / height < min(ratio):
        w, h = width, round(width / min(ratio))
    elif width / height > max(ratio):
        w, h = round(height * max(ratio)), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("size", [(500, 500), (400, 900), (900, 400), (100, 2000), (3000, 200)])
@pytest.mark.parametrize("scale", [(0.2, 0.3), (0.5, 1.0), (0.9, 1.0)])
def test_random_boxes_are_distributed_as_torchvisions(size, scale):
    rng, num = np.random.default_rng(0), 4000
    found = np.array([random_box(*size, scale, 1.0, np.random.default_rng(i)) for i in range(num)])
    left, top, right, bottom = found.T
    expected = np.array([torchvision_box(*size, scale, (3 / 4, 4 / 3), rng) for _ in range(num)])
    assert (left >= 0).all() and (top >= 0).all() and (right <= size[1]).all() and (bottom <= size[0]).all()
    pairs = {
        "area": ((right - left) * (bottom - top), expected[:, 2] * expected[:, 3]),
        "aspect": ((right - left) / (bottom - top), expected[:, 3] / expected[:, 2]),
        "left": (left, expected[:, 1]),
        "top": (top, expected[:, 0]),
    }
    for name, (ours, theirs) in pairs.items():
        quantiles = np.linspace(0, 1, 11)
        ours, theirs = np.quantile(ours, quantiles), np.quantile(theirs, quantiles)
        # Boxes of torchvision are rounded to whole pixels; 4,000 samples have an error of 1 to 2 %.
        unit = {"area": size[0] * size[1], "aspect": 1.0, "left": size[1], "top": size[0]}[name]
        assert np.abs(ours - theirs).max() <= 0.03 * unit, (name, ours, theirs)


def test_random_boxes_keep_their_limits():
    for i in range(2000):
        left, top, right, bottom = random_box(300, 400, (0.2, 0.3), 1.0, np.random.default_rng(i))
        assert 0.2 - 1e-9 <= (right - left) * (bottom - top) / 120000 <= 0.3 + 1e-9
        assert 3 / 4 - 1e-9 <= (right - left) / (bottom - top) <= 4 / 3 + 1e-9


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
    assert (
        "k: expected an image in 'png' that Pillow can decode, found OSError: image file is trunc" in message
    )


@pytest.mark.parametrize(
    "value", [b"", b"no image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "text"]
)
def test_other_data_are_bad_examples(value):
    message = bad_reason(data.ImageTransform("png", (8, 8)), value)
    assert message.startswith("k: expected an") and "image in 'png'" in message
    if value[:2] == b"%!":  # refused by its format, and not because Ghostscript is not installed
        assert "found 47 bytes that it cannot identify: b'%!PS-Adobe-3.0 EPSF-3.0" in message


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
    assert "k: expected at most 33554432 pixels (max_pixels) in 'png', found" in message


def test_max_pixels_can_be_set(make):
    image = make.image(np.zeros((10, 11, 3)))
    assert transformed(data.ImageTransform("png", (2, 2), max_pixels=110), image).shape == (2, 2, 3)
    assert "at most 109 pixels (max_pixels) in 'png', found 11 x 10" in bad_reason(
        data.ImageTransform("png", (2, 2), max_pixels=109), image
    )


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(channels=2), "'ImageTransform.channels' expects"),
        (dict(interpolation="area"), "'ImageTransform.interpolation' expects"),
        (dict(mean=(0.5, 0.5)), "expected mean as one number or 3"),
        (dict(crop_scale=(0.0, 1.0)), "'ImageTransform.crop_scale.0' expects float above 0, at most 1"),
        (dict(crop_scale=(0.5, 0.2)), "expected crop_scale (min, max), found (0.5, 0.2)"),
        (dict(subtract_mean_tile=(3, 1)), "expected a size that divides into 3 x 1 tiles, found (8, 8)"),
        (dict(shift=-1), "'ImageTransform.shift' expects int from 0"),
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
