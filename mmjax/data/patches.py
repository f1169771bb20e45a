"""One record -> the patches of an image at its own aspect ratio."""

import dataclasses
import math
from typing import Literal

import numpy as np

from mmjax.batch import Image, Patches
from mmjax.data.image import ImageTransform, check_pixels, normalise
from mmjax.data.pillow_image import open_image, resize, to_array, to_pillow
from mmjax.data.records import Record, lookup, read_each_path
from mmjax.data.tiles import join_tiles, split_tiles
from mmjax.data.transform import Transform, choose
from mmjax.errors import InputError
from mmjax.ranges import Count, Finite, Pixel, Positive, Size


@dataclasses.dataclass(frozen=True)
class PatchesTransform(Transform):
    """Decodes an image, applies its EXIF orientation, shrinks it to `max_patches`, cuts and normalises.

    The image keeps its aspect ratio and, if it fits, its resolution: both sides are scaled alike and rounded
    down to whole patches. Only a side shorter than one patch is enlarged. For the other fields, see
    ImageTransform.

    patch: side of a patch in pixels.
    max_patches: of one image; also the length of every example.
    min_patches: training draws each example's maximum between this and `max_patches`, which varies the
        resolution (NaViT, Dehghani et al. 2023, section 2.2). None: always `max_patches`.
    """

    field: str | tuple[str, ...]
    patch: Size
    max_patches: Size
    min_patches: Size | None = None
    channels: Literal[1, 3] = 3
    mean: Finite | tuple[Finite, ...] = 0.5
    std: Positive | tuple[Positive, ...] = 0.5
    max_pixels: Count = 32 * 2**20
    background: Pixel = 255
    optional: bool = False
    value_range: tuple[Finite, Finite] | None = None

    def __post_init__(self):
        check_pixels(self.channels, self.mean, self.std, self.value_range)
        if self.min_patches is not None and self.min_patches > self.max_patches:
            raise InputError(
                f"expected min_patches of at most max_patches={self.max_patches}, found {self.min_patches}"
            )

    def decode(self, record: Record) -> list[np.ndarray]:
        """Returns uint8 "height width channel", in whole patches, for each path that the record has."""
        return list(read_each_path(record, self.field, self._decode))

    def locate(self, record: Record) -> None:
        next(read_each_path(record, self.field, lookup))

    def _decode(self, record: Record, path: str) -> np.ndarray:
        # The longest side of any grid: below it, a JPEG must not be decoded at a lower resolution.
        side = self.patch * self.max_patches
        image = open_image(
            record["__key__"], path, lookup(record, path),
            channels=self.channels, max_pixels=self.max_pixels, background=self.background, min_side=side,
            value_range=self.value_range,
        )  # fmt: skip
        rows, columns = grid(image.height, image.width, self.patch, self.max_patches)
        return to_array(resize(image, (rows * self.patch, columns * self.patch)))

    def augment(self, decoded: list[np.ndarray], rng: np.random.Generator | None) -> Patches:
        pixels = choose(decoded, rng)
        if rng is not None and self.min_patches is not None:
            max_patches = int(rng.integers(self.min_patches, self.max_patches + 1))
            rows, columns = grid(*pixels.shape[:2], self.patch, max_patches)
            pixels = to_array(resize(to_pillow(pixels), (rows * self.patch, columns * self.patch)))
        rows, columns = pixels.shape[0] // self.patch, pixels.shape[1] // self.patch
        tiles = split_tiles(normalise(pixels, self.mean, self.std), (rows, columns))
        result, num = self.empty(), rows * columns
        result.patches[:num] = tiles.reshape(num, -1)
        result.rows[:num], result.columns[:num] = np.divmod(np.arange(num), columns)
        result.mask[:num] = True
        return result

    def empty(self) -> Patches:
        length = self.max_patches
        return Patches(
            patches=np.zeros((length, self.patch**2 * self.channels), np.float32),
            rows=np.zeros(length, np.int32),
            columns=np.zeros(length, np.int32),
            mask=np.zeros(length, bool),
        )

    def to_images(self, patches: Patches) -> tuple[Image, ImageTransform]:
        """Joins the patches of each example in a batch, and stretches it to one square size.

        Returns:
            The images, and a transform that normalises pixels as they are normalised.
        """
        side = self.patch * math.ceil(math.sqrt(self.max_patches))
        stretched = [
            self._join(*row, side) for row in zip(patches.patches, patches.rows, patches.columns, strict=True)
        ]
        transform = ImageTransform(self.field, (side, side), self.channels, mean=self.mean, std=self.std)
        return Image(np.stack(stretched), np.asarray(patches.mask).any(axis=1)), transform

    def _join(self, patches: np.ndarray, rows: np.ndarray, columns: np.ndarray, side: int) -> np.ndarray:
        num_rows, num_columns = int(rows.max()) + 1, int(columns.max()) + 1
        tiles = np.asarray(patches)[: num_rows * num_columns]
        tiles = tiles.reshape(-1, self.patch, self.patch, self.channels)
        pixels = join_tiles(tiles, (num_rows, num_columns))
        # Nearest-neighbour stretching.
        down, across = (np.arange(side) * size // side for size in pixels.shape[:2])
        return pixels[down][:, across]


def grid(height: int, width: int, patch: int, max_patches: int) -> tuple[int, int]:
    """(rows, columns) of an image's patches: the largest grid of its aspect ratio that fits `max_patches`.

    >>> grid(480, 640, patch=16, max_patches=256), grid(30, 50, patch=16, max_patches=256)
    ((13, 18), (1, 3))
    >>> grid(10, 4000, patch=16, max_patches=64)
    (1, 64)
    """
    scale = min(1.0, math.sqrt(max_patches * patch**2 / (height * width)))
    # 1e-6 absorbs rounding errors: 3.9999999 patches are 4.
    rows, columns = (max(1, math.floor(side * scale / patch + 1e-6)) for side in (height, width))
    return min(rows, max_patches // min(columns, max_patches)), min(columns, max_patches)
