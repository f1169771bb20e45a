"""Which examples hold the same input."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, UInt32

from mmjax.batch import Audio, Image, Stream


def same_content(stream: Stream) -> Bool[jax.Array, "B B"]:
    """Which rows hold exactly the same input, whatever is under a False mask; True on the diagonal."""
    sums = row_checksums(stream)
    return (sums[:, None] == sums[None, :]).all(-1)


def row_checksums(stream: Stream) -> UInt32[jax.Array, "B 2"]:
    """Equal where rows hold exactly the same input, whatever is under a False mask; else almost never.

    Two checksums a row instead of B x B x inputs comparisons; modular, so equal rows agree to the bit.
    """
    if isinstance(stream, Image | Audio):
        stream = stream.replace(visible=None)  # what a view hides changes no content
    sums = jnp.zeros((stream.mask.shape[0], 2), jnp.uint32)
    for leaf in jax.tree.leaves(stream):
        mask = stream.mask.reshape(stream.mask.shape + (1,) * (leaf.ndim - stream.mask.ndim))
        row = jnp.where(mask, leaf, 0).reshape(leaf.shape[0], -1)
        bits = (
            jax.lax.bitcast_convert_type(row, jnp.uint32)
            if row.dtype.itemsize == 4
            else row.astype(jnp.uint32)
        )
        seeds = [jax.random.bits(jax.random.key(i), (1, bits.shape[1]), jnp.uint32) for i in (0, 1)]
        of_leaf = [scramble(bits ^ salt).sum(axis=1, dtype=jnp.uint32) for salt in seeds]
        # Scrambled between leaves: or what one leaf adds, another could take away.
        sums = scramble(sums + jnp.stack(of_leaf, axis=1))
    return sums


def scramble(bits: jax.Array) -> jax.Array:
    """MurmurHash3's last step, uint32.

    A sum of multiples would not tell apart rows that differ only in high bits, such as the signs of black and
    white pixels.
    """
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)
