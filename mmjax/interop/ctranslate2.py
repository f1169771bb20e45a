"""Whisper in the format of CTranslate2 (version 6), read as the arrays of a Hugging Face file."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mmjax.errors import InputError, excerpt

VERSION = 6
SPECIFICATION = "WhisperSpec"
DTYPES: dict[int, Any] = {
    0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16, 5: ml_dtypes.bfloat16,
}  # fmt: skip
ACTIVATIONS = {0: "relu", 1: "gelu_new", 2: "swish", 3: "gelu", 4: "quick_gelu"}
MAX_ARRAYS, MAX_NAME, MAX_RANK = 100_000, 1000, 4
LAYERS = {"encoder": ("self_attention",), "decoder": ("self_attention", "attention")}


def is_ctranslate2(file: Path) -> bool:
    """Whether the file begins as CTranslate2 writes it: a version, then the name of a specification."""
    with file.open("rb") as stream:
        first = stream.read(64)
    version, length = int.from_bytes(first[:4], "little"), int.from_bytes(first[4:6], "little")
    name = first[6 : 6 + length]
    return 0 < version < 100 and name.endswith(b"Spec\0") and len(name) == length


def read_whisper(file: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(the config.json, {name: array}) of the same model in a folder of Hugging Face.

    The arrays are mapped from the disk. Fused projections are split without copying.

    Raises:
      InputError: the file is damaged, of another version or model, or quantised to integers.
    """
    arrays = map_arrays(file)
    try:
        config = _config(arrays)
        return config, dict(_rename(arrays, config))
    except KeyError as error:
        raise InputError(f"expected Whisper's arrays in {file}, found no {error.args[0]!r}") from error


@dataclasses.dataclass
class _Cursor:
    """Reads values from bytes, and refuses to read past their end."""

    file: Path
    content: np.ndarray  # uint8
    position: int = 0

    def take(self, size: int) -> np.ndarray:
        """The next bytes."""
        if size > len(self.content) - self.position:
            raise InputError(
                f"expected {size} more bytes at {self.position} in {self.file}, found "
                f"{len(self.content) - self.position}: the file is cut off or damaged"
            )
        self.position += size
        return self.content[self.position - size : self.position]

    def number(self, size: int) -> int:
        """An unsigned integer of `size` bytes."""
        return int.from_bytes(self.take(size).tobytes(), "little")

    def count(self, what: str, size: int, limit: int) -> int:
        """An unsigned integer of at most `limit`."""
        value = self.number(size)
        if value > limit:
            raise InputError(f"expected at most {limit} {what} in {self.file}, found {value}")
        return value

    def string(self) -> str:
        """A string, whose length with a final zero byte precedes it."""
        raw = self.take(self.count("bytes of a name", 2, MAX_NAME)).tobytes()
        if not raw.endswith(b"\0") or not raw[:-1].isascii():
            raise InputError(f"expected a name that ends with zero in {self.file}, found {excerpt(raw)}")
        return raw[:-1].decode("ascii")


def map_arrays(file: Path) -> dict[str, np.ndarray]:
    """{name: array} of a file, mapped from the disk; an alias is the array that it names.

    Raises:
      InputError: the file is damaged, or no Whisper of this version.
    """
    if file.stat().st_size == 0:
        raise InputError(f"expected a model of CTranslate2, found {file} empty")
    cursor = _Cursor(file, np.memmap(file, np.uint8, mode="r"))
    version, specification, _ = cursor.number(4), cursor.string(), cursor.number(4)
    if version != VERSION or specification != SPECIFICATION:
        raise InputError(
            f"expected {SPECIFICATION} of CTranslate2's format {VERSION} in {file}, found "
            f"{excerpt(specification)} of format {version}: convert the model anew"
        )
    arrays: dict[str, np.ndarray] = {}
    for _ in range(cursor.count("arrays", 4, MAX_ARRAYS)):
        name = cursor.string()
        _refuse_repeated(name, arrays, file)
        shape = tuple(cursor.number(4) for _ in range(cursor.count("axes", 1, MAX_RANK)))
        kind, size = cursor.number(1), cursor.number(4)
        if kind not in DTYPES:
            raise InputError(f"expected a type among {sorted(DTYPES)} of {name!r} in {file}, found {kind}")
        dtype = np.dtype(DTYPES[kind])
        expected = dtype.itemsize
        for axis in shape:
            expected *= axis  # Python's integers do not overflow
        if size != expected:
            raise InputError(
                f"expected {expected} bytes of {name!r} of shape {shape} in {file}, found {size}"
            )
        arrays[name] = cursor.take(size).view(dtype).reshape(shape)
    for _ in range(cursor.count("aliases", 4, MAX_ARRAYS)):
        alias, name = cursor.string(), cursor.string()
        _refuse_repeated(alias, arrays, file)
        if name not in arrays:
            raise InputError(f"expected an alias of an array in {file}, found {alias!r} of {name!r}")
        arrays[alias] = arrays[name]
    if cursor.position != len(cursor.content):
        extra = len(cursor.content) - cursor.position
        raise InputError(f"expected the end of {file} after its arrays, found {extra} more bytes")
    return arrays


