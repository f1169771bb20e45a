"""Encodings and parameters that tests of fusions share, as device arrays."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from catalog.of_fusion import with_hidden_states

from mmjax.batch import Encoded


def padded_pair() -> dict[str, Encoded]:
    """Text, a wider image and an unread stream, padded, with one hidden state each.

    Example 1 has no image, the last example neither text nor image.
    """
    encoded = with_hidden_states()[0]
    mask = encoded["image"].mask & (np.arange(len(encoded["image"].mask)) != 1)[:, None]
    return jax.tree.map(jnp.asarray, encoded | {"image": encoded["image"].replace(mask=mask)})


def unpadded_pair() -> dict[str, Encoded]:
    """The same streams without padding."""
    return {name: value.replace(mask=jnp.ones_like(value.mask)) for name, value in padded_pair().items()}


def random_params(module: nn.Module, encoded: dict[str, Encoded]) -> dict:
    """Random parameters. Initial ones would not do: gates and biases start at zero."""
    abstract = jax.eval_shape(lambda encoded: module.init(jax.random.key(0), encoded), encoded)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), nn.meta.unbox(abstract)
    )


def weighted_sum(fused: dict[str, Encoded]) -> tuple[jax.Array, dict[str, jax.Array]]:
    """A scalar that depends on every unmasked result, and {stream: results, zero where masked}."""
    results = {name: jnp.where(x.mask[..., None], x.embeddings, 0) for name, x in fused.items()}
    weights = {name: jnp.cos(jnp.arange(x.size, dtype=jnp.float32)) for name, x in results.items()}
    return sum((x * weights[name].reshape(x.shape)).sum() for name, x in results.items()), results


def negated(encoded: dict[str, Encoded], stream: str) -> dict[str, Encoded]:
    """The same streams, with the embeddings of one negated."""
    return encoded | {stream: jax.tree.map(lambda x: x if x.dtype == bool else -x, encoded[stream])}
