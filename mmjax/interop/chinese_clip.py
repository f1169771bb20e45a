"""Chinese-CLIP (Yang et al. 2022): BERT for texts and CLIP's encoder for images."""

from collections.abc import Iterator, Mapping
from typing import Any

from mmjax import fusion
from mmjax.heads import PooledEmbedding
from mmjax.interop import bert, clip
from mmjax.interop.configs import integer, section
from mmjax.interop.towers import tower_inputs, towers_of
from mmjax.interop.weights import Weight
from mmjax.model import MultimodalModel

MODEL_TYPES = ("chinese_clip",)
PREFIXES = ()
UNUSED = ("position_ids", "text_model.pooler.")
# A text_config may leave these out; BERT's reader expects them.
DEFAULTS = {
    "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "max_position_embeddings": 512, "type_vocab_size": 2, "hidden_act": "gelu",
}  # fmt: skip

inputs = tower_inputs


def model(config: Mapping[str, Any]) -> MultimodalModel:
    """The model that a config.json describes."""
    text = DEFAULTS | section(config, "text_config") | {"model_type": "bert"}
    dim = integer(config, "projection_dim", 512)
    return MultimodalModel(
        encoders={
            "text": bert.encoder(text),
            "image": clip.image_encoder(section(config, "vision_config")),
        },
        fusion=fusion.Late(streams=("image", "text")),
        heads={
            "text": PooledEmbedding("text", dim=dim, pooling="first"),
            "image": PooledEmbedding("image", dim=dim, pooling="first"),
        },
    )


def model_weights(module: MultimodalModel, theirs: str = "") -> Iterator[Weight]:
    """Its parameters."""
    yield from bert.encoder_weights(module.encoders["text"], "encoders_text/", f"{theirs}text_model.")
    yield from clip.image_weights(module.encoders["image"], f"{theirs}vision_model.")
    yield from clip.shared_space_weights(theirs)


def configs(module: MultimodalModel) -> Iterator[dict[str, Any]]:
    """The contents of config.json for the nearest Chinese-CLIP, without the size of images."""
    if (towers := towers_of(module)) is None:
        return
    text, image, head = towers
    vision = clip.image_config(image) | {"projection_dim": head.dim}
    for words in bert.configs(text):
        if words["model_type"] == "bert":
            yield {
                "model_type": "chinese_clip", "architectures": ["ChineseCLIPModel"],
                "projection_dim": head.dim, "text_config": words | {"model_type": "chinese_clip_text_model"},
                "vision_config": vision | {"model_type": "chinese_clip_vision_model"},
            }  # fmt: skip
