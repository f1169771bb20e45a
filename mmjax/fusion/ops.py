"""Operations on streams and layers that several fusions use.

Functions that take a `name` create parameters and must be called from a compact method.
"""

from collections.abc import Iterable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32

from mmjax.batch import Encoded, is_present
from mmjax.errors import InputError
from mmjax.fusion.base import Fusion, SingleResultFusion
from mmjax.layers import Einsum, LayerNorm, Mlp, MultiHeadAttention
from mmjax.sharding import param_axes, shard


def select_streams(
    fusion: Fusion,
    encoded: Mapping[str, Encoded],
    *,
    new_stream: str | None = None,
    **fields: Iterable[str | None],
) -> dict[str, Encoded]:
    """Returns the streams that `fusion` reads, in the order of `fusion.streams`.

    Args:
      new_stream: the stream that the fusion adds, if any, beside that of a SingleResultFusion.
      fields: {field: the streams that it names}; None is skipped.

    Raises:
      InputError: `fusion.streams` is empty or repeats a stream, a field names none of them, the new stream is
        one of them, or one was not encoded.
    """
    kind, streams = type(fusion).__name__, fusion.streams
    if isinstance(fusion, SingleResultFusion):
        fields = {"updated_stream": (fusion.updated_stream,)} | fields
        new_stream = None if fusion.updated_stream else fusion.new_stream
    if not streams or len(set(streams)) != len(streams):
        raise InputError(f"{kind}.streams expects one or more different streams, found {streams}")
    for field, values in fields.items():
        unknown = sorted({value for value in values if value is not None} - set(streams))
        if unknown:
            raise InputError(
                f"{kind}.{field} names {unknown}, which it does not read: expected one of {list(streams)}, "
                "or add it to streams"
            )
    if new_stream in streams:
        raise InputError(
            f"{kind}.new_stream expects a new name, found {new_stream!r}, one of its streams {list(streams)}"
        )
    missing = sorted(set(streams) - set(encoded))
    if missing:
        raise InputError(
            f"{kind} fuses {list(streams)}, and {missing} were not encoded: expected streams among "
            f"{sorted(encoded)}"
        )
    return {stream: encoded[stream] for stream in streams}


def project(x: Float[jax.Array, "B L C"], width: int, name: str, dtype: str) -> Float[jax.Array, "B L D"]:
    """Maps x linearly to `width`."""
    return Einsum(
        "B L D, D M -> B L M",
        shape=(x.shape[-1], width),
        axes=("patch", "embed"),
        dtype=dtype,
        name=name,
    )(x)


def add_modality_embedding(
    fusion: Fusion, streams: Mapping[str, Encoded], width: int, dtype: str, suffix: str = ""
) -> dict[str, Encoded]:
    """Projects streams of another width to `width`, and adds a learned vector per stream.

    Args:
      suffix: part of the parameters' names, for a fusion that calls this more than once.
    """
    embedded = {}
    for stream, value in streams.items():
        x = value.embeddings
        if x.shape[-1] != width:
            x = project(x, width, f"{stream}{suffix}_in", dtype)
        # Without this vector, attention over several streams could not tell to which one a token belongs.
        init = param_axes(nn.initializers.normal(0.02), "embed")
        embedding = fusion.param(f"{stream}{suffix}_tag", init, (width,))
        x = x.astype(dtype) + embedding[None, None].astype(dtype)
        embedded[stream] = Encoded(x, value.mask, patch_indices=value.patch_indices)
    return embedded


def learned_tokens(fusion: Fusion, name: str, num: int, like: Encoded, scale: float = 1.0) -> Encoded:
    """`num` learned tokens, equal for every row, never masked; batch, width and dtype are those of `like`."""
    batch, width = like.embeddings.shape[0], like.embeddings.shape[-1]
    init = param_axes(nn.initializers.normal(scale), None, "embed")
    table = fusion.param(name, init, (num, width)).astype(like.embeddings.dtype)
    return Encoded(jnp.broadcast_to(table, (batch, num, width)), jnp.ones((batch, num), bool))


def concat_streams(parts: Iterable[Encoded]) -> Encoded:
    """Concatenates streams along their positions."""
    parts = tuple(parts)
    return Encoded(
        jnp.concatenate([part.embeddings for part in parts], axis=1),
        jnp.concatenate([part.mask for part in parts], axis=1),
    )


def split_streams(
    joined: Float[jax.Array, "B L D"], parts: Mapping[str, Encoded]
) -> dict[str, Float[jax.Array, "B _ D"]]:
    """The inverse of `concat_streams`: {name: the embeddings at its positions}."""
    split, start = {}, 0
    for name, part in parts.items():
        split[name] = joined[:, start : start + part.mask.shape[1]]
        start += part.mask.shape[1]
    return split


def any_present(streams: Mapping[str, Encoded], num: int = 1) -> Bool[jax.Array, "B {num}"]:
    """A mask of `num` positions, True in rows that have at least one of the streams."""
    present = jnp.stack([is_present(value) for value in streams.values()], axis=-1).any(axis=-1)
    return jnp.broadcast_to(present[:, None], (present.shape[0], num))


def masked_log_softmax(
    logits: Float[jax.Array, "*rows S"], mask: Bool[jax.Array, "*rows S"]
) -> Float32[jax.Array, "*rows S"]:
    """Log-softmax over the entries where mask is True; the others are -1e9."""
    logits = jnp.where(mask, logits.astype(jnp.float32), -1e9)
    return jnp.where(mask, jax.nn.log_softmax(logits, axis=-1), -1e9)


def cross_attend(
    name: str,
    x: Float[jax.Array, "B L D"],
    context: Encoded,
    train: bool,
    *,
    num_heads: int,
    dropout: float = 0.0,
    dtype: str = "float32",
) -> Float[jax.Array, "B L D"]:
    """Residual cross-attention: `x + Attention(norm(x), norm(context))`."""
    cross = MultiHeadAttention(num_heads=num_heads, dtype=dtype, name=f"{name}_cross")(
        LayerNorm(dtype=dtype, name=f"{name}_query_norm")(x),
        LayerNorm(dtype=dtype, name=f"{name}_context_norm")(context.embeddings),
        context.mask,
    )
    x = x + nn.Dropout(dropout, deterministic=not train)(cross)
    return shard(x, "act_batch", "act_length", "act_embed")


def mlp_residual(
    name: str,
    x: Float[jax.Array, "B L D"],
    train: bool,
    *,
    mlp_width: int,
    dropout: float = 0.0,
    dtype: str = "float32",
) -> Float[jax.Array, "B L D"]:
    """Residual MLP: `x + MLP(norm(x))`."""
    y = LayerNorm(dtype=dtype, name=f"{name}_mlp_norm")(x)
    y = Mlp(mlp_width, dtype=dtype, name=f"{name}_mlp")(y)
    x = x + nn.Dropout(dropout, deterministic=not train)(y)
    return shard(x, "act_batch", "act_length", "act_embed")
