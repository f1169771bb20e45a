"""PatchesTransform: images at their own aspect ratio. VideoTransform: sheets cut into frames."""

import numpy as np
import pytest

from mmjax import data
from mmjax.batch import is_present
from mmjax.data.patches import grid
from mmjax.errors import InputError
from mmjax.evals import previews
from mmjax.evals.baseline import raw_features

PLAIN = dict(mean=0.0, std=1.0)


def transformed(transform, value, rng=None):
    return transform.augment(transform.decode({"__key__": "k", "png": value}), rng)


def joined(patches, channels: int) -> np.ndarray:
    """The image of these patches, "height width channel"."""
    num = patches.mask.sum()
    rows, columns = patches.rows[:num].max() + 1, patches.columns[:num].max() + 1
    assert num == rows * columns and not patches.mask[num:].any()
    side = int(np.sqrt(patches.patches.shape[1] / channels))
    image = np.full((rows * side, columns * side, channels), np.nan)
    for i in range(num):
        top, left = patches.rows[i] * side, patches.columns[i] * side
        image[top : top + side, left : left + side] = patches.patches[i].reshape(side, side, channels)
    assert np.isfinite(image).all()
    return image


def test_an_image_that_fits_keeps_every_pixel(make):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    patches = transformed(data.PatchesTransform("png", patch=4, max_patches=20, **PLAIN), make.image(pixels))
    assert patches.patches.shape == (20, 48) and patches.mask.sum() == 15
    assert list(patches.rows[:6]) == [0, 0, 0, 0, 0, 1] and list(patches.columns[:6]) == [0, 1, 2, 3, 4, 0]
    np.testing.assert_allclose(joined(patches, 3), pixels / 255, atol=1e-6)


@pytest.mark.parametrize("seed", range(40))
def test_grids_fit_and_keep_the_aspect_ratio(seed):
    rng = np.random.default_rng(seed)
    height, width = (int(x) for x in rng.integers(8, 2000, 2))
    patch, max_patches = int(rng.integers(4, 33)), int(rng.integers(1, 300))
    rows, columns = grid(height, width, patch, max_patches)
    assert 1 <= rows and 1 <= columns and rows * columns <= max_patches
    scale = min(1.0, np.sqrt(max_patches * patch**2 / (height * width)))
    if min(height, width) * scale >= patch:  # otherwise one side is shorter than a patch and is enlarged
        for side, num in ((height, rows), (width, columns)):
            assert side * scale / patch - 1 < num <= side * scale / patch + 1e-5


@pytest.mark.parametrize("size, expected", [((5, 400), (1, 64)), ((400, 5), (64, 1)), ((3, 3), (1, 1))])
def test_grids_of_thin_and_tiny_images(size, expected):
    assert grid(*size, patch=4, max_patches=64) == expected


def test_a_large_image_is_shrunk_alike_in_both_directions(make):
    gradient = np.zeros((100, 300, 3), np.uint8)
    gradient[:, 150:] = 255
    patches = transformed(
        data.PatchesTransform("png", patch=4, max_patches=30, **PLAIN), make.image(gradient)
    )
    image = joined(patches, 3)
    assert image.shape == (12, 36, 3)
    np.testing.assert_allclose(image[:, :16], 0.0, atol=1e-6)
    np.testing.assert_allclose(image[:, 20:], 1.0, atol=1e-6)


def test_training_samples_the_resolution(make):
    transform = data.PatchesTransform("png", patch=4, max_patches=60, min_patches=6, channels=1)
    image = make.image(np.zeros((40, 80, 3)))
    sampled = [transformed(transform, image, np.random.default_rng(seed)) for seed in range(40)]
    counts = {int(patches.mask.sum()) for patches in sampled}
    assert len(counts) > 3 and max(counts) <= 60
    assert {p.patches.shape for p in sampled} == {(60, 16)}
    repeated = transformed(transform, image, np.random.default_rng(0))
    np.testing.assert_array_equal(repeated.mask, sampled[0].mask)
    assert transformed(transform, image).mask.sum() == 50  # 5 x 10: evaluation uses max_patches


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(channels=2), "'PatchesTransform.channels' expects"),
        (dict(std=(1.0,)), "expected std as one number or 3"),
        (dict(patch=0), "'PatchesTransform.patch' expects int from 1"),
        (dict(min_patches=10), "expected min_patches of at most max_patches=9, found 10"),
    ],
)
def test_invalid_settings_of_patches_are_refused(options, message):
    with pytest.raises(InputError) as caught:
        data.PatchesTransform(**{"field": "png", "patch": 4, "max_patches": 9} | options)
    assert message in str(caught.value)


def test_patches_are_batched_with_missing_ones(make):
    transform = data.PatchesTransform("png", patch=4, max_patches=9, optional=True)
    records = data.Arrays({"png": [np.zeros((8, 12), np.uint8)], "other": [1]})
    example = data.Dataset(records, {"image": transform}).open().example(0)
    batch = data.collate([example, {}], {"image": transform.empty()})
    assert is_present(batch["image"]).tolist() == [True, False] and batch["image"].mask.sum() == 6
    with pytest.raises(data.BadExample, match="expected an image in 'png' that Pillow can decode"):
        transformed(transform, b"no image")
    scaled = data.PatchesTransform("png", patch=1, max_patches=2, channels=1, value_range=(0, 4095), **PLAIN)
    np.testing.assert_allclose(transformed(scaled, np.array([[0, 4095]])).patches[:, 0], [0, 1], atol=1e-6)


def sheet(**options) -> data.ImageTransform:
    return data.ImageTransform("png", (8, 12), channels=1, **{"mean": 0.0, "std": 1.0} | options)


