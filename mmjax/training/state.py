"""The train state, and its creation on a mesh."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh

from mmjax.batch import Array, Batch
from mmjax.learner import Learner
from mmjax.sharding import Rules, array_shardings, unbox, using


@struct.dataclass
class TrainState:
    """Everything that a train step changes, and that a checkpoint holds.

    `key` is raw key data, because Orbax and global shardings reject typed keys.
    """

    step: Array  # int32 scalar: steps done, which is also the position in the data
    params: dict
    opt_state: optax.OptState
    key: Array  # uint32 "2", of the run; each step folds in its number
    balance: Any = ()  # the balance's state, replicated

    def __repr__(self) -> str:
        """One short line; the arrays of a state may print as a million characters."""
        params, everything = jax.tree.leaves(self.params), jax.tree.leaves(self)
        step = int(self.step) if _is_known(self.step) else "?"
        num_params = sum(np.size(x) for x in params)
        num_bytes = sum(np.size(x) * np.dtype(x.dtype).itemsize for x in everything if hasattr(x, "dtype"))
        return f"TrainState(step={step}, {num_params:,} parameters, {num_bytes / 1e6:,.1f} MB)"


def _is_known(scalar: Any) -> bool:
    """Whether a scalar has a value: it is neither traced nor only a shape, and not donated to a step."""
    if isinstance(scalar, jax.Array) and not isinstance(scalar, jax.core.Tracer):
        return not scalar.is_deleted() and scalar.is_fully_replicated
    return isinstance(scalar, np.ndarray | np.generic | int)


def init_state(
    learner: Learner, optimizer: optax.GradientTransformation, batch: Batch, seed: int
) -> TrainState:
    """The state before the first step, parameters in flax's boxes. `batch` gives shapes only."""
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
    """Shapes, dtypes and shardings of the state on the mesh; computes nothing."""
    with using(mesh, rules):
        boxed = jax.eval_shape(lambda: init_state(learner, optimizer, batch, seed))
        shardings = state_shardings(boxed, mesh, rules)
        return jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            unbox(boxed),
            shardings,
        )


def state_shardings(boxed: TrainState, mesh: Mesh, rules: Rules) -> TrainState:
    """The sharding of each array of an abstract state in flax's boxes.

    Moments are sharded as their parameters, or further under ZeRO-1. Raises InputError as `array_shardings`.
    """
    # Parameters first, so that an error does not repeat each parameter's line for its moments.
    shardings = array_shardings(boxed.replace(opt_state=None), mesh, rules)
    moments = array_shardings({"opt_state": boxed.opt_state}, mesh, rules.for_optimizer())
    return shardings.replace(**moments)


def create_state(
    learner: Learner,
    optimizer: optax.GradientTransformation,
    batch: Batch,
    seed: int,
    mesh: Mesh,
    rules: Rules,
) -> TrainState:
    """The state before the first step. Each device computes only its shards of it."""
    abstract = abstract_state(learner, optimizer, batch, seed, mesh, rules)
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    with using(mesh, rules):
        return jax.jit(lambda: unbox(init_state(learner, optimizer, batch, seed)), out_shardings=shardings)()


def with_params(
    state: TrainState, params: dict, optimizer: optax.GradientTransformation, abstract: TrainState
) -> TrainState:
    """The state before the first step with other parameters: an optimizer's state may depend on them."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract.opt_state)
    return state.replace(params=params, opt_state=jax.jit(optimizer.init, out_shardings=shardings)(params))
