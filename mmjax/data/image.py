"""One record -> normalised pixels of static size."""

import dataclasses
import math
from typing import Any

import numpy as np

from mmjax.batch import Image
from mmjax.data import augment
from mmjax.data.augment.base import GEOMETRY, check_kind, with_generators, without
from mmjax.data.pillow_image import flatten, open_image, resize, resize_to_cover, to_array, to_pillow
from mmjax.data.records import BadExample, Record, lookup, read_each_path
from mmjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class ImageTransform:
    """Decode, turn upright (EXIF), flatten on a background, scale to cover the size, crop, normalise.

    Args:
        field: path to an encoded picture or to a uint8 array "height width [channel]"; or several, of which
            training takes a random one and evaluation the first that the record has.
        size: (height, width) of the result.
        channels: 3 (RGB) or 1 (grey).
        crop_scale: training crops a share of the area, (least, most), at 3/4 to 4/3 aspect. None: never.
        flip: training mirrors half of the pictures. Only where left and right mean the same.
        shift: training moves the picture up to so many pixels each way; the edge is repeated.
        mean, std: of the result, ``(pixels / 255 - mean) / std``; one number or one a channel.
        max_pixels: larger pictures are refused by their header, before they are decoded.
        background: grey level behind transparent pixels.
        subtract_mean_tile: (rows, columns) of a picture that is a sheet of equal tiles, such as the frames of
            a clip. Tiles are scaled, cropped and moved alike, and their mean is subtracted rather than
            ``mean``, which leaves what moves.
        augmentations: what else training changes, in this order, after crop, flip and shift.
        optional: a record with none of the paths is an example without this stream.
    """

    field: str | tuple[str, ...]
    size: tuple[int, int]
    channels: int = 3
    crop_scale: tuple[float, float] | None = None
    flip: bool = False
    shift: int = 0
    mean: float | tuple[float, ...] = 0.5
    std: float | tuple[float, ...] = 0.5
    max_pixels: int = 64 * 2**20
    background: int = 255
    subtract_mean_tile: tuple[int, int] | None = None
    optional: bool = False
    augmentations: tuple[augment.ImageAugmentation, ...] = ()

    def __post_init__(self):
        check_kind(self.augmentations, augment.ImageAugmentation, "ImageTransform")
        if self.channels not in (1, 3):
            raise InputError(f"expected channels 1 (grey) or 3 (RGB), found {self.channels}")
        for name, value in (("mean", self.mean), ("std", self.std)):
            if isinstance(value, tuple) and len(value) != self.channels:
                raise InputError(f"expected {name} as one number or {self.channels}, found {value}")
        if self.crop_scale is not None and not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise InputError(f"expected crop_scale (least, most) between 0 and 1, found {self.crop_scale}")
        if self.shift < 0:
            raise InputError(f"expected shift >= 0, found {self.shift}")
        rows, columns = self._tiles
        if self.size[0] % rows or self.size[1] % columns or min(self.size) < 1:
            raise InputError(f"expected a size that divides into {rows} x {columns} tiles, found {self.size}")

    @property
    def _tiles(self) -> tuple[int, int]:
        return self.subtract_mean_tile or (1, 1)

    @property
    def _tile_size(self) -> tuple[int, int]:
        return self.size[0] // self._tiles[0], self.size[1] // self._tiles[1]

    def without(self, forbidden: frozenset[str]) -> "ImageTransform":
        """The same without these changes; what was decoded for this one will do."""
        return dataclasses.replace(
            self,
            crop_scale=None if "crop" in forbidden else self.crop_scale,
            flip=self.flip and "flip" not in forbidden,
            shift=0 if "shift" in forbidden else self.shift,
            augmentations=without(self.augmentations, forbidden),
        )

    def geometry(self) -> tuple[Any, ...]:
        """What must be equal in two transforms for equal draws to move both alike."""
        paths = "one path" if isinstance(self.field, str) else self.field
        moving = tuple(a for a in self.augmentations if a.changes() & GEOMETRY)
        return paths, self.size, self._tiles, self.crop_scale, self.flip, self.shift, moving

    def decode(self, record: Record) -> list[np.ndarray]:
        """uint8 "height width channel" for each path that the record has; larger if it is to be cropped."""
        return list(read_each_path(record, self.field, self._decode))

    def _decode(self, record: Record, path: str) -> np.ndarray:
        key, value = record["__key__"], lookup(record, path)
        # The smallest crop must still fill the size; more resolution than that would only fill the cache.
        sharper = 1.0 if self.crop_scale is None else 1.0 / math.sqrt(self.crop_scale[0])
        wanted = (math.ceil(self.size[0] * sharper), math.ceil(self.size[1] * sharper))
        picture = open_image(key, path, value, self.max_pixels, 0 if self.subtract_mean_tile else max(wanted))
        picture = flatten(picture, "RGB" if self.channels == 3 else "L", self.background)
        if self.subtract_mean_tile:
            return self._scale_tiles(key, path, picture, sharper)
        if self.crop_scale is None:
            return to_array(resize_to_cover(picture, self.size))
        scale = max(wanted[0] / picture.height, wanted[1] / picture.width)
        if scale < 1.0:
            picture = resize(
                picture, (max(1, round(picture.height * scale)), max(1, round(picture.width * scale)))
            )
        return to_array(picture)

    def _scale_tiles(self, key: str, path: str, picture: Any, sharper: float) -> np.ndarray:
        """Scale each tile by itself: a filter over the sheet would mix a tile's edge with its neighbour's."""
        rows, columns = self._tiles
        if picture.height % rows or picture.width % columns:
            found = f"{picture.height} x {picture.width} pixels"
            raise BadExample(
                key, f"expected a sheet of {rows} x {columns} equal tiles in {path!r}, found {found}"
            )
        size = tuple(math.ceil(side * sharper) for side in self._tile_size)
        tiles = _frames(to_array(picture), self._tiles)
        return _sheet(np.stack([to_array(resize(to_pillow(tile), size)) for tile in tiles]), self._tiles)

    def augment(self, decoded: list[np.ndarray], rng: np.random.Generator | None) -> Image:
        """Choose, crop, mirror, shift, augment, normalise."""
        pixels = decoded[0]
        if rng is not None and len(decoded) > 1:
            pixels = decoded[int(rng.integers(len(decoded)))]
        if self.crop_scale is not None or pixels.shape[:2] != self.size:
            pixels = self._crop(pixels, rng)
        if rng is not None and (self.flip or self.shift):
            pixels = self._move(pixels, rng)
        if rng is not None and self.augmentations:
            frames = _frames(pixels, self._tiles)
            for augmentation, own in with_generators(self.augmentations, rng):
                frames = augmentation(frames, own)
            pixels = _sheet(frames, self._tiles)
        return Image(self._normalise(pixels), np.asarray(True))

    def _crop(self, pixels: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """To the size: a random box, the same in all tiles, or as much as there is."""
        frames, size = _frames(pixels, self._tiles), self._tile_size
        if rng is None or self.crop_scale is None:
            scaled = [resize_to_cover(to_pillow(frame), size) for frame in frames]
        else:
            box = self._box(*frames.shape[1:3], rng, *self.crop_scale)
            scaled = [resize(to_pillow(frame), size, box) for frame in frames]
        return _sheet(np.stack([to_array(picture) for picture in scaled]), self._tiles)

    def _box(
        self, height: int, width: int, rng: np.random.Generator, least: float, most: float
    ) -> tuple[float, float, float, float]:
        share, shape, across, along = rng.random(4).tolist()  # one call for four: this is the hot path
        area = height * width * (least + (most - least) * share)
        # Around the result's own aspect, so that a picture of that aspect is on average not distorted.
        aspect = (4 / 3) ** (2 * shape - 1) * self._tile_size[1] / self._tile_size[0]
        crop_width = min(math.sqrt(area * aspect), width)
        crop_height = min(math.sqrt(area / aspect), height)
        left, top = across * (width - crop_width), along * (height - crop_height)
        return left, top, min(left + crop_width, width), min(top + crop_height, height)

    def _move(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Flip and shift by looking pixels up, within each tile."""
        down, right = rng.integers(-self.shift, self.shift + 1, 2)
        mirror = self.flip and rng.random() < 0.5
        rows = _look_up(self.size[0], self._tile_size[0], down, False)
        columns = _look_up(self.size[1], self._tile_size[1], right, mirror)
        return pixels[rows][:, columns]

    def _normalise(self, pixels: np.ndarray) -> np.ndarray:
        std = np.asarray(self.std, np.float32)
        if self.subtract_mean_tile is None:
            mean = np.asarray(self.mean, np.float32)
            return pixels.astype(np.float32) * (1.0 / (255.0 * std)) - mean / std
        frames = _frames(pixels, self._tiles).astype(np.float32)
        frames -= frames.mean(axis=0, keepdims=True)
        return _sheet(frames * (1.0 / (255.0 * std)), self._tiles)

    def empty(self) -> Image:
        """No picture."""
        return Image(np.zeros((*self.size, self.channels), np.float32), np.asarray(False))


def _frames(sheet: np.ndarray, tiles: tuple[int, int]) -> np.ndarray:
    """ "height width channel" -> "tiles height width channel", row by row."""
    if tiles == (1, 1):
        return sheet[None]
    (rows, columns), (height, width, channels) = tiles, sheet.shape
    parts = sheet.reshape(rows, height // rows, columns, width // columns, channels)
    return parts.swapaxes(1, 2).reshape(rows * columns, height // rows, width // columns, channels)


def _sheet(frames: np.ndarray, tiles: tuple[int, int]) -> np.ndarray:
    """The way back."""
    if tiles == (1, 1):
        return frames[0]
    (rows, columns), (_, height, width, channels) = tiles, frames.shape
    parts = frames.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return parts.reshape(rows * height, columns * width, channels)


def _look_up(size: int, tile: int, offset: int, mirror: bool) -> np.ndarray:
    """For each place of the result, which place of the input it shows: int "size"."""
    within = np.arange(size) % tile
    source = np.clip(within - offset, 0, tile - 1)
    return np.arange(size) - within + (tile - 1 - source if mirror else source)
