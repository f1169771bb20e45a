"""The step: pure, one page, and the only `jax.jit` of training."""

from collections.abc import Callable

import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmjax.batch import Batch
from mmjax.learner import Learner
from mmjax.sharding import Rules, batch_sharding, using
from mmjax.train.state import TrainState

Metrics = dict[str, jax.Array]


def train_step(
    state: TrainState, batch: Batch, *, learner: Learner, optimizer: optax.GradientTransformation
) -> tuple[TrainState, Metrics]:
    """One update. Pure; metrics are of the parameters before the update."""
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    dropout_key, views_key = jax.random.split(key)

    def loss_fn(params):
        return learner.apply(
            {"params": params}, batch, train=True, rngs={"dropout": dropout_key, "views": views_key}
        )

    with jax.named_scope("forward_backward"):
        (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    with jax.named_scope("update"):
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
    norms = {"grad_norm": optax.global_norm(grads), "update_norm": optax.global_norm(updates)}
    state = state.replace(step=state.step + 1, params=params, opt_state=opt_state)
    return state, {"loss": loss} | metrics | norms


def jit_step(
    learner: Learner, optimizer: optax.GradientTransformation, abstract: TrainState, mesh: Mesh, rules: Rules
) -> jax.stages.Wrapped:
    """train_step with its shardings, to be called or lowered under `sharding.using(mesh, rules)`.

    The state is donated: its memory becomes that of the next state.
    """
    state_sharding = jax.tree.map(lambda x: x.sharding, abstract)
    replicated = NamedSharding(mesh, PartitionSpec())
    return jax.jit(
        lambda state, batch: train_step(state, batch, learner=learner, optimizer=optimizer),
        in_shardings=(state_sharding, batch_sharding(mesh, rules)),
        out_shardings=(state_sharding, replicated),
        donate_argnums=0,
    )


def compile_step(
    learner: Learner, optimizer: optax.GradientTransformation, abstract: TrainState, mesh: Mesh, rules: Rules
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """train_step on the mesh, compiled when it is first called."""
    compiled = jit_step(learner, optimizer, abstract, mesh, rules)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        with using(mesh, rules):
            return compiled(state, batch)

    return step
