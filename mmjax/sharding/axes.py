"""The names of all logical axes. Model code uses only these; `Rules` maps them to the axes of a mesh.

Parameters and activations have different names for the same width, because FSDP splits the width of
parameters and not that of activations.
"""

PARAMETER_AXES = {
    "embed": "width of the residual stream; the input or output width of most kernels",
    "heads": "attention heads",
    "head_width": "width of one attention head",
    "mlp": "hidden width of an MLP",
    "vocab": "rows of a token table",
    "positions": "rows of a position table or of a table of learned tokens",
    "patch": "raw features of an image patch, a waveform window or a mel frame",
    "shared": "width of the space in which modalities are compared",
    "classes": "outputs of a classifier",
    "layers": "layers of a scanned trunk",
}

ACTIVATION_AXES = {
    "act_batch": "examples",
    "act_length": "positions of a stream",
    "act_queries": "query positions inside attention",
    "act_keys": "key positions inside attention",
    "act_embed": "width of the residual stream",
    "act_heads": "attention heads outside attention, where positions may be split",
    "act_attention_heads": "attention heads inside attention",
    "act_head_width": "width of one attention head",
    "act_mlp": "hidden width of an MLP",
    "act_vocab": "logits over a vocabulary",
}

KNOWN_AXES = frozenset(PARAMETER_AXES | ACTIVATION_AXES)

# Outermost axes first, because they use the slowest links: slices (or nodes) exchange only gradients, while
# tensor parallelism exchanges activations in every layer, between neighbouring devices.
MESH_AXES = ("slices", "data", "fsdp", "sequence", "tensor")
