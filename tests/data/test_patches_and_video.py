"""Pictures at their own aspect, and sheets cut into frames."""

import os
from pathlib import Path

import numpy as np
import pytest

from mmjax import data
from mmjax.batch import is_present
from mmjax.data.patches import grid
from mmjax.errors import InputError
from mmjax.evals import cards
from mmjax.evals.baseline import raw_features

FOLDER = Path(os.environ.get("MMJAX_DATA", Path(__file__).parents[3] / "shared" / "data"))
PLAIN = dict(mean=0.0, std=1.0)


def one(transform, value, rng=None):
    return transform.augment(transform.decode({"__key__": "k", "png": value}), rng)


def whole(patches, channels: int) -> np.ndarray:
    """The picture put together again."""
    num = patches.mask.sum()
    rows, columns = patches.rows[:num].max() + 1, patches.columns[:num].max() + 1
    assert num == rows * columns and not patches.mask[num:].any()
    side = int(np.sqrt(patches.patches.shape[1] / channels))
    picture = np.full((rows * side, columns * side, channels), np.nan)
    for i in range(num):
        top, left = patches.rows[i] * side, patches.columns[i] * side
        picture[top : top + side, left : left + side] = patches.patches[i].reshape(side, side, channels)
    assert np.isfinite(picture).all()
    return picture


def test_a_picture_that_fits_keeps_every_pixel(make):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    patches = one(data.PatchesTransform("png", patch=4, max_patches=20, **PLAIN), make.image(pixels))
    assert patches.patches.shape == (20, 48) and patches.mask.sum() == 15
    assert list(patches.rows[:6]) == [0, 0, 0, 0, 0, 1] and list(patches.columns[:6]) == [0, 1, 2, 3, 4, 0]
    np.testing.assert_allclose(whole(patches, 3), pixels / 255, atol=1e-6)


@pytest.mark.parametrize("seed", range(40))
def test_grids_fit_keep_the_aspect_and_waste_little(seed):
    rng = np.random.default_rng(seed)
    height, width = (int(x) for x in rng.integers(8, 2000, 2))
    patch, most = int(rng.integers(4, 33)), int(rng.integers(1, 300))
    rows, columns = grid(height, width, patch, most)
    assert 1 <= rows and 1 <= columns and rows * columns <= most
    scale = min(1.0, np.sqrt(most * patch**2 / (height * width)))
    if min(height, width) * scale >= patch:  # else one side is less than a patch
        for side, num in ((height, rows), (width, columns)):
            assert side * scale / patch - 1 < num <= side * scale / patch + 1e-5


@pytest.mark.parametrize("size, found", [((5, 400), (1, 64)), ((400, 5), (64, 1)), ((3, 3), (1, 1))])
def test_thin_and_tiny_pictures(size, found):
    assert grid(*size, patch=4, max_patches=64) == found


def test_a_large_picture_is_shrunk_both_ways_alike(make):
    gradient = np.zeros((100, 300, 3), np.uint8)
    gradient[:, 150:] = 255
    patches = one(data.PatchesTransform("png", patch=4, max_patches=30, **PLAIN), make.image(gradient))
    picture = whole(patches, 3)
    assert picture.shape == (12, 36, 3)
    np.testing.assert_allclose(picture[:, :16], 0.0, atol=1e-6)
    np.testing.assert_allclose(picture[:, 20:], 1.0, atol=1e-6)


def test_training_draws_the_resolution(make):
    transform = data.PatchesTransform("png", patch=4, max_patches=60, min_patches=6, channels=1)
    picture = make.image(np.zeros((40, 80, 3)))
    drawn = [one(transform, picture, np.random.default_rng(seed)) for seed in range(40)]
    counts = {int(patches.mask.sum()) for patches in drawn}
    assert len(counts) > 3 and max(counts) <= 60
    assert {p.patches.shape for p in drawn} == {(60, 16)}
    twice = one(transform, picture, np.random.default_rng(0))
    np.testing.assert_array_equal(twice.mask, drawn[0].mask)
    assert one(transform, picture).mask.sum() == 50  # 5 x 10: evaluation takes the most


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(channels=2), "expected channels 1 (grey) or 3 (RGB), found 2"),
        (dict(std=(1.0,)), "expected std as one number or 3"),
        (dict(patch=0), "expected patch and max_patches of at least 1, found patch=0, max_patches=9"),
        (dict(min_patches=10), "expected min_patches from 1 to max_patches=9, found 10"),
    ],
)
def test_ill_made_patches_are_refused(options, words):
    with pytest.raises(InputError) as caught:
        data.PatchesTransform(**{"field": "png", "patch": 4, "max_patches": 9} | options)
    assert words in str(caught.value)


def test_patches_are_batched_with_those_that_miss(make):
    transform = data.PatchesTransform("png", patch=4, max_patches=9, optional=True)
    records = data.Arrays({"png": [np.zeros((8, 12), np.uint8)], "other": [1]})
    example = data.Dataset(records, {"image": transform}).open().example(0)
    batch = data.collate([example, {}], {"image": transform.empty()})
    assert is_present(batch["image"]).tolist() == [True, False] and batch["image"].mask.sum() == 6
    broken = pytest.raises(data.BadExample, match="expected a picture in 'png' that Pillow can decode")
    with broken:
        one(transform, b"no picture")


