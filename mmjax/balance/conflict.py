"""The conflict report: norms and cosines of the objectives' gradients on the shared parameters."""

import itertools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32


def conflict_report(gram: Float32[jax.Array, "N N"], names: Sequence[str]) -> dict[str, jax.Array]:
    """The scalars of one step, from the inner products of N gradients. NaN for pairs with a zero gradient.

    conflict/norm/<a>         gradient norm of an objective, with its own weight
    conflict/<a>|<b>          cosine of two objectives' gradients
    conflict/share/<a>|<b>    1 if that cosine is negative, else 0
    conflict/share            1 if any cosine is negative, else 0
    """
    norms = jnp.sqrt(jnp.diagonal(gram))
    report: dict[str, jax.Array] = {
        f"conflict/norm/{name}": norm for name, norm in zip(names, norms, strict=True)
    }
    negative = []
    for a, b in itertools.combinations(range(len(names)), 2):
        size = norms[a] * norms[b]
        cosine = jnp.where(size > 0, gram[a, b] / jnp.where(size > 0, size, 1.0), jnp.nan)
        pair = f"{names[a]}|{names[b]}"
        negative.append(cosine < 0)
        report[f"conflict/{pair}"] = cosine
        report[f"conflict/share/{pair}"] = jnp.where(size > 0, negative[-1].astype(jnp.float32), jnp.nan)
    return report | {"conflict/share": jnp.stack(negative).any().astype(jnp.float32)}


def mean_report(reports: Sequence[Mapping[str, np.ndarray]]) -> dict[str, float]:
    """The mean of each scalar over several steps, ignoring NaN; leaves out scalars that are always NaN."""
    columns = {name: np.asarray([report[name] for report in reports], np.float64) for name in reports[0]}
    return {
        name: float(values[np.isfinite(values)].mean())
        for name, values in columns.items()
        if np.isfinite(values).any()
    }
