"""Rows of mmjax.heads."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from catalog.row import B, D, L, Row, encoded, keep_present_rows, keep_tokens, normal, trunk
from mmjax import heads
from mmjax.batch import AdversarialEncoded, Encoded
from mmjax.testing import TOLERANCE, VOCAB


def head(
    name: str, module: Callable[[], nn.Module], inputs: Callable[[], tuple] = lambda: (encoded(),), **more
) -> Row:
    defaults = {"select": keep_present_rows, "bf16": "inputs"}
    return Row(f"heads.{name}", lambda dtype: module(), inputs, **defaults | more)


def some_places() -> tuple[Encoded]:
    """Six of eight patches, the first of them none (a register); of the last row none is there."""
    rng = np.random.default_rng(0)
    patch_indices = np.stack([rng.permutation(8)[:6] for _ in range(B)]).astype(np.int32)
    patch_indices[:, 0] = -1
    return (encoded().replace(patch_indices=patch_indices),)


def decoded(
    name: str, make: Callable, inputs: Callable = some_places, select: Callable = keep_present_rows
) -> Row:
    return Row(f"heads.{name}", make, inputs, select=select, tolerance=TOLERANCE["fp32_stack"])


def decoder(dtype: str) -> heads.Reconstruction:
    return heads.Reconstruction("image", num_patches=8, patch_dim=5, trunk=trunk(dtype, width=8))


def quantised_read(output: heads.Quantised, inputs: tuple) -> dict:
    """Every array, where the stream is there."""
    arrays = {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    del arrays["num_codes"]
    mask = inputs[0].mask
    return {
        name: jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - 2)), x, 0) for name, x in arrays.items()
    }


def frames_read(output: heads.Frames, inputs: tuple) -> tuple:
    return keep_tokens(output.logits, inputs), output.mask


def contested() -> AdversarialEncoded:
    own = encoded()
    made_up = {"for_discriminator": normal(B, L, D, seed=1), "for_generator": normal(B, L, D, seed=2)}
    return AdversarialEncoded(own.embeddings, own.mask, **made_up)


HEADS = [
    Row(
        "heads.RealOrGenerated",
        lambda dtype: heads.RealOrGenerated("audio"),
        lambda: (contested(),),
        select=keep_present_rows,
        bf16="inputs",
    ),
    head(
        "Boxes",
        lambda: heads.Boxes("image", num_classes=3, grid=(2, 3), tokens=(1, 4), mlp_width=32, depth=1),
    ),
    head("PooledEmbedding", lambda: heads.PooledEmbedding("text", dim=8)),
    head("PooledEmbedding.first", lambda: heads.PooledEmbedding("text", dim=8, pooling="first")),
    head(
        "PooledEmbedding.depth",
        lambda: heads.PooledEmbedding("text", dim=8, depth=1, use_bias=True),
        inputs=lambda: (encoded().replace(hidden_states=(normal(B, L, D, seed=3), normal(B, L, D, seed=4))),),
    ),
    head("Classes", lambda: heads.Classes("text", num_classes=3, pooling="mean")),
    head("Votes", lambda: heads.Votes("votes"), select=keep_tokens),
    head("Votes.example", lambda: heads.Votes("votes", each="example")),
    head("MatchingLogit", lambda: heads.MatchingLogit("text")),
    head("PooledEmbedding.last", lambda: heads.PooledEmbedding("text", dim=8, pooling="last")),
    head("PositionClasses", lambda: heads.PositionClasses("text", num_classes=3), select=keep_tokens),
    head("FrameLogits", lambda: heads.FrameLogits("audio", vocab=5), select=frames_read),
    head(
        "TokenLogits",
        lambda: heads.TokenLogits("text"),
        kwargs={"table": normal(VOCAB, D)},
        select=keep_tokens,
    ),
    decoded("Reconstruction", decoder),
    head(
        "Reconstruction.linear",
        lambda: heads.Reconstruction("image", num_patches=4, patch_dim=5),
        select=lambda y, inputs: jnp.where(inputs[0].mask[:, 2:, None], y, 0),
    ),
    head(
        "PatchQuantiser",
        lambda: heads.PatchQuantiser("image", num_codes=6, code_dim=4, patch_dim=5, trunk=trunk()),
        select=quantised_read,
        tolerance=TOLERANCE["fp32_stack"],
        bf16=None,  # of codes that are nearly as near, rounding picks another
    ),
]
