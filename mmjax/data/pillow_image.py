"""Pillow images: decoding, scaling, conversion to and from arrays."""

import io
from typing import Any, Literal

import numpy as np

from mmjax.data.pixel_range import to_8_bits
from mmjax.data.records import BadExample
from mmjax.errors import excerpt

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

# Formats that Pillow decodes in this process; for EPS it would start an external program.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
_MAX_SCANS = 100  # of a progressive JPEG; encoders write about 10
_MAX_COVER = 8  # scale an image as a whole if that takes at most so many times the pixels of the result
_STRIP_PIXELS = 2**22  # that are converted at a time, so that a large image is not held in several modes


def open_image(
    key: str,
    path: str,
    value: Any,
    *,
    channels: int,
    max_pixels: int,
    min_side: int = 0,
    background: int = 255,
    value_range: tuple[float, float] | None = None,
) -> Any:
    """Decodes an image, converts it to 8 bits, and applies its EXIF orientation.

    Args:
        key, path: of the record and the field, for errors.
        value: an encoded file, of which the first frame is read, or an array "height width [channel]".
        channels: 3 (RGB) or 1 (grey, L).
        max_pixels: a larger image is refused by its header, before it is decoded.
        min_side: a JPEG may be decoded at a lower resolution, whose sides are not below this; 0: never.
        background: grey level behind transparent pixels.
        value_range: (black, white) of pixels that are not of 8 bits; see `to_8_bits`.

    Returns:
        A Pillow image of mode RGB or L.

    Raises:
        BadExample: for any error of Pillow's.
    """
    mode = "RGB" if channels == 3 else "L"
    try:
        if isinstance(value, np.ndarray):
            return to_mode(_from_array(key, path, value, max_pixels, value_range), mode, background)
        image = _open(key, path, value, max_pixels)
        if min_side:
            image.draft(None, (min_side, min_side))
        image.load()
        orientation = image.getexif().get(0x0112)
        return _turn(to_mode(_to_8_bits(image, value_range), mode, background), orientation)
    except BadExample:
        raise
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        found = f"{type(error).__name__}: {error}"
        raise BadExample(key, f"{_image(path)}, found {found}") from error


def _open(key: str, path: str, value: Any, max_pixels: int) -> Any:
    """Reads the header of an encoded image."""
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    if not isinstance(value, bytes):
        raise BadExample(key, f"expected an encoded image in {path!r}, found a {type(value).__name__}")
    if not value:
        raise BadExample(key, f"expected an image in {path!r}, found an empty file")
    try:
        image = Pillow.open(io.BytesIO(value), formats=_FORMATS)
    except UnidentifiedImageError as error:
        found = f"{len(value)} bytes that it cannot identify: {excerpt(value, 40)}"
        raise BadExample(key, f"{_image(path)}, found {found}") from error
    # Pillow checks a limit of its own when it opens the file, before max_pixels is compared.
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as error:
        raise BadExample(key, f"{_at_most(max_pixels, path)}, found more than Pillow's: {error}") from error
    _check_size(key, path, image.width, image.height, max_pixels)
    if image.format == "TIFF":  # whose tiles are decoded whole, even where they are larger than the image
        _check_size(key, path, *(int(image.tag_v2.get(tag, 1)) for tag in (322, 323)), max_pixels)
    # Each scan takes the time of the whole image, however few bytes it has.
    if image.format in ("JPEG", "MPO") and (num := value.count(b"\xff\xda")) > _MAX_SCANS:
        raise BadExample(key, f"expected at most {_MAX_SCANS} scans in the JPEG in {path!r}, found {num}")
    return image


