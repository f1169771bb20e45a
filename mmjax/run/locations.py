"""Where the data of a run are: relative paths of another folder, and data that were moved."""

import dataclasses
import glob
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmjax import data
from mmjax.errors import InputError, excerpt
from mmjax.experiment import Experiment
from mmjax.spec import fields


def replace_values(value: Any, change: Callable[[Any], Any]) -> Any:
    """The value with each inner value replaced by what `change` makes of it; others are the same objects.

    Args:
      value: any tree of dataclasses, dicts, tuples and lists.
      change: is called with a value before the values in it. What it returns is not entered, unless it is the
        same object.
    """
    changed = change(value)
    if changed is not value:
        return changed
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        old = {field.name: getattr(value, field.name) for field in fields(value)}
        new = {name: replace_values(child, change) for name, child in old.items()}
        new = {name: child for name, child in new.items() if child is not old[name]}
        return dataclasses.replace(value, **new) if new else value
    if isinstance(value, Mapping):
        new = {key: replace_values(child, change) for key, child in value.items()}
        return new if any(new[key] is not child for key, child in value.items()) else value
    if isinstance(value, tuple | list):
        new = [replace_values(child, change) for child in value]
        if all(a is b for a, b in zip(new, value, strict=True)):
            return value
        return tuple(new) if isinstance(value, tuple) else new
    return value


def replace_in_data(experiment: Experiment, change: Callable[[Any], Any]) -> Experiment:
    """`replace_values` of the experiment's training data and evaluations."""
    new_data, new_evals = (replace_values(each, change) for each in (experiment.data, experiment.evals))
    if new_data is experiment.data and new_evals is experiment.evals:
        return experiment
    return dataclasses.replace(experiment, data=new_data, evals=new_evals)


def _replace_paths(experiment: Experiment, change: Callable[[str], str]) -> Experiment:
    """The experiment with each path of a source, and each folder of a tokenizer, changed."""

    def change_all(paths: str | tuple[str, ...]) -> str | tuple[str, ...]:
        return change(paths) if isinstance(paths, str) else tuple(map(change, paths))

    def visit(value: Any) -> Any:
        name = _path_field(value)
        if name is None:
            return value
        old = getattr(value, name)
        new = change_all(old)
        return value if new == old else dataclasses.replace(value, **{name: new})

    return replace_in_data(experiment, visit)


def _path_field(value: Any) -> str | None:
    """The name of the field that holds a path, or None: `path` of a source, `directory` of a tokenizer."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type) or not hasattr(value, "open"):
        return None
    for name in ("path", "directory"):
        found = getattr(value, name, None)
        is_paths = isinstance(found, tuple) and all(isinstance(path, str) for path in found)
        if isinstance(found, str) or (is_paths and found):
            return name
    return None


def paths_of(experiment: Experiment) -> list[str]:
    """The paths of all sources and tokenizers, each once."""
    paths: dict[str, None] = {}

    def add(path: str) -> str:
        paths[path] = None
        return path

    _replace_paths(experiment, add)
    return list(paths)


def _exists(path: str | Path, folder: Path = Path()) -> bool:
    """Whether there is a file or folder, or one that matches a glob relative to `folder`."""
    if (folder / path).exists():
        return True
    return glob.has_magic(str(path)) and next(_matches(str(path), folder), None) is not None


def _matches(path: str, folder: Path) -> Iterator[str]:
    return glob.iglob(path, root_dir=folder, recursive=True)


def resolve_relative(experiment: Experiment, folder: str | None) -> Experiment:
    """Relative paths that exist in `folder`, where the run was started, become absolute; others stay."""
    if folder is None:
        return experiment

    def resolve(path: str) -> str:
        is_absolute = Path(path).expanduser().is_absolute()
        return path if is_absolute or not _exists(path, Path(folder)) else str(Path(folder) / path)

    return _replace_paths(experiment, resolve)


def moved(experiment: Experiment, target: str | Path) -> Experiment:
    """The experiment, reading its data from where they were moved.

    Args:
      target: a folder, in which each path of the experiment is looked up by its last name or names
        ("/old/train.tar" as "train.tar"); paths that it lacks stay. Or the file (or folder) that replaces the
        path of the training data, where these have only one.

    Raises:
      InputError: `target` does not exist, or holds nothing of the experiment's data.
    """
    target, old_paths = Path(target).expanduser().absolute(), paths_of(experiment)
    if not target.exists():
        raise InputError(
            f"--data expects the file or folder that the data were moved to, found none at {target}"
        )
    found = {path: _look_up(path, target) for path in old_paths if target.is_dir()}
    found = {path: new for path, new in found.items() if new is not None}
    if not found:
        training = paths_of(dataclasses.replace(experiment, evals={}))
        if len(training) != 1:
            names = ", ".join(excerpt(path) for path in old_paths[:5])
            raise InputError(
                f"--data expects a folder that holds the experiment's data ({names}), found none of these in "
                f"{target}: name their folder, or set each path, such as data.datasets.NAME.1.source.path=..."
            )
        found = {training[0]: str(target)}
    return _replace_paths(experiment, lambda path: found.get(path, path))


def _look_up(path: str, folder: Path) -> str | None:
    parts = Path(path).parts
    for start in range(1 if Path(path).is_absolute() else 0, len(parts)):  # the longest end that exists
        end = str(Path(*parts[start:]))
        if _exists(end, folder):
            return str(folder / end)
    return None


def refuse_missing(experiment: Experiment) -> None:
    """Raises InputError if a path of the training data or evaluations has nothing. Reads no file."""

    def visit(value: Any) -> Any:
        name = _path_field(value)
        paths = getattr(value, name) if name else ()
        for path in (paths,) if isinstance(paths, str) else paths:
            if not _exists(Path(path).expanduser().absolute()):
                value.open()  # raises the source's own message, with its hint
        return value

    replace_in_data(experiment, visit)


def datasets_of(evaluation: Any) -> dict[str, data.Dataset]:
    """{field: dataset} of an evaluation: "data", and "train" where its baselines read training data."""
    values = {field.name: getattr(evaluation, field.name) for field in dataclasses.fields(evaluation)}
    return {name: value for name, value in values.items() if isinstance(value, data.Dataset)}
