"""Whisper (Radford et al. 2022): an encoder of audio, and a decoder of text that attends to it."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mmjax import fusion
from mmjax.batch import Audio, Stream
from mmjax.encoders import ConvFrames, LogMel, SpectrogramTransformer, TextTransformer
from mmjax.heads import TokenLogits
from mmjax.interop.configs import activation, activation_name, integer, text_input
from mmjax.interop.weights import Weight, attention, layer_weights, linear, norm
from mmjax.layers import Identity, Transformer
from mmjax.model import MultimodalModel

MODEL_TYPES = ("whisper",)
PREFIXES = ("model.",)
UNUSED = ("proj_out.weight",)  # the token table again
EPSILON = 1e-5  # of each norm; config.json does not say it


def model(config: Mapping[str, Any]) -> MultimodalModel:
    """The model that a config.json describes: the head "text" gives the logits of the next token.

    Clips are padded with silence, or cut, to the 30 s of the original, as `LogMel.clip_seconds`.
    """
    width = integer(config, "d_model")
    mel = LogMel.whisper(integer(config, "num_mel_bins", 80))
    num_positions = integer(config, "max_source_positions", 1500)
    _, hop, _ = mel.sizes()
    return MultimodalModel(
        encoders={
            "audio": SpectrogramTransformer(
                mel=LogMel.whisper(mel.num_mels, num_positions * 2 * hop / mel.sample_rate_hz),
                stem=ConvFrames(kernel_size=3, strides=(1, 2), padding="centred", activation="gelu"),
                trunk=_trunk(config, "encoder", causal=False),
                max_length=num_positions,
            ),
            "text": TextTransformer(
                vocab=integer(config, "vocab_size"),
                num_token_types=0,
                scale_embeddings=False,
                max_length=integer(config, "max_target_positions", 448),
                trunk=Identity(width=width),
            ),
        },
        fusion=fusion.CrossAttentionDecoder(
            streams=("text", "audio"), updated_stream="text", trunk=_trunk(config, "decoder", causal=True)
        ),
        heads={"text": TokenLogits("text", transform=False)},
    )


def _trunk(config: Mapping[str, Any], part: str, *, causal: bool) -> Transformer:
    return Transformer(
        depth=integer(config, f"{part}_layers"),
        width=integer(config, "d_model"),
        num_heads=integer(config, f"{part}_attention_heads"),
        mlp_width=integer(config, f"{part}_ffn_dim"),
        activation=activation(config, "activation_function", "gelu"),
        causal=causal,
        cross_attention=causal,
        key_bias=False,
        epsilon=EPSILON,
    )


def inputs(config: Mapping[str, Any]) -> dict[str, Stream]:
    """A text and a clip, whose shapes give those of the parameters."""
    samples = np.zeros((1, 400), np.float32)
    return text_input() | {"audio": Audio(samples=samples, mask=np.ones(samples.shape, bool))}


def model_weights(module: MultimodalModel, theirs: str = "model.") -> Iterator[Weight]:
    """Its parameters. The sines of the encoder's positions are stored, and so are parameters here."""
    audio, decoder = module.encoders["audio"], module.fusion.trunk
    yield from encoder_weights(audio, "encoders_audio/", f"{theirs}encoder.")
    theirs = f"{theirs}decoder."
    yield Weight(("encoders_text/table",), (f"{theirs}embed_tokens.weight",))
    yield Weight(("encoders_text/positions/table",), (f"{theirs}embed_positions.weight",))
    cross = [*_attention(decoder, "cross_attention", "encoder_attn")]
    layer = [*_layer(decoder), *cross, *norm("cross_attention_norm", "encoder_attn_layer_norm")]
    yield from layer_weights(
        layer, ours="fusion/trunk", theirs=f"{theirs}layers.{{i}}.", depth=decoder.depth, scan=decoder.scan
    )
    yield from norm("fusion/trunk/final_norm", f"{theirs}layer_norm")


def encoder_weights(module: SpectrogramTransformer, ours: str = "", theirs: str = "") -> Iterator[Weight]:
    """The parameters of the encoder of audio."""
    for i in range(2):
        kernel = f"{ours}stem/conv_{i}/kernel"
        sizes = {"k": module.stem.kernel_size}
        yield Weight((f"{kernel}/kernel",), (f"{theirs}conv{i + 1}.weight",), "D c k -> (k c) D", sizes)
        yield Weight((f"{kernel}/bias",), (f"{theirs}conv{i + 1}.bias",))
    yield Weight((f"{ours}positions/table",), (f"{theirs}embed_positions.weight",))
    trunk = module.trunk
    yield from layer_weights(
        _layer(trunk), ours=f"{ours}trunk", theirs=f"{theirs}layers.{{i}}.", depth=trunk.depth,
        scan=trunk.scan,
    )  # fmt: skip
    yield from norm(f"{ours}trunk/final_norm", f"{theirs}layer_norm")


def _layer(trunk: Transformer) -> list[Weight]:
    return [
        *_attention(trunk, "attention", "self_attn"),
        *norm("attention_norm", "self_attn_layer_norm"),
        *linear("mlp/up", "fc1"),
        *linear("mlp/down", "fc2"),
        *norm("mlp_norm", "final_layer_norm"),
    ]


def _attention(trunk: Transformer, ours: str, theirs: str) -> list[Weight]:
    return attention(
        ours, query=f"{theirs}.q_proj", key=f"{theirs}.k_proj", value=f"{theirs}.v_proj",
        out=f"{theirs}.out_proj", num_heads=trunk.num_heads, key_bias=False,
    )  # fmt: skip


def configs(module: MultimodalModel) -> Iterator[dict[str, Any]]:
    """The contents of config.json for the nearest Whisper."""
    audio, text, decoder = module.encoders.get("audio"), module.encoders.get("text"), module.fusion
    if not isinstance(audio, SpectrogramTransformer) or not isinstance(text, TextTransformer):
        return
    if not isinstance(decoder, fusion.CrossAttentionDecoder) or audio.max_length is None:
        return
    parts = {"encoder": audio.trunk, "decoder": decoder.trunk}
    sizes = {
        f"{part}_{name}": value
        for part, trunk in parts.items()
        for name, value in (
            ("layers", trunk.depth), ("attention_heads", trunk.num_heads), ("ffn_dim", trunk.mlp_width),
        )
    }  # fmt: skip
    yield {
        "model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"],
        "d_model": audio.trunk.width, "num_mel_bins": audio.mel.num_mels, "vocab_size": text.vocab,
        "max_source_positions": audio.max_length, "max_target_positions": text.max_length,
        "activation_function": activation_name(audio.trunk.activation), "scale_embedding": False,
    } | sizes  # fmt: skip
