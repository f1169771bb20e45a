"""The correspondence of two models' weights: which arrays of a file are which parameters of ours, and how."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

import einops
import numpy as np

from mmjax.errors import InputError

MAX_LISTED = 8  # names in a message
# The parameters of a contrastive objective, beside the model's own: the logarithm of the factor of the
# cosines, and a bias of the logits.
OBJECTIVE = "objective/"
LOG_SCALE, LOGIT_BIAS = f"{OBJECTIVE}log_scale", f"{OBJECTIVE}bias"


@dataclasses.dataclass(frozen=True)
class Weight:
    """Parameters of ours, and the arrays of a file that hold the same numbers.

    ours: paths such as "trunk/layers/mlp/up/kernel". Several share one array, which is split.
    theirs: names in the file. Several, one a layer, are stacked along the first axis of ours.
    layout: how one array of the file becomes ours, as einops writes it: "F D -> D F". If `ours` has several
      paths, the right side begins with the axis that indexes them, "n": "(n H K) D -> n D H K". None: the
      same.
    sizes: the lengths of axes that `layout` splits.
    """

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    layout: str | None = None
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    stacked: bool = False

    def views(self, array: np.ndarray) -> list[np.ndarray]:
        """One array of the file as our parameters (without the axis of layers), without copying."""
        view = array
        if self.layout is not None:
            try:
                view = einops.rearrange(array, self.layout, **self.sizes)
            except (einops.EinopsError, ZeroDivisionError) as error:
                raise InputError(
                    f"expected {self.theirs[0]!r} of the form {self.layout.split('->')[0].strip()!r} with "
                    f"{dict(self.sizes)}, found the shape {array.shape}"
                ) from error
        return list(view) if len(self.ours) > 1 else [view]

    def array(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """The inverse of `views`: one array of the file."""
        value = np.stack(ours) if len(self.ours) > 1 else np.asarray(ours[0])
        if self.layout is None:
            return value
        left, _, right = self.layout.partition("->")
        return einops.rearrange(value, f"{right} -> {left}", **self.sizes)


@dataclasses.dataclass(frozen=True)
class Part:
    """One parameter of ours in a file. Reading an index of it reads only that part of the file."""

    views: tuple[np.ndarray, ...]  # one a layer, or just one
    stacked: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """The parameter's shape."""
        return (len(self.views), *self.views[0].shape) if self.stacked else self.views[0].shape

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """A block of the parameter, float32."""
        if not self.stacked:
            return np.array(self.views[0][index], np.float32)
        layers = self.views[index[0]] if index else self.views
        return np.stack([np.asarray(view[index[1:]], np.float32) for view in layers])


def layer_weights(
    table: Iterable[Weight], *, ours: str, theirs: str, depth: int, scan: bool = True
) -> Iterator[Weight]:
    """The weights of `depth` equal layers, from the table of one.

    Args:
      ours: path of the trunk, before "layers" or "layer_0".
      theirs: prefix of the file's names, with {i} for the layer's number.
    """
    for weight in table:
        names = [tuple(theirs.format(i=i) + name for name in weight.theirs) for i in range(depth)]
        if scan:
            paths = tuple(f"{ours}/layers/{path}" for path in weight.ours)
            yield dataclasses.replace(weight, ours=paths, theirs=tuple(n for (n,) in names), stacked=True)
        else:
            for i, name in enumerate(names):
                paths = tuple(f"{ours}/layer_{i}/{path}" for path in weight.ours)
                yield dataclasses.replace(weight, ours=paths, theirs=name)


def linear(ours: str, theirs: str, *, bias: bool = True) -> list[Weight]:
    """A dense layer: kernel "D F" and bias "F", from torch's weight "F D"."""
    kernel = Weight((f"{ours}/kernel",), (f"{theirs}.weight",), "F D -> D F")
    return [kernel, Weight((f"{ours}/bias",), (f"{theirs}.bias",))] if bias else [kernel]


