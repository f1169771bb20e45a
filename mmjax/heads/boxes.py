"""Boxes of the objects in an image."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Float64, Int

from mmjax.batch import Encoded
from mmjax.errors import InputError
from mmjax.heads.base import Head
from mmjax.layers import Block, Einsum, LayerNorm, MultiHeadAttention
from mmjax.ranges import Depth, Dtype, Size
from mmjax.sharding import param_axes, shard


class Boxes(Head):
    """A small set decoder (Carion et al. 2020, DETR, section 3.2): float32 "B Q 4+classes+1".

    The last axis holds the box (centre x, centre y, width and height as fractions of the image), the class
    logits, and the logit of "no object". In each of `depth` layers, the learned queries attend to the image's
    tokens and to each other. Each query predicts its box relative to an anchor, the centre of its grid cell
    (Wang et al. 2022, Anchor DETR); DETR's own queries have no positions and train for hundreds of epochs.

    query_grid: (rows, columns) of the queries.
    token_grid: (rows, columns) of the image patches, which are the stream's last positions. Each query is
      then initialised with the token at its anchor (Minderer et al. 2022, OWL-ViT, predict from the tokens
      themselves). None: queries are learned only.
    """

    num_classes: Size
    query_grid: tuple[Size, Size]
    token_grid: tuple[Size, Size] | None = None
    depth: Depth = 2
    num_heads: Size = 4
    mlp_width: Size = 256
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encoded: Encoded, table: jax.Array | None = None) -> Float32[jax.Array, "B Q P"]:
        context = LayerNorm(dtype=self.dtype, name="context_norm")(encoded.embeddings)
        # Masked tokens are zeroed, because queries are initialised with tokens whether masked or not.
        context = jnp.where(encoded.mask[..., None], context, 0)
        batch, length, width = context.shape
        anchors = cell_centres(self.query_grid)
        num = len(anchors)
        init = param_axes(nn.initializers.normal(1.0), "positions", "embed")
        x = self.param("queries", init, (num, width))[None].astype(context.dtype)
        x = jnp.broadcast_to(x, (batch, num, width))
        if self.token_grid is not None:
            num_tokens = self.token_grid[0] * self.token_grid[1]
            if length < num_tokens:
                raise InputError(
                    f"the head Boxes expects token_grid={self.token_grid} in {self.stream!r}, found {length} "
                    "positions: set it to the (rows, columns) of the encoder's patches"
                )
            x += context[:, length - num_tokens :][:, cell_indices(anchors, self.token_grid)]
        mask = jnp.ones((batch, num), bool)
        for i in range(self.depth):
            cross = MultiHeadAttention(num_heads=self.num_heads, dtype=self.dtype, name=f"cross_{i}")
            query = LayerNorm(dtype=self.dtype, name=f"query_norm_{i}")(x)
            x = shard(x + cross(query, context, encoded.mask), "act_batch", "act_length", "act_embed")
            x = Block(
                num_heads=self.num_heads, mlp_width=self.mlp_width, dtype=self.dtype, name=f"block_{i}"
            )(x, mask, False)
        x = LayerNorm(dtype=self.dtype, name="norm")(x).astype(jnp.float32)
        hidden = nn.gelu(
            Einsum("B Q D, D M -> B Q M", shape=(width, width), axes=("patch", "embed"), name="hidden")(x)
        )
        offsets = Einsum("B Q D, D C -> B Q C", shape=(width, 4), axes=("embed", None), name="box")(hidden)
        start = np.concatenate([np.log(anchors / (1 - anchors)), np.full((num, 2), -2.0)], axis=1)
        logits = Einsum(
            "B Q D, D C -> B Q C", shape=(width, self.num_classes + 1), axes=("embed", "classes"),
            name="linear",
        )(x)  # fmt: skip
        boxes = jax.nn.sigmoid(offsets + jnp.asarray(start, jnp.float32)[None])
        return jnp.concatenate([boxes, logits], axis=-1)


def cell_centres(grid: tuple[int, int]) -> Float64[np.ndarray, "Q 2"]:
    """(x, y) of the centres of a grid's cells in reading order, as fractions of the image."""
    y, x = np.mgrid[: grid[0], : grid[1]]
    return np.stack([(x.ravel() + 0.5) / grid[1], (y.ravel() + 0.5) / grid[0]], axis=1)


def cell_indices(points: Float64[np.ndarray, "Q 2"], grid: tuple[int, int]) -> Int[np.ndarray, " Q"]:
    """The index in reading order of the grid cell that contains each point (x, y)."""
    x, y = (points * np.array([grid[1], grid[0]])).astype(int).T
    return y * grid[1] + x
