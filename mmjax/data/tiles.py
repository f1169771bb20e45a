"""Images as grids of equal tiles."""

import numpy as np


def split_tiles(sheet: np.ndarray, tiles: tuple[int, int]) -> np.ndarray:
    """Cuts "height width channel" into (rows, columns): "tiles height width channel", in reading order."""
    if tiles == (1, 1):
        return sheet[None]
    (rows, columns), (height, width, channels) = tiles, sheet.shape
    parts = sheet.reshape(rows, height // rows, columns, width // columns, channels)
    return parts.swapaxes(1, 2).reshape(rows * columns, height // rows, width // columns, channels)


def join_tiles(parts: np.ndarray, tiles: tuple[int, int]) -> np.ndarray:
    """The inverse of `split_tiles`: "tiles height width channel" -> "height width channel"."""
    if tiles == (1, 1):
        return parts[0]
    (rows, columns), (_, height, width, channels) = tiles, parts.shape
    grid = parts.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width, channels)
