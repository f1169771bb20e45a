"""One record -> the frames of a clip."""

import dataclasses
import functools
from typing import Any

import numpy as np

from mmjax.batch import Image, Video
from mmjax.data.image import ImageTransform
from mmjax.data.records import Record
from mmjax.data.tiles import join_tiles, split_tiles
from mmjax.data.transform import Transform
from mmjax.errors import InputError
from mmjax.ranges import Size


@dataclasses.dataclass(frozen=True)
class VideoTransform(Transform):
    """Cuts a sheet, one image of equal tiles, into the frames of a clip, in reading order.

    sheet: decodes, augments and normalises the sheet; its `size` is that of the whole sheet. Each tile is
        scaled to its part of the size, whatever its aspect ratio. With `subtract_mean_tile=tiles`, each frame
        is cropped, flipped and shifted alike. Without it, crop, flip and shift are refused, and other
        augmentations change the sheet as one image.
    tiles: (rows, columns) of the sheet.
    """

    sheet: ImageTransform
    tiles: tuple[Size, Size]

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
        """Whether a record may lack the sheet."""
        return self.sheet.optional

    @functools.cached_property
    def _tiled(self) -> ImageTransform:
        """Decodes the tiles one by one: in a sheet scaled as one image, frames could lose their edges."""
        return dataclasses.replace(self.sheet, subtract_mean_tile=self.tiles)

    def decode(self, record: Record) -> Any:
        return self._tiled.decode(record)

    def locate(self, record: Record) -> None:
        self.sheet.locate(record)

    def augment(self, decoded: Any, rng: np.random.Generator | None) -> Video:
        pixels = self.sheet.augment(decoded, rng).pixels
        return Video(split_tiles(pixels, self.tiles), np.ones(self.tiles[0] * self.tiles[1], bool))

    def empty(self) -> Video:
        pixels = self.sheet.empty().pixels
        return Video(split_tiles(pixels, self.tiles), np.zeros(self.tiles[0] * self.tiles[1], bool))

    def to_images(self, video: Video) -> tuple[Image, ImageTransform]:
        """Joins the frames of each clip in a batch into its sheet. Returns the sheets and their transform."""
        sheets = np.stack([join_tiles(frames, self.tiles) for frames in np.asarray(video.frames)])
        return Image(sheets, np.asarray(video.mask).any(axis=1)), self.sheet