def norm(ours: str, theirs: str) -> list[Weight]:
    """A layer norm: scale and bias "D"."""
    return [
        Weight((f"{ours}/scale",), (f"{theirs}.weight",)),
        Weight((f"{ours}/bias",), (f"{theirs}.bias",)),
    ]


def fused_attention(ours: str, theirs: str, num_heads: int, *, fused_kernels: bool = True) -> list[Weight]:
    """Multi-head attention, from torch's nn.MultiheadAttention: one array for query, key and value.

    Args:
      fused_kernels: False where keys come from a stream of another width: then only biases are one array.
    """
    names, sizes = [f"{ours}/{name}" for name in ("query", "key", "value")], {"n": 3, "H": num_heads}
    kernels, biases = (tuple(f"{name}/{kind}" for name in names) for kind in ("kernel", "bias"))
    if fused_kernels:
        weights = [Weight(kernels, (f"{theirs}.in_proj_weight",), "(n H K) D -> n D H K", sizes)]
    else:
        weights = [
            Weight((kernel,), (f"{theirs}.{name}_proj_weight",), "(H K) D -> D H K", {"H": num_heads})
            for kernel, name in zip(kernels, "qkv", strict=True)
        ]
    return [
        *weights,
        Weight(biases, (f"{theirs}.in_proj_bias",), "(n H K) -> n H K", sizes),
        Weight((f"{ours}/out/kernel",), (f"{theirs}.out_proj.weight",), "D (H K) -> H K D", {"H": num_heads}),
        Weight((f"{ours}/out/bias",), (f"{theirs}.out_proj.bias",)),
    ]


def attention(
    ours: str, *, query: str, key: str, value: str, out: str, num_heads: int, key_bias: bool = True
) -> list[Weight]:
    """Multi-head attention, from torch's four dense layers of width (H K)."""
    weights, heads = [], {"H": num_heads}
    for name, theirs in (("query", query), ("key", key), ("value", value)):
        weights.append(Weight((f"{ours}/{name}/kernel",), (f"{theirs}.weight",), "(H K) D -> D H K", heads))
        if name != "key" or key_bias:
            weights.append(Weight((f"{ours}/{name}/bias",), (f"{theirs}.bias",), "(H K) -> H K", heads))
    weights.append(Weight((f"{ours}/out/kernel",), (f"{out}.weight",), "D (H K) -> H K D", heads))
    return [*weights, Weight((f"{ours}/out/bias",), (f"{out}.bias",))]


def read(
    weights: Iterable[Weight], arrays: Mapping[str, np.ndarray], unused: Sequence[str] = ()
) -> dict[str, Part]:
    """{path of ours: its Part in the file}.

    Args:
      arrays: those of the file.
      unused: beginnings or ends of names that the model does not need, such as those of buffers.

    Raises:
      InputError: names are missing or left over, or a shape is another.
    """
    parts: dict[str, Part] = {}
    weights = list(weights)
    needed = [name for weight in weights for name in weight.theirs]
    missing = [name for name in needed if name not in arrays]
    extra = sorted(set(arrays) - set(needed))
    extra = [name for name in extra if not any(name.startswith(u) or name.endswith(u) for u in unused)]
    if missing or extra:
        raise InputError(
            f"expected {len(needed)} arrays, found {len(missing)} missing ({_listed(missing)}) and "
            f"{len(extra)} left over ({_listed(extra)}). The configuration is that of another model"
        )
    for weight in weights:
        by_layer = [weight.views(arrays[name]) for name in weight.theirs]
        for number, path in enumerate(weight.ours):
            parts[path] = Part(tuple(views[number] for views in by_layer), weight.stacked)
    return parts


def write(weights: Iterable[Weight], params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `read`: {name of the file: array}, from {path of ours: array}."""
    arrays: dict[str, np.ndarray] = {}
    for weight in weights:
        values = [np.asarray(params[path]) for path in weight.ours]
        for number, name in enumerate(weight.theirs):
            layer = [value[number] for value in values] if weight.stacked else values
            arrays[name] = np.asarray(weight.array(layer), order="C")  # also of a scalar
    return arrays


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:MAX_LISTED]) + (", ..." if len(names) > MAX_LISTED else "") or "none"
