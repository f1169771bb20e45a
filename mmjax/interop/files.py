"""Files of weights: safetensors, of one file or several, opened without reading the arrays."""

import dataclasses
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from mmjax.errors import InputError, excerpt, one_line
from mmjax.interop import ctranslate2, onnx

DTYPES: dict[str, Any] = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
MAX_JSON = 64 << 20  # bytes of a config or an index
# Ends of names in files that older versions of torch or of the models wrote.
OLD_NAMES = {
    "LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias",
    ".weight_g": ".parametrizations.weight.original0", ".weight_v": ".parametrizations.weight.original1",
}  # fmt: skip
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A pretrained model on disk.

    folder: where it is.
    config: config.json; empty for a single file.
    arrays: {name: array}, mapped from the disk: only the parts that are used are read.
    """

    folder: Path
    config: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]


def open_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """Opens a folder as Hugging Face or OpenCLIP write it (a configuration and safetensors), or one file.

    A file is .safetensors, .onnx with DINOv2, or model.bin of CTranslate2 with Whisper (or its folder).

    Raises:
      InputError: there is no such folder or file, it holds only pickled weights, or a file is damaged.
    """
    path = Path(path).expanduser()
    model = path / "model.bin" if path.is_dir() else path
    if model.name == "model.bin" and model.is_file() and ctranslate2.is_ctranslate2(model):
        return Checkpoint(model.parent, *ctranslate2.read_whisper(model))
    open_clip = (path if path.is_dir() else path.parent) / "open_clip_config.json"
    if path.is_dir() and open_clip.is_file() and not (path / "config.json").exists():
        config, files = read_json(open_clip), weight_files(path)
    elif path.is_dir():
        config = read_json(path / "config.json")
        files = weight_files(path)
    elif path.suffix in PICKLES:
        raise pickled(path)
    elif path.suffix == ".onnx":
        return Checkpoint(path.parent, *_read_onnx(path))
    else:
        config, files = read_json(open_clip) if open_clip.is_file() else {}, [path]
    arrays: dict[str, np.ndarray] = {}
    for file in files:
        for name, array in map_arrays(file).items():
            name = _modern(name)
            if name in arrays:
                raise InputError(f"expected each array once, found {excerpt(name)} again in {file}")
            arrays[name] = array
    return Checkpoint(path if path.is_dir() else path.parent, config, arrays)


def _modern(name: str) -> str:
    for old, new in OLD_NAMES.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _read_onnx(file: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(config, arrays) of an ONNX file. Raises InputError if it is missing or damaged."""
    try:
        refuse_special(file)
        return onnx.read_dinov2(file)
    except OSError as error:
        raise InputError(f"expected weights in {file}, found {error.strerror}") from error


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder: those that its index names, or the only one."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        table = read_json(index).get("weight_map")
        if not isinstance(table, Mapping) or not all(isinstance(name, str) for name in table.values()):
            raise InputError(f"expected a 'weight_map' of names to files in {index}, found {excerpt(table)}")
        names = sorted(set(table.values()))
        outside = [name for name in names if Path(name).name != name]
        if outside:
            raise InputError(f"expected files beside {index}, found {excerpt(outside[0])}. Do not trust it")
        return [folder / name for name in names]
    files = sorted(folder.glob("*.safetensors"))
    if len(files) > 1:
        files = [file for file in files if file.name == "model.safetensors"] or files
    if len(files) == 1:
        return files
    for file in sorted(folder.iterdir()):
        if not files and file.suffix in PICKLES:
            raise pickled(file)
    found = [file.name for file in files[:5]] or sorted(file.name for file in folder.iterdir())[:5]
    raise InputError(f"expected model.safetensors or its index in {folder}, found {found}")


def pickled(file: Path) -> InputError:
    """The error for weights that only running their code could read."""
    return InputError(
        f"expected weights as safetensors, found {file}, which may run code when it is read. Convert it "
        "where you trust it, with torch installed: safetensors.torch.save_file(torch.load(FILE, "
        "weights_only=True), 'model.safetensors')"
    )


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object of limited size. Raises InputError with the file's name for anything else."""
    try:
        refuse_special(file)
        if file.stat().st_size > MAX_JSON:
            raise InputError(f"expected at most {MAX_JSON >> 20} MiB of JSON, found {file} larger")
        value = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected JSON in {file}, found {one_line(str(error))}") from error
    except OSError as error:
        raise InputError(f"expected the file {file}, found {error.strerror}") from error
    if not isinstance(value, dict):
        raise InputError(f"expected a JSON object in {file}, found a {type(value).__name__}")
    return value


def refuse_special(file: Path) -> None:
    """Raises InputError for a folder, pipe or device, whose reading may never end."""
    if not stat.S_ISREG(file.stat().st_mode):
        raise InputError(f"expected a regular file, found {file}, which is none")


def map_arrays(file: Path) -> dict[str, np.ndarray]:
    """{name: array} of one safetensors file, mapped from the disk.

    The safetensors library checks the header: its size, dtypes, shapes, and that the offsets are those of
    arrays that follow each other and fill the file.

    Raises:
      InputError: the file is missing, damaged, or no safetensors file.
    """
    try:
        refuse_special(file)
        with safe_open(file, framework="numpy"):
            pass
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(size))
    except (SafetensorError, ValueError, RecursionError) as error:
        raise InputError(f"expected a safetensors file, found {file}: {one_line(str(error))}") from error
    except OSError as error:
        raise InputError(
            f"expected weights in {file}, found {error.strerror or one_line(str(error))}"
        ) from error
    header.pop("__metadata__", None)
    unknown = sorted({entry["dtype"] for entry in header.values()} - set(DTYPES))
    if unknown:
        raise InputError(f"expected arrays of {sorted(DTYPES)} in {file}, found {unknown}")
    content = np.memmap(file, np.uint8, mode="r", offset=8 + size) if file.stat().st_size > 8 + size else None
    arrays = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        dtype, shape = np.dtype(DTYPES[entry["dtype"]]), tuple(entry["shape"])
        raw = np.zeros(0, np.uint8) if content is None else content[start:end]
        arrays[name] = raw.view(dtype).reshape(shape)
    return arrays
