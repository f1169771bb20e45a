"""Parameters of a new run that start from files: of pretrained models, or of another run."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from mmjax.checkpoint.manager import Checkpoints
from mmjax.errors import InputError, excerpt
from mmjax.interop.compare import different_fields
from mmjax.interop.files import open_checkpoint
from mmjax.interop.pretrained import describe, flatten, nest
from mmjax.interop.resize import fit_positions
from mmjax.interop.weights import MAX_LISTED, OBJECTIVE, Part, read
from mmjax.model import MultimodalModel

WHOLE = ""  # the part that is the whole model


def initial_parts(
    init_from: str | Mapping[str, str], model: MultimodalModel, params: Mapping[str, Any]
) -> dict[str, Part]:
    """{path of a parameter: its values in a file}.

    Args:
      init_from: a folder for the whole model, or {part of the model: folder}, such as
        {"encoders.text": folder}. A folder holds a pretrained model as `load_pretrained` reads it, or is a
        run's. The part "objectives.NAME", or the whole, starts a contrastive objective from the temperature
        (and bias) of a pretrained model. Positions of images are resized to the run's number of patches.
      params: the run's parameters; only their names and shapes are read.

    Raises:
      InputError: a part or folder does not exist; a file holds another architecture; or names and shapes
        differ, which are listed.
    """
    folders = {WHOLE: init_from} if isinstance(init_from, str) else dict(init_from)
    shapes = {name: tuple(x.shape) for name, x in flatten(params).items()}
    parts: dict[str, Part] = {}
    for part, folder in folders.items():
        prefix = parameter_prefix(part)
        own = {name: shape for name, shape in shapes.items() if name.startswith(prefix)}
        if not own:
            owners = sorted({readable for name in shapes if (readable := _part_of(name))})
            raise InputError(f"init_from names the part {excerpt(part)}: expected one of {owners}")
        is_run = (Path(folder).expanduser() / "experiment.txt").is_file()
        found = dict(_of_run(folder, prefix) if is_run else _of_pretrained(folder, part, prefix, model, own))
        if part == WHOLE and not is_run:  # other objectives start as they are
            own = {name: own[name] for name in own if name.startswith("model/") or name in found}
        _refuse_differences(part, folder, own, {name: p.shape for name, p in found.items()})
        parts |= found
    return parts


def parameter_prefix(part: str) -> str:
    """The beginning of the paths of a part's parameters.

    >>> parameter_prefix("encoders.text"), parameter_prefix("fusion"), parameter_prefix("")
    ('model/encoders_text/', 'model/fusion/', '')
    """
    owner, _, name = part.partition(".")
    if not part:
        return ""
    return f"objectives_{name}/" if owner == "objectives" else f"model/{owner}{'_' + name if name else ''}/"


def _part_of(path: str) -> str:
    """The part of a parameter: "encoders.text" of the parameter model/encoders_text/table."""
    first = path.removeprefix("model/").split("/")[0]
    for owner in ("encoders", "heads", "objectives"):
        if first.startswith(f"{owner}_"):
            return f"{owner}.{first.removeprefix(f'{owner}_')}"
    return first


def _of_run(folder: str, prefix: str) -> Iterator[tuple[str, Part]]:
    """The parameters of the newest undamaged checkpoint of a run, whose paths begin with `prefix`."""
    path = Path(folder).expanduser() / "checkpoints"
    state = None
    if path.is_dir():
        with contextlib.closing(Checkpoints(path, read_only=True)) as checkpoints:
            state = checkpoints.restore_arrays()
    if state is None:
        raise InputError(f"init_from names the run {folder}: expected a checkpoint in it, found none")
    for name, array in flatten(state["params"]).items():
        if name.startswith(prefix):
            yield name, Part((np.asarray(array),), stacked=False)


def _of_pretrained(
    folder: str, part: str, prefix: str, model: MultimodalModel, own: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, Part]]:
    """The parameters of a pretrained model, under the paths of the experiment's, whose shapes are `own`."""
    checkpoint = open_checkpoint(folder)
    described = describe(checkpoint)
    owner, _, name = part.partition(".")
    if owner == "objectives":
        learned = _learned(read(described.weights, checkpoint.arrays, described.unused))
        yield from ((prefix + path, values) for path, values in learned.items())
        return
    file, own_module = _module_of(described.module, owner, name), _module_of(model, owner, name)
    if own_module is None or file is None:
        raise InputError(
            f"init_from gives {part!r} the pretrained model {folder}: expected 'encoders.NAME' or "
            "'heads.NAME' of what the file has, 'objectives.NAME', or one folder for the whole model"
        )
    if differences := list(different_fields(file, own_module, part)):
        raise InputError(
            f"{part or 'the model'} is another architecture than {folder}: expected the fields that "
            f"mmjax.load_pretrained gives, found (the file's -> the experiment's)\n  "
            + "\n  ".join(differences)
        )
    inner = ""  # where the part's parameters are in the file's model
    if part and isinstance(described.module, MultimodalModel):
        inner = f"{owner}_{name}/"
        parts_of = {owner: {**getattr(described.module, owner), name: own_module}}
        own_module = described.module.clone(**parts_of)
    # Described again, as the experiment has its layers: scanned or not.
    described = describe(checkpoint, own_module)
    parts = read(described.weights, checkpoint.arrays, described.unused)
    prefix = prefix if part else "model/"
    shapes = {inner + path.removeprefix(prefix): shape for path, shape in own.items()}
    for path, values in fit_positions(parts, described.module, shapes).items():
        if path.startswith(inner) and not path.startswith(OBJECTIVE):
            yield prefix + path.removeprefix(inner), values
    if part == WHOLE:
        yield from _of_objectives(_learned(parts), own)


