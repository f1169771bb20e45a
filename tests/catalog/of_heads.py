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
    name: str, module: Callable[[], nn.Module], inputs: Callable[[], tuple] = lambda: (encoded(),), **settings
) -> Row:
    defaults = {"select": keep_present_rows, "bf16": "inputs"}
    return Row(f"heads.{name}", lambda dtype: module(), inputs, **defaults | settings)


def visible_patches() -> tuple[Encoded]:
    """Six of eight patches; the first position is a register. The last row is missing."""
    rng = np.random.default_rng(0)
    patch_indices = np.stack([rng.permutation(8)[:6] for _ in range(B)]).astype(np.int32)
    patch_indices[:, 0] = -1
    return (encoded().replace(patch_indices=patch_indices),)


def decoder_row(
    name: str, make: Callable, inputs: Callable = visible_patches, select: Callable = keep_present_rows
) -> Row:
    return Row(f"heads.{name}", make, inputs, select=select, tolerance=TOLERANCE["fp32_stack"])


def reconstruction(dtype: str) -> heads.Reconstruction:
    return heads.Reconstruction("image", num_patches=8, patch_dim=5, trunk=trunk(dtype, width=8))


def keep_quantised(output: heads.Quantised, inputs: tuple) -> dict:
    """All arrays, zero at masked positions."""
    arrays = {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    del arrays["num_codes"]
    mask = inputs[0].mask
    return {
        name: jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - 2)), x, 0) for name, x in arrays.items()
    }


def keep_frames(output: heads.MaskedLogits, inputs: tuple) -> tuple:
    return keep_tokens(output.logits, inputs), output.mask


def adversarial_encoded() -> AdversarialEncoded:
    real = encoded()
    generated = {"for_discriminator": normal(B, L, D, seed=1), "for_generator": normal(B, L, D, seed=2)}
    return AdversarialEncoded(real.embeddings, real.mask, **generated)


HEADS = [
    Row(
        "heads.RealOrGenerated",
        lambda dtype: heads.RealOrGenerated("audio"),
        lambda: (adversarial_encoded(),),
        select=keep_present_rows,
        bf16="inputs",
    ),
    head(
        "Boxes",
        lambda: heads.Boxes(
            "image", num_classes=3, query_grid=(2, 3), token_grid=(1, 4), mlp_width=32, depth=1
        ),
    ),
    head("PooledEmbedding", lambda: heads.PooledEmbedding("text", dim=8)),
    head("PooledEmbedding.first", lambda: heads.PooledEmbedding("text", dim=8, pooling="first")),
    head(
        "PooledEmbedding.hidden_state",
        lambda: heads.PooledEmbedding("text", dim=8, hidden_state=1, use_bias=True),
        inputs=lambda: (encoded().replace(hidden_states=(normal(B, L, D, seed=3), normal(B, L, D, seed=4))),),
    ),
    head(
        "AttentionPooledEmbedding",
        lambda: heads.AttentionPooledEmbedding("text", dim=D, num_heads=2, mlp_width=24),
        tolerance=TOLERANCE["fp32_stack"],
    ),
    head("Classes", lambda: heads.Classes("text", num_classes=3, pooling="mean")),
    head("Votes", lambda: heads.Votes("votes"), select=keep_tokens),
    head("Votes.example", lambda: heads.Votes("votes", per="example")),
    head("MatchingLogit", lambda: heads.MatchingLogit("text")),
    head("PooledEmbedding.last", lambda: heads.PooledEmbedding("text", dim=8, pooling="last")),
    head("PooledEmbedding.norm", lambda: heads.PooledEmbedding("text", dim=8, norm_epsilon=1e-5)),
    head("PositionClasses", lambda: heads.PositionClasses("text", num_classes=3), select=keep_tokens),
    head("FrameLogits", lambda: heads.FrameLogits("audio", vocab=5), select=keep_frames),
    head(
        "TokenLogits",
        lambda: heads.TokenLogits("text"),
        kwargs={"table": normal(VOCAB, D)},
        select=keep_tokens,
    ),
    decoder_row("Reconstruction", reconstruction),
    head(
        "Reconstruction.linear",
        lambda: heads.Reconstruction("image", num_patches=4, patch_dim=5),
        select=lambda y, inputs: jnp.where(inputs[0].mask[:, 2:, None], y, 0),
    ),
    head(
        "PatchQuantiser",
        lambda: heads.PatchQuantiser("image", num_codes=6, code_dim=4, patch_dim=5, trunk=trunk()),
        select=keep_quantised,
        tolerance=TOLERANCE["fp32_stack"],
        bf16=None,  # rounding changes which of two close codes is nearest
    ),
]
