"""The conflict report as a program of its own, so that steps without a report pay nothing for it."""

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmjax.balance.conflict import conflict_report
from mmjax.balance.shared import split_params
from mmjax.batch import Batch
from mmjax.learner import Learner
from mmjax.sharding import Rules, batch_sharding
from mmjax.sharding.mesh import MeshFunction
from mmjax.training.gradients import gram_matrix, losses_function, shared_gradient, step_key
from mmjax.training.state import TrainState


def measure_conflicts(state: TrainState, batch: Batch, *, learner: Learner) -> dict[str, jax.Array]:
    """The `conflict_report` (scalars) of the train step on this state and batch: same dropout, same views."""
    names = tuple(learner.objectives)
    losses_of = losses_function(learner, batch, step_key(state))
    shared, rest, merge = split_params(state.params, learner.balance)
    losses, vjp, _ = jax.vjp(lambda s: losses_of(merge(s, rest)), shared, has_aux=True)
    return conflict_report(gram_matrix([shared_gradient(vjp, losses, name) for name in names]), names)


def jit_conflicts(learner: Learner, abstract: TrainState, mesh: Mesh, rules: Rules) -> MeshFunction:
    """`measure_conflicts` on the mesh: (state, batch) -> report. It compiles at the first call.

    Call it before the train step, which donates the state.
    """
    jitted = jax.jit(
        lambda state, batch: measure_conflicts(state, batch, learner=learner),
        in_shardings=(jax.tree.map(lambda x: x.sharding, abstract), batch_sharding(mesh, rules)),
        out_shardings=NamedSharding(mesh, PartitionSpec()),
    )
    return MeshFunction(jitted, mesh, rules)
