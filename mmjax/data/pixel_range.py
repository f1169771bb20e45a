"""Pixels of any type -> 8 bits, by the range that their type or file declares, or that their values show."""

import numpy as np

_STRIP = 2**20  # values that are converted at a time, in float64
_LEAST_OF_255 = 32  # the largest value that shows that a range is 0 to 255; below, it could be another


def to_8_bits(
    pixels: np.ndarray, value_range: tuple[float, float] | None = None, bits: int | None = None
) -> np.ndarray:
    """Scales pixels to uint8. Never clips them, and never makes a picture black that is not.

    Args:
        pixels: of any type and shape, at least one value.
        value_range: (black, white) of all types but uint8 and bool. None: 0 to the largest number of `bits`;
            without those, 0 to 1 for floats up to 1, and 0 to 255 for values up to 32 to 255.
        bits: declared by the file. uint16 has 16 unless it says otherwise.

    Raises:
        ValueError: NaN, infinite values, values outside the range, or no range. It tells what was expected.
    """
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == bool:
        return pixels.view(np.uint8) * np.uint8(255)
    if pixels.dtype.kind not in "uif":
        raise ValueError(f"expected pixels as numbers, found the type {pixels.dtype}")
    smallest, largest = float(pixels.min()), float(pixels.max())
    if not np.isfinite([smallest, largest]).all():
        raise ValueError("expected finite pixels, found NaN or infinite ones")
    if value_range is None:
        value_range = 0.0, _white(pixels.dtype, largest, bits)
    black, white = value_range
    if smallest < black or largest > white:
        raise ValueError(
            f"expected pixels from {black:g} to {white:g}, found {smallest:g} to {largest:g} "
            f"({pixels.dtype}): scale them, or give their value_range"
        )
    scaled = np.empty(pixels.shape, np.uint8)
    flat = scaled.reshape(-1)
    values = pixels.reshape(-1)
    for start in range(0, flat.size, _STRIP):
        strip = (values[start : start + _STRIP].astype(np.float64) - black) * (255.0 / (white - black))
        flat[start : start + _STRIP] = np.rint(strip)
    return scaled


def _white(dtype: np.dtype, largest: float, bits: int | None) -> float:
    """The value of white. Raises ValueError if neither the type nor the largest value shows it."""
    if bits is None and dtype == np.uint16:
        bits = 16
    if bits is not None:
        white = 2.0**bits - 1
        if 0 < largest * 255 < 2 * white:
            raise ValueError(
                f"expected pixels of {bits} bits, up to {white:g}, found at most {largest:g}, which would be "
                "black: convert them to 8 bits, or give their value_range"
            )
        return white
    if largest <= 0 or _LEAST_OF_255 <= largest <= 255:
        return 255.0
    if dtype.kind == "f" and largest <= 1:
        return 1.0
    raise ValueError(
        f"expected {dtype} pixels of 0 to {'1 or of 0 to ' if dtype.kind == 'f' else ''}255, found at most "
        f"{largest:g}: scale them, or give their value_range"
    )
