"""A run's parameters as one safetensors file with flat, readable names."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from mmjax.checkpoint.manager import Checkpoints
from mmjax.errors import InputError
from mmjax.run.folder import RunFolder


def export(run_dir: str | Path, file: str | Path, step: int | None = None) -> tuple[int, int, int]:
    """Writes the parameters of ``step`` (default: the newest whole checkpoint).

    The same parameters give the same bytes. Returns (number of arrays, number of parameters, step). Raises
    InputError if ``run_dir`` is no run, has no such checkpoint, or ``file`` cannot be written.
    """
    folder, file = RunFolder(run_dir), Path(file)
    if file.suffix != ".safetensors":
        raise InputError(f"expected a file name that ends in .safetensors, found {file}")
    if not folder.checkpoints.is_dir():
        raise InputError(
            f"expected a checkpoint in {run_dir}, found none yet: train until the first is saved"
        )
    checkpoints = Checkpoints(folder.checkpoints, read_only=True)
    try:
        state = checkpoints.restore_arrays(step)
    finally:
        checkpoints.close()
    if state is None:
        raise InputError(
            f"expected a checkpoint in {run_dir}, found none yet: train until the first is saved"
        )
    arrays = {name: np.ascontiguousarray(value) for name, value in sorted(flatten(state["params"]))}
    try:
        save_file(arrays, file, metadata={"mmjax": json.dumps({"step": int(state["step"])})})
    except (OSError, SafetensorError) as error:
        raise InputError(f"expected to write {file}, found that it cannot be written: {error}") from error
    return len(arrays), sum(array.size for array in arrays.values()), int(state["step"])


def flatten(params: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """``{"model": {"encoders_image": {"table": x}}}`` -> ``("encoders.image.table", x)``."""
    for name, value in params.items():
        here = (*path, name)
        if isinstance(value, Mapping):
            yield from flatten(value, here)
        else:
            yield readable_name(here), value


def readable_name(path: tuple[str, ...]) -> str:
    """flax names the entry ``image`` of the dict ``encoders`` ``encoders_image``: here it is two parts."""
    parts = path[1:] if path[0] == "model" else path
    for owner in ("encoders", "heads", "objectives"):
        if parts[0].startswith(f"{owner}_"):
            parts = (owner, parts[0].removeprefix(f"{owner}_"), *parts[1:])
    return ".".join(parts)
