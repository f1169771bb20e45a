"""CoCa (Yu et al. 2022) in the state dicts of OpenCLIP, such as coca_ViT-B-32."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mmjax import fusion
from mmjax.batch import Stream
from mmjax.encoders import LinearPatches, PooledByQueries, TextTransformer, ViT
from mmjax.errors import InputError
from mmjax.heads import PooledEmbedding, PositionClasses
from mmjax.interop import open_clip
from mmjax.interop.configs import image_input, integer, section, text_input
from mmjax.interop.vit import patches
from mmjax.interop.weights import LOG_SCALE, Weight, fused_attention, layer_weights, linear, norm
from mmjax.model import MultimodalModel

MODEL_TYPES = ("open_clip_coca",)
PREFIXES = ()
UNUSED = ("attn_mask",)
EPSILON = 1e-5


def is_state_dict(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether the names are those of OpenCLIP's CoCa."""
    return {"visual.attn_pool.query", "text.cls_emb", "text_decoder.ln_final.weight"} <= set(arrays)


def model(config: Mapping[str, Any]) -> MultimodalModel:
    """The model that an open_clip_config.json describes. Raises InputError for options that mmjax lacks."""
    cfg = section(config, "model_cfg")
    text, vision, decoder = (section(cfg, f"{name}_cfg") for name in ("text", "vision", "multimodal"))
    open_clip.refuse_options(text, {"embed_cls": (True,)})
    open_clip.refuse_options(vision, {"attentional_pool": (True,)})
    open_clip.refuse_options(decoder, {})
    dim, side = integer(cfg, "embed_dim"), integer(vision, "patch_size", 16)
    activation = "quick_gelu" if cfg.get("quick_gelu", False) else "gelu"
    words = open_clip.trunk(text, 512, integer(text, "heads", 8), activation, causal=True)
    pictures = open_clip.trunk(vision, 768, open_clip.num_vision_heads(vision), activation, causal=False)
    if integer(decoder, "width", 512) != words.width:
        raise InputError(
            f"expected text_cfg and multimodal_cfg of one width, found {words.width} and {decoder['width']}"
        )
    return MultimodalModel(
        encoders={
            "text": TextTransformer(
                vocab=integer(text, "vocab_size", 49408),
                num_token_types=0,
                max_length=integer(text, "context_length", 77) + 1,
                scale_embeddings=False,
                class_token=True,
                trunk=words.clone(final_norm=False),
            ),
            "image": PooledByQueries(
                ViT(
                    stem=LinearPatches(patch=(side, side), use_bias=False),
                    num_class_tokens=1,
                    input_norm=True,
                    trunk=pictures,
                ),
                width=dim,
                num_queries=integer(vision, "attn_pooler_queries", 256),
                num_heads=integer(vision, "attn_pooler_heads", 8),
                epsilon=EPSILON,
            ),
        },
        fusion=fusion.CoCaDecoder(
            streams=("image", "text"),
            updated_stream="text",
            depth=integer(decoder, "layers", 12),
            num_heads=integer(decoder, "heads", 8),
            mlp_width=4 * words.width,  # OpenCLIP does not read its mlp_ratio
            activation=activation,
            epsilon=EPSILON,
        ),
        heads={
            "text": PooledEmbedding("text", dim=dim, pooling="last", norm_epsilon=EPSILON),
            "image": PooledEmbedding("image", dim=dim, pooling="first"),
            "caption": PositionClasses(
                "text", integer(text, "vocab_size", 49408), use_bias=False, after="fusion"
            ),
        },
    )


def inputs(config: Mapping[str, Any]) -> dict[str, Stream]:
    """A text and an image, whose shapes give those of the parameters."""
    return text_input() | image_input(section(section(config, "model_cfg"), "vision_cfg"))


