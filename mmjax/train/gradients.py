"""From a batch to one gradient: the objectives' losses, their gradients on what they share, the balance."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float32

from mmjax.balance import BalanceInputs, Fixed
from mmjax.balance.shared import Arrays, split
from mmjax.batch import Batch
from mmjax.learner import Learner
from mmjax.train.state import TrainState

Losses = dict[str, jax.Array]


def balanced_grads(
    learner: Learner, state: TrainState, batch: Batch
) -> tuple[dict, dict[str, jax.Array], Any]:
    """(gradient, metrics with "loss", the balance's next state)."""
    balance, names, key = learner.balance, tuple(sorted(learner.objectives)), step_key(state)
    losses_of = losses_function(learner, batch, key)
    # 2: beyond the keys that dropout and views split off.
    seen = BalanceInputs(
        names=names, step=state.step, key=jax.random.fold_in(key, 2), losses=jnp.zeros(len(names))
    )
    if balance.reads_gradients:
        shared, rest, merge = split(state.params, balance)
        losses, pull, metrics = jax.vjp(lambda s, r: losses_of(merge(s, r)), shared, rest, has_aux=True)
        grads = [shared_gradient(pull, losses, name) for name in names]
        decision = balance(state.balance, seen.replace(losses=stack(losses, names), gram=gram_of(grads)))
        _, rest_grads = pull(cotangents(decision.weights, losses, names))
        grad = merge(weighted_sum(grads, decision.shared), rest_grads)
    else:
        losses, pull, metrics = jax.vjp(losses_of, state.params, has_aux=True)
        decision = balance(state.balance, seen.replace(losses=stack(losses, names)))
        (grad,) = pull(cotangents(decision.weights, losses, names))
    weights, total = cotangents(decision.weights, losses, names), jnp.zeros((), jnp.float32)
    for name in learner.objectives:  # in the order of the learner's own sum
        total += weights[name] * losses[name]
    metrics = {"loss": total} | metrics
    if not isinstance(balance, Fixed):
        # What multiplies an objective's gradient on the shared parameters, beside its own weight.
        metrics |= {f"balance/{name}": c for name, c in zip(names, decision.shared, strict=True)}
    return grad, metrics, decision.state


def step_key(state: TrainState) -> jax.Array:
    """From which all that is random in this step is drawn."""
    return jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)


def losses_function(
    learner: Learner, batch: Batch, key: jax.Array
) -> Callable[[dict], tuple[Losses, Losses]]:
    """params -> ({objective: loss times its own weight}, metrics), as the step of this key sees the batch."""
    dropout_key, views_key = jax.random.split(key)
    rngs = {"dropout": dropout_key, "views": views_key}

    def losses_of(params: dict) -> tuple[Losses, Losses]:
        losses, metrics = learner.apply({"params": params}, batch, train=True, rngs=rngs, method="losses")
        own = {name: learner.objectives[name].weight for name in losses}
        return {name: own[name] * loss.astype(jnp.float32) for name, loss in losses.items()}, metrics

    return losses_of


def shared_gradient(pull: Callable, losses: Losses, name: str) -> Arrays:
    """One objective's gradient on the shared parameters, computed through nothing that it does not touch.

    `pull` is linear, so its derivative along one objective is its value there, but without the zeros that
    the other objectives would be pulled back with: XLA multiplies by those as by any other numbers.
    """

    def along(one: jax.Array) -> Arrays:
        return pull({n: one if n == name else jnp.zeros_like(loss) for n, loss in losses.items()})[0]

    one = jnp.ones_like(losses[name])
    return jax.jvp(along, (one,), (one,))[1]


def weighted_sum(grads: list[Arrays], coefficients: Float32[jax.Array, " N"]) -> Arrays:
    """The sum of the gradients, each times its coefficient."""
    return {
        path: sum(c.astype(g[path].dtype) * g[path] for c, g in zip(coefficients, grads, strict=True))
        for path in grads[0]
    }


def gram_of(grads: list[Arrays]) -> Float32[jax.Array, "N N"]:
    """Inner products of gradients, in float32; each device sums its part of split parameters."""
    total = jnp.zeros((len(grads), len(grads)), jnp.float32)
    for path in grads[0]:
        stacked = jnp.stack([grad[path] for grad in grads]).astype(jnp.float32)
        axes = tuple(range(1, stacked.ndim))
        total += jnp.tensordot(stacked, stacked, axes=(axes, axes), precision="highest")
    return total


def stack(losses: Losses, names: tuple[str, ...]) -> Float32[jax.Array, " N"]:
    """In the order of `names`."""
    return jnp.stack([losses[name] for name in names])


def cotangents(weights: Float32[jax.Array, " N"], losses: Losses, names: tuple[str, ...]) -> Losses:
    """By name: the cotangent of the losses."""
    return {name: weight.astype(losses[name].dtype) for name, weight in zip(names, weights, strict=True)}
