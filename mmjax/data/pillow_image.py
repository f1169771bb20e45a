"""Pillow images: decoding, scaling, conversion to and from arrays."""

import io
import struct
import zlib
from typing import Any

import numpy as np

from mmjax.data.records import BadExample

# Formats that Pillow decodes in this process; for EPS it would start an external program.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
_DECODER_ERRORS = (
    OSError, ValueError, SyntaxError, EOFError, KeyError, IndexError, TypeError, struct.error, zlib.error,
)  # fmt: skip


def open_image(key: str, path: str, value: Any, max_pixels: int, min_side: int) -> Any:
    """Decodes an image and applies its EXIF orientation.

    Args:
        key, path: of the record and the field, for errors.
        value: an encoded file, or a uint8 array "height width [channel]".
        max_pixels: a larger image is refused by its header, before it is decoded.
        min_side: a JPEG may be decoded at a lower resolution, whose sides are not below this; 0: never.

    Returns:
        A Pillow image of any mode.
    """
    from PIL import Image as Pillow
    from PIL import ImageOps

    if isinstance(value, np.ndarray):
        return _from_array(key, path, value)
    if not isinstance(value, bytes):
        raise BadExample(key, f"expected an encoded image in {path!r}, found a {type(value).__name__}")
    if not value:
        raise BadExample(key, f"expected an image in {path!r}, found an empty file")
    try:
        image = Pillow.open(io.BytesIO(value), formats=_FORMATS)
        if image.width * image.height > max_pixels:
            found = f"{image.width} x {image.height}"
            raise BadExample(
                key, f"expected at most {max_pixels} pixels (max_pixels) in {path!r}, found {found}"
            )
        if min_side:
            image.draft(None, (min_side, min_side))
        image.load()
        return ImageOps.exif_transpose(image)
    # Pillow checks a limit of its own when it opens the file, before max_pixels is compared.
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as error:
        raise BadExample(
            key, f"expected at most {max_pixels} pixels (max_pixels) in {path!r}, found more: {error}"
        ) from error
    except _DECODER_ERRORS as error:
        raise BadExample(
            key, f"expected an image in {path!r} that Pillow can decode, found {error}"
        ) from error


def _from_array(key: str, path: str, value: np.ndarray) -> Any:
    shape_fits = value.ndim == 2 or (value.ndim == 3 and value.shape[2] in (1, 3, 4))
    if value.dtype != np.uint8 or not shape_fits or 0 in value.shape:
        found = f"{value.dtype} {list(value.shape)}"
        raise BadExample(key, f"expected a uint8 array 'height width [channel]' in {path!r}, found {found}")
    return to_pillow(value)


def to_mode(image: Any, mode: str, background: int) -> Any:
    """Converts to RGB or grey (L), 16 bits to 8, and composes transparent pixels over a grey background."""
    from PIL import Image as Pillow

    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's own conversion would clip at 255
        image = Pillow.fromarray((np.asarray(image, np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        plain = Pillow.new("RGBA", image.size, (background, background, background, 255))
        image = Pillow.alpha_composite(plain, image)
    return image if image.mode == mode else image.convert(mode)


def resize_to_cover(image: Any, size: tuple[int, int]) -> Any:
    """Scales to the smallest image that covers (height, width), and crops the centre."""
    height, width = size
    scale = max(height / image.height, width / image.width)
    box_height, box_width = min(height / scale, image.height), min(width / scale, image.width)
    left, top = (image.width - box_width) / 2, (image.height - box_height) / 2
    return resize(image, size, (left, top, left + box_width, top + box_height))


def resize(image: Any, size: tuple[int, int], box: tuple[float, float, float, float] | None = None) -> Any:
    """Scales the box (left, top, right, bottom), by default the whole image, to (height, width)."""
    from PIL import Image as Pillow

    # Pillow's filters are antialiased when they shrink, unlike those of some libraries.
    return image.resize((size[1], size[0]), Pillow.Resampling.BILINEAR, box=box)


def to_pillow(pixels: np.ndarray) -> Any:
    """A Pillow image of uint8 "height width [channel]"."""
    from PIL import Image as Pillow

    return Pillow.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)


def to_array(image: Any) -> np.ndarray:
    """uint8 "height width channel" of a Pillow image."""
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels
