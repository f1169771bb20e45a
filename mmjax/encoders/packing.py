"""Several short examples in one row, so that little of the arithmetic is spent on padding."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool

from mmjax.batch import Encoded
from mmjax.layers import Transformer


class Places(NamedTuple):
    """Where the positions of B examples lie in R rows of M places."""

    source: jax.Array  # int32 "R M", which of the row's G x L positions lies there
    segment: jax.Array  # int32 "R M", which of the row's G examples; -1 where nothing lies
    place: jax.Array  # int32 "B L", where in its row the position lies
    kept: jax.Array  # bool "B L", False where there is nothing, or no room


@dataclasses.dataclass(frozen=True, kw_only=True)
class Packing:
    """`examples` consecutive examples share a row of `length` places (NaViT, Dehghani et al. 2023, 2.1).

    Attention stays within an example. Which examples meet is fixed by their order and their room by `length`:
    what does not fit is masked, the last positions of the last examples first. ``length = examples x L``
    always holds everything and saves nothing; choose it by what `share_kept` says of the data.
    """

    examples: int
    length: int

    def places(self, mask: Bool[jax.Array, "B L"]) -> Places:
        """Sorts what is there to the front of each row, in order."""
        batch, length = mask.shape
        if batch % self.examples:
            raise ValueError(
                f"a batch of {batch} does not divide into rows of {self.examples} packed examples each"
            )
        if not length <= self.length <= self.examples * length:
            raise ValueError(
                f"expected a packed length from {length}, the longest example, to {self.examples * length}, "
                f"all of {self.examples} examples, found {self.length}"
            )
        flat = mask.reshape(-1, self.examples * length)
        source = jnp.argsort(~flat, axis=1, stable=True)[:, : self.length].astype(jnp.int32)
        filled = jnp.arange(self.length)[None] < flat.sum(1, keepdims=True)
        place = jnp.cumsum(flat, axis=1, dtype=jnp.int32) - 1
        kept = flat & (place < self.length)
        return Places(
            source=source,
            segment=jnp.where(filled, source // length, -1),
            place=jnp.clip(place, 0, self.length - 1).reshape(mask.shape),
            kept=kept.reshape(mask.shape),
        )

    def encode(self, trunk: Transformer, x: jax.Array, mask: jax.Array, train: bool = False) -> Encoded:
        """`trunk.encode` of ``"B L D"`` by packed rows, unpacked again."""
        places = self.places(mask)
        rows = jnp.take_along_axis(self.rows_of(x), places.source[..., None], axis=1)
        same = places.segment[:, :, None] == places.segment[:, None, :]
        encoded = trunk.encode(rows, places.segment >= 0, train, allowed=same)
        group = places.place.reshape(rows.shape[0], -1)

        def unpack(y: jax.Array) -> jax.Array:
            return jnp.take_along_axis(y, group[..., None], axis=1).reshape(x.shape)

        hidden_states = tuple(unpack(y) for y in encoded.hidden_states)
        return Encoded(unpack(encoded.embeddings), places.kept, hidden_states)

    def rows_of(self, x: jax.Array) -> jax.Array:
        """``"B L D" -> "R (G L) D"``."""
        return x.reshape(x.shape[0] // self.examples, -1, x.shape[-1])


def share_kept(packing: Packing, mask: Bool[jax.Array, "B L"]) -> jax.Array:
    """How much of what is there has room."""
    return packing.places(mask).kept.sum() / jnp.maximum(mask.sum(), 1)
