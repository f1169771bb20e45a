"""The step: pure, one page, and the only `jax.jit` of training."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmjax.batch import Batch
from mmjax.learner import Learner
from mmjax.sharding import Rules, batch_sharding, using
from mmjax.train.gradients import balanced_grads
from mmjax.train.nonfinite import all_finite
from mmjax.train.state import TrainState

Metrics = dict[str, jax.Array]


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    learner: Learner,
    optimizer: optax.GradientTransformation,
    skip_nonfinite: bool = False,
) -> tuple[TrainState, Metrics]:
    """One update. Pure; metrics are of the parameters before the update.

    skip_nonfinite: where a loss or the gradient is not finite, parameters, optimizer and balance stay as they
    are and only the step goes on; the metric "skipped" (0 or 1) tells.
    """
    with jax.named_scope("forward_backward"):
        grads, metrics, balance = balanced_grads(learner, state, batch)
    with jax.named_scope("update"):
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
    metrics = metrics | {"grad_norm": optax.global_norm(grads)}
    if skip_nonfinite:
        # Known before the update, so that no second copy of the state is kept until it is.
        finite = all_finite(metrics)
        params, opt_state, balance = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (params, opt_state, balance),
            (state.params, state.opt_state, state.balance),
        )
        metrics["skipped"] = 1.0 - finite.astype(jnp.float32)
    state = state.replace(step=state.step + 1, params=params, opt_state=opt_state, balance=balance)
    return state, metrics | {"update_norm": optax.global_norm(updates)}


def jit_step(
    learner: Learner,
    optimizer: optax.GradientTransformation,
    abstract: TrainState,
    mesh: Mesh,
    rules: Rules,
    *,
    skip_nonfinite: bool = False,
) -> jax.stages.Wrapped:
    """train_step with its shardings, to be called or lowered under `sharding.using(mesh, rules)`.

    The state is donated: its memory becomes that of the next state.
    """
    state_sharding = jax.tree.map(lambda x: x.sharding, abstract)
    optimizer = shard_like_moments(optimizer, state_sharding.opt_state)
    replicated = NamedSharding(mesh, PartitionSpec())
    return jax.jit(
        functools.partial(train_step, learner=learner, optimizer=optimizer, skip_nonfinite=skip_nonfinite),
        in_shardings=(state_sharding, batch_sharding(mesh, rules)),
        out_shardings=(state_sharding, replicated),
        donate_argnums=0,
    )


def compile_step(
    learner: Learner,
    optimizer: optax.GradientTransformation,
    abstract: TrainState,
    mesh: Mesh,
    rules: Rules,
    *,
    skip_nonfinite: bool = False,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """train_step on the mesh: (state, batch) -> (state, metrics), compiled at the first call."""
    compiled = jit_step(learner, optimizer, abstract, mesh, rules, skip_nonfinite=skip_nonfinite)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        with using(mesh, rules):
            return compiled(state, batch)

    return step


def shard_like_moments(optimizer: optax.GradientTransformation, shardings) -> optax.GradientTransformation:
    """The optimizer, with gradients laid out as its moments: summed and split in one exchange.

    Under ZeRO-1 each device then updates the part whose moments it holds; XLA by itself may sum all of it
    everywhere. Moments are optax's field `mu`; an optimizer without one is left as it is.
    """
    moments = optax.tree_utils.tree_get(shardings, "mu")
    if moments is None:
        return optimizer

    def update(grads, state, params):
        return optimizer.update(jax.lax.with_sharding_constraint(grads, moments), state, params)

    return optax.GradientTransformation(optimizer.init, update)
