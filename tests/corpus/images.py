"""Images and video: files of every mode and format, damaged files, bombs, arrays of every type, sheets."""

import functools
import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from corpus.case import Case
from mmjax import data

RAMP = np.linspace(0, 255, 64).round().astype(np.uint8).reshape(8, 8)
COLOURS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
ALPHA = np.where(np.arange(64).reshape(8, 8) % 3, 255, 0).astype(np.uint8)
OVER_WHITE = np.where(ALPHA[..., None] == 0, np.uint8(255), COLOURS)
NAN = float("nan")


def decode(value: Any, **options: Any) -> np.ndarray:
    """The pixels that ImageTransform makes of a value, before it normalises them."""
    transform = data.ImageTransform("x", **{"size": (8, 8)} | options)
    return transform.decode({"__key__": "k", "x": value})[0]


def encode(image: Any, format: str = "PNG", **options: Any) -> bytes:
    """A file of an array or of a Pillow image."""
    file = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(file, format, **options)
    return file.getvalue()


def png(width: int, height: int, depth: int, kind: int, rows: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """A PNG of raw rows, each of which begins with its filter's number, and of more chunks."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    chunks = [(b"IHDR", header), *more, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, body) for name, body in chunks)


def colour(pixels: np.ndarray) -> np.ndarray:
    """Grey pixels as RGB."""
    return np.repeat(pixels[..., None], 3, axis=2)


def right(family: str, name: str, make: Any, expected: np.ndarray, within: float = 0, **options: Any) -> Case:
    expected = expected.astype(int)

    def give(folder):
        return decode(make(), **options).astype(int)

    return Case(family, name, "right", give, expected=expected, within=within)


def skipped(family: str, name: str, make: Any, message: str, **options: Any) -> Case:
    return Case(family, name, "skipped", lambda folder: decode(make(), **options), message=f"^k: .*{message}")


def pillow(array: np.ndarray, mode: str | None = None) -> Any:
    image = Image.fromarray(array)
    return image if mode is None else image.convert(mode)


def with_alpha() -> Any:
    image = pillow(COLOURS)
    image.putalpha(pillow(ALPHA))
    return image


def palette(**info: Any) -> bytes:
    return encode(pillow(COLOURS).quantize(64), **info)


def frames() -> tuple[Any, list[Any]]:
    """A first frame, which is the ramp, and two black ones."""
    return pillow(RAMP), [Image.new("L", (8, 8))] * 2


def animated(format: str, **options: Any) -> bytes:
    first, rest = frames()
    return encode(first.convert("RGB"), format, save_all=True, append_images=rest, **options)


def big_endian_16(values: np.ndarray) -> bytes:
    """Rows of a 16-bit PNG."""
    return b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)


PALETTE = np.asarray(pillow(COLOURS).quantize(64).convert("RGB"))
INDICES = np.asarray(pillow(COLOURS).quantize(64))
CMYK = encode(pillow(COLOURS, "RGB").convert("CMYK"), "JPEG", quality=95)
R16 = RAMP.astype(np.uint16) * 257

MODES = [
    ("1-bit PNG", lambda: encode(pillow(RAMP > 99)), colour((RAMP > 99) * 255), 0),
    ("grey PNG", lambda: encode(RAMP), colour(RAMP), 0),
    ("RGB PNG", lambda: encode(COLOURS), COLOURS, 0),
    ("RGBA PNG over white", lambda: encode(with_alpha()), OVER_WHITE, 0),
    (
        "LA PNG over white",
        lambda: encode(np.stack([RAMP, ALPHA], -1)),
        colour(np.where(ALPHA == 0, 255, RAMP)),
        0,
    ),
    ("palette PNG", palette, PALETTE, 0),
    (
        "palette PNG, one colour transparent",
        lambda: palette(transparency=int(INDICES[0, 0])),
        np.where((INDICES == INDICES[0, 0])[..., None], 255, PALETTE),
        0,
    ),
    (
        "palette PNG, alpha of each colour",
        lambda: palette(transparency=bytes([0] * 32 + [255] * 32)),
        np.where((INDICES < 32)[..., None], 255, PALETTE),
        0,
    ),
    (
        "grey PNG, one level transparent",
        lambda: encode(pillow(RAMP), transparency=int(RAMP[0, 0])),
        colour(np.where(RAMP == RAMP[0, 0], 255, RAMP)),
        0,
    ),
    (
        "RGB PNG, one colour transparent",
        lambda: encode(pillow(COLOURS), transparency=tuple(map(int, COLOURS[0, 0]))),
        np.where((COLOURS == COLOURS[0, 0]).all(-1, keepdims=True), 255, COLOURS),
        0,
    ),
    ("16-bit grey PNG", lambda: encode(pillow(R16)), colour(RAMP), 1),
    (
        "16-bit grey PNG, one level transparent",
        lambda: png(8, 8, 16, 0, big_endian_16(R16), (b"tRNS", struct.pack(">H", int(R16[0, 1])))),
        colour(np.where(R16 == R16[0, 1], 255, RAMP)),
        1,
    ),
    (
        "16-bit RGB PNG",
        lambda: png(8, 8, 16, 2, big_endian_16((COLOURS.astype(np.uint16) * 257).reshape(8, -1))),
        COLOURS,
        1,
    ),
    ("2-bit grey PNG", lambda: png(4, 1, 2, 0, b"\0\x1b"), colour(np.array([[0, 85, 170, 255]])), 0),
    ("grey JPEG", lambda: encode(RAMP, "JPEG", quality=95), colour(RAMP), 16),
    ("CMYK JPEG of Adobe's", lambda: CMYK, np.asarray(Image.open(io.BytesIO(CMYK)).convert("RGB")), 0),
    ("GIF", lambda: encode(RAMP, "GIF"), colour(RAMP), 0),
    ("animated GIF: the first frame", lambda: animated("GIF"), colour(RAMP), 0),
    ("animated WebP: the first frame", lambda: animated("WEBP", lossless=True), colour(RAMP), 0),
    ("animated PNG: the first frame", lambda: animated("PNG"), colour(RAMP), 0),
    ("TIFF of three pages: the first", lambda: animated("TIFF"), colour(RAMP), 0),
    ("lossless WebP with alpha", lambda: encode(with_alpha(), "WEBP", lossless=True), OVER_WHITE, 0),
    ("float TIFF of 0 to 1", lambda: encode((RAMP / 255).astype(np.float32), "TIFF"), colour(RAMP), 1),
    ("float TIFF of 0 to 255", lambda: encode(RAMP.astype(np.float32), "TIFF"), colour(RAMP), 0),
    ("int32 TIFF of 0 to 255", lambda: encode(RAMP.astype(np.int32), "TIFF"), colour(RAMP), 0),
    ("16-bit TIFF", lambda: encode(R16, "TIFF"), colour(RAMP), 1),
    (
        "deflated float TIFF",
        lambda: encode((RAMP / 255).astype(np.float32), "TIFF", compression="tiff_adobe_deflate"),
        colour(RAMP),
        1,
    ),
    (
        "CMYK TIFF",
        lambda: encode(pillow(COLOURS).convert("CMYK"), "TIFF"),
        COLOURS,
        1,
    ),
    ("1-bit BMP", lambda: encode(pillow(RAMP > 99), "BMP"), colour((RAMP > 99) * 255), 0),
    ("PGM of 8 bits", lambda: b"P5 8 8 255\n" + RAMP.tobytes(), colour(RAMP), 0),
    ("PGM of 16 bits", lambda: b"P5 8 8 65535\n" + R16.astype(">u2").tobytes(), colour(RAMP), 1),
    ("PGM of 10 bits", lambda: b"P5 3 1 1023\n\0\0\x01\xff\x03\xff", colour(np.array([[0, 127, 255]])), 1),
    ("PBM", lambda: b"P4 8 1\n\xaa", colour(np.array([[0, 255] * 4])), 0),
    ("TIFF in a larger tile", lambda: tiff_tile(16, 16), np.zeros((8, 8, 3)), 0),
    ("one pixel", lambda: encode(COLOURS[:1, :1]), COLOURS[:1, :1], 0),
    (
        "a black picture of floats",
        lambda: encode(np.zeros((8, 8), np.float32), "TIFF"),
        np.zeros((8, 8, 3)),
        0,
    ),
    ("a black picture of 16 bits", lambda: encode(np.zeros((8, 8), np.uint16)), np.zeros((8, 8, 3)), 0),
]

ORIENTATIONS = {  # of EXIF: what the viewer must do
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[:, ::-1],
    7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],
    8: lambda x: x.swapaxes(0, 1)[::-1],
    99: lambda x: x,
}


def oriented(number: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = number
    return encode(COLOURS, exif=exif.tobytes())


FLOATS = (RAMP / 255).astype(np.float32)
ARRAYS = [
    ("uint8 RGB", COLOURS, COLOURS, 0),
    ("uint8 RGBA over white", np.dstack([COLOURS, ALPHA]), OVER_WHITE, 0),
    ("uint8 grey", RAMP, colour(RAMP), 0),
    ("uint8 grey with an axis of 1", RAMP[..., None], colour(RAMP), 0),
    ("bool", RAMP > 99, colour((RAMP > 99) * 255), 0),
    ("float16 of 0 to 1", FLOATS.astype(np.float16), colour(RAMP), 1),
    ("float32 of 0 to 1", FLOATS, colour(RAMP), 1),
    ("float64 RGB of 0 to 1", COLOURS / 255, COLOURS, 0),
    ("float64 of 0 to 255", RAMP.astype(np.float64), colour(RAMP), 0),
    ("int64 of 0 to 255", RAMP.astype(np.int64), colour(RAMP), 0),
    ("int16 of 0 to 255", RAMP.astype(np.int16), colour(RAMP), 0),
    ("uint16", R16, colour(RAMP), 1),
    ("uint32 of 0 to 255", RAMP.astype(np.uint32), colour(RAMP), 0),
    ("big-endian floats", FLOATS.astype(">f4"), colour(RAMP), 1),
    ("not contiguous", COLOURS[::-1, ::-1], COLOURS[::-1, ::-1], 0),
    ("Fortran order", np.asfortranarray(COLOURS), COLOURS, 0),
    ("read-only", np.frombuffer(COLOURS.tobytes(), np.uint8).reshape(8, 8, 3), COLOURS, 0),
]
BAD_ARRAYS = [
    ("NaN", np.array([[0.5, NAN]]), "expected finite pixels, found NaN"),
    ("infinity", np.array([[0.5, np.inf]]), "expected finite pixels"),
    ("negative floats", np.array([[0.5, -0.5]]), "expected pixels from 0 to 1, found -0.5 to 0.5"),
    ("floats normalised to -1 to 1", RAMP / 127.5 - 1, "expected pixels from 0 to 1, found -1 to 1"),
    ("floats of a high range", RAMP / 25.0, "0 to 1 or of 0 to 255, found at most 10.2"),
    ("floats above 255", RAMP * 4.0, "found at most 1020"),
    ("integers above 255", RAMP * 4.0 // 1 * np.int64(1), "found at most 1020"),
    ("a mask of 0 and 1 as int64", (RAMP > 99).astype(np.int64), "int64 pixels of 0 to 255, found at most 1"),
    ("negative integers", RAMP.astype(np.int64) - 1, "found -1 to 254"),
    ("uint16 of 0 to 255", RAMP.astype(np.uint16), "of 16 bits, up to 65535, found at most 255"),
    ("complex", np.array([[1j]]), "expected pixels as numbers, found the type complex128"),
    ("strings", np.array([["a"]]), "expected pixels as numbers"),
    ("dates", np.zeros((2, 2), "datetime64[s]"), "expected pixels as numbers"),
    ("objects", np.array([[None]]), "found object"),
    ("ragged rows as objects", np.array([[1, 2], [3]], object), "found object"),
    ("channels first", np.zeros((3, 8, 8), np.uint8), "found uint8 .3, 8, 8.: move the channels to the end"),
    ("two channels", np.zeros((8, 8, 2), np.uint8), "found uint8 .8, 8, 2."),
    ("seven channels", np.zeros((8, 8, 7), np.uint8), "found uint8 .8, 8, 7."),
    ("four axes", np.zeros((2, 8, 8, 3), np.uint8), "found uint8 .2, 8, 8, 3."),
    ("one axis", np.zeros(64, np.uint8), "found uint8 .64."),
    ("no axis", np.array(7), "found int64 .."),
    ("no rows", np.zeros((0, 8, 3), np.uint8), "found uint8 .0, 8, 3."),
    ("no columns", np.zeros((8, 0, 3), np.uint8), "found uint8 .8, 0, 3."),
]


def _large_array() -> np.ndarray:
    return np.broadcast_to(np.uint8(0), (2**16, 2**16))


def jpeg_of_scans(num: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    raw = encode(COLOURS, "JPEG", progressive=True)
    last = raw.rindex(b"\xff\xda")
    return raw[:last] + raw[last:-2] * num + raw[-2:]


def gif_screen(width: int, height: int) -> bytes:
    raw = bytearray(encode(RAMP, "GIF"))
    raw[6:10] = struct.pack("<HH", width, height)
    return bytes(raw)


def bmp_size(width: int, height: int) -> bytes:
    raw = bytearray(encode(COLOURS, "BMP"))
    raw[18:26] = struct.pack("<ii", width, height)
    return bytes(raw)


def tiff_tile(width: int, height: int) -> bytes:
    """A TIFF of 8 x 8 grey pixels in one deflated tile of a given size."""
    body = zlib.compress(bytes(10**6))
    numbers = {256: 8, 257: 8, 258: 8, 259: 8, 262: 1, 277: 1, 322: width, 323: height, 325: len(body)}
    numbers[324] = 8 + 2 + 12 * (len(numbers) + 1) + 4  # where the tile begins
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, numbers[tag]) for tag in sorted(numbers))
    return b"II*\0" + struct.pack("<IH", 8, len(numbers)) + entries + bytes(4) + body


def broken_crc() -> bytes:
    raw = bytearray(encode(COLOURS))
    raw[raw.index(b"IDAT") + 8] ^= 0xFF
    return bytes(raw)


@functools.cache
def damaged_avif() -> bytes:
    """An AVIF of which one byte is changed, so that Pillow raises a RuntimeError."""
    raw = encode(np.kron(COLOURS, np.ones((3, 3, 1), np.uint8)), "AVIF")
    for index in range(len(raw)):
        damaged = raw[:index] + bytes([raw[index] ^ 0xFF]) + raw[index + 1 :]
        try:
            Image.open(io.BytesIO(damaged), formats=("AVIF",)).load()
        except RuntimeError:
            return damaged
        except Exception:  # noqa: S112, another kind of damage
            continue
    raise AssertionError("no byte makes a RuntimeError")


def float_tiff(*values: float) -> bytes:
    return encode(np.array([values], np.float32), "TIFF")


TEXT_BOMB = (b"zTXt", b"a\0\0" + zlib.compress(bytes(50 * 2**20)))
ICC_BOMB = (b"iCCP", b"a\0\0" + zlib.compress(bytes(50 * 2**20)))
PIXEL_LIMIT = r"expected at most 33554432 pixels \(max_pixels\) in 'x', found"
BAD_FILES = [
    ("empty", lambda: b"", "expected an image in 'x', found an empty file"),
    (
        "a page of an error",
        lambda: b"<html>404</html>",
        "found 16 bytes that it cannot identify: b'<html>404",
    ),
    ("PostScript", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n", "cannot identify: b'%!PS-Adobe"),
    ("SVG", lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cannot identify"),
    ("zeros", lambda: bytes(5000), r"found 5000 bytes that it cannot identify: b'\\x00"),
    ("only a PNG's signature", lambda: b"\x89PNG\r\n\x1a\n", "that Pillow can decode"),
    ("only a JPEG's start", lambda: b"\xff\xd8\xff", "that Pillow can decode"),
    ("a wrong checksum in a PNG", broken_crc, "that Pillow can decode"),
    ("a PNG without rows", lambda: png(8, 8, 8, 2, b""), "that Pillow can decode"),
    ("a PNG of no pixels", lambda: png(0, 0, 8, 2, b""), "that Pillow can decode"),
    ("an AVIF with a damaged byte", damaged_avif, "that Pillow can decode, found RuntimeError"),
    ("a PNG with a packed profile of 50 MB", lambda: png(1, 1, 8, 0, b"\0\0", ICC_BOMB), "MAX_TEXT_CHUNK"),
    ("a float TIFF with NaN", lambda: float_tiff(0.5, NAN), "expected finite pixels"),
    ("a float TIFF with infinity", lambda: float_tiff(0.5, np.inf), "expected finite pixels"),
    ("a float TIFF below 0", lambda: float_tiff(-0.5, 0.5), "expected pixels from 0 to 1, found -0.5"),
    ("a float TIFF of a high range", lambda: float_tiff(0, 12.5), "found at most 12.5"),
    ("an int32 TIFF above 255", lambda: encode(RAMP.astype(np.int32) * 99, "TIFF"), "found at most 25245"),
    ("an int32 TIFF below 0", lambda: encode(RAMP.astype(np.int32) - 9, "TIFF"), "found -9 to 246"),
    ("a 16-bit PNG of 0 to 255", lambda: encode(RAMP.astype(np.uint16)), "of 16 bits, .* at most 255"),
    ("a number", lambda: 7, "expected an encoded image in 'x', found a int"),
    ("a list of rows", lambda: [[0, 1], [2]], "found a list"),
    ("text", lambda: "data:image/png;base64,iVBOR", "found a str"),
    ("a PNG of 3.6 billion pixels", lambda: png(60000, 60000, 8, 2, b""), PIXEL_LIMIT),
    ("a PNG of 64 million pixels", lambda: png(8000, 8000, 8, 2, bytes(10)), PIXEL_LIMIT),
    ("a PNG of one row of 2**31 - 1 pixels", lambda: png(2**31 - 1, 1, 8, 0, b""), PIXEL_LIMIT),
    ("a GIF of 65535 x 65535", lambda: gif_screen(65535, 65535), PIXEL_LIMIT),
    ("a BMP of 60000 x 60000", lambda: bmp_size(60000, 60000), PIXEL_LIMIT),
    ("a PPM of 10**9 x 10**9", lambda: b"P6 1000000000 1000000000 255\n", "Pillow can decode|max_pixels"),
    (
        "a JPEG of a thousand scans",
        lambda: jpeg_of_scans(1000),
        "expected at most 100 scans in the JPEG in 'x'",
    ),
    ("a PNG with 50 MB of packed text", lambda: png(1, 1, 8, 0, b"\0\0", TEXT_BOMB), "MAX_TEXT_CHUNK"),
    ("a TIFF of 8 x 8 pixels in a tile of 40000 x 40000", lambda: tiff_tile(40000, 40000), PIXEL_LIMIT),
    ("an array of 2**32 pixels", _large_array, PIXEL_LIMIT),
]

NOISE = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
# Half of a file, whose rest would be grey.
CUT = [
    (
        f"half of a {name}",
        functools.partial(lambda format: (raw := encode(NOISE, format))[: len(raw) // 2], name),
    )
    for name in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "PPM")
]


def clip_pixels(image: Any, side: int) -> np.ndarray:
    """CLIP's preprocessing without normalisation: torchvision's Resize(side, bicubic), CenterCrop(side)."""
    width, height = image.size
    longer = int(side * max(width, height) / min(width, height))
    size = (side, longer) if width < height else (longer, side)
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    return np.asarray(image.crop((left, top, left + side, top + side)))


CLIP = dict(size=(56, 56), interpolation="bicubic", reduced_jpeg=False)
SIZES = [(224, 224), (300, 200), (200, 301), (97, 640), (56, 57), (30, 41)]


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def crop_shares(folder: Any) -> bool:
    """Whether crops of a ramp, whose pixels tell their place, have the asked fraction of the area."""
    down, across = np.mgrid[:256, :256].astype(np.uint8)
    ramp = np.dstack([down, across, down])
    transform = data.ImageTransform("x", (64, 64), crop_scale=(0.2, 0.3), mean=0.0, std=1.0)
    decoded = transform.decode({"__key__": "k", "x": ramp})
    for seed in range(50):
        pixels = transform.augment(decoded, np.random.default_rng(seed)).pixels * 255
        # 64 pixels have 63 distances between their centres.
        height, width = (np.ptp(pixels[..., i]) / 63 * 64 / 256 for i in (0, 1))
        if not (0.19 < height * width < 0.31 and 0.73 < width / height < 1.37):
            return False
    return True


def thin(height: int, width: int, **options: Any) -> Any:
    def give(folder):
        transform = data.ImageTransform("x", (224, 224), mean=0.0, std=1.0, **options)
        decoded = transform.decode({"__key__": "k", "x": np.full((height, width), 200, np.uint8)})
        pixels = transform.augment(decoded, np.random.default_rng(0)).pixels * 255
        return [pixels.shape, round(float(pixels.min())), round(float(pixels.max()))]

    return give


def video(sheet: np.ndarray, tiles: tuple[int, int] = (2, 3), **options: Any) -> np.ndarray:
    transform = data.ImageTransform("x", (8, 12), channels=1, mean=0.0, std=1 / 255, **options)
    clip = data.VideoTransform(transform, tiles=tiles)
    return clip.augment(clip.decode({"__key__": "k", "x": sheet}), None).frames[..., 0]


LEVELS = np.arange(0, 240, 40).reshape(2, 3).astype(np.uint8)  # of six frames


def sheet(height: int, width: int) -> np.ndarray:
    return LEVELS.repeat(height, 0).repeat(width, 1)


SIX = np.broadcast_to(LEVELS.reshape(6, 1, 1), (6, 4, 4))
BAD_SHEETS = [
    ("no rows", np.zeros((0, 12), np.uint8), "found uint8"),
    (
        "rows that are no whole frames",
        sheet(4, 4)[:7],
        "expected a sheet of 2 x 3 equal tiles in 'x', found 7 x 12",
    ),
    ("less pixels than frames", np.zeros((1, 2), np.uint8), "expected a sheet of 2 x 3 equal tiles"),
    ("a stack of frames", np.zeros((6, 8, 8), np.uint8), "expected an array 'height width"),
    ("frames of NaN", sheet(4, 4) * np.float32(NAN), "expected finite pixels"),
    ("frames of different sizes", np.array([[1], [1, 2]], object), "found object"),
    ("2**32 pixels", _large_array(), PIXEL_LIMIT),
]

CASES: tuple[Case, ...] = (
    *(right("image file", name, make, expected, within, size=expected.shape[:2])
      for name, make, expected, within in MODES),
    *(right("image file", f"EXIF orientation {n}", functools.partial(oriented, n), turn(COLOURS))
      for n, turn in ORIENTATIONS.items()),
    *(skipped("image file", name, make, message) for name, make, message in BAD_FILES),
    *(skipped("image file", name, make, "that Pillow can decode") for name, make in CUT),
    right("image file", "a declared range", lambda: float_tiff(-1000, 1047.5, 3095),
          colour(np.array([[0, 127.5, 255]])), 1, size=(1, 3), value_range=(-1000, 3095)),
    skipped("image file", "outside its declared range", lambda: float_tiff(-1000, 3096),
            "expected pixels from -1000 to 3095, found -1000 to 3096", value_range=(-1000, 3095)),
    *(right("image array", name, lambda array=array: array, expected, within)
      for name, array, expected, within in ARRAYS),
    *(skipped("image array", name, lambda array=array: array, message)
      for name, array, message in BAD_ARRAYS),
    *(right("image size", f"CLIP's preprocessing of {h} x {w} {format}",
            functools.partial(encode, noise(h, w), format),
            clip_pixels(Image.open(io.BytesIO(encode(noise(h, w), format))), 56), **CLIP)
      for h, w in SIZES for format in ("PNG", "JPEG")),
    *(Case("image size", f"{h} x {w}, {options}", "right", thin(h, w, **options),
           expected=[(224, 224, 3), 200, 200])
      for h, w in ((1, 10000), (10000, 1), (1, 1), (1, 2**24))
      for options in ({}, {"crop_scale": (0.2, 0.3)})),
    Case("image size", "crops keep the asked fraction of the area", "right", crop_shares, expected=True),
    Case("video", "frames of another aspect ratio keep their edges", "right",
         lambda folder: video(sheet(4, 9)).round().astype(int), expected=SIX),
    Case("video", "a sheet of one frame", "right",
         lambda folder: video(np.full((8, 12), 7, np.uint8), (1, 1)).round().astype(int),
         expected=np.full((1, 8, 12), 7)),
    Case("video", "frames of one pixel", "right",
         lambda folder: video(LEVELS).round().astype(int), expected=SIX),
    *(Case("video", name, "skipped", lambda folder, array=array: video(array), message=f"^k: .*{message}")
      for name, array, message in BAD_SHEETS),
)  # fmt: skip
