"""The common part of models that have a text encoder and an image encoder with a shared space."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from mmjax.batch import Stream
from mmjax.encoders import TextTransformer, ViT
from mmjax.heads import PooledEmbedding
from mmjax.interop.configs import activation, image_input, integer, number, section, text_input
from mmjax.layers import Transformer
from mmjax.model import MultimodalModel


class Towers(NamedTuple):
    """The parts of such a model that its configuration describes."""

    text: TextTransformer
    image: ViT
    head: PooledEmbedding  # of the text


def towers_of(module: MultimodalModel) -> Towers | None:
    """The encoders and the head of a model; None if they are of other types."""
    text, image = module.encoders.get("text"), module.encoders.get("image")
    head = module.heads.get("text")
    if isinstance(text, TextTransformer) and isinstance(image, ViT) and isinstance(head, PooledEmbedding):
        return Towers(text, image, head)
    return None


def tower_inputs(config: Mapping[str, Any]) -> dict[str, Stream]:
    """A text and an image, whose shapes give those of the parameters."""
    return text_input() | image_input(section(config, "vision_config"))


def trunk(
    config: Mapping[str, Any],
    *,
    width: int = 768,
    mlp_width: int = 3072,
    num_heads: int = 12,
    hidden_act: str,
    epsilon: float,
    causal: bool = False,
) -> Transformer:
    """The trunk that a text_config or vision_config describes.

    Args:
      config: its fields.
      width, mlp_width, num_heads, hidden_act, epsilon: the values of fields that it leaves out.
      causal: whether the trunk is causal.
    """
    return Transformer(
        depth=integer(config, "num_hidden_layers", 12),
        width=integer(config, "hidden_size", width),
        num_heads=integer(config, "num_attention_heads", num_heads),
        mlp_width=integer(config, "intermediate_size", mlp_width),
        activation=activation(config, "hidden_act", hidden_act),
        causal=causal,
        epsilon=number(config, "layer_norm_eps", epsilon),
    )
