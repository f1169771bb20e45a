"""Everything that a step changes."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from mmjax.batch import Array, Batch
from mmjax.learner import Learner
from mmjax.sharding import Rules, array_shardings, unbox, using


@struct.dataclass
class TrainState:
    """A pytree of arrays, all of which a checkpoint keeps.

    `step` is also the data's position. `key` is raw uint32 key data, which Orbax and global shardings accept
    where they refuse typed keys.
    """

    step: Array  # int32 scalar: updates done
    params: dict
    opt_state: optax.OptState
    key: Array  # uint32 "2": the run's seed; each step folds itself in
    balance: Any = ()  # what the balance keeps, whole on every device


def init_state(
    learner: Learner, optimizer: optax.GradientTransformation, batch: Batch, seed: int
) -> TrainState:
    """The state before the first step, parameters still in flax's boxes. `batch` gives only shapes."""
    params_key, run_key = jax.random.split(jax.random.key(seed))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), batch)
    params = learner.init({"params": params_key, "views": params_key, "dropout": params_key}, zeros)["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        key=jax.random.key_data(run_key),
        balance=learner.balance.init(len(learner.objectives)),
    )


def abstract_state(
    learner: Learner,
    optimizer: optax.GradientTransformation,
    batch: Batch,
    seed: int,
    mesh: Mesh,
    rules: Rules,
) -> TrainState:
    """Shapes and shardings of the state on the mesh; computes nothing."""
    with using(mesh, rules):
        boxed = jax.eval_shape(lambda: init_state(learner, optimizer, batch, seed))
        shardings = state_shardings(boxed, mesh, rules)
        return jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            unbox(boxed),
            shardings,
        )


def state_shardings(boxed: TrainState, mesh: Mesh, rules: Rules) -> TrainState:
    """Where each array of a boxed, abstract state lies: moments as parameters do, or split further (ZeRO-1).

    Raises InputError as `array_shardings` does.
    """
    # Parameters first: where they do not fit, the lines of their moments would only repeat theirs.
    shardings = array_shardings(boxed.replace(opt_state=None), mesh, rules)
    moments = array_shardings({"opt_state": boxed.opt_state}, mesh, rules.of_optimizer())
    return shardings.replace(**moments)


def create_state(
    learner: Learner,
    optimizer: optax.GradientTransformation,
    batch: Batch,
    seed: int,
    mesh: Mesh,
    rules: Rules,
) -> TrainState:
    """The state made in place, each device its own part: no full copy of the parameters exists anywhere."""
    abstract = abstract_state(learner, optimizer, batch, seed, mesh, rules)
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    with using(mesh, rules):
        return jax.jit(lambda: unbox(init_state(learner, optimizer, batch, seed)), out_shardings=shardings)()
