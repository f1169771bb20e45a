"""CLIP (Radford et al. 2021): a text encoder and an image encoder with a shared space."""

from collections.abc import Iterator, Mapping
from typing import Any

from mmjax import fusion
from mmjax.encoders import LinearPatches, TextTransformer, ViT
from mmjax.heads import PooledEmbedding
from mmjax.interop.configs import (
    activation_name,
    integer,
    section,
)
from mmjax.interop.towers import tower_inputs, towers_of, trunk
from mmjax.interop.vit import patches
from mmjax.interop.weights import LOG_SCALE, Weight, attention, layer_weights, linear, norm
from mmjax.layers import Transformer
from mmjax.model import MultimodalModel

MODEL_TYPES = ("clip",)
PREFIXES = ()
UNUSED = ("position_ids",)
# Of fields that a config leaves out.
DEFAULTS: dict[str, Any] = {"hidden_act": "quick_gelu", "epsilon": 1e-5}

inputs = tower_inputs


def model(config: Mapping[str, Any]) -> MultimodalModel:
    """The model that a config.json describes."""
    text, vision = section(config, "text_config"), section(config, "vision_config")
    dim = integer(config, "projection_dim", 512)
    return MultimodalModel(
        encoders={
            "text": TextTransformer(
                vocab=integer(text, "vocab_size", 49408),
                num_token_types=0,
                max_length=integer(text, "max_position_embeddings", 77),
                scale_embeddings=False,
                trunk=trunk(text, width=512, mlp_width=2048, num_heads=8, causal=True, **DEFAULTS),
            ),
            "image": image_encoder(vision),
        },
        fusion=fusion.Late(streams=("image", "text")),
        heads={
            "text": PooledEmbedding("text", dim=dim, pooling="last"),
            "image": PooledEmbedding("image", dim=dim, pooling="first"),
        },
    )


def image_encoder(config: Mapping[str, Any]) -> ViT:
    """The encoder that a vision_config describes."""
    side = integer(config, "patch_size", 32)
    return ViT(
        stem=LinearPatches(patch=(side, side), use_bias=False),
        num_class_tokens=1,
        input_norm=True,
        trunk=trunk(config, **DEFAULTS),
    )


def model_weights(module: MultimodalModel, theirs: str = "") -> Iterator[Weight]:
    """Its parameters."""
    text, image = module.encoders["text"], module.encoders["image"]
    ours, words = "encoders_text/", f"{theirs}text_model."
    yield Weight((f"{ours}table",), (f"{words}embeddings.token_embedding.weight",))
    yield Weight((f"{ours}positions/table",), (f"{words}embeddings.position_embedding.weight",))
    yield from trunk_weights(text.trunk, ours, words)
    yield from norm(f"{ours}trunk/final_norm", f"{words}final_layer_norm")
    yield from image_weights(image, f"{theirs}vision_model.")
    yield from shared_space_weights(theirs)


def image_weights(module: ViT, theirs: str, ours: str = "encoders_image/") -> Iterator[Weight]:
    """The parameters of the encoder of images."""
    yield Weight((f"{ours}class_tokens",), (f"{theirs}embeddings.class_embedding",), stacked=True)
    yield Weight((f"{ours}positions/table",), (f"{theirs}embeddings.position_embedding.weight",))
    yield from patches(
        f"{ours}stem/linear", f"{theirs}embeddings.patch_embedding", module.stem.patch, bias=False
    )
    yield from norm(f"{ours}input_norm", f"{theirs}pre_layrnorm")
    yield from trunk_weights(module.trunk, ours, theirs)
    yield from norm(f"{ours}trunk/final_norm", f"{theirs}post_layernorm")


def shared_space_weights(theirs: str = "") -> Iterator[Weight]:
    """The heads of both streams, and the logarithm of the scale, which the objective learns."""
    yield from linear("heads_text/linear", f"{theirs}text_projection", bias=False)
    yield from linear("heads_image/linear", f"{theirs}visual_projection", bias=False)
    yield Weight((LOG_SCALE,), (f"{theirs}logit_scale",))


def trunk_weights(module: Transformer, ours: str, theirs: str) -> Iterator[Weight]:
    """The layers of one trunk."""
    layer = [
        *attention(
            "attention", query="self_attn.q_proj", key="self_attn.k_proj", value="self_attn.v_proj",
            out="self_attn.out_proj", num_heads=module.num_heads,
        ),
        *norm("attention_norm", "layer_norm1"),
        *linear("mlp/up", "mlp.fc1"),
        *linear("mlp/down", "mlp.fc2"),
        *norm("mlp_norm", "layer_norm2"),
    ]  # fmt: skip
    prefix = f"{theirs}encoder.layers.{{i}}."
    yield from layer_weights(layer, ours=f"{ours}trunk", theirs=prefix, depth=module.depth, scan=module.scan)


def configs(module: MultimodalModel) -> Iterator[dict[str, Any]]:
    """The contents of config.json for the nearest CLIP, without the size of images."""
    if (towers := towers_of(module)) is None:
        return
    text, image, head = towers
    vision = image_config(image)
    words = trunk_config(text.trunk) | {
        "vocab_size": text.vocab, "max_position_embeddings": text.max_length,
        "eos_token_id": text.vocab - 1,  # transformers pools there; CLIP's vocabulary ends with it
    }  # fmt: skip
    yield {
        "model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": head.dim,
        "text_config": {"model_type": "clip_text_model", "projection_dim": head.dim} | words,
        "vision_config": {"model_type": "clip_vision_model", "projection_dim": head.dim} | vision,
    }  # fmt: skip


def image_config(image: ViT) -> dict[str, Any]:
    """The contents of vision_config, without the size of images."""
    return trunk_config(image.trunk) | {"patch_size": getattr(image.stem, "patch", (0, 0))[0]}


def trunk_config(trunk: Transformer) -> dict[str, Any]:
    """The fields of a configuration that describe one trunk."""
    return {
        "hidden_size": trunk.width, "num_hidden_layers": trunk.depth, "num_attention_heads": trunk.num_heads,
        "intermediate_size": trunk.mlp_width, "hidden_act": activation_name(trunk.activation),
        "layer_norm_eps": trunk.epsilon,
    }  # fmt: skip
