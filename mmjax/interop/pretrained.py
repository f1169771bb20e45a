"""Pretrained models of other libraries as mmjax's modules and parameters."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from mmjax.batch import Image, Stream
from mmjax.errors import InputError, excerpt, one_line
from mmjax.interop import ast, bert, chinese_clip, clip, coca, gpt, open_clip, siglip, vit, wav2vec2, whisper
from mmjax.interop.files import Checkpoint, open_checkpoint
from mmjax.interop.resize import fit_positions
from mmjax.interop.weights import MAX_LISTED, OBJECTIVE, Part, Weight, read
from mmjax.model import MultimodalModel
from mmjax.sharding import unbox

ENCODERS = (bert, gpt, vit, ast, wav2vec2)  # modules that describe single encoders
# Modules that describe models of several streams.
MODELS = (clip, siglip, chinese_clip, open_clip, coca, whisper)
MAX_IMAGE_SIZE = 2**14  # pixels a side


def load_pretrained(
    path: str | os.PathLike, *, image_size: int | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """A pretrained model as one of mmjax's own modules.

    Args:
      path: a folder as Hugging Face writes it (config.json and safetensors), a state dict of OpenCLIP
        (safetensors, with open_clip_config.json beside it or sizes that its shapes show), an ONNX file of
        DINOv2, or a folder of CTranslate2 with Whisper.
      image_size: pixels a side of the images to be read; positions are resized for it, as torch's bicubic
        interpolation does. None: the size that the model was trained with.

    Returns:
      (module, params). A single encoder is an `Encoder`, whose parameters are `params`; a model of several
      streams is a `MultimodalModel`. All parameters are float32. Those of a contrastive model also hold
      {"objective": {"log_scale": ...}}, and "bias" for SigLIP: what its objective learns. The model ignores
      them, `init_from` starts a contrastive objective from them, and `save_pretrained` writes them.

    Raises:
      InputError: the files are missing or damaged, or mmjax has no such architecture.
    """
    checkpoint = open_checkpoint(path)
    described = describe(checkpoint)
    parts = read(described.weights, checkpoint.arrays, described.unused)
    if image_size is not None:
        described = dataclasses.replace(described, inputs=_with_images_of(described.inputs, image_size))
        parts = fit_positions(parts, described.module, parameter_shapes(described))
    refuse_other_shapes(parts, described)
    arrays = {name: part[(slice(None),) * len(part.shape)] for name, part in parts.items()}
    return described.module, nest(arrays)


@dataclasses.dataclass(frozen=True)
class Description:
    """The model that a configuration describes.

    unused: beginnings or ends of names in the file that the module does not need.
    inputs: {stream: a value of it}, which give the shapes of the parameters.
    """

    module: nn.Module
    weights: list[Weight]
    unused: tuple[str, ...]
    inputs: dict[str, Stream]


def describe(checkpoint: Checkpoint, own: nn.Module | None = None) -> Description:
    """The module of a pretrained model, and its weights. Raises InputError for an unknown architecture.

    Args:
      own: a module of the same type, whose layers may be scanned or not; the weights are given for it.
    """
    config = checkpoint.config
    if "model_type" not in config and open_clip.is_state_dict(checkpoint.arrays):
        config = open_clip.with_sizes(config, checkpoint.arrays)
    elif "model_type" not in config and coca.is_state_dict(checkpoint.arrays):
        config = {"model_type": "open_clip_coca"} | dict(config)
    kind = config.get("model_type")
    for architecture in ENCODERS:
        if kind in architecture.MODEL_TYPES:
            module = architecture.encoder(config)
            prefix = common_prefix(checkpoint.arrays, architecture.PREFIXES)
            weights = list(architecture.encoder_weights(_like(own, module), theirs=prefix))
            # The arrays beside the encoder are those of its heads.
            beside = [name for name in checkpoint.arrays if prefix and not name.startswith(prefix)]
            unused = (*architecture.UNUSED, *beside)
            return Description(module, weights, unused, architecture.inputs(config))
    for architecture in MODELS:
        if kind in architecture.MODEL_TYPES:
            module = architecture.model(config)
            prefix = common_prefix(checkpoint.arrays, architecture.PREFIXES)
            weights = list(architecture.model_weights(_like(own, module), theirs=prefix))
            return Description(module, weights, architecture.UNUSED, architecture.inputs(config))
    known = sorted(name for each in (*ENCODERS, *MODELS) for name in each.MODEL_TYPES)
    raise InputError(f"expected a model_type among {known} in config.json, found {excerpt(kind)}")


def _like(own: nn.Module | None, module: nn.Module) -> nn.Module:
    return own if isinstance(own, type(module)) else module


def _with_images_of(inputs: Mapping[str, Stream], side: int) -> dict[str, Stream]:
    """The inputs, with images of `side` x `side` pixels."""
    if not any(isinstance(value, Image) for value in inputs.values()):
        raise InputError("image_size is for models that read images: leave it out")
    if isinstance(side, bool) or not isinstance(side, int) or not 0 < side <= MAX_IMAGE_SIZE:
        raise InputError(f"expected image_size from 1 to {MAX_IMAGE_SIZE} pixels, found {excerpt(side)}")
    pixels = np.broadcast_to(np.float32(0), (1, side, side, 3))
    return {
        name: value.replace(pixels=pixels) if isinstance(value, Image) else value
        for name, value in inputs.items()
    }


def parameter_shapes(described: Description) -> dict[str, tuple[int, ...]]:
    """{path: shape} of the module's own parameters."""
    module = described.module

    def initialise(inputs):
        key = jax.random.key(0)
        if isinstance(module, MultimodalModel):
            return module.init(key, inputs, method=_encode_and_predict)
        (value,) = inputs.values()
        return module.init(key, value)

    try:
        variables = unbox(jax.eval_shape(initialise, described.inputs))
    except ValueError as error:  # such as an image that does not divide into patches
        raise InputError(f"the sizes of config.json do not fit together: {one_line(str(error))}") from error
    return {name: x.shape for name, x in flatten(variables["params"]).items()}


def refuse_other_shapes(parts: Mapping[str, Part], described: Description) -> None:
    """Raises InputError unless the parts have the names and shapes of the module's own parameters."""
    expected = parameter_shapes(described)
    learned = [path for weight in described.weights for path in weight.ours if path.startswith(OBJECTIVE)]
    expected |= dict.fromkeys(learned, ())
    found = {name: part.shape for name, part in parts.items()}
    if different := [name for name in {**expected, **found} if expected.get(name) != found.get(name)]:
        listed = "; ".join(f"{n}: {expected.get(n)}, found {found.get(n)}" for n in different[:MAX_LISTED])
        raise InputError(f"expected arrays of the shapes that config.json describes: {listed}")


def _encode_and_predict(model: MultimodalModel, inputs: Mapping[str, Stream]) -> Any:
    encoded = {stream: model.encode(stream, value) for stream, value in inputs.items()}
    return model.predict(encoded, model.head_names())


def common_prefix(arrays: Mapping[str, np.ndarray], prefixes: Sequence[str]) -> str:
    """The prefix of the encoder's names, where the file also holds a head; else empty."""
    found = [prefix for prefix in prefixes if any(name.startswith(prefix) for name in arrays)]
    return found[0] if found else ""


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"a/b": x} as {"a": {"b": x}}."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree


def flatten(tree: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """The inverse of `nest`."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        full = f"{path}/{name}" if path else name
        flat |= flatten(value, full) if isinstance(value, Mapping) else {full: value}
    return flat
