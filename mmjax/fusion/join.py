"""What fusions share: streams brought to one width, told apart, and laid end to end."""

from collections.abc import Iterable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32

from mmjax.batch import Encoded, is_present
from mmjax.errors import InputError
from mmjax.layers import Einsum, LayerNorm, Mlp, MultiHeadAttention
from mmjax.sharding import param_axes, shard


def select_streams(
    fusion: nn.Module, streams: Iterable[str], encoded: Mapping[str, Encoded]
) -> dict[str, Encoded]:
    """The streams that `fusion` reads, in its order; an InputError where one was not encoded."""
    streams = tuple(streams)
    missing = sorted(set(streams) - set(encoded))
    if missing:
        raise InputError(
            f"{type(fusion).__name__} fuses {list(streams)}, and {missing} were not encoded: expected "
            f"streams among {sorted(encoded)}"
        )
    return {stream: encoded[stream] for stream in streams}


def check_names(
    fusion: nn.Module, streams: tuple[str, ...], named: Mapping[str, Iterable[str | None]], into: str | None
) -> None:
    """Refuses, by InputError, fields (`named`: {field: streams}) that name none of `streams`.

    into: the stream that the fusion makes, which must be a new one; None if it makes none.
    """
    kind = type(fusion).__name__
    if not streams or len(set(streams)) != len(streams):
        raise InputError(f"{kind}.streams expects one or more different streams, found {streams}")
    for field, values in named.items():
        unknown = sorted({value for value in values if value is not None} - set(streams))
        if unknown:
            raise InputError(
                f"{kind}.{field} names {unknown}, which it does not read: expected one of {list(streams)}, "
                "or add it to streams"
            )
    if into in streams:
        raise InputError(
            f"{kind}.into expects a new name, found {into!r}, one of its streams {list(streams)}"
        )


def check_trunk(fusion: nn.Module, trunk_width: int, width: int) -> None:
    """Refuses, by InputError, a trunk whose width is not the fusion's."""
    if trunk_width != width:
        raise InputError(
            f"{type(fusion).__name__} has width {width} and a trunk of width {trunk_width}: expected "
            "them equal"
        )


def project(x: Float[jax.Array, "B L C"], width: int, name: str, dtype: str) -> Float[jax.Array, "B L D"]:
    """x mapped linearly to `width`, in a module `name` of the compact method that calls."""
    return Einsum(
        "B L D, D M -> B L M",
        shape=(x.shape[-1], width),
        axes=("patch", "embed"),
        dtype=dtype,
        name=name,
    )(x)


def add_modality_embedding(
    fusion: nn.Module, streams: Mapping[str, Encoded], width: int, dtype: str, suffix: str = ""
) -> dict[str, Encoded]:
    """Every stream at `width`, mapped where it must be, with a learned vector of its own added.

    suffix: of the names of the parameters, where a fusion does so more than once.
    """
    joined = {}
    for stream, value in streams.items():
        x = value.embeddings
        if x.shape[-1] != width:
            x = project(x, width, f"{stream}{suffix}_in", dtype)
        # A vector per stream: without it the readers could not tell whose token they attend to.
        init = param_axes(nn.initializers.normal(0.02), "embed")
        tag = fusion.param(f"{stream}{suffix}_tag", init, (width,))
        x = x.astype(dtype) + tag[None, None].astype(dtype)
        joined[stream] = Encoded(x, value.mask, patch_indices=value.patch_indices)
    return joined


def learned_tokens(fusion: nn.Module, name: str, num: int, like: Encoded, scale: float = 1.0) -> Encoded:
    """`num` learned positions, the same for every row of `like`, always there."""
    rows, width = like.embeddings.shape[0], like.embeddings.shape[-1]
    init = param_axes(nn.initializers.normal(scale), None, "embed")
    table = fusion.param(name, init, (num, width)).astype(like.embeddings.dtype)
    return Encoded(jnp.broadcast_to(table, (rows, num, width)), jnp.ones((rows, num), bool))


def concat_streams(parts: Iterable[Encoded]) -> Encoded:
    """Positions of all parts, one after another."""
    parts = tuple(parts)
    return Encoded(
        jnp.concatenate([part.embeddings for part in parts], axis=1),
        jnp.concatenate([part.mask for part in parts], axis=1),
    )


def split_streams(joined: jax.Array, parts: Mapping[str, Encoded]) -> dict[str, jax.Array]:
    """The inverse of `end_to_end`: {name: its own positions}."""
    found, start = {}, 0
    for name, part in parts.items():
        found[name] = joined[:, start : start + part.mask.shape[1]]
        start += part.mask.shape[1]
    return found


def any_present(streams: Mapping[str, Encoded], num: int = 1) -> Bool[jax.Array, "B {num}"]:
    """The mask of `num` positions that are there where any of the streams is."""
    there = jnp.stack([is_present(value) for value in streams.values()], axis=-1).any(axis=-1)
    return jnp.broadcast_to(there[:, None], (there.shape[0], num))


def over_present(
    logits: Float[jax.Array, "*rows S"], there: Bool[jax.Array, "*rows S"]
) -> Float32[jax.Array, "*rows S"]:
    """Log-softmax over what is there; what is not gets -1e9, and where nothing is, all do."""
    logits = jnp.where(there, logits.astype(jnp.float32), -1e9)
    return jnp.where(there, jax.nn.log_softmax(logits, axis=-1), -1e9)


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
    """x and what it attends to in the context. Modules `name`_... of the compact method that calls."""
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
    """x and what an MLP makes of it. Modules `name`_... of the compact method that calls."""
    y = LayerNorm(dtype=dtype, name=f"{name}_mlp_norm")(x)
    y = Mlp(mlp_width, dtype=dtype, name=f"{name}_mlp")(y)
    x = x + nn.Dropout(dropout, deterministic=not train)(y)
    return shard(x, "act_batch", "act_length", "act_embed")
