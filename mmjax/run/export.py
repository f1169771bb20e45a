"""A run's parameters as one safetensors file with flat, readable names."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from mmjax.checkpoint.manager import Checkpoints
from mmjax.errors import InputError, excerpt
from mmjax.run.folder import RunFolder


def export(
    run_dir: str | Path, file: str | Path, step: int | None = None, *, overwrite: bool = False
) -> tuple[int, int, int]:
    """Writes the parameters of a checkpoint, without building the model.

    Args:
      step: the checkpoint's step; None: the newest undamaged one.
      overwrite: replaces an existing file.

    Returns:
      (number of arrays, number of parameters, step).

    Raises:
      InputError: `run_dir` is no run or has no such checkpoint, or `file` exists or cannot be written.
    """
    folder, state = RunFolder(run_dir), None
    refuse_to_write(file, overwrite=overwrite)
    if folder.checkpoints.is_dir():
        with contextlib.closing(Checkpoints(folder.checkpoints, read_only=True)) as checkpoints:
            state = checkpoints.restore_arrays(step)
    if state is None:
        raise InputError(
            f"expected a checkpoint in {run_dir}, found none yet: train until the first is saved"
        )
    if not isinstance(state.get("params"), dict) or np.ndim(state.get("step", ())) != 0:
        raise InputError(
            f"expected a train state with a step and parameters in {folder.checkpoints}, found "
            f"{excerpt(sorted(state))}: another program wrote it"
        )
    arrays = dict(flatten(state["params"]))
    save_parameters(arrays, file, int(state["step"]), overwrite=overwrite)
    return len(arrays), sum(array.size for array in arrays.values()), int(state["step"])


def save_parameters(
    arrays: Mapping[str, Any], file: str | Path, step: int, *, overwrite: bool = False
) -> None:
    """Writes named arrays, sorted by name: the same parameters give the same bytes.

    A process that is killed leaves either no new file or all of it.

    Raises:
      InputError: `file` does not end in .safetensors, exists while `overwrite` is off, or cannot be written.
    """
    refuse_to_write(file, overwrite=overwrite)
    # Not np.ascontiguousarray: it makes scalars () into (1,).
    contiguous = {name: np.asarray(value, order="C") for name, value in sorted(arrays.items())}
    new = Path(file).with_name(f"{Path(file).name}.new")
    try:
        save_file(contiguous, new, metadata={"mmjax": json.dumps({"step": step})})
        new.replace(file)
    except (OSError, SafetensorError) as error:
        new.unlink(missing_ok=True)
        raise InputError(f"expected to write {file}, found that it cannot be written: {error}") from error


def refuse_to_write(file: str | Path, *, overwrite: bool) -> None:
    """Raises InputError unless the name ends in .safetensors and is free, or `overwrite` is on."""
    if Path(file).suffix != ".safetensors":
        raise InputError(f"expected a file name that ends in .safetensors, found {file}")
    if Path(file).is_dir() or (os.path.lexists(file) and not overwrite):
        raise InputError(
            f"expected a new file, found {file}: choose another name, or overwrite it with --force (in "
            "Python overwrite=True)"
        )


def flatten(params: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Readable names and leaves: {"model": {"encoders_image": {"table": x}}} gives "encoders.image.table"."""
    for name, value in params.items():
        full_path = (*path, name)
        if isinstance(value, Mapping):
            yield from flatten(value, full_path)
        else:
            yield readable_name(full_path), value


def readable_name(path: tuple[str, ...]) -> str:
    """The dotted name of a parameter.

    flax names the entry `image` of the dict `encoders` `encoders_image`, which becomes `encoders.image`.

    >>> readable_name(("model", "encoders_image", "table"))
    'encoders.image.table'
    """
    parts = path[1:] if path[0] == "model" else path
    for owner in ("encoders", "heads", "objectives"):
        if parts[0].startswith(f"{owner}_"):
            parts = (owner, parts[0].removeprefix(f"{owner}_"), *parts[1:])
    return ".".join(parts)