def _refuse_repeated(name: str, arrays: Mapping[str, np.ndarray], file: Path) -> None:
    if name in arrays:
        raise InputError(f"expected each array once, found {excerpt(name)} again in {file}")


def _config(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The fields of Whisper's config.json, from the shapes of the arrays: CTranslate2 stores no sizes."""
    vocab, width = _matrix(arrays, "decoder/embeddings/weight")
    convolution = arrays["encoder/conv1/weight"]
    if convolution.ndim != 3:
        raise InputError(f"expected 'encoder/conv1/weight' of 3 axes, found the shape {convolution.shape}")
    kind = _scalar(arrays, "decoder/activation", 0)
    if kind not in ACTIVATIONS:
        raise InputError(f"expected an activation among {sorted(ACTIVATIONS)}, found {kind}")
    for name, expected in {"pre_norm": 1, "alibi": 0, "scale_embeddings": 0}.items():
        if (found := _scalar(arrays, f"decoder/{name}", expected)) != expected:
            raise InputError(f"expected decoder/{name} to be {expected}, as in Whisper, found {found}")
    config: dict[str, Any] = {
        "model_type": "whisper", "vocab_size": vocab, "d_model": width, "num_mel_bins": convolution.shape[1],
        "max_source_positions": _matrix(arrays, "encoder/position_encodings/encodings")[0],
        "max_target_positions": _matrix(arrays, "decoder/position_encodings/encodings")[0],
        "activation_function": ACTIVATIONS[kind],
    }  # fmt: skip
    for part in LAYERS:
        layers = {name.split("/")[1] for name in arrays if name.startswith(f"{part}/layer_")}
        config[f"{part}_layers"] = len(layers - {"layer_norm"})
        config[f"{part}_attention_heads"] = _scalar(arrays, f"{part}/num_heads", None)
        config[f"{part}_ffn_dim"] = _matrix(arrays, f"{part}/layer_0/ffn/linear_0/weight")[0]
    return config


def _scalar(arrays: Mapping[str, np.ndarray], name: str, default: int | None) -> int:
    if name not in arrays and default is not None:
        return default
    if arrays[name].size != 1:
        raise InputError(f"expected one number {name!r}, found the shape {arrays[name].shape}")
    return int(arrays[name].reshape(()))


def _matrix(arrays: Mapping[str, np.ndarray], name: str) -> tuple[int, int]:
    """The shape of a matrix."""
    if arrays[name].ndim != 2:
        raise InputError(f"expected the matrix {name!r}, found the shape {arrays[name].shape}")
    return arrays[name].shape


def _rename(arrays: Mapping[str, np.ndarray], config: Mapping[str, Any]):
    """Pairs of a name of Hugging Face and its array."""
    floats = {name: x for name, x in arrays.items() if x.ndim}
    if integers := [name for name, x in floats.items() if name.endswith("weight") and x.dtype.kind in "iu"]:
        raise InputError(
            f"expected floats, found integers in {integers[0]!r}: convert with --quantization float16"
        )

    def norm(ours: str, theirs: str):
        yield f"{ours}.weight", floats[f"{theirs}/gamma"]
        yield f"{ours}.bias", floats[f"{theirs}/beta"]

    def linear(ours: str, theirs: str):
        for name in ("weight", "bias"):
            yield f"{ours}.{name}", floats[f"{theirs}/{name}"]

    for i in (1, 2):
        yield from linear(f"encoder.conv{i}", f"encoder/conv{i}")
    yield "decoder.embed_tokens.weight", floats["decoder/embeddings/weight"]
    for part, attentions in LAYERS.items():
        yield f"{part}.embed_positions.weight", floats[f"{part}/position_encodings/encodings"]
        yield from norm(f"{part}.layer_norm", f"{part}/layer_norm")
        for i in range(config[f"{part}_layers"]):
            ours, theirs = f"{part}.layers.{i}", f"{part}/layer_{i}"
            yield from norm(f"{ours}.final_layer_norm", f"{theirs}/ffn/layer_norm")
            for number in (0, 1):
                yield from linear(f"{ours}.fc{number + 1}", f"{theirs}/ffn/linear_{number}")
            for name, attention in zip(("self_attn", "encoder_attn"), attentions, strict=False):
                yield from norm(f"{ours}.{name}_layer_norm", f"{theirs}/{attention}/layer_norm")
                yield from _projections(f"{ours}.{name}", f"{theirs}/{attention}", floats)


def _projections(ours: str, theirs: str, floats: Mapping[str, np.ndarray]):
    """Query, key, value and output of one attention: fused (q, k, v), or q and fused (k, v)."""
    is_self = theirs.endswith("self_attention")
    groups = ("qkv",) if is_self else ("q", "kv")
    for number, names in enumerate((*groups, "o")):
        for kind in ("weight", "bias"):
            array = floats[f"{theirs}/linear_{number}/{kind}"]
            if array.shape[0] % len(names):
                raise InputError(f"expected {len(names)} projections in {theirs!r}, found {array.shape}")
            for name, part in zip(names, np.split(array, len(names)), strict=True):
                if name == "k" and kind == "bias":
                    if part.any():
                        raise InputError(f"expected no bias of keys, as in Whisper, found one in {theirs!r}")
                    continue
                yield f"{ours}.{'out' if name == 'o' else name}_proj.{kind}", part
