"""CLIP in the state dicts of OpenCLIP (Ilharco et al. 2021), such as ViT-B-32 and ViT-L-14."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mmjax import fusion
from mmjax.batch import Stream
from mmjax.encoders import LinearPatches, TextTransformer, ViT
from mmjax.errors import InputError, excerpt
from mmjax.heads import PooledEmbedding
from mmjax.interop.configs import image_input, integer, number, section, text_input
from mmjax.interop.towers import towers_of
from mmjax.interop.vit import patches
from mmjax.interop.weights import LOG_SCALE, Weight, fused_attention, layer_weights, linear, norm
from mmjax.layers import Transformer
from mmjax.model import MultimodalModel

MODEL_TYPES = ("open_clip",)
PREFIXES = ()
UNUSED = ("attn_mask",)
HEAD_WIDTH = 64  # of all of its models but for a few, which say so
# Options of a model_cfg that change what is computed, and the values that mmjax reads.
PLAIN: dict[str, tuple[Any, ...]] = {
    "timm_model_name": (None,), "hf_model_name": (None,), "ls_init_value": (None,), "no_ln_pre": (False,),
    "attentional_pool": (False,), "final_ln_after_pool": (False,), "pos_embed_type": ("learnable",),
    "embed_cls": (False,), "no_causal_mask": (False,), "proj_bias": (False,), "proj_type": ("linear",),
    "pool_type": ("tok", "argmax"), "block_type": (None, "default"), "qk_norm": (False,),
    "scaled_cosine_attn": (False,), "scale_heads": (False,), "scale_attn_inner": (False,),
    "scale_attn": (False,), "scale_fc": (False,), "act_kwargs": (None, {}), "norm_kwargs": (None, {}),
}  # fmt: skip


def is_state_dict(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether the names are those of OpenCLIP's own CLIP."""
    return {"visual.conv1.weight", "visual.proj", "text_projection", "token_embedding.weight"} <= set(arrays)


