"""One record -> the frames of a clip."""

import dataclasses
from typing import Any

import numpy as np

from mmjax.batch import Image, Video
from mmjax.data.image import ImageTransform
from mmjax.data.records import Record
from mmjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class VideoTransform:
    """A sheet of equal tiles, in reading order, cut into frames.

    Args:
        sheet: how the sheet is decoded, moved and normalised; its ``size`` is that of the whole sheet. With
            ``subtract_mean_tile`` (which must be `tiles`) frames are scaled and moved alike, tile by tile;
            without it the sheet is one picture, and nothing may move, flip or crop it.
        tiles: (rows, columns) of the sheet.
    """

    sheet: ImageTransform
    tiles: tuple[int, int]

    def __post_init__(self):
        sheet, (rows, columns) = self.sheet, self.tiles
        if rows < 1 or columns < 1 or sheet.size[0] % rows or sheet.size[1] % columns:
            raise InputError(
                f"expected a sheet whose size divides into tiles={self.tiles}, found size={sheet.size}"
            )
        if sheet.subtract_mean_tile not in (None, self.tiles):
            raise InputError(
                f"expected subtract_mean_tile={self.tiles}, the tiles of the video, found "
                f"{sheet.subtract_mean_tile}"
            )
        if sheet.subtract_mean_tile is None and (sheet.shift or sheet.flip or sheet.crop_scale):
            raise InputError(
                "expected subtract_mean_tile=tiles with shift or flip, and no crop_scale: they would move "
                "pixels from one frame to another"
            )

    @property
    def optional(self) -> bool:
        """The sheet's."""
        return self.sheet.optional

    def decode(self, record: Record) -> Any:
        """The sheet, uint8. Raises BadExample."""
        return self.sheet.decode(record)

    def augment(self, decoded: Any, rng: np.random.Generator | None) -> Video:
        """As the sheet is, and cut."""
        image = self.sheet.augment(decoded, rng)
        return Video(self._cut(image.pixels), np.ones(self.tiles[0] * self.tiles[1], bool))

    def to_images(self, video: Video) -> tuple[Image, ImageTransform]:
        """A batch as the sheets that it was cut from, and how they are made."""
        (rows, columns), frames = self.tiles, np.asarray(video.frames)
        batch, _, height, width, channels = frames.shape
        tiles = frames.reshape(batch, rows, columns, height, width, channels).swapaxes(2, 3)
        sheets = tiles.reshape(batch, rows * height, columns * width, channels)
        return Image(sheets, np.asarray(video.mask).any(axis=1)), self.sheet

    def _cut(self, pixels: np.ndarray) -> np.ndarray:
        rows, columns = self.tiles
        height, width = pixels.shape[0] // rows, pixels.shape[1] // columns
        tiles = pixels.reshape(rows, height, columns, width, -1).swapaxes(1, 2)
        return np.ascontiguousarray(tiles.reshape(rows * columns, height, width, -1))

    def empty(self) -> Video:
        """No video."""
        pixels = self.sheet.empty().pixels
        return Video(self._cut(pixels), np.zeros(self.tiles[0] * self.tiles[1], bool))
