"""Opens checkpoints that were written: what has not been read back is not saved."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from mmjax.checkpoint.checksums import CheckpointInfo, list_checkpoints
from mmjax.checkpoint.paths import plain_path
from mmjax.errors import one_line

BYTES_AT_ONCE = 2**28  # that a full check holds in memory, and at least one array
Shapes = dict[str, tuple[tuple[int, ...], np.dtype]]  # {path: (shape, dtype)}


@dataclasses.dataclass(frozen=True)
class Expected:
    """The contents that a checkpoint was saved with.

    sample: the path and the value of the smallest array that this process holds whole; None if it has none.
    """

    step: int
    shapes: Shapes
    sample: tuple[str, np.ndarray] | None

    @classmethod
    def of(cls, step: int, state: Any) -> "Expected":
        """Reads the sample from its device, a scalar in a train state."""
        leaves = _by_path(state)
        whole = [path for path, leaf in leaves.items() if getattr(leaf, "is_fully_replicated", True)]
        whole.reverse()  # of several scalars the last one, which is a train state's `step`
        smallest = min(whole, key=lambda path: np.size(leaves[path]), default=None)
        sample = None if smallest is None else (smallest, np.array(leaves[smallest]))
        return cls(step, {path: (np.shape(x), x.dtype) for path, x in leaves.items()}, sample)


def find_fault(
    folder: Path, step: int, expected: Expected | None = None, *, full: bool = False
) -> str | None:
    """The reason why a step's files do not open as the state that was saved, or None if they do.

    Reads the structure, that is the shape and dtype of every array, and one array: some 10 ms, and .5 s for
    1,000 arrays. Needs no other process.

    Args:
      folder: of the step, with a path as `plain_path` gives it.
      step: that the files should be of.
      expected: what was saved; None: only that it opens is known.
      full: reads every array.
    """
    try:
        saved = json.loads((folder / "about" / "metadata").read_bytes())["step"]
        if saved != step:
            return f"it holds step {saved}: the folder was copied or renamed"
        metadata = ocp.StandardCheckpointHandler().metadata(_orbax_path(folder / "state")).tree
        shapes = {path: (tuple(m.shape), m.dtype) for path, m in _by_path(metadata).items()}
        if not shapes:
            return "it holds no array"
        if expected is not None and shapes != expected.shapes:
            return f"other arrays than were saved: {_first_difference(shapes, expected.shapes)}"
        for paths in _groups(shapes) if full else [[_sample_path(shapes, expected)]]:
            arrays = _read(folder, metadata, paths)
            for path in paths:
                if (arrays[path].shape, arrays[path].dtype) != shapes[path]:
                    return f"{path} opens as another array than its metadata say"
        if expected is not None and expected.sample is not None:
            path, value = expected.sample
            if arrays[path].tobytes() != value.tobytes():
                return f"{path} has another value than was saved"
    except Exception as error:  # Orbax and TensorStore raise many types for files that they cannot read
        reason = str(error).replace(str(folder), ".").partition(" [tensorstore_spec")[0]
        return f"it cannot be opened: {type(error).__name__}: {one_line(reason)}"
    return None


def list_verified(folder: Path) -> list[CheckpointInfo]:
    """As `list_checkpoints`: each checkpoint's files match their checksums, and every array was opened."""
    checkpoints = []
    if not folder.is_dir():
        return checkpoints
    with plain_path(folder) as path:
        for info in list_checkpoints(folder, verify=True):
            fault = info.fault or find_fault(path / str(info.step), info.step, full=True)
            # Training may delete a checkpoint while it is read, because its policy no longer keeps it.
            if (path / str(info.step)).exists():
                checkpoints.append(dataclasses.replace(info, fault=fault))
    return checkpoints


def _read(folder: Path, metadata: Any, paths: Iterable[str]) -> dict[str, np.ndarray]:
    """{path: array} of some arrays of a step."""
    chosen = set(paths)
    item = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if _name(path) in chosen else ocp.PLACEHOLDER, metadata
    )
    restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata)
    args = ocp.args.PyTreeRestore(item=item, restore_args=restore_args)
    return _by_path(ocp.PyTreeCheckpointHandler().restore(_orbax_path(folder / "state"), args=args))


def _groups(shapes: Shapes) -> Iterable[list[str]]:
    """The paths in groups of at most BYTES_AT_ONCE, or of one array."""
    group, num_bytes = [], 0
    for path, (shape, dtype) in shapes.items():
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if group and num_bytes + size > BYTES_AT_ONCE:
            yield group
            group, num_bytes = [], 0
        group.append(path)
        num_bytes += size
    yield group


def _sample_path(shapes: Shapes, expected: Expected | None) -> str:
    """The path of the array that a cheap check reads."""
    if expected is not None and expected.sample is not None:
        return expected.sample[0]
    return min(shapes, key=lambda path: np.prod(shapes[path][0], dtype=np.int64))


def _first_difference(found: Shapes, expected: Shapes) -> str:
    path = next(path for path in [*expected, *found] if found.get(path) != expected.get(path))

    def describe(shapes: Shapes) -> str:
        return f"{shapes[path][1]}{list(shapes[path][0])}" if path in shapes else "nothing"

    return f"{path} is {describe(found)} in place of {describe(expected)}"


def _by_path(tree: Any) -> dict[str, Any]:
    """{path: leaf}, with the same paths for a state and for the dicts and lists of its metadata."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _orbax_path(path: Path) -> epath.Path:
    return epath.Path(str(path))
