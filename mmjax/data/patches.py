"""One record -> the patches of a picture at its own aspect."""

import dataclasses
import math

import numpy as np

from mmjax.batch import Image, Patches
from mmjax.data.image import ImageTransform
from mmjax.data.pillow_image import flatten, open_image, resize, to_array, to_pillow
from mmjax.data.records import Record, lookup, read_each_path
from mmjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class PatchesTransform:
    """Decode, turn upright, flatten, shrink to at most so many patches, cut, normalise.

    A picture keeps its aspect and, if it fits, its resolution: both sides are scaled alike and rounded down
    to whole patches, at least one. It is never enlarged, but for a side of less than a patch. Fields that are
    not named here are ImageTransform's.

    Args:
        patch: side of a patch in pixels.
        max_patches: of one picture, and the length of every example.
        min_patches: training draws the most that an example may have between this and `max_patches`, which
            shows it at many resolutions (NaViT, Dehghani et al. 2023, section 2.2). None: always the most.
    """

    field: str | tuple[str, ...]
    patch: int
    max_patches: int
    min_patches: int | None = None
    channels: int = 3
    mean: float | tuple[float, ...] = 0.5
    std: float | tuple[float, ...] = 0.5
    max_pixels: int = 64 * 2**20
    background: int = 255
    optional: bool = False

    def __post_init__(self):
        if self.channels not in (1, 3):
            raise InputError(f"expected channels 1 (grey) or 3 (RGB), found {self.channels}")
        for name, value in (("mean", self.mean), ("std", self.std)):
            if isinstance(value, tuple) and len(value) != self.channels:
                raise InputError(f"expected {name} as one number or {self.channels}, found {value}")
        if self.patch < 1 or self.max_patches < 1:
            found = f"patch={self.patch}, max_patches={self.max_patches}"
            raise InputError(f"expected patch and max_patches of at least 1, found {found}")
        if self.min_patches is not None and not 1 <= self.min_patches <= self.max_patches:
            raise InputError(
                f"expected min_patches from 1 to max_patches={self.max_patches}, found {self.min_patches}"
            )

    def decode(self, record: Record) -> list[np.ndarray]:
        """uint8 "height width channel" in whole patches for each path that the record has."""
        return list(read_each_path(record, self.field, self._decode))

    def _decode(self, record: Record, path: str) -> np.ndarray:
        # A JPEG may come out smaller, but with at least the longest side that any grid has.
        side = self.patch * self.max_patches
        picture = open_image(record["__key__"], path, lookup(record, path), self.max_pixels, side)
        picture = flatten(picture, "RGB" if self.channels == 3 else "L", self.background)
        rows, columns = grid(picture.height, picture.width, self.patch, self.max_patches)
        return to_array(resize(picture, (rows * self.patch, columns * self.patch)))

    def augment(self, decoded: list[np.ndarray], rng: np.random.Generator | None) -> Patches:
        """Choose, shrink, cut, normalise."""
        pixels = decoded[0]
        if rng is not None and len(decoded) > 1:
            pixels = decoded[int(rng.integers(len(decoded)))]
        if rng is not None and self.min_patches is not None:
            most = int(rng.integers(self.min_patches, self.max_patches + 1))
            rows, columns = grid(*pixels.shape[:2], self.patch, most)
            pixels = to_array(resize(to_pillow(pixels), (rows * self.patch, columns * self.patch)))
        std, mean = np.asarray(self.std, np.float32), np.asarray(self.mean, np.float32)
        pixels = pixels.astype(np.float32) * (1.0 / (255.0 * std)) - mean / std
        rows, columns = pixels.shape[0] // self.patch, pixels.shape[1] // self.patch
        cut = pixels.reshape(rows, self.patch, columns, self.patch, self.channels).swapaxes(1, 2)
        made, num = self.empty(), rows * columns
        made.patches[:num] = cut.reshape(num, -1)
        made.rows[:num], made.columns[:num] = np.divmod(np.arange(num), columns)
        made.mask[:num] = True
        return made

    def to_images(self, patches: Patches) -> tuple[Image, ImageTransform]:
        """A batch put together again, each picture stretched to one square, and how such pixels are made."""
        side = self.patch * math.ceil(math.sqrt(self.max_patches))
        stretched = [
            self._together(*row, side)
            for row in zip(patches.patches, patches.rows, patches.columns, strict=True)
        ]
        transform = ImageTransform(self.field, (side, side), self.channels, mean=self.mean, std=self.std)
        return Image(np.stack(stretched), np.asarray(patches.mask).any(axis=1)), transform

    def _together(self, cut: np.ndarray, rows: np.ndarray, columns: np.ndarray, side: int) -> np.ndarray:
        num_rows, num_columns = int(rows.max()) + 1, int(columns.max()) + 1
        cut = np.asarray(cut)[: num_rows * num_columns]
        tiles = cut.reshape(num_rows, num_columns, self.patch, self.patch, self.channels).swapaxes(1, 2)
        pixels = tiles.reshape(num_rows * self.patch, num_columns * self.patch, self.channels)
        down, across = (np.arange(side) * size // side for size in pixels.shape[:2])
        return pixels[down][:, across]

    def empty(self) -> Patches:
        """No picture."""
        length = self.max_patches
        return Patches(
            patches=np.zeros((length, self.patch**2 * self.channels), np.float32),
            rows=np.zeros(length, np.int32),
            columns=np.zeros(length, np.int32),
            mask=np.zeros(length, bool),
        )


def grid(height: int, width: int, patch: int, max_patches: int) -> tuple[int, int]:
    """(rows, columns) of a picture's patches.

    >>> grid(480, 640, patch=16, max_patches=256), grid(30, 50, patch=16, max_patches=256)
    ((13, 18), (1, 3))
    >>> grid(10, 4000, patch=16, max_patches=64)
    (1, 64)
    """
    scale = min(1.0, math.sqrt(max_patches * patch**2 / (height * width)))
    # A hair above, so that 3.9999 patches by rounding errors are four.
    rows, columns = (max(1, math.floor(side * scale / patch + 1e-6)) for side in (height, width))
    return min(rows, max_patches // min(columns, max_patches)), min(columns, max_patches)
