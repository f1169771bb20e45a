"""Random parameters of a learner, without compiling its initialisation."""

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.learner import Learner
from mmjax.sharding import unbox


def random_parameters(learner: Learner, batch: dict, scale: float = 0.2) -> dict:
    """Normal parameters, biases included: biases of zero would hide how they are used."""
    key, batch = jax.random.key(0), jax.tree.map(jnp.asarray, batch)
    shapes = jax.eval_shape(lambda: unbox(learner.init({"params": key, "views": key}, batch)["params"]))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(scale * rng.normal(size=x.shape), x.dtype), shapes)