def test_a_sheet_is_cut_in_reading_order(make):
    """2 x 3 tiles of 4 x 4 pixels, each of another grey level."""
    greys = np.arange(6).reshape(2, 3).repeat(4, 0).repeat(4, 1)
    image = make.image(np.repeat(40 * greys[..., None], 3, -1))
    video = transformed(data.VideoTransform(sheet(), tiles=(2, 3)), image)
    assert video.frames.shape == (6, 4, 4, 1) and video.mask.all() and video.mask.shape == (6,)
    for i in range(6):
        np.testing.assert_allclose(video.frames[i], 40 * i / 255, atol=1e-6)
    empty = data.VideoTransform(sheet(), tiles=(2, 3)).empty()
    assert empty.frames.shape == video.frames.shape and not empty.mask.any()


def test_frames_shift_alike_and_do_not_mix(make):
    rng = np.random.default_rng(0)
    image = make.image(rng.integers(0, 256, (8, 12, 3)))
    transform = data.VideoTransform(sheet(subtract_mean_tile=(2, 3), shift=1), tiles=(2, 3))
    still = transformed(transform, image).frames
    np.testing.assert_allclose(still.mean(0), 0.0, atol=1e-6)
    for seed in range(5):
        down, right = np.random.default_rng(seed).integers(-1, 2, 2)
        rows, columns = np.clip(np.arange(4) - down, 0, 3), np.clip(np.arange(4) - right, 0, 3)
        moved = transformed(transform, image, np.random.default_rng(seed)).frames
        np.testing.assert_allclose(moved, still[:, rows][:, :, columns], atol=1e-6)


@pytest.mark.parametrize(
    "options, tiles, message",
    [
        ({}, (3, 3), "expected a sheet whose size divides into tiles=(3, 3), found size=(8, 12)"),
        ({}, (0, 3), "'VideoTransform.tiles.0' expects int from 1"),
        (
            dict(subtract_mean_tile=(2, 2)),
            (2, 3),
            "expected subtract_mean_tile=(2, 3), the tiles of the video",
        ),
        (dict(shift=1), (2, 3), "they would move pixels from one frame to another"),
        (dict(flip=True), (2, 3), "they would move pixels from one frame to another"),
    ],
)
def test_invalid_settings_of_videos_are_refused(options, tiles, message):
    with pytest.raises(InputError) as caught:
        data.VideoTransform(sheet(**options), tiles=tiles)
    assert message in str(caught.value)


def test_frames_of_another_aspect_ratio_keep_their_edges(make):
    """Three wide frames, black and white: in a sheet scaled as one image, the outer ones are cropped."""
    frame = np.repeat([0, 255], 8)[None].repeat(4, 0)
    image = make.image(np.tile(frame, (1, 3)).astype(np.uint8))
    clip = data.VideoTransform(
        data.ImageTransform("png", (4, 12), channels=1, mean=0.0, std=1.0), tiles=(1, 3)
    )
    frames = transformed(clip, image).frames
    for i in range(3):
        np.testing.assert_allclose(frames[i, :, :, 0], [[0, 0, 1, 1]] * 4, atol=0.15)
    with pytest.raises(data.BadExample, match="expected a sheet of 1 x 3 equal tiles in 'png', found 4 x 16"):
        transformed(clip, make.image(frame.astype(np.uint8)))


def stacked(*examples):
    return data.collate([{"x": example} for example in examples], {"x": examples[0]})["x"]


def test_videos_and_patches_become_images_again(make):
    """Evaluations show and compare videos as their sheets, and patches as their images."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    tiles = data.VideoTransform(sheet(), tiles=(2, 3))
    images, transform = tiles.to_images(stacked(transformed(tiles, make.image(pixels)), tiles.empty()))
    expected = transform.augment(transform.decode({"__key__": "k", "png": make.image(pixels)}), None)
    np.testing.assert_array_equal(images.pixels[0], expected.pixels)
    assert images.mask.tolist() == [True, False]
    cut = data.PatchesTransform("png", patch=4, max_patches=6, **PLAIN)
    batch = stacked(transformed(cut, make.image(pixels)), cut.empty())
    images, transform = cut.to_images(batch)
    assert images.pixels.shape == (2, 12, 12, 3) and transform.size == (12, 12)
    np.testing.assert_allclose(images.pixels[0], (pixels / 255)[np.arange(12) * 8 // 12], atol=1e-6)
    for stream, transform in (
        (batch, cut),
        (stacked(transformed(tiles, make.image(pixels)), tiles.empty()), tiles),
    ):
        shown = previews.make_previews(stream, transform, ["a", "b"])
        assert [preview.kind for preview in shown] == ["image", "image"] and shown[0].values.dtype == np.uint8
        assert raw_features(stream, transform).shape[0] == 2


def test_sheets_of_grid_s1_are_clips(shared_data):
    """24 frames of a mouth: consecutive frames are more similar than frames far apart."""
    sheet = data.ImageTransform("jpg", size=(96, 192), channels=1, subtract_mean_tile=(4, 6), std=0.1)
    source = data.WebDataset(str(shared_data / "grid_s1" / "val.tar"))
    dataset = data.Dataset(source, {"video": data.VideoTransform(sheet, tiles=(4, 6))}).open()
    near, far = [], []
    for index in range(8):
        frames = dataset.example(index)["video"].frames
        assert frames.shape == (24, 24, 32, 1)
        near.append(np.square(frames[1:] - frames[:-1]).mean())
        far.append(np.square(frames[6:] - frames[:-6]).mean())
    assert np.mean(near) < 0.7 * np.mean(far)
