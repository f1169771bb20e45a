"""The train step: gradients, then the optimizer's update."""

import functools

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmjax.batch import Batch
from mmjax.learner import Learner
from mmjax.sharding import Rules, batch_sharding
from mmjax.sharding.mesh import MeshFunction
from mmjax.training.gradients import Metrics, balanced_grads
from mmjax.training.nonfinite import all_finite
from mmjax.training.state import TrainState


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    learner: Learner,
    optimizer: optax.GradientTransformation,
    skip_nonfinite: bool = False,
) -> tuple[TrainState, Metrics]:
    """One update, as a pure function. The metrics (scalars) are of the parameters before the update.

    skip_nonfinite: if a loss or the gradient is not finite, parameters, optimizer and balance keep their
      states, and only the step count changes. Adds the metric "skipped", 0 or 1.
    """
    with jax.named_scope("forward_backward"):
        grads, metrics, balance = balanced_grads(learner, state, batch)
    with jax.named_scope("update"):
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
    metrics = metrics | {"grad_norm": optax.global_norm(grads)}
    if skip_nonfinite:
        # It does not depend on the update, so XLA knows it before the update and keeps no second state.
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
) -> MeshFunction:
    """`train_step` on the mesh: (state, batch) -> (state, metrics). It compiles at the first call.

    The state is donated: the next state reuses its memory, so it must not be read after the call.
    abstract: the state's shapes and shardings, from `abstract_state`.
    """
    state_sharding = jax.tree.map(lambda x: x.sharding, abstract)
    optimizer = shard_like_moments(optimizer, state_sharding.opt_state)
    jitted = jax.jit(
        functools.partial(train_step, learner=learner, optimizer=optimizer, skip_nonfinite=skip_nonfinite),
        in_shardings=(state_sharding, batch_sharding(mesh, rules)),
        out_shardings=(state_sharding, NamedSharding(mesh, PartitionSpec())),
        donate_argnums=0,
    )
    return MeshFunction(jitted, mesh, rules)


def shard_like_moments(
    optimizer: optax.GradientTransformation, shardings: optax.OptState
) -> optax.GradientTransformation:
    """The optimizer, with the gradients constrained to the shardings of its moments.

    Under ZeRO-1 the gradients are then reduce-scattered, and each device updates the part whose moments it
    holds; without the constraint XLA may all-reduce them. Moments are optax's field `mu`; an optimizer that
    has none is returned unchanged.
    """
    moments = optax.tree_utils.tree_get(shardings, "mu")
    if moments is None:
        return optimizer

    def update(grads, state, params):
        return optimizer.update(jax.lax.with_sharding_constraint(grads, moments), state, params)

    return optax.GradientTransformation(optimizer.init, update)
