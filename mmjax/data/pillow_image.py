"""Pillow pictures and arrays: opening, flattening, scaling."""

import io
import struct
import zlib
from typing import Any

import numpy as np

from mmjax.data.records import BadExample

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


def open_image(key: str, path: str, value: Any, max_pixels: int, draft_side: int) -> Any:
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
    return to_pillow(value)


def flatten(picture: Any, mode: str, background: int) -> Any:
    """To RGB or grey (L), transparency over a plain background, 16 bits to 8."""
    from PIL import Image as Pillow

    if picture.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion would clip at 255
        picture = Pillow.fromarray((np.asarray(picture, np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        plain = Pillow.new("RGBA", picture.size, (background, background, background, 255))
        picture = Pillow.alpha_composite(plain, picture)
    return picture if picture.mode == mode else picture.convert(mode)


def resize_to_cover(picture: Any, size: tuple[int, int]) -> Any:
    """Scale until the size is covered, and cut off evenly what stands over."""
    height, width = size
    scale = max(height / picture.height, width / picture.width)
    box_height, box_width = min(height / scale, picture.height), min(width / scale, picture.width)
    left, top = (picture.width - box_width) / 2, (picture.height - box_height) / 2
    return resize(picture, size, (left, top, left + box_width, top + box_height))


def resize(picture: Any, size: tuple[int, int], box: tuple[float, float, float, float] | None = None) -> Any:
    from PIL import Image as Pillow

    # Pillow's filters are antialiased when they shrink, unlike those of some libraries.
    return picture.resize((size[1], size[0]), Pillow.Resampling.BILINEAR, box=box)


def to_pillow(pixels: np.ndarray) -> Any:
    from PIL import Image as Pillow

    return Pillow.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)


def to_array(picture: Any) -> np.ndarray:
    pixels = np.asarray(picture)
    return pixels[..., None] if pixels.ndim == 2 else pixels
