"""The interface of balances, and `Fixed`, which changes nothing."""

import abc
import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Float32

from mmjax.batch import Array
from mmjax.spec import Spec


@struct.dataclass
class BalanceInputs:
    """The measurements of one step before its update; N objectives, sorted by name."""

    names: tuple[str, ...] = struct.field(pytree_node=False)
    step: Array  # int32 scalar
    key: Array  # the balance's PRNG key in this step
    losses: Array  # float32 "N", times the objective's own weight; 0 if the batch has no example for it
    gram: Array | None = None  # float32 "N N", only if `Balance.reads_gradients`


@struct.dataclass
class BalanceOutput:
    """The factors that combine N objectives into one update, and the balance's next state."""

    loss_weights: Array  # float32 "N": factors of the losses, besides the objectives' own weights
    grad_weights: Array  # float32 "N": factors of the gradients on the shared parameters, if it reads these
    state: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Balance(Spec, abc.ABC):
    """How the losses of several objectives become one update. The objectives' own weights apply before it.

    shared_params: path prefixes of the parameters on which gradients are compared, such as ("model/fusion",
      "model/encoders_text"). None: the fusion. Only gradient methods and the conflict report use it.
    """

    shared_params: tuple[str, ...] | None = None

    # Whether it needs `BalanceInputs.gram`, the inner products of the objectives' gradients on the shared
    # parameters. These cost one backward pass for each objective, from its loss to the shared parameters.
    reads_gradients: ClassVar[bool] = False

    def init(self, num_objectives: int) -> Any:
        """The state before the first step: a pytree of arrays that checkpoints hold; () for none."""
        return ()

    def required_objectives(self) -> tuple[str, ...]:
        """The objectives that it names: the experiment must have all of them."""
        return ()

    @abc.abstractmethod
    def __call__(self, state: Any, inputs: BalanceInputs) -> BalanceOutput:
        """Computes the factors of this step. A pure function, traced into the train step."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fixed(Balance):
    """The sum of the losses by the objectives' own weights."""

    def __call__(self, state: Any, inputs: BalanceInputs) -> BalanceOutput:
        return weigh_losses(jnp.ones(len(inputs.names), jnp.float32), state)


def weigh_losses(weights: Float32[jax.Array, " N"], state: Any) -> BalanceOutput:
    """An output whose weights of losses, "N", hold for all parameters."""
    return BalanceOutput(loss_weights=weights, grad_weights=weights, state=state)
