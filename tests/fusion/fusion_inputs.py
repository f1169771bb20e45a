"""Encodings and parameters that tests of fusions share, as device arrays."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from catalog.of_fusion import with_hidden_states

from mmjax.batch import Encoded


def pair() -> dict[str, Encoded]:
    """Text, a wider image and a stream to pass on, padded, each with a state below its last.

    The last example has neither, and example 1 no image.
    """
    encoded = with_hidden_states()[0]
    there = encoded["image"].mask & (np.arange(len(encoded["image"].mask)) != 1)[:, None]
    return jax.tree.map(jnp.asarray, encoded | {"image": encoded["image"].replace(mask=there)})


def whole() -> dict[str, Encoded]:
    """The same without padding."""
    return {name: value.replace(mask=jnp.ones_like(value.mask)) for name, value in pair().items()}


def drawn(module: nn.Module, encoded: dict[str, Encoded]) -> dict:
    """Random parameters: at their first values gates are closed and biases zero."""
    abstract = jax.eval_shape(lambda given: module.init(jax.random.key(0), given), encoded)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), nn.meta.unbox(abstract)
    )


def negated(encoded: dict[str, Encoded], stream: str) -> dict[str, Encoded]:
    """The same with other content in one stream."""
    return encoded | {stream: jax.tree.map(lambda x: x if x.dtype == bool else -x, encoded[stream])}
