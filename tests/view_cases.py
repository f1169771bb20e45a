"""What a view makes of a batch, for the tests of views."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.batch import Batch, Encoded, Text
from mmjax.testing import tiny_batch

ROWS = 512


def many_texts() -> Batch:
    """Many random texts; the last is missing."""
    made = tiny_batch(ROWS)
    mask = made["text"].mask & (np.arange(ROWS) < ROWS - 1)[:, None]
    return jax.tree.map(jnp.asarray, made | {"text": made["text"].replace(mask=mask)})


@functools.partial(jax.jit, static_argnums=0)
def looked_at(view, batch, key):
    return view.transform_batch(batch, key)


def seen(view, batch, seed: int = 0):
    """(the view's batch, its targets), NumPy."""
    return jax.device_get(looked_at(view, batch, jax.random.key(seed)))


def words_of(text: Text) -> np.ndarray:
    """Where a token may be hidden: bool "B L"."""
    return np.asarray(text.mask & (text.words >= 0))


def encodings(rows: int = ROWS, **lengths: int) -> dict[str, Encoded]:
    """Every number tells its stream, its row and its position."""
    return {
        name: Encoded(
            jnp.arange(rows * length, dtype=jnp.float32).reshape(rows, length, 1) + 1e6 * i,
            jnp.ones((rows, length), bool).at[0].set(False),
        )
        for i, (name, length) in enumerate(lengths.items())
    }
