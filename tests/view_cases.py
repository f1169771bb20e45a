"""Batches, encodings and a jitted `transform_batch`, for the tests of views."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.batch import Batch, Encoded, Text
from mmjax.testing import tiny_batch

ROWS = 512


def many_texts() -> Batch:
    """Random texts; the last is missing."""
    batch = tiny_batch(ROWS)
    mask = batch["text"].mask & (np.arange(ROWS) < ROWS - 1)[:, None]
    return jax.tree.map(jnp.asarray, batch | {"text": batch["text"].replace(mask=mask)})


@functools.partial(jax.jit, static_argnums=0)
def jitted_transform(view, batch, key):
    return view.transform_batch(batch, key)


def transform(view, batch, seed: int = 0):
    """(the changed batch, the targets), as NumPy arrays."""
    return jax.device_get(jitted_transform(view, batch, jax.random.key(seed)))


def maskable_tokens(text: Text) -> np.ndarray:
    """Whether a view may mask the token: bool "B L"."""
    return np.asarray(text.mask & (text.words >= 0))


def encodings(rows: int = ROWS, **lengths: int) -> dict[str, Encoded]:
    """Embeddings whose values identify their stream, row and position; the first row is missing."""
    return {
        name: Encoded(
            jnp.arange(rows * length, dtype=jnp.float32).reshape(rows, length, 1) + 1e6 * i,
            jnp.ones((rows, length), bool).at[0].set(False),
        )
        for i, (name, length) in enumerate(lengths.items())
    }
