"""Models written as folders that other libraries read."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import numpy as np
from safetensors.numpy import save_file

from mmjax.encoders import PooledByQueries, SpectrogramTransformer, TextTransformer, ViT, WaveformTransformer
from mmjax.errors import InputError
from mmjax.interop import ast, bert, chinese_clip, clip, coca, gpt, open_clip, siglip, vit, wav2vec2, whisper
from mmjax.interop.compare import different_fields
from mmjax.interop.pretrained import flatten
from mmjax.interop.weights import LOG_SCALE, LOGIT_BIAS, Weight, write
from mmjax.model import MultimodalModel

FORMATS = {
    TextTransformer: (bert, gpt), ViT: (vit,), SpectrogramTransformer: (ast,),
    WaveformTransformer: (wav2vec2,),
    MultimodalModel: (clip, siglip, chinese_clip, whisper),
}  # fmt: skip
OPEN_CLIP_FORMATS = {MultimodalModel: (open_clip, coca)}
# The initial values of a contrastive objective, written where the parameters hold none.
OBJECTIVE_STARTS = {LOG_SCALE: np.float32(math.log(1 / 0.07)), LOGIT_BIAS: np.float32(-10)}


def save_pretrained(
    folder: str | Path,
    module: nn.Module,
    params: Mapping[str, Any],
    *,
    image_size: int | None = None,
    library: Literal["transformers", "open_clip"] = "transformers",
) -> dict[str, Any]:
    """Writes a configuration and safetensors as Hugging Face's transformers, or OpenCLIP, reads them.

    Args:
      folder: is created; it may not hold these files yet.
      module: an encoder, or a model of two encoders, of an architecture that the library has.
      params: its parameters. Those of a contrastive model may hold "objective", as `load_pretrained` gives
        it; without, its scale and bias are written as such models start.
      image_size: pixels a side, of an encoder of images; None: from its table of positions.

    Returns:
      The configuration.

    Raises:
      InputError: the library has no such architecture; the message names the nearest and what differs.
    """
    config, weights = counterpart(module, library)
    arrays = write(weights, OBJECTIVE_STARTS | flatten(params))
    sections = [config, config.get("vision_config", {}), config.get("model_cfg", {}).get("vision_cfg", {})]
    for vision in (each for each in sections if each.get("patch_size") and "num_mel_bins" not in each):
        vision["image_size"] = image_size or _image_size(module, params, vision["patch_size"])
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = ("config.json", "model.safetensors")
    if library == "open_clip":
        config.pop("model_type")
        names = tuple(f"open_clip_{name}" for name in names)
    else:
        config["dtype"] = "float32"
    for name in names:
        if (folder / name).exists():
            raise InputError(f"expected no {name} in {folder}, found one: choose another folder")
    (folder / names[0]).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    save_file(arrays, folder / names[1], metadata={"format": "pt"})
    return config


def counterpart(module: nn.Module, library: str = "transformers") -> tuple[dict[str, Any], list[Weight]]:
    """The configuration and the weights of the same model in a library. Raises InputError without one."""
    nearest: tuple[str, list[str]] | None = None
    is_model = isinstance(module, MultimodalModel)
    for architecture, config in _candidates(module, library):
        try:
            theirs = architecture.model(config) if is_model else architecture.encoder(config)
        except InputError as error:
            differences = [str(error)]
        else:
            differences = list(different_fields(theirs, module, ""))
        if not differences:
            return config, list(
                (architecture.model_weights if is_model else architecture.encoder_weights)(module)
            )
        if nearest is None or len(differences) < len(nearest[1]):
            nearest = config["model_type"], differences
    if nearest is None:
        raise InputError(
            f"expected a TextTransformer, a ViT or a model of both, found {type(module).__name__}: export it "
            "in mmjax's own format"
        )
    listed = "\n  ".join(nearest[1][:8])
    raise InputError(
        f"no model of {library} computes what this {type(module).__name__} computes. The nearest is "
        f"{nearest[0]!r}, which differs in (its value -> this one's)\n  {listed}\n"
        "Export it in mmjax's own format"
    )


def _candidates(module: nn.Module, library: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    formats = OPEN_CLIP_FORMATS if library == "open_clip" else FORMATS
    for kind, architectures in formats.items():
        if isinstance(module, kind):
            for architecture in architectures:
                for config in architecture.configs(module):
                    yield architecture, config


def _image_size(module: nn.Module, params: Mapping[str, Any], patch: int) -> int:
    """Pixels a side, from the number of positions of a square image."""
    encoder, values = module, params
    if isinstance(module, MultimodalModel):
        encoder, values = module.encoders["image"], params["encoders_image"]
    if isinstance(encoder, PooledByQueries):
        encoder, values = encoder.encoder, values["encoder"]
    num_patches = np.shape(values["positions"]["table"])[0] - encoder.num_class_tokens
    side = round(num_patches**0.5)
    if side * side != num_patches:
        raise InputError(f"expected positions of a square image, found {num_patches}: give image_size")
    return side * patch
