"""The gradient of a train step: from the objectives' losses, through the balance, to one gradient."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float32

from mmjax.balance import Balance, BalanceInputs, BalanceOutput, Fixed
from mmjax.balance.shared import Arrays, split_params
from mmjax.batch import Batch
from mmjax.learner import Learner
from mmjax.training.state import TrainState

Losses = dict[str, jax.Array]  # {objective: scalar}
Metrics = dict[str, jax.Array]
LossesFunction = Callable[[dict], tuple[Losses, Metrics]]  # of the parameters


def balanced_grads(learner: Learner, state: TrainState, batch: Batch) -> tuple[dict, Metrics, Any]:
    """One gradient of all objectives, combined as `learner.balance` says.

    Returns (gradient, scalar metrics with "loss", the balance's next state).
    """
    balance, key, names = learner.balance, step_key(state), tuple(sorted(learner.objectives))
    # Key 2, because `losses_function` splits keys 0 and 1 off for dropout and views.
    balance_key = jax.random.fold_in(key, 2)
    inputs = BalanceInputs(names=names, step=state.step, key=balance_key, losses=jnp.zeros(len(names)))
    losses_of = losses_function(learner, batch, key)
    combine = combine_gradients if balance.reads_gradients else combine_losses
    grads, losses, metrics, output = combine(losses_of, state, balance, inputs)
    weights = cotangents(output.loss_weights, losses, names)
    total = learner.total_loss({name: weights[name] * loss for name, loss in losses.items()})
    metrics = {"loss": total} | metrics
    if not isinstance(balance, Fixed):
        # The factors of the objectives' gradients on the shared parameters, besides their own weights.
        metrics |= {f"balance/{name}": w for name, w in zip(names, output.grad_weights, strict=True)}
    return grads, metrics, output.state


def step_key(state: TrainState) -> jax.Array:
    """The PRNG key (a scalar) of this step: everything random in it depends on this key."""
    return jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)


def losses_function(learner: Learner, batch: Batch, key: jax.Array) -> LossesFunction:
    """params -> ({objective: loss times its own weight}, metrics), all scalars, of one batch and step key."""
    dropout_key, views_key = jax.random.split(key)
    rngs = {"dropout": dropout_key, "views": views_key}

    def losses_of(params: dict) -> tuple[Losses, Metrics]:
        return learner.apply({"params": params}, batch, train=True, rngs=rngs, method="weighted_losses")

    return losses_of


def combine_losses(
    losses_of: LossesFunction, state: TrainState, balance: Balance, inputs: BalanceInputs
) -> tuple[dict, Losses, Metrics, BalanceOutput]:
    """The gradient of the weighted sum of the scalar losses: one backward pass for all parameters."""
    losses, vjp, metrics = jax.vjp(losses_of, state.params, has_aux=True)
    output = balance(state.balance, inputs.replace(losses=stack_losses(losses, inputs.names)))
    (grads,) = vjp(cotangents(output.loss_weights, losses, inputs.names))
    return grads, losses, metrics, output


def combine_gradients(
    losses_of: LossesFunction, state: TrainState, balance: Balance, inputs: BalanceInputs
) -> tuple[dict, Losses, Metrics, BalanceOutput]:
    """The weighted sum of the objectives' gradients on the shared parameters: one backward pass for each.

    All other parameters get the gradient of the weighted sum of the scalar losses.
    """
    names = inputs.names
    shared, rest, merge = split_params(state.params, balance)
    losses, vjp, metrics = jax.vjp(lambda s, r: losses_of(merge(s, r)), shared, rest, has_aux=True)
    shared_grads = [shared_gradient(vjp, losses, name) for name in names]
    inputs = inputs.replace(losses=stack_losses(losses, names), gram=gram_matrix(shared_grads))
    output = balance(state.balance, inputs)
    _, rest_grads = vjp(cotangents(output.loss_weights, losses, names))
    grads = merge(weighted_sum(shared_grads, output.grad_weights), rest_grads)
    return grads, losses, metrics, output


def shared_gradient(vjp: Callable, losses: Losses, name: str) -> Arrays:
    """The gradient of one objective's scalar loss with respect to the shared parameters.

    `vjp` is linear, so its derivative along one loss's cotangent is that gradient. Calling `vjp` with zeros
    for the other losses gives the same numbers, but XLA would run their backward passes on these zeros.
    """

    def pull_back(cotangent: jax.Array) -> Arrays:
        return vjp({n: cotangent if n == name else jnp.zeros_like(loss) for n, loss in losses.items()})[0]

    one = jnp.ones_like(losses[name])
    return jax.jvp(pull_back, (one,), (one,))[1]


def weighted_sum(grads: list[Arrays], weights: Float32[jax.Array, " N"]) -> Arrays:
    """The sum of N gradients {path: "..."}, each times its weight."""
    return {
        path: sum(w.astype(g[path].dtype) * g[path] for w, g in zip(weights, grads, strict=True))
        for path in grads[0]
    }


def gram_matrix(grads: list[Arrays]) -> Float32[jax.Array, "N N"]:
    """The inner products of N gradients {path: "..."}. Each device multiplies only its shards of them."""
    total = jnp.zeros((len(grads), len(grads)), jnp.float32)
    for path in grads[0]:
        stacked = jnp.stack([grad[path] for grad in grads]).astype(jnp.float32)
        axes = tuple(range(1, stacked.ndim))
        total += jnp.tensordot(stacked, stacked, axes=(axes, axes), precision="highest")
    return total


def stack_losses(losses: Losses, names: tuple[str, ...]) -> Float32[jax.Array, " N"]:
    """The scalar losses as one array, in the order of `names`."""
    return jnp.stack([losses[name] for name in names])


def cotangents(weights: Float32[jax.Array, " N"], losses: Losses, names: tuple[str, ...]) -> Losses:
    """{objective: scalar cotangent of its loss}: its weight in the sum of losses, in the loss's dtype."""
    return {name: weight.astype(losses[name].dtype) for name, weight in zip(names, weights, strict=True)}