def _check_size(key: str, path: str, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise BadExample(key, f"{_at_most(max_pixels, path)}, found {width} x {height}")


def _image(path: str) -> str:
    return f"expected an image in {path!r} that Pillow can decode"


def _at_most(max_pixels: int, path: str) -> str:
    return f"expected at most {max_pixels} pixels (max_pixels) in {path!r}"


def _from_array(
    key: str, path: str, value: np.ndarray, max_pixels: int, value_range: tuple[float, float] | None
) -> Any:
    shape_fits = value.ndim == 2 or (value.ndim == 3 and value.shape[2] in (1, 3, 4))
    if not shape_fits or 0 in value.shape or value.dtype == object:
        hint = ""
        if value.ndim == 3 and value.shape[0] in (1, 3, 4):
            hint = ": move the channels to the end"
        found = f"{value.dtype} {list(value.shape)}{hint}"
        expected = "an array 'height width [channel]' of 1, 3 or 4 channels"
        raise BadExample(key, f"expected {expected} in {path!r}, found {found}")
    _check_size(key, path, value.shape[1], value.shape[0], max_pixels)
    try:
        return to_pillow(to_8_bits(value, value_range))
    except ValueError as error:
        raise BadExample(key, f"the image in {path!r}: {error}") from error


def _to_8_bits(image: Any, value_range: tuple[float, float] | None) -> Any:
    """Scales grey images of 16 or 32 bits or of floats, which Pillow's own conversion would clip at 255."""
    from PIL import Image as Pillow

    if image.mode[0] not in "IF":
        return image
    bits = None
    if image.mode.startswith("I;16"):
        declared = image.tag_v2.get(258) if image.format == "TIFF" else None  # BitsPerSample
        bits = int(declared[0]) if declared else 16
    elif image.format == "PPM":
        bits = 16  # Pillow scales PGM files of more than 8 bits to 16
    values = np.asarray(image)
    grey = Pillow.fromarray(to_8_bits(values, value_range, bits))
    if isinstance(transparent := image.info.get("transparency"), int):  # the grey level that is transparent
        grey.putalpha(Pillow.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _turn(image: Any, orientation: Any) -> Any:
    """Applies an EXIF orientation; unknown ones are ignored, as viewers do."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    turn = turns.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def to_mode(image: Any, mode: str, background: int) -> Any:
    """Converts an 8-bit image to RGB or grey (L), and composes transparent pixels over a grey background."""
    from PIL import Image as Pillow

    if image.mode == mode and "transparency" not in image.info:
        return image
    rows = max(1, _STRIP_PIXELS // image.width)
    if image.height <= rows:
        return _convert(image, mode, background)
    converted = Pillow.new(mode, image.size)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        converted.paste(_convert(strip, mode, background), (0, top))
    return converted


def _convert(image: Any, mode: str, background: int) -> Any:
    from PIL import Image as Pillow

    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        plain = Pillow.new("RGBA", image.size, (background, background, background, 255))
        image = Pillow.alpha_composite(plain, image)
    return image if image.mode == mode else image.convert(mode)


def resize_to_cover(
    image: Any, size: tuple[int, int], interpolation: Interpolation = "bilinear", antialias: bool = True
) -> Any:
    """Scales to the smallest image that covers (height, width), and crops the centre.

    The scaled sides and the crop are rounded to whole pixels as by torchvision's Resize and CenterCrop.
    """
    height, width = size
    scale = max(height / image.height, width / image.width)
    # 1e-6 absorbs rounding errors of the side that fits exactly.
    scaled_height = max(height, int(image.height * scale + 1e-6))
    scaled_width = max(width, int(image.width * scale + 1e-6))
    top, left = round((scaled_height - height) / 2), round((scaled_width - width) / 2)
    if scaled_height * scaled_width <= _MAX_COVER * height * width:
        scaled = resize(image, (scaled_height, scaled_width), None, interpolation, antialias)
        return scaled.crop((left, top, left + width, top + height))
    # The same but for rounding, without the memory of a thin image that is scaled as a whole.
    down, across = image.height / scaled_height, image.width / scaled_width
    right, bottom = min((left + width) * across, image.width), min((top + height) * down, image.height)
    return resize(image, size, (left * across, top * down, right, bottom), interpolation, antialias)


def resize(
    image: Any,
    size: tuple[int, int],
    box: tuple[float, float, float, float] | None = None,
    interpolation: Interpolation = "bilinear",
    antialias: bool = True,
) -> Any:
    """Scales the box (left, top, right, bottom), by default the whole image, to (height, width).

    antialias: average over the pixels that one pixel of a smaller result covers; False: interpolate between
        the nearest pixels only, as OpenCV and TensorFlow do.
    """
    from PIL import Image as Pillow

    resampling = Pillow.Resampling[interpolation.upper()]
    if antialias:
        return image.resize((size[1], size[0]), resampling, box=box)
    box = box or (0, 0, image.width, image.height)
    return image.transform((size[1], size[0]), Pillow.Transform.EXTENT, box, resampling)


def to_pillow(pixels: np.ndarray) -> Any:
    """A Pillow image of uint8 "height width [channel]"."""
    from PIL import Image as Pillow

    return Pillow.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)


def to_array(image: Any) -> np.ndarray:
    """uint8 "height width channel" of a Pillow image."""
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels
