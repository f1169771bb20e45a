"""A row of the catalog, and the inputs and comparisons that rows share."""

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
NOT_SCRAMBLED = ("mask", "visible", "patch_indices")  # these say which positions are valid


def keep_unmasked(output: Any, inputs: tuple) -> Any:
    """select: of every Encoded in the output, the embeddings of unmasked positions and the mask."""
    is_encoded = lambda x: isinstance(x, Encoded)  # noqa: E731
    keep = lambda x: (jnp.where(x.mask[..., None], x.embeddings, 0), x.mask) if is_encoded(x) else x  # noqa: E731
    return jax.tree.map(keep, output, is_leaf=is_encoded)


def scramble_masked(inputs: Any, rng: np.random.Generator) -> Any:
    """scramble: random values at the masked positions of every stream in `inputs`."""

    def scramble(x):
        if not isinstance(x, STREAMS):
            return x
        fields = {field.name: getattr(x, field.name) for field in dataclasses.fields(x)}
        return x.replace(
            **{
                name: jax.tree.map(lambda value: fill_masked(value, x.mask, rng), field)
                for name, field in fields.items()
                if name not in NOT_SCRAMBLED
            }
        )

    return jax.tree.map(scramble, inputs, is_leaf=lambda x: isinstance(x, STREAMS))


def fill_masked(x: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """x with random finite values where its mask is False."""
    other = rng.integers(0, 2, x.shape) if x.dtype.kind in "bi" else 100 * rng.normal(size=x.shape)
    return np.where(mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)), x, other).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class Row:
    """One module under test.

    name: "folder.Class", or "folder.Class.variant".
    make: compute dtype -> module.
    inputs: () -> positional arguments, NumPy pytrees whose leaves all have the batch axis first.
    kwargs: arguments without a batch axis.
    select: (output, inputs) -> the part of the output that tests compare.
    scramble: (inputs, rng) -> inputs with random values at masked positions; None: no input has a mask.
    bf16: which side can be bfloat16: the module's compute dtype, its inputs, or neither.
    """

    name: str
    make: Callable[[str], nn.Module]
    inputs: Callable[[], tuple]
    kwargs: dict = dataclasses.field(default_factory=dict)
    select: Callable[[Any, tuple], Any] = keep_unmasked
    scramble: Callable[[tuple, np.random.Generator], tuple] | None = scramble_masked
    tolerance: float = TOLERANCE["fp32_module"]
    bf16: Literal["module", "inputs", None] = "module"


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def padding(batch: int = B, length: int = L, seed: int = 0) -> np.ndarray:
    """A padding mask: all of the first row is valid, nothing of the last."""
    num = np.random.default_rng(seed).integers(1, length + 1, batch)
    num[0], num[-1] = length, 0
    return np.arange(length)[None] < num[:, None]


def encoded(length: int = L, width: int = D, seed: int = 0) -> Encoded:
    return Encoded(normal(B, length, width, seed=seed), padding(length=length, seed=seed))


def batch() -> dict:
    """Four examples of every stream; the last has no image."""
    streams = jax.tree.map(lambda x: x[:B], tiny_batch())
    return streams | {"image": streams["image"].replace(mask=np.arange(B) < B - 1)}


def scramble_input(x: int, mask: int) -> Callable:
    """scramble: random values in `inputs[x]` where `inputs[mask]` is False."""

    def scramble(inputs, rng):
        return tuple(
            fill_masked(value, inputs[mask], rng) if i == x else value for i, value in enumerate(inputs)
        )

    return scramble


def keep_positions(output, inputs):
    """select: positions that are valid by the mask, which is the last input."""
    return jnp.where(inputs[-1][..., None], output, 0)


def keep_present_rows(output, inputs):
    """select: the examples that have the stream, which is the first input."""
    is_present = inputs[0].mask.any(-1)
    return jnp.where(is_present.reshape(-1, *(1,) * (output.ndim - 1)), output, 0)


def keep_tokens(output, inputs):
    """select: the valid positions of the stream, which is the first input."""
    return jnp.where(inputs[0].mask[..., None], output, 0)


def trunk(dtype: str = "float32", **changes) -> layers.Transformer:
    return layers.Transformer(
        **{"depth": 1, "width": D, "num_heads": 4, "mlp_width": 32, "dtype": dtype} | changes
    )


def random_parameters(module: nn.Module, *inputs) -> Any:
    """Random values for every parameter. Zero biases, as at initialisation, would hide how they are used."""
    abstract = nn.meta.unbox(jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))["params"])
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: 0.5 * rng.normal(size=x.shape).astype(np.float32), abstract)


def trunk_inputs(module: nn.Module, params: Any, *inputs) -> list[tuple]:
    """The (x, mask) of every call of a Transformer in `module`, in order."""
    calls = []

    def record(next_function, args, kwargs, context):
        if isinstance(context.module, layers.Transformer) and context.method_name == "encode":
            calls.append(args[:2])
        return next_function(*args, **kwargs)

    with nn.intercept_methods(record):
        module.apply({"params": params}, *inputs)
    return calls
