"""wav2vec 2.0 and HuBERT (Baevski et al. 2020; Hsu et al. 2021) as encoders of audio."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mmjax.batch import Audio
from mmjax.encoders import ConvPositions, ConvWaveform, WaveformTransformer
from mmjax.errors import InputError, excerpt
from mmjax.interop.configs import activation, activation_name, integer, number
from mmjax.interop.weights import Weight, attention, layer_weights, linear, norm
from mmjax.layers import Transformer

MODEL_TYPES = ("wav2vec2", "hubert")
PREFIXES = ("wav2vec2.", "hubert.")
UNUSED = ("lm_head.", "quantizer.", "project_q.", "project_hid.", "masked_spec_embed")
EPSILON = 1e-5  # of each norm
KERNEL_SIZES, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)  # unless config.json says others
# Options of a config.json that mmjax does not have, and the value of each that it has.
FIXED = {
    "add_adapter": False, "adapter_attn_dim": None, "conv_pos_batch_norm": False,
    "feat_proj_layer_norm": True, "layer_norm_eps": EPSILON,
}  # fmt: skip


def encoder(config: Mapping[str, Any]) -> WaveformTransformer:
    """The encoder that a config.json describes.

    It normalises each clip, as the preprocessor of most of these models does (`do_normalize`). Those with a
    group norm (feat_extract_norm) give the original's output for a clip without padding; with padding, the
    original's statistics count it, and mmjax's do not.
    """
    for name, expected in FIXED.items():
        if (found := config.get(name, expected)) != expected:
            raise InputError(f"expected {name}={expected} in config.json, found {excerpt(found)}")
    kind = config.get("feat_extract_norm", "group")
    if kind not in ("group", "layer"):
        raise InputError(f"expected feat_extract_norm to be 'group' or 'layer', found {excerpt(kind)}")
    channels = set(_integers(config, "conv_dim", (512,) * 7))
    if len(channels) != 1:
        raise InputError(f"expected convolutions of equal widths in conv_dim, found {excerpt(channels)}")
    is_stable = bool(config.get("do_stable_layer_norm", False))
    conv_activation = activation(config, "feat_extract_activation", "gelu")
    masks = number(config, "mask_time_prob", 0.05) > 0 or number(config, "mask_feature_prob", 0.0) > 0
    return WaveformTransformer(
        stem=ConvWaveform(
            channels=channels.pop(),
            kernel_sizes=_integers(config, "conv_kernel", KERNEL_SIZES),
            strides=_integers(config, "conv_stride", STRIDES),
            padding="valid",
            norms="first" if kind == "group" else "all",
            use_bias=bool(config.get("conv_bias", False)),
            activation=conv_activation,
            epsilon=EPSILON,
        ),
        position_convolution=ConvPositions(
            integer(config, "num_conv_pos_embeddings", 128),
            integer(config, "num_conv_pos_embedding_groups", 16),
            conv_activation,
        ),
        embedding_norm=not is_stable,
        mask_token=masks,
        trunk=Transformer(
            depth=integer(config, "num_hidden_layers", 12),
            width=integer(config, "hidden_size", 768),
            num_heads=integer(config, "num_attention_heads", 12),
            mlp_width=integer(config, "intermediate_size", 3072),
            norm="pre" if is_stable else "post",
            activation=activation(config, "hidden_act", "gelu"),
            epsilon=EPSILON,
        ),
    )


def _integers(config: Mapping[str, Any], name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    values = config.get(name, default)
    if not isinstance(values, list | tuple) or not 0 < len(values) <= 100:
        raise InputError(f"expected a list of sizes {name!r} in config.json, found {excerpt(values)}")
    sizes = tuple(integer({name: value}, name) for value in values)
    if 0 in sizes:
        raise InputError(f"expected sizes of at least 1 in {name!r} of config.json, found {excerpt(values)}")
    return sizes


def inputs(config: Mapping[str, Any]) -> dict[str, Audio]:
    """A clip of one token, whose shapes give those of the parameters."""
    kernels = _integers(config, "conv_kernel", KERNEL_SIZES)
    strides = _integers(config, "conv_stride", STRIDES)
    length = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=False):
        length = (length - 1) * stride + kernel
    samples = np.broadcast_to(np.float32(0), (1, length))
    return {"audio": Audio(samples=samples, mask=np.broadcast_to(True, samples.shape))}


def encoder_weights(module: WaveformTransformer, ours: str = "", theirs: str = "") -> Iterator[Weight]:
    """Its parameters."""
    stem, trunk = module.stem, module.trunk
    for i, size in enumerate(stem.kernel_sizes):
        layer, conv = f"{theirs}feature_extractor.conv_layers.{i}", f"{ours}stem/conv_{i}/kernel"
        yield Weight((f"{conv}/kernel",), (f"{layer}.conv.weight",), "D c k -> (k c) D", {"k": size})
        if stem.use_bias:
            yield Weight((f"{conv}/bias",), (f"{layer}.conv.bias",))
        if stem.norms == "all" or i == 0:
            yield from norm(f"{ours}stem/norm_{i}", f"{layer}.layer_norm")
    yield from norm(f"{ours}stem/norm", f"{theirs}feature_projection.layer_norm")
    yield from linear(f"{ours}stem/linear", f"{theirs}feature_projection.projection")
    if module.mask_token:
        yield Weight((f"{ours}mask_token",), (f"{theirs}masked_spec_embed",))
    conv, positions = f"{theirs}encoder.pos_conv_embed.conv.", f"{ours}position_convolution/"
    yield Weight((f"{positions}magnitude",), (f"{conv}parametrizations.weight.original0",), "1 1 k -> k")
    yield Weight((f"{positions}direction",), (f"{conv}parametrizations.weight.original1",), "D c k -> k c D")
    yield Weight((f"{positions}bias",), (f"{conv}bias",))
    last = f"{ours}norm" if trunk.norm == "post" else f"{ours}trunk/final_norm"
    yield from norm(last, f"{theirs}encoder.layer_norm")
    block = [
        *attention(
            "attention", query="attention.q_proj", key="attention.k_proj", value="attention.v_proj",
            out="attention.out_proj", num_heads=trunk.num_heads,
        ),
        *norm("attention_norm", "layer_norm"),
        *linear("mlp/up", "feed_forward.intermediate_dense"),
        *linear("mlp/down", "feed_forward.output_dense"),
        *norm("mlp_norm", "final_layer_norm"),
    ]  # fmt: skip
    prefix = f"{theirs}encoder.layers.{{i}}."
    yield from layer_weights(block, ours=f"{ours}trunk", theirs=prefix, depth=trunk.depth, scan=trunk.scan)


def configs(module: WaveformTransformer) -> Iterator[dict[str, Any]]:
    """The contents of config.json for the nearest wav2vec 2.0; HuBERT is the same architecture."""
    stem, trunk, positions = module.stem, module.trunk, module.position_convolution
    if positions is None:
        return
    sizes = {
        "conv_dim": [stem.channels] * len(stem.kernel_sizes), "conv_kernel": list(stem.kernel_sizes),
        "conv_stride": list(stem.strides), "num_feat_extract_layers": len(stem.kernel_sizes),
        "num_conv_pos_embeddings": positions.kernel_size,
        "num_conv_pos_embedding_groups": positions.num_groups, "hidden_size": trunk.width,
        "num_hidden_layers": trunk.depth, "num_attention_heads": trunk.num_heads,
        "intermediate_size": trunk.mlp_width,
    }  # fmt: skip
    options = {
        "feat_extract_norm": "group" if stem.norms == "first" else "layer", "conv_bias": stem.use_bias,
        "feat_extract_activation": activation_name(stem.activation), "layer_norm_eps": EPSILON,
        "do_stable_layer_norm": trunk.norm == "pre", "hidden_act": activation_name(trunk.activation),
        "mask_time_prob": 0.05 if module.mask_token else 0.0, "mask_feature_prob": 0.0,
    }  # fmt: skip
    yield {"model_type": "wav2vec2", "architectures": ["Wav2Vec2Model"]} | sizes | options
