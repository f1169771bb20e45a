"""Boxes around the objects in a picture."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from mmjax.batch import Encoded
from mmjax.errors import InputError
from mmjax.heads.base import Head
from mmjax.layers import Block, Einsum, LayerNorm, MultiHeadAttention
from mmjax.sharding import param_axes, shard


class Boxes(Head):
    """A small set decoder (Carion et al. 2020, DETR, section 3.2): float32 ``"B Q 4+classes+1"``.

    First centre x, centre y, width and height in shares of the picture, then the logits of the classes, then
    that of "no object". `grid` learned queries (rows, columns) read each other and the picture's tokens,
    `depth` times over. Each places its box about an anchor, a point of the grid (Wang et al. 2022, Anchor
    DETR), where DETR's own have no place and take hundreds of epochs to find one.
    tokens: (rows, columns) in which the stream's last positions lie in the picture; a query then starts from
      the token under its anchor (tokens themselves answer in Minderer et al. 2022, OWL-ViT). None: from
      nothing.
    """

    num_classes: int
    grid: tuple[int, int]
    tokens: tuple[int, int] | None = None
    depth: int = 2
    num_heads: int = 4
    mlp_width: int = 256
    dtype: str = "float32"

    @nn.compact
    def __call__(self, encoded: Encoded, table: jax.Array | None = None) -> Float32[jax.Array, "B Q P"]:
        context = LayerNorm(dtype=self.dtype, name="context_norm")(encoded.embeddings)
        context = jnp.where(encoded.mask[..., None], context, 0)  # a query may start from what is not there
        batch, length, width = context.shape
        anchors = grid_points(self.grid)
        num = len(anchors)
        init = param_axes(nn.initializers.normal(1.0), "positions", "embed")
        x = self.param("queries", init, (num, width))[None].astype(context.dtype)
        x = jnp.broadcast_to(x, (batch, num, width))
        if self.tokens is not None:
            if length < self.tokens[0] * self.tokens[1]:
                raise InputError(
                    f"the head Boxes expects tokens={self.tokens} in {self.stream!r}, found {length} "
                    "positions: name the rows and columns of the encoder's patches"
                )
            x += context[:, length - self.tokens[0] * self.tokens[1] :][:, under(anchors, self.tokens)]
        there = jnp.ones((batch, num), bool)
        for i in range(self.depth):
            cross = MultiHeadAttention(num_heads=self.num_heads, dtype=self.dtype, name=f"cross_{i}")
            query = LayerNorm(dtype=self.dtype, name=f"query_norm_{i}")(x)
            x = shard(x + cross(query, context, encoded.mask), "act_batch", "act_length", "act_embed")
            x = Block(
                num_heads=self.num_heads, mlp_width=self.mlp_width, dtype=self.dtype, name=f"block_{i}"
            )(x, there, False)
        x = LayerNorm(dtype=self.dtype, name="norm")(x).astype(jnp.float32)
        hidden = nn.gelu(
            Einsum("B Q D, D M -> B Q M", shape=(width, width), axes=("patch", "embed"), name="hidden")(x)
        )
        moved = Einsum("B Q D, D C -> B Q C", shape=(width, 4), axes=("embed", None), name="box")(hidden)
        start = np.concatenate([np.log(anchors / (1 - anchors)), np.full((num, 2), -2.0)], axis=1)
        logits = Einsum(
            "B Q D, D C -> B Q C",
            shape=(width, self.num_classes + 1),
            axes=("embed", "classes"),
            name="linear",
        )(x)
        boxes = jax.nn.sigmoid(moved + jnp.asarray(start, jnp.float32)[None])
        return jnp.concatenate([boxes, logits], axis=-1)


def grid_points(grid: tuple[int, int]) -> np.ndarray:
    """(x, y) of the middles of a grid's cells in reading order, in shares of the whole: "Q 2"."""
    y, x = np.mgrid[: grid[0], : grid[1]]
    return np.stack([(x.ravel() + 0.5) / grid[1], (y.ravel() + 0.5) / grid[0]], axis=1)


def under(points: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The number in reading order of the grid's cell that holds each point."""
    x, y = (points * np.array([grid[1], grid[0]])).astype(int).T
    return y * grid[1] + x
