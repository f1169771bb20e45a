"""Layers that are independent of modality and loss."""

from mmjax.layers.attention import MultiHeadAttention
from mmjax.layers.base import Identity, Trunk
from mmjax.layers.conv import Conv1d, Conv2d, DepthwiseConv2d, mask_for_stride
from mmjax.layers.einsum import Einsum, stacked_projection
from mmjax.layers.mlp import ACTIVATIONS, Mlp
from mmjax.layers.norm import GroupNorm, LayerNorm
from mmjax.layers.pooling import mean_pool
from mmjax.layers.positions import LearnedPositions, SinusoidalPositions
from mmjax.layers.recurrent import Recurrent
from mmjax.layers.transformer import Block, Transformer

__all__ = [
    "ACTIVATIONS", "Block", "Conv1d", "Conv2d", "DepthwiseConv2d", "Einsum", "GroupNorm", "Identity",
    "LayerNorm", "LearnedPositions", "Mlp", "MultiHeadAttention", "Recurrent", "SinusoidalPositions",
    "Transformer", "Trunk", "mask_for_stride", "mean_pool", "stacked_projection",
]  # fmt: skip
