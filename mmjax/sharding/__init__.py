"""Logical axes, the rules that map them to a mesh, and the mesh itself."""

from mmjax.sharding.annotate import gather_table, map_batch_shards, param_axes, shard, unbox
from mmjax.sharding.mesh import MeshShape, array_shardings, batch_sharding, local_rows, to_global, using
from mmjax.sharding.ring import ring_exchange
from mmjax.sharding.rules import (
    FSDP,
    FSDP_SEQUENCE,
    FSDP_TENSOR,
    FSDP_TENSOR_SEQUENCE,
    REPLICATED,
    SEQUENCE,
    TENSOR,
    ZERO1,
    Rules,
)

__all__ = [
    "FSDP", "FSDP_SEQUENCE", "FSDP_TENSOR", "FSDP_TENSOR_SEQUENCE", "REPLICATED", "SEQUENCE", "TENSOR",
    "ZERO1", "MeshShape", "Rules", "array_shardings", "batch_sharding", "gather_table", "local_rows",
    "map_batch_shards", "param_axes", "ring_exchange", "shard", "to_global", "unbox", "using",
]  # fmt: skip
