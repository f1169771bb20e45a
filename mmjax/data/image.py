"""One record -> normalised pixels of static size."""

import dataclasses
import math
from typing import Any, Literal, TypeAlias

import numpy as np

from mmjax.batch import Image
from mmjax.data import augment
from mmjax.data.augment.base import GEOMETRY, with_generators, without
from mmjax.data.pillow_image import (
    Interpolation,
    open_image,
    resize,
    resize_to_cover,
    to_array,
    to_pillow,
)
from mmjax.data.records import BadExample, Record, lookup, read_each_path
from mmjax.data.tiles import join_tiles, split_tiles
from mmjax.data.transform import Transform, choose
from mmjax.errors import InputError
from mmjax.ranges import Count, Finite, Pixel, Positive, PositiveFraction, Size, Whole

Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom


@dataclasses.dataclass(frozen=True)
class ImageTransform(Transform):
    """Decodes an image, applies its EXIF orientation, scales it to cover the size, crops and normalises.

    Interpolation "bicubic" with `reduced_jpeg=False` gives the pixels of CLIP's preprocessing (docs/data.md).

    field: path to an encoded image, of which the first frame is read, or to an array
        "height width [channel]". Of several paths, training takes a random one and evaluation the first that
        the record has.
    size: (height, width) of the result.
    channels: 3 (RGB) or 1 (grey).
    crop_scale: (min, max) fraction of the area that training crops at random; the crop's aspect ratio is
        that of `size` times 3/4 to 4/3, log-uniformly (torchvision's RandomResizedCrop; Szegedy et al. 2015).
        A crop that does not fit is sampled again, up to ten times; then it is the largest centred one within
        the aspect ratios. None: no random crop.
    flip: training flips half of the images horizontally.
    shift: training shifts the image by up to so many pixels each way, and repeats the edge.
    mean, std: of the normalisation `(pixels / 255 - mean) / std`; one number, or one per channel.
    max_pixels: a larger image is a bad example, refused by its header before it is decoded. Decoding takes up
        to 15 bytes a pixel, .5 GiB by default.
    background: grey level behind transparent pixels.
    subtract_mean_tile: (rows, columns) of a sheet of equal tiles, such as the frames of a clip. All tiles
        are scaled, cropped and shifted alike, and the mean of the tiles is subtracted in place of `mean`,
        which removes what does not move.
    optional: the record may lack all paths; the example then lacks this stream.
    augmentations: further augmentations of training, in order, after crop, flip and shift.
    interpolation: the filter of all scaling.
    antialias: average over the pixels that a pixel of a smaller result covers; False: interpolate between the
        nearest ones.
    reduced_jpeg: decode JPEGs at half of their resolution, a quarter or an eighth, if that is still at least
        `size`: faster, and some grey levels off.
    value_range: (black, white) of pixels that are floats or integers of more than 8 bits. None: the largest
        number of 16-bit pixels, or else the range that the values show: 0 to 1 or 0 to 255. A picture with
        values outside its range, or that shows no range, is a bad example.
    """

    field: str | tuple[str, ...]
    size: tuple[Size, Size]
    channels: Literal[1, 3] = 3
    crop_scale: tuple[PositiveFraction, PositiveFraction] | None = None
    flip: bool = False
    shift: Whole = 0
    mean: Finite | tuple[Finite, ...] = 0.5
    std: Positive | tuple[Positive, ...] = 0.5
    max_pixels: Count = 32 * 2**20
    background: Pixel = 255
    subtract_mean_tile: tuple[Size, Size] | None = None
    optional: bool = False
    augmentations: tuple[augment.ImageAugmentation, ...] = ()
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    reduced_jpeg: bool = True
    value_range: tuple[Finite, Finite] | None = None

    def __post_init__(self):
        check_pixels(self.channels, self.mean, self.std, self.value_range)
        if self.crop_scale is not None and self.crop_scale[0] > self.crop_scale[1]:
            raise InputError(f"expected crop_scale (min, max), found {self.crop_scale}")
        rows, columns = self._tiles
        if self.size[0] % rows or self.size[1] % columns:
            raise InputError(f"expected a size that divides into {rows} x {columns} tiles, found {self.size}")

    @property
    def _tiles(self) -> tuple[int, int]:
        return self.subtract_mean_tile or (1, 1)

    @property
    def _tile_size(self) -> tuple[int, int]:
        return self.size[0] // self._tiles[0], self.size[1] // self._tiles[1]

    def without(self, forbidden: frozenset[str]) -> "ImageTransform":
        return dataclasses.replace(
            self,
            crop_scale=None if "crop" in forbidden else self.crop_scale,
            flip=self.flip and "flip" not in forbidden,
            shift=0 if "shift" in forbidden else self.shift,
            augmentations=without(self.augmentations, forbidden),
        )

    def geometry(self) -> tuple[Any, ...]:
        """The settings that two transforms must share, so that equal random draws move both alike."""
        paths = "one path" if isinstance(self.field, str) else self.field
        moving = tuple(a for a in self.augmentations if a.changes() & GEOMETRY)
        return paths, self.size, self._tiles, self.crop_scale, self.flip, self.shift, moving

    def decode(self, record: Record) -> list[np.ndarray]:
        """Returns uint8 "height width channel" per path of the record; larger than `size` before a crop."""
        return list(read_each_path(record, self.field, self._decode))

    def locate(self, record: Record) -> None:
        next(read_each_path(record, self.field, lookup))

    def _decode(self, record: Record, path: str) -> np.ndarray:
        key, value = record["__key__"], lookup(record, path)
        # The smallest crop must still have the resolution of `size`; more would only fill the cache.
        margin = 1.0 if self.crop_scale is None else 1.0 / math.sqrt(self.crop_scale[0])
        wanted = (math.ceil(self.size[0] * margin), math.ceil(self.size[1] * margin))
        image = open_image(
            key, path, value,
            channels=self.channels, max_pixels=self.max_pixels, background=self.background,
            min_side=max(wanted) if self.reduced_jpeg and not self.subtract_mean_tile else 0,
            value_range=self.value_range,
        )  # fmt: skip
        if self.subtract_mean_tile:
            return self._scale_tiles(key, path, image, margin)
        if self.crop_scale is None:
            return to_array(resize_to_cover(image, self.size, self.interpolation, self.antialias))
        scale = max(wanted[0] / image.height, wanted[1] / image.width)
        if scale < 1.0:
            image = self._resize(image, (round(image.height * scale), round(image.width * scale)))
        return to_array(image)

    def _resize(self, image: Any, size: tuple[int, int], box: Box | None = None) -> Any:
        return resize(image, size, box, self.interpolation, self.antialias)

    def _scale_tiles(self, key: str, path: str, image: Any, margin: float) -> np.ndarray:
        """Scales each tile separately: a filter over the sheet would mix pixels of neighbouring tiles."""
        rows, columns = self._tiles
        if image.height % rows or image.width % columns:
            found = f"{image.height} x {image.width} pixels"
            raise BadExample(
                key, f"expected a sheet of {rows} x {columns} equal tiles in {path!r}, found {found}"
            )
        size = tuple(math.ceil(side * margin) for side in self._tile_size)
        tiles = split_tiles(to_array(image), self._tiles)
        return join_tiles(
            np.stack([to_array(self._resize(to_pillow(tile), size)) for tile in tiles]), self._tiles
        )

    def augment(self, decoded: list[np.ndarray], rng: np.random.Generator | None) -> Image:
        pixels = choose(decoded, rng)
        if self.crop_scale is not None or pixels.shape[:2] != self.size:
            pixels = self._crop(pixels, rng)
        if rng is not None and (self.flip or self.shift):
            pixels = self._flip_and_shift(pixels, rng)
        if rng is not None and self.augmentations:
            tiles = split_tiles(pixels, self._tiles)
            for augmentation, generator in with_generators(self.augmentations, rng):
                tiles = augmentation(tiles, generator)
            pixels = join_tiles(tiles, self._tiles)
        return Image(self._normalise(pixels), np.asarray(True))

    def _crop(self, pixels: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """Scales a random box, the same in all tiles, to the size; in evaluation the largest centred box."""
        tiles, size = split_tiles(pixels, self._tiles), self._tile_size
        if rng is None or self.crop_scale is None:
            scaled = [
                resize_to_cover(to_pillow(tile), size, self.interpolation, self.antialias) for tile in tiles
            ]
        else:
            box = random_box(*tiles.shape[1:3], self.crop_scale, size[1] / size[0], rng)
            scaled = [self._resize(to_pillow(tile), size, box) for tile in tiles]
        return join_tiles(np.stack([to_array(image) for image in scaled]), self._tiles)

    def _flip_and_shift(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Flips and shifts within each tile, by indexing."""
        down, right = rng.integers(-self.shift, self.shift + 1, 2)
        flip = self.flip and rng.random() < 0.5
        rows = _source_indices(self.size[0], self._tile_size[0], down, False)
        columns = _source_indices(self.size[1], self._tile_size[1], right, flip)
        return pixels[rows][:, columns]

    def _normalise(self, pixels: np.ndarray) -> np.ndarray:
        if self.subtract_mean_tile is None:
            return normalise(pixels, self.mean, self.std)
        tiles = split_tiles(pixels, self._tiles).astype(np.float32)
        tiles -= tiles.mean(axis=0, keepdims=True)
        return join_tiles(tiles * (1.0 / (255.0 * np.asarray(self.std, np.float32))), self._tiles)

    def empty(self) -> Image:
        return Image(np.zeros((*self.size, self.channels), np.float32), np.asarray(False))


def random_box(
    height: int, width: int, scale: tuple[float, float], aspect: float, rng: np.random.Generator
) -> Box:
    """A random box in an image, as torchvision's RandomResizedCrop samples it, but of fractional pixels.

    Args:
        height, width: of the image.
        scale: (min, max) of the box's fraction of the area, which is uniform.
        aspect: width / height of the box, times a factor of 3/4 to 4/3, whose logarithm is uniform.
        rng: four numbers are drawn, whatever the image's size, so that later draws do not depend on it.
    """
    area_draw, aspect_draw, left_draw, top_draw = rng.random(4).tolist()
    retries = None
    for _ in range(10):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * area_draw)
        ratio = (4 / 3) ** (2 * aspect_draw - 1) * aspect
        box_width, box_height = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if box_width <= width and box_height <= height:
            left, top = left_draw * (width - box_width), top_draw * (height - box_height)
            return left, top, min(left + box_width, width), min(top + box_height, height)
        if retries is None:
            retries = np.random.default_rng(int(area_draw * 2**53))
        area_draw, aspect_draw = retries.random(2).tolist()
    box_width = min(width, height * aspect * 4 / 3)
    box_height = min(height, width / (aspect * 3 / 4))
    left, top = (width - box_width) / 2, (height - box_height) / 2
    return left, top, left + box_width, top + box_height


def check_pixels(
    channels: int,
    mean: float | tuple[float, ...],
    std: float | tuple[float, ...],
    value_range: tuple[float, float] | None,
) -> None:
    """Raises InputError unless mean and std are one number or one for each channel, and black < white."""
    for name, value in (("mean", mean), ("std", std)):
        if isinstance(value, tuple) and len(value) != channels:
            raise InputError(f"expected {name} as one number or {channels}, found {value}")
    if value_range is not None and value_range[0] >= value_range[1]:
        raise InputError(f"expected value_range (black, white), black below white, found {value_range}")


def normalise(
    pixels: np.ndarray, mean: float | tuple[float, ...], std: float | tuple[float, ...]
) -> np.ndarray:
    """`(pixels / 255 - mean) / std` of uint8 "height width channel", in float32."""
    means, stds = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    return pixels.astype(np.float32) * (1.0 / (255.0 * stds)) - means / stds


def _source_indices(size: int, tile: int, offset: int, flip: bool) -> np.ndarray:
    """For each index of the result along one axis, the index of the input: int "size"."""
    within = np.arange(size) % tile
    source = np.clip(within - offset, 0, tile - 1)
    return np.arange(size) - within + (tile - 1 - source if flip else source)