def sheet(**options) -> data.ImageTransform:
    return data.ImageTransform("png", (8, 12), channels=1, **{"mean": 0.0, "std": 1.0} | options)


def test_a_sheet_is_cut_in_reading_order(make):
    """2 x 3 tiles of 4 x 4, each of its own grey."""
    greys = np.arange(6).reshape(2, 3).repeat(4, 0).repeat(4, 1)
    picture = make.image(np.repeat(40 * greys[..., None], 3, -1))
    video = one(data.VideoTransform(sheet(), tiles=(2, 3)), picture)
    assert video.frames.shape == (6, 4, 4, 1) and video.mask.all() and video.mask.shape == (6,)
    for i in range(6):
        np.testing.assert_allclose(video.frames[i], 40 * i / 255, atol=1e-6)
    empty = data.VideoTransform(sheet(), tiles=(2, 3)).empty()
    assert empty.frames.shape == video.frames.shape and not empty.mask.any()


def test_frames_move_alike_and_stay_in_their_frame(make):
    rng = np.random.default_rng(0)
    picture = make.image(rng.integers(0, 256, (8, 12, 3)))
    transform = data.VideoTransform(sheet(subtract_mean_tile=(2, 3), shift=1), tiles=(2, 3))
    still = one(transform, picture).frames
    np.testing.assert_allclose(still.mean(0), 0.0, atol=1e-6)
    for seed in range(5):
        down, right = np.random.default_rng(seed).integers(-1, 2, 2)
        rows, columns = np.clip(np.arange(4) - down, 0, 3), np.clip(np.arange(4) - right, 0, 3)
        moved = one(transform, picture, np.random.default_rng(seed)).frames
        np.testing.assert_allclose(moved, still[:, rows][:, :, columns], atol=1e-6)


@pytest.mark.parametrize(
    "options, tiles, words",
    [
        ({}, (3, 3), "expected a sheet whose size divides into tiles=(3, 3), found size=(8, 12)"),
        ({}, (0, 3), "expected a sheet whose size divides into tiles=(0, 3)"),
        (
            dict(subtract_mean_tile=(2, 2)),
            (2, 3),
            "expected subtract_mean_tile=(2, 3), the tiles of the video",
        ),
        (dict(shift=1), (2, 3), "they would move pixels from one frame to another"),
        (dict(flip=True), (2, 3), "they would move pixels from one frame to another"),
    ],
)
def test_ill_made_videos_are_refused(options, tiles, words):
    with pytest.raises(InputError) as caught:
        data.VideoTransform(sheet(**options), tiles=tiles)
    assert words in str(caught.value)


def stacked(*examples):
    return data.collate([{"x": example} for example in examples], {"x": examples[0]})["x"]


def test_what_was_cut_can_be_shown(make):
    """Evaluations draw and compare videos as their sheets, patches as their pictures."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    tiles = data.VideoTransform(sheet(), tiles=(2, 3))
    images, transform = tiles.to_images(stacked(one(tiles, make.image(pixels)), tiles.empty()))
    expected = transform.augment(transform.decode({"__key__": "k", "png": make.image(pixels)}), None)
    np.testing.assert_array_equal(images.pixels[0], expected.pixels)
    assert images.mask.tolist() == [True, False]
    cut = data.PatchesTransform("png", patch=4, max_patches=6, **PLAIN)
    batch = stacked(one(cut, make.image(pixels)), cut.empty())
    images, transform = cut.to_images(batch)
    assert images.pixels.shape == (2, 12, 12, 3) and transform.size == (12, 12)
    np.testing.assert_allclose(images.pixels[0], (pixels / 255)[np.arange(12) * 8 // 12], atol=1e-6)
    for stream, made in ((batch, cut), (stacked(one(tiles, make.image(pixels)), tiles.empty()), tiles)):
        shown = cards.cards(stream, made, ["a", "b"])
        assert [card.kind for card in shown] == ["image", "image"] and shown[0].values.dtype == np.uint8
        assert raw_features(stream, made).shape[0] == 2


@pytest.mark.skipif(not (FOLDER / "grid_s1").is_dir(), reason="grid_s1 is not under $MMJAX_DATA")
def test_grids_sheets_are_clips():
    """24 frames of a mouth: neighbours in time are more alike than frames far apart."""
    sheet = data.ImageTransform("jpg", size=(96, 192), channels=1, subtract_mean_tile=(4, 6), std=0.1)
    source = data.WebDataset(str(FOLDER / "grid_s1" / "val.tar"))
    dataset = data.Dataset(source, {"video": data.VideoTransform(sheet, tiles=(4, 6))}).open()
    near, far = [], []
    for index in range(8):
        frames = dataset.example(index)["video"].frames
        assert frames.shape == (24, 24, 32, 1)
        near.append(np.square(frames[1:] - frames[:-1]).mean())
        far.append(np.square(frames[6:] - frames[:-6]).mean())
    assert np.mean(near) < 0.7 * np.mean(far)
