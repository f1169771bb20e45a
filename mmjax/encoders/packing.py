"""Packing of several short examples into one row, so that less compute is spent on padding."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool

from mmjax.batch import Encoded
from mmjax.layers import Transformer
from mmjax.ranges import Size
from mmjax.spec import Spec


class PackedLayout(NamedTuple):
    """Where the positions of B examples of length L are in R rows of length M, with G examples per row."""

    source: jax.Array  # int32 "R M", the index of this position among the "G L" positions of its examples
    segment_ids: jax.Array  # int32 "R M", the index of its example among the G, -1: empty
    index_in_row: jax.Array  # int32 "B L", where in its row the position is
    is_kept: jax.Array  # bool "B L", False where the position is masked or does not fit


@dataclasses.dataclass(frozen=True, kw_only=True)
class Packing(Spec):
    """Packs consecutive examples into one row (NaViT, Dehghani et al. 2023, section 2.1).

    Attention stays within an example. Positions that do not fit are masked, from the end of the row's last
    example on: choose `row_length` by `kept_fraction`.

    examples_per_row: G.
    row_length: M, between the length L of one example and G L, which fits everything but saves no compute.
    """

    examples_per_row: Size
    row_length: Size

    def layout(self, mask: Bool[jax.Array, "B L"]) -> PackedLayout:
        """Moves the valid positions of each row to its front, in order."""
        batch, length = mask.shape
        if batch % self.examples_per_row:
            raise ValueError(
                f"a batch of {batch} does not divide into rows of {self.examples_per_row} packed examples: "
                "expected a multiple of examples_per_row"
            )
        total = self.examples_per_row * length
        if not length <= self.row_length <= total:
            raise ValueError(
                f"expected a row_length from {length}, the length of one example, to {total}, that of "
                f"{self.examples_per_row} examples, found {self.row_length}"
            )
        flat = mask.reshape(-1, total)
        source = jnp.argsort(~flat, axis=1, stable=True)[:, : self.row_length].astype(jnp.int32)
        is_filled = jnp.arange(self.row_length)[None] < flat.sum(1, keepdims=True)
        index = jnp.cumsum(flat, axis=1, dtype=jnp.int32) - 1
        is_kept = flat & (index < self.row_length)
        return PackedLayout(
            source=source,
            segment_ids=jnp.where(is_filled, source // length, -1),
            index_in_row=jnp.clip(index, 0, self.row_length - 1).reshape(mask.shape),
            is_kept=is_kept.reshape(mask.shape),
        )

    def encode(self, trunk: Transformer, x: jax.Array, mask: jax.Array, train: bool = False) -> Encoded:
        """Packs x "B L D" with mask "B L", applies `trunk.encode`, and unpacks its result."""
        layout = self.layout(mask)
        groups = x.reshape(x.shape[0] // self.examples_per_row, -1, x.shape[-1])
        rows = jnp.take_along_axis(groups, layout.source[..., None], axis=1)
        is_same_example = layout.segment_ids[:, :, None] == layout.segment_ids[:, None, :]
        encoded = trunk.encode(rows, layout.segment_ids >= 0, train, attention_mask=is_same_example)
        index = layout.index_in_row.reshape(rows.shape[0], -1)

        def unpack(y: jax.Array) -> jax.Array:
            return jnp.take_along_axis(y, index[..., None], axis=1).reshape(x.shape)

        hidden_states = tuple(unpack(y) for y in encoded.hidden_states)
        return Encoded(unpack(encoded.embeddings), layout.is_kept, hidden_states)

    def kept_fraction(self, mask: Bool[jax.Array, "B L"]) -> jax.Array:
        """The fraction of valid positions that fit, a scalar."""
        return self.layout(mask).is_kept.sum() / jnp.maximum(mask.sum(), 1)
