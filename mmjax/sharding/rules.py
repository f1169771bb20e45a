"""A sharding strategy is a value: for every logical axis, the mesh axes that split it."""

import dataclasses

from mmjax.errors import InputError
from mmjax.sharding.axes import KNOWN_AXES, MESH_AXES

MeshAxes = str | tuple[str, ...] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """One field per logical axis (`axes.py` gives their meanings); None means replicated.

    `optimizer_embed` stands for `embed` in the optimizer's state and in gradients, where it is not None.

    Raises:
      InputError: a mesh axis that does not exist, or a parameter kernel whose axes would collide.
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
    scalar: MeshAxes = None
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
    act_shared: MeshAxes = None

    def __post_init__(self):
        for field in dataclasses.fields(self):
            for mesh_axis in self.mesh_axes(field.name):
                if mesh_axis not in MESH_AXES:
                    raise InputError(
                        f"sharding rule {field.name}={getattr(self, field.name)!r} names the mesh axis "
                        f"{mesh_axis!r}; the mesh has {list(MESH_AXES)}"
                    )
        for axes in CO_OCCURRING:
            self.refuse_collision(axes)
        if self.optimizer_embed is not None:
            self.of_optimizer()  # refuses collisions of its own

    def mesh_axes(self, axis: str) -> tuple[str, ...]:
        """The mesh axes that split logical axis `axis`, outermost first.

        >>> FSDP.mesh_axes("embed"), FSDP.mesh_axes("act_batch"), FSDP.mesh_axes("mlp")
        (('fsdp',), ('slices', 'data', 'fsdp'), ())
        """
        value = getattr(self, axis)
        return () if value is None else (value,) if isinstance(value, str) else tuple(value)

    def of_optimizer(self) -> "Rules":
        """The rules for gradients and the optimizer's state."""
        embed = self.embed if self.optimizer_embed is None else self.optimizer_embed
        return dataclasses.replace(self, embed=embed, optimizer_embed=None)

    def refuse_collision(self, axes: tuple[str | None, ...]) -> None:
        """Raises InputError if two axes of one array would be split over the same mesh axis."""
        owner: dict[str, str] = {}
        for axis in axes:
            for mesh_axis in self.mesh_axes(axis) if axis else ():
                if mesh_axis in owner:
                    raise InputError(
                        f"sharding rules collide: {owner[mesh_axis]!r} and {axis!r} are axes of one array "
                        f"and both map to the mesh axis {mesh_axis!r}; give one another mesh axis or None"
                    )
                owner[mesh_axis] = axis

    def pairs(self) -> tuple[tuple[str, MeshAxes], ...]:
        """(logical axis, mesh axes) for flax."""
        return tuple((name, getattr(self, name)) for name in sorted(KNOWN_AXES))


# Arrays that every model has; a rule that splits two of their axes alike can never work.
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
    ("act_batch", "act_shared"),
)

# Every device holds everything; the batch is split.
REPLICATED = Rules()
# ZeRO-1 (Rajbhandari et al. 2020): gradients and the optimizer's state are split, parameters are whole.
ZERO1 = Rules(optimizer_embed="fsdp")
# ZeRO-3: every kernel is split along the residual width too, and gathered where it is used.
FSDP = Rules(embed="fsdp")
# Megatron: attention by heads, MLP by hidden units, the token table by rows; an all-reduce a half block.
TENSOR = Rules(
    heads="tensor",
    mlp="tensor",
    vocab="tensor",
    act_heads="tensor",
    act_attention_heads="tensor",
    act_mlp="tensor",
    act_vocab="tensor",
)
# Positions are split; attention exchanges them for heads by all-to-all, and back (Ulysses, Jacobs et al.
# 2023).
SEQUENCE = Rules(act_length="sequence", act_attention_heads="sequence")

# Several at once. Beside FSDP the token table is split along its width only: split two ways, XLA gathers it
# for every lookup. Heads that are split twice must be a multiple of tensor x sequence.
FSDP_TENSOR = dataclasses.replace(TENSOR, embed="fsdp")
FSDP_SEQUENCE = dataclasses.replace(SEQUENCE, embed="fsdp")
FSDP_TENSOR_SEQUENCE = dataclasses.replace(
    FSDP_TENSOR, act_length="sequence", act_attention_heads=("tensor", "sequence")
)
