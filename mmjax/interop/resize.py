"""Position tables of images resized to another number of patches."""

import math
from collections.abc import Iterator, Mapping

import flax.linen as nn
import numpy as np

from mmjax.encoders import PooledByQueries, ViT
from mmjax.errors import InputError
from mmjax.interop.weights import Part
from mmjax.model import MultimodalModel

A = -0.75  # of the cubic kernel, as in torch (Keys 1981, eq. 15, has -0.5)


def fit_positions(
    parts: Mapping[str, Part], module: nn.Module, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Part]:
    """The parts, with the position tables of images resized to `shapes`.

    Args:
      parts: {path of a parameter: its values in a file}.
      module: the encoder or model whose parameters they are.
      shapes: {path: shape} of the parameters of the module for its images, which are square.
    """
    fitted = dict(parts)
    for path, encoder in _image_tables(module):
        part, shape = parts[path], shapes.get(path, parts[path].shape)
        num_first = encoder.num_class_tokens
        side = math.isqrt(max(shape[0] - num_first, 0))
        if shape[0] != part.shape[0] and num_first + side * side == shape[0]:
            fitted[path] = Part((resize_positions(part[:, :], num_first, (side, side)),), stacked=False)
    return fitted


def _image_tables(module: nn.Module) -> Iterator[tuple[str, ViT]]:
    """(path of its table of positions, encoder) of each encoder of images."""
    if isinstance(module, ViT):
        yield "positions/table", module
    elif isinstance(module, MultimodalModel):
        for name, encoder in module.encoders.items():
            path = f"encoders_{name}/positions/table"
            if isinstance(encoder, PooledByQueries):
                path, encoder = f"encoders_{name}/encoder/positions/table", encoder.encoder
            if isinstance(encoder, ViT):
                yield path, encoder


def resize_positions(table: np.ndarray, num_first: int, grid: tuple[int, int]) -> np.ndarray:
    """A table "L D" of positions for an image of `grid` = (rows, columns) of patches.

    Args:
      num_first: rows for tokens in front of the patches, which stay as they are.

    Raises:
      InputError: the table's patches are no square.
    """
    first, patches = table[:num_first], table[num_first:]
    side = math.isqrt(len(patches))
    if side * side != len(patches):
        raise InputError(f"expected positions of a square image to resize, found {len(patches)} patches")
    if grid == (side, side):
        return table
    resized = bicubic(patches.reshape(side, side, -1), *grid)
    return np.concatenate([first, resized.reshape(-1, table.shape[1])]).astype(table.dtype)


def bicubic(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """x "rows columns D" resized to "height width D".

    Equals torch.nn.functional.interpolate(mode="bicubic", align_corners=False): rows and columns beyond the
    border repeat it, and a smaller size does not average.
    """
    for axis, size in enumerate((height, width)):
        x = np.moveaxis(np.tensordot(_weights(x.shape[axis], size), x, axes=(1, axis)), 0, axis)
    return x


def _weights(size: int, new_size: int) -> np.ndarray:
    """The matrix "new old" that resizes one axis."""
    where = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    left = np.floor(where).astype(int)
    weights = np.zeros((new_size, size))
    for offset in (-1, 0, 1, 2):
        distance = np.abs(where - left - offset)
        near = ((A + 2) * distance - (A + 3)) * distance**2 + 1
        far = ((distance - 5) * distance + 8) * distance * A - 4 * A
        columns = np.clip(left + offset, 0, size - 1)
        np.add.at(weights, (np.arange(new_size), columns), np.where(distance <= 1, near, far))
    return weights
