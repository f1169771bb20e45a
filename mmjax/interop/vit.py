"""ViT, DeiT and DINOv2 as image encoders.

Dosovitskiy et al. 2021; Touvron et al. 2021; Oquab et al. 2023; registers: Darcet et al. 2024.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from mmjax.batch import Image
from mmjax.encoders import LinearPatches, ViT
from mmjax.errors import InputError
from mmjax.interop.configs import activation, activation_name, image_input, integer, number
from mmjax.interop.weights import Weight, attention, layer_weights, linear, norm
from mmjax.layers import Transformer

MODEL_TYPES = ("vit", "deit", "dinov2", "dinov2_with_registers")
PREFIXES = ("vit.", "deit.", "dinov2.", "dinov2_with_registers.")
UNUSED = ("pooler.", "classifier.", "cls_classifier.", "distillation_classifier.")


def encoder(config: Mapping[str, Any]) -> ViT:
    """The encoder that a config.json describes. Raises InputError for options that it does not have."""
    kind = config["model_type"]
    is_dino = kind.startswith("dinov2")
    if not config.get("qkv_bias", True):
        raise InputError(
            "expected qkv_bias=true in config.json, found false: mmjax reads only models with it"
        )
    width, side = integer(config, "hidden_size"), integer(config, "patch_size")
    if is_dino:
        mlp_width = width * integer(config, "mlp_ratio", 4)
    else:
        mlp_width = integer(config, "intermediate_size")
    gated = is_dino and bool(config.get("use_swiglu_ffn", False))
    if gated:  # two thirds, rounded up to a multiple of 8
        mlp_width = (mlp_width * 2 // 3 + 7) // 8 * 8
    return ViT(
        stem=LinearPatches(patch=(side, side)),
        num_class_tokens=2 if kind == "deit" else 1,
        num_registers=integer(config, "num_register_tokens", 4) if kind.endswith("registers") else 0,
        mask_token=is_dino and bool(config.get("use_mask_token", True)),
        trunk=Transformer(
            depth=integer(config, "num_hidden_layers"),
            width=width,
            num_heads=integer(config, "num_attention_heads"),
            mlp_width=mlp_width,
            gated=gated,
            layer_scale=number(config, "layerscale_value", 1.0) if is_dino else None,
            activation="silu" if gated else activation(config, "hidden_act", "gelu"),
            epsilon=number(config, "layer_norm_eps", 1e-6 if is_dino else 1e-12),
        ),
    )


def inputs(config: Mapping[str, Any]) -> dict[str, Image]:
    """An image, whose shapes give those of the parameters."""
    return image_input(config)


def encoder_weights(module: ViT, ours: str = "", theirs: str = "") -> Iterator[Weight]:
    """Its parameters, in the names of DINOv2 if it has layer scale, else in those of ViT and DeiT."""
    is_dino, trunk = module.trunk.layer_scale is not None, module.trunk
    embeddings = f"{theirs}embeddings."
    tokens = ("cls_token", "distillation_token")[: module.num_class_tokens]
    names = tuple(embeddings + token for token in tokens)
    yield Weight((f"{ours}class_tokens",), names, "1 1 D -> D", stacked=True)
    if module.num_registers:
        yield Weight((f"{ours}registers",), (f"{embeddings}register_tokens",), "1 L D -> L D")
    if module.mask_token:
        yield Weight((f"{ours}mask_token",), (f"{embeddings}mask_token",), "1 D -> D")
    yield Weight((f"{ours}positions/table",), (f"{embeddings}position_embeddings",), "1 L D -> L D")
    yield from patches(f"{ours}stem/linear", f"{embeddings}patch_embeddings.projection", module.stem.patch)
    yield from layer_weights(
        _dino_layer(trunk) if is_dino else _layer(trunk), ours=f"{ours}trunk",
        theirs=f"{theirs}encoder.layer.{{i}}.", depth=trunk.depth, scan=trunk.scan,
    )  # fmt: skip
    yield from norm(f"{ours}trunk/final_norm", f"{theirs}layernorm")


def patches(ours: str, theirs: str, patch: tuple[int, int], *, bias: bool = True) -> Iterator[Weight]:
    """A linear map of patches, from torch's convolution "D channel height width"."""
    sizes = {"h": patch[0], "w": patch[1]}
    yield Weight((f"{ours}/kernel",), (f"{theirs}.weight",), "D c h w -> (h w c) D", sizes | {"c": 3})
    if bias:
        yield Weight((f"{ours}/bias",), (f"{theirs}.bias",))


def _attention(trunk: Transformer) -> list[Weight]:
    inner = "attention.attention."
    return attention(
        "attention", query=f"{inner}query", key=f"{inner}key", value=f"{inner}value",
        out="attention.output.dense", num_heads=trunk.num_heads,
    )  # fmt: skip


def _layer(trunk: Transformer) -> list[Weight]:
    return [
        *_attention(trunk),
        *norm("attention_norm", "layernorm_before"),
        *linear("mlp/up", "intermediate.dense"),
        *linear("mlp/down", "output.dense"),
        *norm("mlp_norm", "layernorm_after"),
    ]


def _dino_layer(trunk: Transformer) -> list[Weight]:
    if trunk.gated:
        both = ("mlp/gate", "mlp/up")
        mlp = [
            Weight(
                tuple(f"{p}/kernel" for p in both), ("mlp.weights_in.weight",), "(n F) D -> n D F", {"n": 2}
            ),
            Weight(tuple(f"{p}/bias" for p in both), ("mlp.weights_in.bias",), "(n F) -> n F", {"n": 2}),
            *linear("mlp/down", "mlp.weights_out"),
        ]
    else:
        mlp = [*linear("mlp/up", "mlp.fc1"), *linear("mlp/down", "mlp.fc2")]
    return [
        *_attention(trunk),
        *norm("attention_norm", "norm1"),
        Weight(("attention_scale",), ("layer_scale1.lambda1",)),
        *norm("mlp_norm", "norm2"),
        Weight(("mlp_scale",), ("layer_scale2.lambda1",)),
        *mlp,
    ]


def configs(module: ViT) -> Iterator[dict[str, Any]]:
    """The contents of config.json for the nearest ViT, DeiT and DINOv2, without the size of images."""
    trunk = module.trunk
    sizes = {
        "patch_size": getattr(module.stem, "patch", (0, 0))[0], "hidden_size": trunk.width,
        "num_hidden_layers": trunk.depth, "num_attention_heads": trunk.num_heads,
        "hidden_act": activation_name(trunk.activation), "layer_norm_eps": trunk.epsilon, "qkv_bias": True,
    }  # fmt: skip
    yield {"model_type": "vit", "architectures": ["ViTModel"], "intermediate_size": trunk.mlp_width} | sizes
    yield {"model_type": "deit", "architectures": ["DeiTModel"], "intermediate_size": trunk.mlp_width} | sizes
    # A gated MLP has two thirds of the width that its ratio says.
    ratio = round(trunk.mlp_width / trunk.width * (1.5 if trunk.gated else 1))
    dino = sizes | {
        "mlp_ratio": ratio, "use_swiglu_ffn": trunk.gated, "layerscale_value": trunk.layer_scale or 1.0,
        "use_mask_token": module.mask_token,
    }  # fmt: skip
    dino |= {"hidden_act": "gelu"} if trunk.gated else {}
    yield {"model_type": "dinov2", "architectures": ["Dinov2Model"]} | dino
    registers = {"num_register_tokens": module.num_registers}
    yield (
        {"model_type": "dinov2_with_registers", "architectures": ["Dinov2WithRegistersModel"]}
        | dino
        | registers
    )
