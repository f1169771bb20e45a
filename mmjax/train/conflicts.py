"""The conflict report as a program of its own: what is not asked for costs the step nothing."""

from collections.abc import Callable

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmjax.balance.conflict import report
from mmjax.balance.shared import split
from mmjax.batch import Batch
from mmjax.learner import Learner
from mmjax.sharding import Rules, batch_sharding, using
from mmjax.train.gradients import gram_of, losses_function, shared_gradient, step_key
from mmjax.train.state import TrainState


def conflicts(state: TrainState, batch: Batch, *, learner: Learner) -> dict[str, jax.Array]:
    """`balance.conflict.report` of the step that would follow: the same rows, dropout and views."""
    names = tuple(learner.objectives)
    losses_of = losses_function(learner, batch, step_key(state))
    shared, rest, merge = split(state.params, learner.balance)
    losses, pull, _ = jax.vjp(lambda s: losses_of(merge(s, rest)), shared, has_aux=True)
    return report(gram_of([shared_gradient(pull, losses, name) for name in names]), names)


def compile_conflicts(
    learner: Learner, abstract: TrainState, mesh: Mesh, rules: Rules
) -> Callable[[TrainState, Batch], dict[str, jax.Array]]:
    """`conflicts` on the mesh, compiled at the first call. Before the step, which eats the state."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    compiled = jax.jit(
        lambda state, batch: conflicts(state, batch, learner=learner),
        in_shardings=(shardings, batch_sharding(mesh, rules)),
        out_shardings=NamedSharding(mesh, PartitionSpec()),
    )

    def call(state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        with using(mesh, rules):
            return compiled(state, batch)

    return call
