"""Sharding strategies: for each logical axis, the mesh axes that split it."""

import dataclasses

from mmjax.errors import InputError
from mmjax.sharding.axes import KNOWN_AXES, MESH_AXES
from mmjax.spec import Spec

MeshAxes = str | tuple[str, ...] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules(Spec):
    """The mesh axes that split each logical axis (`axes.py` describes these); None: replicated.

    optimizer_embed: replaces `embed` for the optimizer's state and for gradients, unless it is None.

    Raises:
      InputError: a mesh axis does not exist, or one array would be split twice over the same mesh axis.
    """

    embed: MeshAxes = None
    heads: MeshAxes = None
    head_width: MeshAxes = None
    mlp: MeshAxes = None
    vocab: MeshAxes = None
    positions: MeshAxes = None
    patch: MeshAxes = None
    shared: MeshAxes = None
    classes: MeshAxes = None
    layers: MeshAxes = None
    optimizer_embed: MeshAxes = None
    act_batch: MeshAxes = ("slices", "data", "fsdp")
    act_length: MeshAxes = None
    act_queries: MeshAxes = None
    act_keys: MeshAxes = None
    act_embed: MeshAxes = None
    act_heads: MeshAxes = None
    act_attention_heads: MeshAxes = None
    act_head_width: MeshAxes = None
    act_mlp: MeshAxes = None
    act_vocab: MeshAxes = None

    def __post_init__(self):
        for field in dataclasses.fields(self):
            for mesh_axis in self.mesh_axes(field.name):
                if mesh_axis not in MESH_AXES:
                    raise InputError(
                        f"sharding rule {field.name}={getattr(self, field.name)!r} names the mesh axis "
                        f"{mesh_axis!r}; the mesh has {list(MESH_AXES)}"
                    )
        for axes in CO_OCCURRING:
            self.check_no_collision(axes)
        if self.optimizer_embed is not None:
            self.for_optimizer()  # the new value checks its own collisions

    def mesh_axes(self, axis: str) -> tuple[str, ...]:
        """The mesh axes that split logical axis `axis`, outermost first.

        >>> FSDP.mesh_axes("embed"), FSDP.mesh_axes("act_batch"), FSDP.mesh_axes("mlp")
        (('fsdp',), ('slices', 'data', 'fsdp'), ())
        """
        value = getattr(self, axis)
        return () if value is None else (value,) if isinstance(value, str) else tuple(value)

    def for_optimizer(self) -> "Rules":
        """The rules for gradients and the optimizer's state: `optimizer_embed` in place of `embed`."""
        embed = self.embed if self.optimizer_embed is None else self.optimizer_embed
        return dataclasses.replace(self, embed=embed, optimizer_embed=None)

    def check_no_collision(self, axes: tuple[str | None, ...]) -> None:
        """Raises InputError if two of these axes of one array are split over the same mesh axis."""
        split_by: dict[str, str] = {}  # mesh axis -> logical axis
        for axis in axes:
            for mesh_axis in self.mesh_axes(axis) if axis else ():
                if mesh_axis in split_by:
                    raise InputError(
                        f"sharding rules collide: {split_by[mesh_axis]!r} and {axis!r} are axes of one array "
                        f"and both map to the mesh axis {mesh_axis!r}; map one to another mesh axis or None"
                    )
                split_by[mesh_axis] = axis

    def flax_rules(self) -> tuple[tuple[str, MeshAxes], ...]:
        """Pairs (logical axis, mesh axes), as `flax.linen.logical_axis_rules` expects them."""
        return tuple((name, getattr(self, name)) for name in sorted(KNOWN_AXES))


# The axes of arrays that most models have: checked when rules are made, before any model exists.
CO_OCCURRING = (
    ("layers", "embed", "heads", "head_width"),
    ("layers", "embed", "mlp"),
    ("vocab", "embed"),
    ("positions", "embed"),
    ("patch", "embed"),
    ("embed", "shared"),
    ("embed", "classes"),
    ("act_batch", "act_length", "act_embed"),
    ("act_batch", "act_length", "act_heads", "act_head_width"),
    ("act_batch", "act_queries", "act_attention_heads", "act_head_width"),
    ("act_batch", "act_keys", "act_attention_heads", "act_head_width"),
    ("act_batch", "act_length", "act_mlp"),
    ("act_batch", "act_length", "act_vocab"),
)

# Data parallelism: every device holds all parameters; only the batch is split.
REPLICATED = Rules()
# ZeRO-1 (Rajbhandari et al. 2020): the optimizer's state and gradients are split, parameters replicated.
ZERO1 = Rules(optimizer_embed="fsdp")
# ZeRO-3: parameters too are split along the residual width, and gathered where they are used.
FSDP = Rules(embed="fsdp")
# Megatron: attention is split by heads, MLPs by hidden units, the token table by rows; one all-reduce after
# each attention and each MLP.
TENSOR = Rules(
    heads="tensor",
    mlp="tensor",
    vocab="tensor",
    act_heads="tensor",
    act_attention_heads="tensor",
    act_mlp="tensor",
    act_vocab="tensor",
)
# Ulysses (Jacobs et al. 2023): positions are split; an all-to-all before attention splits heads instead, and
# another one after it splits positions again.
SEQUENCE = Rules(act_length="sequence", act_attention_heads="sequence")

# Combinations. FSDP_TENSOR_SEQUENCE splits heads twice: their number must be a multiple of tensor x sequence.
FSDP_TENSOR = dataclasses.replace(TENSOR, embed="fsdp")
FSDP_SEQUENCE = dataclasses.replace(SEQUENCE, embed="fsdp")
FSDP_TENSOR_SEQUENCE = dataclasses.replace(
    FSDP_TENSOR, act_length="sequence", act_attention_heads=("tensor", "sequence")
)