def model_weights(module: MultimodalModel, theirs: str = "") -> Iterator[Weight]:
    """Its parameters."""
    text, image, decoder = module.encoders["text"], module.encoders["image"], module.fusion
    ours, words = "encoders_text/", f"{theirs}text."
    yield Weight((f"{ours}table",), (f"{words}token_embedding.weight",))
    yield Weight((f"{ours}class_embedding",), (f"{words}cls_emb",))
    yield Weight((f"{ours}positions/table",), (f"{words}positional_embedding",))
    yield from open_clip.trunk_weights(text.trunk, f"{ours}trunk", f"{words}transformer.resblocks.{{i}}.")
    yield from norm("heads_text/norm", f"{words}ln_final")
    yield Weight(("heads_text/linear/kernel",), (f"{words}text_projection",))

    ours, visual = "encoders_image/encoder/", f"{theirs}visual."
    vit, pooler = image.encoder, f"{visual}attn_pool."
    yield Weight((f"{ours}class_tokens",), (f"{visual}class_embedding",), stacked=True)
    yield Weight((f"{ours}positions/table",), (f"{visual}positional_embedding",))
    yield from patches(f"{ours}stem/linear", f"{visual}conv1", vit.stem.patch, bias=False)
    yield from norm(f"{ours}input_norm", f"{visual}ln_pre")
    yield from open_clip.trunk_weights(vit.trunk, f"{ours}trunk", f"{visual}transformer.resblocks.{{i}}.")
    yield from norm(f"{ours}trunk/final_norm", f"{pooler}ln_k")
    ours = "encoders_image/"
    yield Weight((f"{ours}queries",), (f"{pooler}query",))
    yield from norm(f"{ours}query_norm", f"{pooler}ln_q")
    is_fused = image.width == vit.trunk.width
    yield from fused_attention(f"{ours}attention", f"{pooler}attn", image.num_heads, fused_kernels=is_fused)
    yield from norm(f"{ours}norm", f"{visual}ln_post")
    yield Weight(("heads_image/linear/kernel",), (f"{visual}proj",))

    yield from decoder_weights(decoder, f"{theirs}text_decoder.")
    yield Weight((LOG_SCALE,), (f"{theirs}logit_scale",))


def decoder_weights(module: fusion.CoCaDecoder, theirs: str) -> Iterator[Weight]:
    """The parameters of the multimodal decoder and of its logits."""
    tables = {
        "resblocks": [
            *fused_attention("block/attention", "attn", module.num_heads),
            *norm("block/attention_norm", "ln_1"),
            *linear("block/mlp/up", "mlp.c_fc"),
            *linear("block/mlp/down", "mlp.c_proj"),
            *norm("block/mlp_norm", "ln_2"),
        ],
        "cross_attn": [
            *fused_attention("cross_attention", "attn", module.num_heads),
            *norm("query_norm", "ln_1"),
            *norm("context_norm", "ln_1_kv"),
            *linear("mlp/up", "mlp.c_fc"),
            *linear("mlp/down", "mlp.c_proj"),
            *norm("mlp_norm", "ln_2"),
        ],
    }
    for name, table in tables.items():
        prefix = f"{theirs}{name}.{{i}}."
        yield from layer_weights(table, ours="fusion", theirs=prefix, depth=module.depth, scan=False)
    yield from norm("fusion/final_norm", f"{theirs}ln_final")
    yield Weight(("heads_caption/linear/kernel",), (f"{theirs}text_projection",))


def configs(module: MultimodalModel) -> Iterator[dict[str, Any]]:
    """The contents of open_clip_config.json for the nearest CoCa, without the size of images."""
    text, image, decoder = module.encoders.get("text"), module.encoders.get("image"), module.fusion
    if not (isinstance(text, TextTransformer) and isinstance(image, PooledByQueries)):
        return
    if not (isinstance(image.encoder, ViT) and isinstance(decoder, fusion.CoCaDecoder)):
        return
    sizes = {"vocab_size": text.vocab, "context_length": text.max_length - 1, "width": text.trunk.width}
    vision = open_clip.image_config(image.encoder) | {
        "attentional_pool": True, "attn_pooler_heads": image.num_heads,
        "attn_pooler_queries": image.num_queries, "output_tokens": True,
    }  # fmt: skip
    words = open_clip.trunk_config(text.trunk) | sizes | {
        "heads": text.trunk.num_heads, "embed_cls": True, "output_tokens": True,
    }  # fmt: skip
    yield {
        "model_type": "open_clip_coca",
        "model_cfg": {
            "embed_dim": image.width, "quick_gelu": text.trunk.activation == "quick_gelu",
            "custom_text": True, "vision_cfg": vision, "text_cfg": words,
            "multimodal_cfg": sizes | {
                "layers": decoder.depth, "heads": decoder.num_heads,
            },
        },
    }  # fmt: skip