def with_sizes(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The contents of open_clip_config.json, completed by sizes that the arrays' shapes give.

    Without such a file, heads have 64 channels and the activation is GELU, as in OpenCLIP's own models; those
    of OpenAI have "quick_gelu": true.
    """
    given = config.get("model_cfg", {})
    if not isinstance(given, dict):
        raise InputError(f"expected an object 'model_cfg' in open_clip_config.json, found {excerpt(given)}")
    shapes = {name: array.shape for name, array in arrays.items()}
    dims = {
        "visual.conv1.weight": 4, "visual.proj": 2, "token_embedding.weight": 2, "positional_embedding": 2,
        "visual.positional_embedding": 2,
    }  # fmt: skip
    for name, num in dims.items():
        if len(shapes.get(name, ())) != num:
            raise InputError(f"expected {name!r} with {num} axes, found the shape {shapes.get(name)}")
    width, _, side, _ = shapes["visual.conv1.weight"]
    vocab, text_width = shapes["token_embedding.weight"]
    grid = math.isqrt(max(shapes["visual.positional_embedding"][0] - 1, 0))
    vision = {
        "width": width, "patch_size": side, "image_size": grid * side,
        "layers": _num_layers(arrays, "visual."),
    }  # fmt: skip
    text = {
        "width": text_width, "vocab_size": vocab, "context_length": shapes["positional_embedding"][0],
        "layers": _num_layers(arrays, ""), "heads": max(text_width // HEAD_WIDTH, 1),
    }  # fmt: skip
    cfg = {"embed_dim": shapes["visual.proj"][1]} | given
    cfg["vision_cfg"] = vision | (section(given, "vision_cfg") if "vision_cfg" in given else {})
    cfg["text_cfg"] = text | (section(given, "text_cfg") if "text_cfg" in given else {})
    return {"model_type": "open_clip", "model_cfg": cfg}


def _num_layers(arrays: Mapping[str, np.ndarray], prefix: str) -> int:
    blocks = f"{prefix}transformer.resblocks."
    return len({name.removeprefix(blocks).split(".")[0] for name in arrays if name.startswith(blocks)})


def model(config: Mapping[str, Any]) -> MultimodalModel:
    """The model that an open_clip_config.json describes. Raises InputError for options that mmjax lacks."""
    cfg = section(config, "model_cfg")
    text, vision = section(cfg, "text_cfg"), section(cfg, "vision_cfg")
    for part in (text, vision):
        refuse_options(part, {})
    dim, side = integer(cfg, "embed_dim"), integer(vision, "patch_size", 16)
    activation = "quick_gelu" if cfg.get("quick_gelu", False) else "gelu"
    return MultimodalModel(
        encoders={
            "text": TextTransformer(
                vocab=integer(text, "vocab_size", 49408),
                num_token_types=0,
                max_length=integer(text, "context_length", 77),
                scale_embeddings=False,
                trunk=trunk(text, 512, integer(text, "heads", 8), activation, causal=True),
            ),
            "image": ViT(
                stem=LinearPatches(patch=(side, side), use_bias=False),
                num_class_tokens=1,
                input_norm=True,
                trunk=trunk(vision, 768, num_vision_heads(vision), activation, causal=False),
            ),
        },
        fusion=fusion.Late(streams=("image", "text")),
        heads={
            "text": PooledEmbedding("text", dim=dim, pooling="last"),
            "image": PooledEmbedding("image", dim=dim, pooling="first"),
        },
    )


def refuse_options(config: Mapping[str, Any], other: Mapping[str, tuple[Any, ...]]) -> None:
    """Raises InputError for options that mmjax lacks; `other` replaces values of `PLAIN`."""
    for name, values in {**PLAIN, **other}.items():
        if config.get(name, values[0]) not in values:
            raise InputError(
                f"expected {name!r} in open_clip_config.json to be one of {values}, found "
                f"{excerpt(config[name])}: mmjax reads OpenCLIP's CLIP and CoCa without other options"
            )


def num_vision_heads(config: Mapping[str, Any]) -> int:
    """H of the encoder of images, which a vision_cfg gives by the width of a head."""
    return max(integer(config, "width", 768) // max(integer(config, "head_width", HEAD_WIDTH), 1), 1)


def inputs(config: Mapping[str, Any]) -> dict[str, Stream]:
    """A text and an image, whose shapes give those of the parameters."""
    return text_input() | image_input(section(section(config, "model_cfg"), "vision_cfg"))


def trunk(
    config: Mapping[str, Any], width: int, num_heads: int, activation: str, *, causal: bool
) -> Transformer:
    """One of the two trunks; `width` is the default of what a config leaves out."""
    width = integer(config, "width", width)
    return Transformer(
        depth=integer(config, "layers", 12),
        width=width,
        num_heads=num_heads,
        mlp_width=int(width * number(config, "mlp_ratio", 4.0)),
        activation=activation,
        causal=causal,
        epsilon=1e-5,
    )


def model_weights(module: MultimodalModel, theirs: str = "") -> Iterator[Weight]:
    """Its parameters."""
    text, image = module.encoders["text"], module.encoders["image"]
    ours = "encoders_text/"
    yield Weight((f"{ours}table",), (f"{theirs}token_embedding.weight",))
    yield Weight((f"{ours}positions/table",), (f"{theirs}positional_embedding",))
    yield from trunk_weights(text.trunk, f"{ours}trunk", f"{theirs}transformer.resblocks.{{i}}.")
    yield from norm(f"{ours}trunk/final_norm", f"{theirs}ln_final")
    yield Weight(("heads_text/linear/kernel",), (f"{theirs}text_projection",))

    ours, visual = "encoders_image/", f"{theirs}visual."
    yield Weight((f"{ours}class_tokens",), (f"{visual}class_embedding",), stacked=True)
    yield Weight((f"{ours}positions/table",), (f"{visual}positional_embedding",))
    yield from patches(f"{ours}stem/linear", f"{visual}conv1", image.stem.patch, bias=False)
    yield from norm(f"{ours}input_norm", f"{visual}ln_pre")
    yield from trunk_weights(image.trunk, f"{ours}trunk", f"{visual}transformer.resblocks.{{i}}.")
    yield from norm(f"{ours}trunk/final_norm", f"{visual}ln_post")
    yield Weight(("heads_image/linear/kernel",), (f"{visual}proj",))
    yield Weight((LOG_SCALE,), (f"{theirs}logit_scale",))


def trunk_weights(module: Transformer, ours: str, theirs: str) -> Iterator[Weight]:
    """The layers of one trunk, from nn.MultiheadAttention's."""
    layer = [
        *fused_attention("attention", "attn", module.num_heads),
        *norm("attention_norm", "ln_1"),
        *linear("mlp/up", "mlp.c_fc"),
        *linear("mlp/down", "mlp.c_proj"),
        *norm("mlp_norm", "ln_2"),
    ]
    yield from layer_weights(layer, ours=ours, theirs=theirs, depth=module.depth, scan=module.scan)


def configs(module: MultimodalModel) -> Iterator[dict[str, Any]]:
    """The contents of open_clip_config.json for the nearest CLIP, without the size of images."""
    if (towers := towers_of(module)) is None:
        return
    text, image, head = towers
    vision = image_config(image)
    words = trunk_config(text.trunk) | {
        "heads": text.trunk.num_heads, "vocab_size": text.vocab, "context_length": text.max_length,
    }  # fmt: skip
    yield {
        "model_type": "open_clip",
        "model_cfg": {
            "embed_dim": head.dim, "quick_gelu": text.trunk.activation == "quick_gelu", "vision_cfg": vision,
            "text_cfg": words,
        },
    }  # fmt: skip


def image_config(image: ViT) -> dict[str, Any]:
    """The fields of vision_cfg that describe an encoder, without the size of images."""
    return trunk_config(image.trunk) | {
        "patch_size": getattr(image.stem, "patch", (0, 0))[0],
        "head_width": image.trunk.width // image.trunk.num_heads,
    }


def trunk_config(trunk: Transformer) -> dict[str, Any]:
    """The fields of a configuration that describe one trunk."""
    return {
        "layers": trunk.depth, "width": trunk.width, "mlp_ratio": trunk.mlp_width / max(trunk.width, 1),
    }  # fmt: skip
