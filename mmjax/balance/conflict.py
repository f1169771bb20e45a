"""The conflict report: how the objectives' gradients on the shared parameters lie to each other."""

import itertools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32


def report(gram: Float32[jax.Array, "N N"], names: Sequence[str]) -> dict[str, jax.Array]:
    """Of one step, NaN where a gradient is zero:

    conflict/norm/<a>         gradient norm of an objective, with its own weight
    conflict/<a>|<b>          cosine of two
    conflict/share/<a>|<b>    1 where it is negative, else 0
    conflict/share            1 where any is
    """
    norms = jnp.sqrt(jnp.diagonal(gram))
    found: dict[str, jax.Array] = {
        f"conflict/norm/{name}": norm for name, norm in zip(names, norms, strict=True)
    }
    negative = []
    for a, b in itertools.combinations(range(len(names)), 2):
        size = norms[a] * norms[b]
        cosine = jnp.where(size > 0, gram[a, b] / jnp.where(size > 0, size, 1.0), jnp.nan)
        pair = f"{names[a]}|{names[b]}"
        negative.append(cosine < 0)
        found[f"conflict/{pair}"] = cosine
        found[f"conflict/share/{pair}"] = jnp.where(size > 0, negative[-1].astype(jnp.float32), jnp.nan)
    return found | {"conflict/share": jnp.stack(negative).any().astype(jnp.float32)}


def mean(reports: Sequence[Mapping[str, np.ndarray]]) -> dict[str, float]:
    """Of several steps' reports, what there is of each number; a number that was never there is left out."""
    columns = {name: np.asarray([each[name] for each in reports], np.float64) for name in reports[0]}
    return {
        name: float(values[np.isfinite(values)].mean())
        for name, values in columns.items()
        if np.isfinite(values).any()
    }
