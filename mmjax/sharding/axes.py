"""The one list of logical axis names. Model code speaks these; only `rules` maps them to a mesh.

Parameters and activations have different names for the same width: under FSDP a parameter's width is
split over the mesh while an activation's is not, and one name for both would collide.
"""

PARAMETER_AXES = {
    "embed": "residual width of a trunk, the input or output width of most kernels",
    "heads": "attention heads",
    "head_width": "width of one attention head",
    "mlp": "hidden width of an MLP",
    "vocab": "rows of a token table",
    "positions": "rows of a table of positions or of a few learned tokens",
    "patch": "raw features of a patch, a window or a mel frame",
    "shared": "the space in which modalities are compared",
    "classes": "outputs of a classifier",
    "layers": "scanned layers of a trunk",
    "scalar": "a learned scalar, never sharded",
}

ACTIVATION_AXES = {
    "act_batch": "examples",
    "act_length": "positions of a stream",
    "act_queries": "positions that ask, within attention",
    "act_keys": "positions that are asked, within attention",
    "act_embed": "residual width",
    "act_heads": "attention heads, beside attention",
    "act_attention_heads": "attention heads, within attention",
    "act_head_width": "width of one attention head",
    "act_mlp": "hidden width of an MLP",
    "act_vocab": "logits over a vocabulary",
    "act_shared": "the space in which modalities are compared",
}

KNOWN_AXES = frozenset(PARAMETER_AXES | ACTIVATION_AXES)

# Outermost first, so slowest links first: slices (or nodes) exchange only gradients, and what is exchanged
# most often, activations of tensor parallelism, goes between neighbours.
MESH_AXES = ("slices", "data", "fsdp", "sequence", "tensor")
