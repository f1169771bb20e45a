"""Solvers of gradient surgery, on the Gram matrix of N gradients. Loops have a fixed number of iterations."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float32, Int32

TINY = 1e-12


def project_conflicts(
    gram: Float32[jax.Array, "N N"], orders: Int32[jax.Array, "N N"]
) -> Float32[jax.Array, " N"]:
    """PCGrad's coefficients (Yu et al. 2020, algorithm 1). orders: row i is the order for gradient i."""
    num = gram.shape[0]

    def project(i, order):
        def remove_conflict(t, w):  # w: coefficients of the projected gradient i
            j = order[t]
            inner, square = w @ gram[:, j], gram[j, j]
            is_conflict = (inner < 0) & (j != i) & (square > 0)
            return w.at[j].add(-jnp.where(is_conflict, inner / jnp.maximum(square, TINY), 0.0))

        return jax.lax.fori_loop(0, num, remove_conflict, jax.nn.one_hot(i, num))

    return jax.vmap(project)(jnp.arange(num), orders).sum(0)


def minimize_over_simplex(
    gram: Float32[jax.Array, "N N"],
    valid: Bool[jax.Array, " N"],
    linear: Float32[jax.Array, " N"],
    radius: Float32[jax.Array, ""],
    num_iterations: int,
) -> Float32[jax.Array, " N"]:
    """argmin of `w . linear + radius |sum w_i g_i|` over non-negative w that sum to 1, 0 where not `valid`.

    With linear = 0 this is MGDA's vector of least norm. Pairwise Frank-Wolfe (Lacoste-Julien & Jaggi 2015):
    each step moves weight from the gradient with the largest slope, among those with weight, to the one with
    the smallest slope, with an exact line search.
    """
    num = gram.shape[0]

    def step(_, w):
        gram_w = gram @ w
        square = jnp.maximum(w @ gram_w, TINY)
        slope = linear + radius * gram_w / jnp.sqrt(square)
        best = jax.nn.one_hot(jnp.argmin(jnp.where(valid, slope, jnp.inf)), num)
        worst = jax.nn.one_hot(jnp.argmax(jnp.where(w > 0, slope, -jnp.inf)), num)
        direction, max_length = best - worst, worst @ w
        # The value after a step of length t is b t + radius sqrt(square + 2 m t + c t^2), up to a constant.
        b, m, c = linear @ direction, gram_w @ direction, direction @ gram @ direction
        excess = radius**2 * c - b**2  # if positive, the value has a minimum in t, with this root
        root = -jnp.sign(b) * jnp.sqrt(b**2 * jnp.maximum(square * c - m**2, 0) / jnp.maximum(excess, TINY))
        length = jnp.where(excess > 0, (root - m) / jnp.maximum(c, TINY), max_length)
        return w + jnp.where(direction @ slope < 0, jnp.clip(length, 0, max_length), 0.0) * direction

    start = valid / jnp.maximum(valid.sum(), 1).astype(jnp.float32)
    return jax.lax.fori_loop(0, num_iterations, step, start)


def nash_bargaining(
    cosines: Float32[jax.Array, "N N"], num_iterations: int, ridge: float = 1e-5
) -> Float32[jax.Array, " N"]:
    """The positive b with `cosines @ b = 1 / b` (Navon et al. 2022, claim 3.1).

    It minimizes `b . cosines b / 2 - sum log b`, which is convex and self-concordant, so Newton steps
    divided by 1 + the Newton decrement converge from every start. `ridge`, added to the diagonal, keeps b
    finite where gradients cancel.
    """
    matrix = cosines + ridge * jnp.eye(cosines.shape[0])

    def step(_, b):
        slope, hessian = matrix @ b - 1 / b, matrix + jnp.diag(1 / b**2)
        direction = jax.scipy.linalg.solve(hessian, -slope, assume_a="pos")
        decrement = jnp.sqrt(jnp.maximum(-slope @ direction, 0))
        return b + direction / (1 + decrement)

    return jax.lax.fori_loop(0, num_iterations, step, jnp.ones(cosines.shape[0]))
