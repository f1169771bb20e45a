"""Partner rows for views that combine two examples."""

import jax
import jax.numpy as jnp
from jaxtyping import Int


def random_partners(key: jax.Array, num_rows: int) -> Int[jax.Array, "B"]:
    """A random rotation: each row is a partner once, and none is its own, except in a batch of one."""
    return (jnp.arange(num_rows) + jax.random.randint(key, (), 1, max(num_rows, 2))) % num_rows
