"""What a row of the catalog is, and inputs that rows share."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmjax import layers
from mmjax.batch import Audio, BoxTargets, Encoded, Image, Labels, MultiLabels, Patches, Tags, Text, Video
from mmjax.testing import TOLERANCE, tiny_batch

B, L, D = 4, 6, 16
STREAMS = (Text, Image, Patches, Video, Audio, Labels, MultiLabels, Tags, BoxTargets, Encoded)
NO_VALUES = ("mask", "visible", "places")  # which positions there are, not what is at them


def streams_read(output: Any, inputs: tuple) -> Any:
    """What a reader of the output may look at: of an Encoded, the unmasked positions."""
    is_encoded = lambda x: isinstance(x, Encoded)  # noqa: E731
    keep = lambda x: (jnp.where(x.mask[..., None], x.embeddings, 0), x.mask) if is_encoded(x) else x  # noqa: E731
    return jax.tree.map(keep, output, is_leaf=is_encoded)


def streams_scrambled(inputs: Any, rng: np.random.Generator) -> Any:
    """Garbage under the False masks of every stream in `inputs`."""

    def scramble(x):
        if not isinstance(x, STREAMS):
            return x
        fields = {field.name: getattr(x, field.name) for field in dataclasses.fields(x)}
        return x.replace(
            **{
                name: jax.tree.map(lambda value: garbage(value, x.mask, rng), field)
                for name, field in fields.items()
                if name not in NO_VALUES
            }
        )

    return jax.tree.map(scramble, inputs, is_leaf=lambda x: isinstance(x, STREAMS))


def garbage(x: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """x, and where its mask is False, anything that is finite."""
    other = rng.integers(0, 2, x.shape) if x.dtype.kind in "bi" else 100 * rng.normal(size=x.shape)
    return np.where(mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)), x, other).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class Row:
    """A module, how it is called, and what about it may be compared."""

    name: str
    make: Callable[[str], nn.Module]  # of the compute dtype
    inputs: Callable[[], tuple]  # NumPy pytrees; every leaf has the batch axis first
    settings: dict = dataclasses.field(default_factory=dict)  # arguments that are no examples
    read: Callable[[Any, tuple], Any] = streams_read
    scramble: Callable[[tuple, np.random.Generator], tuple] | None = (
        streams_scrambled  # None: it is given no mask
    )
    tolerance: float = TOLERANCE["fp32_module"]
    bf16: Literal["module", "inputs", None] = "module"  # what of it can be bfloat16


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def padding(batch: int = B, length: int = L, seed: int = 0) -> np.ndarray:
    """A mask whose first row is whole and whose last is missing."""
    num = np.random.default_rng(seed).integers(1, length + 1, batch)
    num[0], num[-1] = length, 0
    return np.arange(length)[None] < num[:, None]


def encoded(length: int = L, width: int = D, seed: int = 0) -> Encoded:
    return Encoded(normal(B, length, width, seed=seed), padding(length=length, seed=seed))


def batch() -> dict:
    """Four rows of every stream; the last has no picture."""
    made = jax.tree.map(lambda x: x[:B], tiny_batch())
    return made | {"image": made["image"].replace(mask=np.arange(B) < B - 1)}


def where_masked(x: int, mask: int) -> Callable:
    """scramble: input number `x` under the mask that is input number `mask`."""

    def scramble(inputs, rng):
        return tuple(garbage(value, inputs[mask], rng) if i == x else value for i, value in enumerate(inputs))

    return scramble


def positions_read(output, inputs):
    """read: positions of a stream, by the mask that is the last input."""
    return jnp.where(inputs[-1][..., None], output, 0)


def rows_read(output, inputs):
    """read: examples whose stream, the first input, is there."""
    there = inputs[0].mask.any(-1)
    return jnp.where(there.reshape(-1, *(1,) * (output.ndim - 1)), output, 0)


def tokens_read(output, inputs):
    return jnp.where(inputs[0].mask[..., None], output, 0)


def trunk(dtype: str = "float32", **changes) -> layers.Transformer:
    return layers.Transformer(
        **{"depth": 1, "width": D, "num_heads": 4, "mlp_width": 32, "dtype": dtype} | changes
    )
