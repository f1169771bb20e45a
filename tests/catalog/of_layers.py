"""Rows of mmjax.layers."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from catalog.row import B, D, L, Row, keep_positions, normal, padding, scramble_input, trunk
from mmjax import layers
from mmjax.testing import TOLERANCE


def layer(name: str, make: Callable, *inputs: np.ndarray, **fields) -> Row:
    return Row(f"layers.{name}", make, lambda: inputs, **{"scramble": None} | fields)


def stack(name: str, **changes) -> Row:
    return layer(
        name, lambda dtype: trunk(dtype, **changes), normal(B, L, D), padding(),
        scramble=scramble_input(0, 1), select=keep_positions, tolerance=TOLERANCE["fp32_stack"],
    )  # fmt: skip


def block(dtype: str, norm: str) -> layers.Block:
    return layers.Block(num_heads=4, mlp_width=32, norm=norm, dtype=dtype)


def block_row(name: str, norm: str) -> Row:
    return layer(
        name, lambda dtype: block(dtype, norm), normal(B, L, D), padding(),
        kwargs={"train": False}, scramble=scramble_input(0, 1), select=keep_positions,
    )  # fmt: skip


def recurrent(name: str, **changes) -> Row:
    return layer(
        name, lambda dtype: layers.Recurrent(width=D, dtype=dtype, **changes), normal(B, L, D), padding(),
        scramble=scramble_input(0, 1), select=keep_positions, tolerance=TOLERANCE["fp32_stack"],
    )  # fmt: skip


def einsum(dtype: str) -> layers.Einsum:
    return layers.Einsum("B L D, D H K -> B L H K", (D, 2, 3), ("embed", "heads", None), dtype=dtype)


LAYERS = [
    layer("Einsum", einsum, normal(B, L, D)),
    layer("LayerNorm", lambda t: layers.LayerNorm(dtype=t), normal(B, L, D)),
    layer("Mlp", lambda t: layers.Mlp(mlp_width=32, dtype=t), normal(B, L, D)),
    layer("Conv1d", lambda t: layers.Conv1d(D, kernel_size=3, stride=2, dtype=t), normal(B, L, 5)),
    layer(
        "Conv1d.centred", lambda t: layers.Conv1d(D, 3, 2, padding="centred", dtype=t), normal(B, L, 5)
    ),
    layer(
        "Conv1d.valid", lambda t: layers.Conv1d(D, 3, 2, "valid", use_bias=False, dtype=t), normal(B, L, 5)
    ),
    layer("Conv2d", lambda t: layers.Conv2d(D, kernel_size=3, stride=2, dtype=t), normal(B, 5, 6, 2)),
    layer(
        "Conv2d.xla", lambda t: layers.Conv2d(D, 3, 2, implementation="xla", dtype=t), normal(B, 5, 6, 2)
    ),
    layer("DepthwiseConv2d", lambda t: layers.DepthwiseConv2d(kernel_size=3, dtype=t), normal(B, 5, 6, 2)),
    layer("GroupNorm", lambda t: layers.GroupNorm(num_groups=2, dtype=t), normal(B, 5, 6, 4)),
    layer("LearnedPositions", lambda t: layers.LearnedPositions(L + 2), normal(B, L, D), bf16=None),
    layer("SinusoidalPositions", lambda t: layers.SinusoidalPositions(), normal(B, L, D), bf16=None),
    layer(
        "MultiHeadAttention", lambda t: layers.MultiHeadAttention(num_heads=4, dtype=t),
        normal(B, 3, D), normal(B, L, 2 * D, seed=1), padding(),
        # If every key is masked, attention is uniform over them: such outputs are not compared.
        scramble=scramble_input(1, 2),
        select=lambda y, inputs: jnp.where(inputs[2].any(-1)[:, None, None], y, 0),
    ),
    block_row("Block", "pre"),
    block_row("Block.post", "post"),
    stack("Transformer", depth=2),
    layer(
        "Identity", lambda t: layers.Identity(D, dtype=t), normal(B, L, D), padding(), bf16=None,
        scramble=scramble_input(0, 1), select=keep_positions,
    ),
    stack(
        "Transformer.unrolled", depth=2, scan=False, remat="dots", norm="post", use_bias=False,
        activation="quick_gelu",
    ),
    recurrent("Recurrent", depth=2),
    recurrent("Recurrent.gru", depth=2, cell="gru", bidirectional=False),
    stack("Transformer.causal", causal=True, remat="full"),
]  # fmt: skip
