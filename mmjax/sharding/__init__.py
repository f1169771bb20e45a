"""Logical axes, the rules that map them to a mesh, and the mesh itself."""

from mmjax.sharding.annotate import by_rows, param_axes, shard, unbox, whole_rows
from mmjax.sharding.mesh import MeshShape, array_shardings, batch_sharding, local_rows, to_global, using
from mmjax.sharding.ring import around
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
    "ZERO1", "MeshShape", "Rules", "around", "array_shardings", "batch_sharding", "by_rows", "local_rows",
    "param_axes", "shard", "to_global", "unbox", "using", "whole_rows",
]  # fmt: skip
