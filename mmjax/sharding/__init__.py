"""Logical axes, the rules that map them to a mesh, and the mesh itself."""

from mmjax.sharding.annotate import param_axes, shard, unbox
from mmjax.sharding.mesh import MeshShape, batch_sharding, local_rows, state_shardings, to_global, using
from mmjax.sharding.rules import FSDP, FSDP_TENSOR, REPLICATED, TENSOR, Rules

__all__ = [
    "FSDP", "FSDP_TENSOR", "REPLICATED", "TENSOR", "MeshShape", "Rules", "batch_sharding", "local_rows",
    "param_axes", "shard", "state_shardings", "to_global", "unbox", "using",
]  # fmt: skip
