"""The small problems inside gradient surgery, on the Gram matrix alone: static loops over N numbers."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float32, Int32

TINY = 1e-12


def project_conflicts(
    gram: Float32[jax.Array, "N N"], orders: Int32[jax.Array, "N N"]
) -> Float32[jax.Array, " N"]:
    """PCGrad's coefficients (Yu et al. 2020, algorithm 1); row i of `orders` is i's order of the others."""
    num = gram.shape[0]

    def project(i, order):
        def against(t, mix):  # `mix`: the projected gradient i, as a mix of the gradients
            j = order[t]
            inner, size = mix @ gram[:, j], gram[j, j]
            share = jnp.where((inner < 0) & (j != i) & (size > 0), inner / jnp.maximum(size, TINY), 0.0)
            return mix.at[j].add(-share)

        return jax.lax.fori_loop(0, num, against, jax.nn.one_hot(i, num))

    return jax.vmap(project)(jnp.arange(num), orders).sum(0)


def lowest_mix(
    gram: Float32[jax.Array, "N N"],
    there: Bool[jax.Array, " N"],
    linear: Float32[jax.Array, " N"],
    radius: Float32[jax.Array, ""],
    iterations: int,
) -> Float32[jax.Array, " N"]:
    """argmin of ``w . linear + radius |sum w_i g_i|`` over non-negative w that sum to 1, 0 where not `there`.

    linear = 0 is MGDA's shortest mix. Frank-Wolfe in pairs (Lacoste-Julien & Jaggi 2015): each step moves
    weight from the worst gradient that has some to the best, as much as lowers the value most.
    """
    num = gram.shape[0]

    def step(_, w):
        mixed = gram @ w
        square = jnp.maximum(w @ mixed, TINY)
        slope = linear + radius * mixed / jnp.sqrt(square)
        best = jax.nn.one_hot(jnp.argmin(jnp.where(there, slope, jnp.inf)), num)
        worst = jax.nn.one_hot(jnp.argmax(jnp.where(w > 0, slope, -jnp.inf)), num)
        way, most = best - worst, worst @ w
        # After t of the way the value is b t + radius sqrt(square + 2 m t + c t^2) beyond its start; where
        # that is lowest has a closed form.
        b, m, c = linear @ way, mixed @ way, way @ gram @ way
        bend = radius**2 * c - b**2
        at = -jnp.sign(b) * jnp.sqrt(b**2 * jnp.maximum(square * c - m**2, 0) / jnp.maximum(bend, TINY))
        length = jnp.where(bend > 0, (at - m) / jnp.maximum(c, TINY), most)
        return w + jnp.where(way @ slope < 0, jnp.clip(length, 0, most), 0.0) * way

    start = there / jnp.maximum(there.sum(), 1).astype(jnp.float32)
    return jax.lax.fori_loop(0, iterations, step, start)


def bargain(
    cosines: Float32[jax.Array, "N N"], iterations: int, ridge: float = 1e-5
) -> Float32[jax.Array, " N"]:
    """The positive b with ``cosines @ b = 1 / b`` (Navon et al. 2022, claim 3.1).

    It is where ``b . cosines b / 2 - sum log b`` is lowest: convex and self-concordant, so that Newton's
    steps over 1 + their decrement arrive from everywhere. `ridge` keeps b finite where gradients cancel.
    """
    matrix = cosines + ridge * jnp.eye(cosines.shape[0])

    def step(_, b):
        slope, hessian = matrix @ b - 1 / b, matrix + jnp.diag(1 / b**2)
        way = jax.scipy.linalg.solve(hessian, -slope, assume_a="pos")
        decrement = jnp.sqrt(jnp.maximum(-slope @ way, 0))
        return b + way / (1 + decrement)

    return jax.lax.fori_loop(0, iterations, step, jnp.ones(cosines.shape[0]))