def _learned(parts: Mapping[str, Part]) -> dict[str, Part]:
    """{name: values} of what an objective learns in a pretrained model."""
    return {path.removeprefix(OBJECTIVE): part for path, part in parts.items() if path.startswith(OBJECTIVE)}


def _module_of(module: nn.Module, owner: str, name: str) -> nn.Module | None:
    """The encoder or head of a model; a single encoder is that of any name."""
    if owner == WHOLE or not isinstance(module, MultimodalModel):
        return module if owner in (WHOLE, "encoders") else None
    return {"encoders": module.encoders, "heads": module.heads}.get(owner, {}).get(name)


def _of_objectives(learned: Mapping[str, Part], own: Mapping[str, Any]) -> Iterator[tuple[str, Part]]:
    """The temperature of a pretrained model, for each objective that learns the same scalars."""
    for objective in {path.split("/")[0] for path in own if path.startswith("objectives_")}:
        names = {path.removeprefix(f"{objective}/") for path in own if path.startswith(f"{objective}/")}
        if names == set(learned):
            yield from ((f"{objective}/{name}", values) for name, values in learned.items())


def _refuse_differences(
    part: str, folder: str, own: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises InputError unless both have the same names and shapes."""
    missing = [name for name in own if name not in found]
    extra = [name for name in found if name not in own]
    other = [f"{n}: {found[n]} -> {own[n]}" for n in own if n in found and found[n] != own[n]]
    if missing or extra or other:
        raise InputError(
            f"init_from gives {part or 'the whole model'} the parameters of {folder}: expected the same "
            f"names and shapes; missing there: {_list(missing)}; left over: {_list(extra)}; of another shape "
            f"(there -> here): {_list(other)}"
        )


def _list(names: list[str]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more or "none"


def place(params: Mapping[str, Any], parts: Mapping[str, Part]) -> dict[str, Any]:
    """The parameters, with those in `parts` in place of the initial ones; a device reads only its shard."""

    def replaced(path: str, value: jax.Array) -> jax.Array:
        if path not in parts:
            return value
        part = parts[path]
        return jax.make_array_from_callback(
            value.shape, value.sharding, lambda index: part[index].astype(value.dtype)
        )

    return nest({path: replaced(path, value) for path, value in flatten(params).items()})
