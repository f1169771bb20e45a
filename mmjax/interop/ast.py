"""AST (Gong et al. 2021) as an encoder of audio."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mmjax.batch import Audio
from mmjax.encoders import FramePatches, LogMel, SpectrogramTransformer
from mmjax.errors import InputError
from mmjax.interop.configs import activation, activation_name, integer, number
from mmjax.interop.weights import Weight, attention, layer_weights, linear, norm
from mmjax.layers import Transformer

MODEL_TYPES = ("audio-spectrogram-transformer",)
PREFIXES = ("audio_spectrogram_transformer.",)
UNUSED = ("classifier.",)


def encoder(config: Mapping[str, Any]) -> SpectrogramTransformer:
    """The encoder that a config.json describes, with the features of AudioSet's mean and deviation.

    Clips are padded or cut to its number of frames, as `LogMel.clip_seconds`.
    """
    if not config.get("qkv_bias", True):
        raise InputError(
            "expected qkv_bias=true in config.json, found false: mmjax reads only models with it"
        )
    side, num_mels = integer(config, "patch_size", 16), integer(config, "num_mel_bins", 128)
    strides = integer(config, "time_stride", 10), integer(config, "frequency_stride", 10)
    num_frames = integer(config, "max_length", 1024)
    return SpectrogramTransformer(
        mel=LogMel.ast(num_mels=num_mels, clip_seconds=num_frames * LogMel.ast().hop_seconds),
        stem=FramePatches(frames=side, mels=side, strides=strides, order="mel"),
        num_class_tokens=2,
        trunk=Transformer(
            depth=integer(config, "num_hidden_layers", 12),
            width=integer(config, "hidden_size", 768),
            num_heads=integer(config, "num_attention_heads", 12),
            mlp_width=integer(config, "intermediate_size", 3072),
            activation=activation(config, "hidden_act", "gelu"),
            epsilon=number(config, "layer_norm_eps", 1e-12),
        ),
    )


def inputs(config: Mapping[str, Any]) -> dict[str, Audio]:
    """A clip, whose shapes give those of the parameters."""
    samples = np.zeros((1, 400), np.float32)
    return {"audio": Audio(samples=samples, mask=np.ones(samples.shape, bool))}


def encoder_weights(module: SpectrogramTransformer, ours: str = "", theirs: str = "") -> Iterator[Weight]:
    """Its parameters."""
    trunk, stem, embeddings = module.trunk, module.stem, f"{theirs}embeddings."
    names = (f"{embeddings}cls_token", f"{embeddings}distillation_token")
    yield Weight((f"{ours}class_tokens",), names, "1 1 D -> D", stacked=True)
    yield Weight((f"{ours}positions/table",), (f"{embeddings}position_embeddings",), "1 L D -> L D")
    patches, sizes = f"{embeddings}patch_embeddings.projection", {"t": stem.frames, "m": stem.mels, "c": 1}
    yield Weight((f"{ours}stem/linear/kernel",), (f"{patches}.weight",), "D c m t -> (t m c) D", sizes)
    yield Weight((f"{ours}stem/linear/bias",), (f"{patches}.bias",))
    inner = "attention.attention."
    layer = [
        *attention(
            "attention", query=f"{inner}query", key=f"{inner}key", value=f"{inner}value",
            out="attention.output.dense", num_heads=trunk.num_heads,
        ),
        *norm("attention_norm", "layernorm_before"),
        *linear("mlp/up", "intermediate.dense"),
        *linear("mlp/down", "output.dense"),
        *norm("mlp_norm", "layernorm_after"),
    ]  # fmt: skip
    yield from layer_weights(
        layer, ours=f"{ours}trunk", theirs=f"{theirs}encoder.layer.{{i}}.", depth=trunk.depth, scan=trunk.scan
    )
    yield from norm(f"{ours}trunk/final_norm", f"{theirs}layernorm")


def configs(module: SpectrogramTransformer) -> Iterator[dict[str, Any]]:
    """The contents of config.json for the nearest AST."""
    trunk, stem, mel = module.trunk, module.stem, module.mel
    if not isinstance(stem, FramePatches) or stem.strides is None or mel.clip_seconds is None:
        return
    yield {
        "model_type": "audio-spectrogram-transformer", "architectures": ["ASTModel"],
        "patch_size": stem.frames, "time_stride": stem.strides[0], "frequency_stride": stem.strides[1],
        "max_length": round(mel.clip_seconds / mel.hop_seconds), "num_mel_bins": mel.num_mels,
        "hidden_size": trunk.width, "num_hidden_layers": trunk.depth, "num_attention_heads": trunk.num_heads,
        "intermediate_size": trunk.mlp_width, "hidden_act": activation_name(trunk.activation),
        "layer_norm_eps": trunk.epsilon, "qkv_bias": True,
    }  # fmt: skip
