"""SigLIP and SigLIP 2 with images of one size (Zhai et al. 2023; Tschannen et al. 2025)."""

from collections.abc import Iterator, Mapping
from typing import Any

from mmjax import fusion
from mmjax.encoders import LinearPatches, TextTransformer, ViT
from mmjax.errors import InputError
from mmjax.heads import AttentionPooledEmbedding, PooledEmbedding
from mmjax.interop.clip import image_config, trunk_config, trunk_weights
from mmjax.interop.configs import integer, section
from mmjax.interop.towers import tower_inputs, towers_of, trunk
from mmjax.interop.vit import patches
from mmjax.interop.weights import LOG_SCALE, LOGIT_BIAS, Weight, fused_attention, linear, norm
from mmjax.model import MultimodalModel

MODEL_TYPES = ("siglip",)
PREFIXES = ()
UNUSED = ("position_ids",)
# Of fields that a config leaves out.
DEFAULTS: dict[str, Any] = {"hidden_act": "gelu_pytorch_tanh", "epsilon": 1e-6}

inputs = tower_inputs


def model(config: Mapping[str, Any]) -> MultimodalModel:
    """The model that a config.json describes. Its texts must be padded to `max_length`, as it was trained."""
    text, vision = section(config, "text_config"), section(config, "vision_config")
    if not vision.get("vision_use_head", True):
        raise InputError("expected vision_use_head=true in config.json, found false: it has no shared space")
    words, pictures = trunk(text, **DEFAULTS), trunk(vision, **DEFAULTS)
    side = integer(vision, "patch_size", 16)
    dim = text.get("projection_size")
    return MultimodalModel(
        encoders={
            "text": TextTransformer(
                vocab=integer(text, "vocab_size", 32000),
                num_token_types=0,
                max_length=integer(text, "max_position_embeddings", 64),
                scale_embeddings=False,
                reads_padding=True,
                trunk=words,
            ),
            "image": ViT(stem=LinearPatches(patch=(side, side)), trunk=pictures),
        },
        fusion=fusion.Late(streams=("image", "text")),
        heads={
            "text": PooledEmbedding(
                "text",
                dim=words.width if dim is None else integer(text, "projection_size"),
                pooling="last",
                use_bias=True,
            ),
            "image": AttentionPooledEmbedding(
                "image",
                dim=pictures.width,
                num_heads=pictures.num_heads,
                mlp_width=pictures.mlp_width,
                activation=pictures.activation,
                epsilon=pictures.epsilon,
            ),
        },
    )


def model_weights(module: MultimodalModel, theirs: str = "") -> Iterator[Weight]:
    """Its parameters."""
    text, image = module.encoders["text"], module.encoders["image"]
    ours, words = "encoders_text/", f"{theirs}text_model."
    yield Weight((f"{ours}table",), (f"{words}embeddings.token_embedding.weight",))
    yield Weight((f"{ours}positions/table",), (f"{words}embeddings.position_embedding.weight",))
    yield from trunk_weights(text.trunk, ours, words)
    yield from norm(f"{ours}trunk/final_norm", f"{words}final_layer_norm")
    yield from linear("heads_text/linear", f"{words}head")

    ours, pictures = "encoders_image/", f"{theirs}vision_model."
    yield Weight((f"{ours}positions/table",), (f"{pictures}embeddings.position_embedding.weight",))
    yield from patches(f"{ours}stem/linear", f"{pictures}embeddings.patch_embedding", image.stem.patch)
    yield from trunk_weights(image.trunk, ours, pictures)
    yield from norm(f"{ours}trunk/final_norm", f"{pictures}post_layernorm")
    yield Weight(("heads_image/query",), (f"{pictures}head.probe",), "1 1 D -> 1 D")
    yield from fused_attention(
        "heads_image/attention", f"{pictures}head.attention", module.heads["image"].num_heads
    )
    yield from norm("heads_image/norm", f"{pictures}head.layernorm")
    yield from linear("heads_image/mlp/up", f"{pictures}head.mlp.fc1")
    yield from linear("heads_image/mlp/down", f"{pictures}head.mlp.fc2")

    yield Weight((LOG_SCALE,), (f"{theirs}logit_scale",), "1 -> ")
    yield Weight((LOGIT_BIAS,), (f"{theirs}logit_bias",), "1 -> ")


def configs(module: MultimodalModel) -> Iterator[dict[str, Any]]:
    """The contents of config.json for the nearest SigLIP, without the size of images."""
    if (towers := towers_of(module)) is None:
        return
    text, image, head = towers
    words = {
        "model_type": "siglip_text_model", "vocab_size": text.vocab, "projection_size": head.dim,
        "max_position_embeddings": text.max_length,
    }  # fmt: skip
    vision = {"model_type": "siglip_vision_model"} | image_config(image)
    yield {
        "model_type": "siglip", "architectures": ["SiglipModel"],
        "text_config": words | trunk_config(text.trunk), "vision_config": vision,
    }  # fmt: skip
