"""What a balance is asked at every step, what it answers, and the one that leaves everything as it is."""

import abc
import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Float32

from mmjax.batch import Array


@struct.dataclass
class BalanceInputs:
    """What a step knows before it updates anything; N objectives, sorted by name."""

    names: tuple[str, ...] = struct.field(pytree_node=False)
    step: Array  # int32 scalar
    key: Array  # a PRNG key of this step
    losses: Array  # float32 "N", each times its objective's own weight; 0 where there is nothing for it
    gram: Array | None = None  # float32 "N N", see `Balance.reads_gradients`


@struct.dataclass
class BalanceOutput:
    """How the objectives become one update."""

    weights: Array  # float32 "N": of the losses, on top of the objectives' own weights
    shared: Array  # float32 "N": of their gradients on the shared parameters, where these are read
    state: Any  # the balance's own, for the next step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Balance(abc.ABC):
    """A value of the experiment. All of them multiply what the objectives' own weights have left.

    shared: prefixes of the parameters that the objectives share, as ("model/fusion", "model/encoders_text");
      None is the fusion. Where gradients are read, or conflicts reported, it is theirs.
    """

    shared: tuple[str, ...] | None = None

    # Whether it must see `BalanceInputs.gram`: inner products of the objectives' gradients on the shared parameters.
    # It costs a backward pass an objective, down to those parameters and no further.
    reads_gradients: ClassVar[bool] = False

    def init(self, num_objectives: int) -> Any:
        """The state before the first step: a pytree of arrays, kept in checkpoints; () for none."""
        return ()

    def objectives(self) -> tuple[str, ...]:
        """The objectives that it names, all of which the experiment must have."""
        return ()

    @abc.abstractmethod
    def __call__(self, state: Any, seen: BalanceInputs) -> BalanceOutput:
        """Pure, and part of the compiled step."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fixed(Balance):
    """The objectives' own weights."""

    def __call__(self, state: Any, seen: BalanceInputs) -> BalanceOutput:
        return weighted(jnp.ones(len(seen.names), jnp.float32), state)


def weighted(weights: Float32[jax.Array, " N"], state: Any) -> BalanceOutput:
    """The same weights everywhere."""
    return BalanceOutput(weights=weights, shared=weights, state=state)
