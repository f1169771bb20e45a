"""One record -> normalised pixels of static size."""

import dataclasses
import io
import math
import struct
import zlib
from typing import Any

import numpy as np

from mmjax.batch import Image
from mmjax.data.records import BadExample, Record, at_each, lookup
from mmjax.errors import InputError

# Formats that are decoded in this process; Pillow would hand EPS to an external program.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
_DECODER_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    KeyError,
    IndexError,
    TypeError,
    struct.error,
    zlib.error,
)


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
            a clip. Tiles are scaled and moved alike, and their mean is subtracted rather than ``mean``,
            which leaves what moves.
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

    def __post_init__(self):
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
        if self.subtract_mean_tile is not None and self.crop_scale is not None:
            raise InputError(
                "expected crop_scale=None with subtract_mean_tile: crops would cut the tiles. Use shift."
            )

    @property
    def _tiles(self) -> tuple[int, int]:
        return self.subtract_mean_tile or (1, 1)

    def decode(self, record: Record) -> list[np.ndarray]:
        """uint8 "height width channel" for each path that the record has; larger if it is to be cropped."""
        return list(at_each(record, self.field, self._decode))

    def _decode(self, record: Record, path: str) -> np.ndarray:
        key, value = record["__key__"], lookup(record, path)
        # The smallest crop must still fill the size; more resolution than that would only fill the cache.
        sharper = 1.0 if self.crop_scale is None else 1.0 / math.sqrt(self.crop_scale[0])
        wanted = (math.ceil(self.size[0] * sharper), math.ceil(self.size[1] * sharper))
        picture = _open(key, path, value, self.max_pixels, 0 if self.subtract_mean_tile else max(wanted))
        picture = _flatten(picture, "RGB" if self.channels == 3 else "L", self.background)
        if self.subtract_mean_tile:
            return self._scale_tiles(key, path, picture)
        if self.crop_scale is None:
            return _pixels(_cover(picture, self.size))
        scale = max(wanted[0] / picture.height, wanted[1] / picture.width)
        if scale < 1.0:
            picture = _resize(
                picture, (max(1, round(picture.height * scale)), max(1, round(picture.width * scale)))
            )
        return _pixels(picture)

    def _scale_tiles(self, key: str, path: str, picture: Any) -> np.ndarray:
        """Scale each tile by itself: a filter over the sheet would mix a tile's edge with its neighbour's."""
        rows, columns = self._tiles
        if picture.height % rows or picture.width % columns:
            found = f"{picture.height} x {picture.width} pixels"
            raise BadExample(
                key, f"expected a sheet of {rows} x {columns} equal tiles in {path!r}, found {found}"
            )
        height, width = self.size[0] // rows, self.size[1] // columns
        from_height, from_width = picture.height // rows, picture.width // columns
        sheet = np.empty((*self.size, self.channels), np.uint8)
        for row in range(rows):
            for column in range(columns):
                x, y = column * from_width, row * from_height
                tile = _resize(picture.crop((x, y, x + from_width, y + from_height)), (height, width))
                top, left = row * height, column * width
                sheet[top : top + height, left : left + width] = _pixels(tile)
        return sheet

    def augment(self, decoded: list[np.ndarray], rng: np.random.Generator | None) -> Image:
        """Choose, crop, mirror, shift, normalise."""
        pixels = decoded[0]
        if rng is not None and len(decoded) > 1:
            pixels = decoded[int(rng.integers(len(decoded)))]
        if self.crop_scale is not None:
            pixels = self._crop(pixels, rng, *self.crop_scale)
        if rng is not None and (self.flip or self.shift):
            pixels = self._move(pixels, rng)
        return Image(self._normalise(pixels), np.asarray(True))

    def _crop(
        self, pixels: np.ndarray, rng: np.random.Generator | None, least: float, most: float
    ) -> np.ndarray:
        if rng is None:
            return _pixels(_cover(_picture(pixels), self.size))
        height, width = pixels.shape[:2]
        share, shape, across, along = rng.random(4).tolist()  # one call for four: this is the hot path
        area = height * width * (least + (most - least) * share)
        # Around the result's own aspect, so that a picture of that aspect is on average not distorted.
        aspect = (4 / 3) ** (2 * shape - 1) * self.size[1] / self.size[0]
        crop_width = min(math.sqrt(area * aspect), width)
        crop_height = min(math.sqrt(area / aspect), height)
        left, top = across * (width - crop_width), along * (height - crop_height)
        box = (left, top, min(left + crop_width, width), min(top + crop_height, height))
        return _pixels(_resize(_picture(pixels), self.size, box))

    def _move(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Mirror and shift by looking pixels up, within each tile."""
        down, right = rng.integers(-self.shift, self.shift + 1, 2)
        mirror = self.flip and rng.random() < 0.5
        rows = _look_up(self.size[0], self.size[0] // self._tiles[0], down, False)
        columns = _look_up(self.size[1], self.size[1] // self._tiles[1], right, mirror)
        return pixels[rows][:, columns]

    def _normalise(self, pixels: np.ndarray) -> np.ndarray:
        std = np.asarray(self.std, np.float32)
        if self.subtract_mean_tile is None:
            mean = np.asarray(self.mean, np.float32)
            return pixels.astype(np.float32) * (1.0 / (255.0 * std)) - mean / std
        rows, columns = self._tiles
        height, width = self.size[0] // rows, self.size[1] // columns
        tiles = pixels.reshape(rows, height, columns, width, self.channels).astype(np.float32)
        tiles -= tiles.mean(axis=(0, 2), keepdims=True)
        return (tiles * (1.0 / (255.0 * std))).reshape(*self.size, self.channels)

    def empty(self) -> Image:
        """No picture."""
        return Image(np.zeros((*self.size, self.channels), np.float32), np.asarray(False))


def _open(key: str, path: str, value: Any, max_pixels: int, draft_side: int) -> Any:
    """An upright Pillow picture. A JPEG may be decoded smaller, never below ``draft_side`` (0: full size)."""
    from PIL import Image as Pillow
    from PIL import ImageOps

    if isinstance(value, np.ndarray):
        return _from_array(key, path, value)
    if not isinstance(value, bytes):
        raise BadExample(key, f"expected an encoded picture in {path!r}, found a {type(value).__name__}")
    if not value:
        raise BadExample(key, f"expected a picture in {path!r}, found a file of zero length")
    try:
        picture = Pillow.open(io.BytesIO(value), formats=_FORMATS)
        if picture.width * picture.height > max_pixels:
            found = f"{picture.width} x {picture.height}"
            raise BadExample(
                key, f"expected at most {max_pixels} pixels (max_pixels) in {path!r}, found {found}"
            )
        if draft_side:
            picture.draft(None, (draft_side, draft_side))
        picture.load()
        return ImageOps.exif_transpose(picture)
    # Pillow's own limit comes first.
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as error:
        raise BadExample(
            key, f"expected at most {max_pixels} pixels (max_pixels) in {path!r}, found more: {error}"
        ) from error
    except _DECODER_ERRORS as error:
        raise BadExample(
            key, f"expected a picture in {path!r} that Pillow can decode, found {error}"
        ) from error


def _from_array(key: str, path: str, value: np.ndarray) -> Any:
    shape_fits = value.ndim == 2 or (value.ndim == 3 and value.shape[2] in (1, 3, 4))
    if value.dtype != np.uint8 or not shape_fits or 0 in value.shape:
        found = f"{value.dtype} {list(value.shape)}"
        raise BadExample(key, f"expected a uint8 array 'height width [channel]' in {path!r}, found {found}")
    return _picture(value)


def _flatten(picture: Any, mode: str, background: int) -> Any:
    """To RGB or grey (L), transparency over a plain background, 16 bits to 8."""
    from PIL import Image as Pillow

    if picture.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion would clip at 255
        picture = Pillow.fromarray((np.asarray(picture, np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        plain = Pillow.new("RGBA", picture.size, (background, background, background, 255))
        picture = Pillow.alpha_composite(plain, picture)
    return picture if picture.mode == mode else picture.convert(mode)


def _cover(picture: Any, size: tuple[int, int]) -> Any:
    """Scale until the size is covered, and cut off evenly what stands over."""
    height, width = size
    scale = max(height / picture.height, width / picture.width)
    box_height, box_width = min(height / scale, picture.height), min(width / scale, picture.width)
    left, top = (picture.width - box_width) / 2, (picture.height - box_height) / 2
    return _resize(picture, size, (left, top, left + box_width, top + box_height))


def _resize(picture: Any, size: tuple[int, int], box: tuple[float, float, float, float] | None = None) -> Any:
    from PIL import Image as Pillow

    # Pillow's filters are antialiased when they shrink, unlike those of some libraries.
    return picture.resize((size[1], size[0]), Pillow.Resampling.BILINEAR, box=box)


def _picture(pixels: np.ndarray) -> Any:
    from PIL import Image as Pillow

    return Pillow.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)


def _pixels(picture: Any) -> np.ndarray:
    pixels = np.asarray(picture)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _look_up(size: int, tile: int, offset: int, mirror: bool) -> np.ndarray:
    """For each place of the result, which place of the input it shows: int "size"."""
    within = np.arange(size) % tile
    source = np.clip(within - offset, 0, tile - 1)
    return np.arange(size) - within + (tile - 1 - source if mirror else source)
