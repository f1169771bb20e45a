"""Row checksums, to find examples with equal inputs; and which rows of a batch are equal."""

import dataclasses
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jaxtyping import Bool, UInt32

from mmjax.batch import RECORDS, Audio, Batch, Image, Records, Stream, is_present


def remember_contents(batch: Batch, streams: Iterable[str]) -> Batch:
    """The batch, with the present contents of `streams` in its Records, where views cannot change them."""
    contents = {stream: row_contents(batch, stream) for stream in streams if stream in batch}
    records = batch.get(RECORDS)
    if not contents:
        return batch
    if records is None:  # an evaluation's batch, in which each record occurs once
        num_rows = len(next(iter(contents.values()))[0])
        records = Records(jnp.arange(num_rows), jnp.ones(num_rows, bool))
    return {**batch, RECORDS: dataclasses.replace(records, contents=contents)}


def row_contents(batch: Batch, stream: str) -> tuple[UInt32[jax.Array, "B 2"], Bool[jax.Array, " B"]]:
    """(checksums, is_present) of each row of a stream, before any view if they were remembered."""
    records = batch.get(RECORDS)
    contents = records.contents if isinstance(records, Records) else None
    if contents and stream in contents:
        return contents[stream]
    return row_checksums(batch[stream]), is_present(batch[stream])


def equal_rows(batch: Batch, stream: str) -> Bool[jax.Array, "B B"]:
    """Whether two rows hold an equal `stream`, or are of one record; True on the diagonal."""
    sums, _ = row_contents(batch, stream)
    is_equal = (sums[:, None] == sums[None, :]).all(-1)
    if RECORDS in batch:
        index = batch[RECORDS].index
        is_equal |= index[:, None] == index[None, :]
    return is_equal


def row_checksums(stream: Stream) -> UInt32[jax.Array, "B 2"]:
    """Two checksums of each row's unmasked values: equal rows have equal ones, different rows almost never.

    They replace a B x B comparison of whole inputs. Integer sums wrap around and are therefore exact.
    """
    if isinstance(stream, Image | Audio):
        stream = stream.replace(visible=None)  # which patches are visible does not change the content
    sums = jnp.zeros((stream.mask.shape[0], 2), jnp.uint32)
    for leaf in jax.tree.leaves(stream):
        mask = stream.mask.reshape(stream.mask.shape + (1,) * (leaf.ndim - stream.mask.ndim))
        row = jnp.where(mask, leaf, 0).reshape(leaf.shape[0], -1)
        bits = (
            jax.lax.bitcast_convert_type(row, jnp.uint32)
            if row.dtype.itemsize == 4
            else row.astype(jnp.uint32)
        )
        salts = [jax.random.bits(jax.random.key(i), (1, bits.shape[1]), jnp.uint32) for i in (0, 1)]
        leaf_sums = [murmur3_finalize(bits ^ salt).sum(axis=1, dtype=jnp.uint32) for salt in salts]
        # Hash between leaves, so that a difference in one leaf cannot cancel a difference in another.
        sums = murmur3_finalize(sums + jnp.stack(leaf_sums, axis=1))
    return sums


def murmur3_finalize(bits: UInt32[jax.Array, "..."]) -> UInt32[jax.Array, "..."]:
    """MurmurHash3's 32-bit finalizer, elementwise.

    Multiply-and-add checksums would not suffice: they miss pairs of rows that differ only in high bits, such
    as the sign bits of black and white pixels.
    """
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)
