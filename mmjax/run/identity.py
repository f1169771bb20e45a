"""The identity of a run's data: recorded in RUN/data.json when it starts, and compared when it resumes.

The order of the examples follows from the number of records, and their contents from the files. A change that
keeps both the records' number and the files' order, such as a file mended in place, is accepted with a line
in the log. Any other change is refused, unless the user accepts it.
"""

import json
import logging
from collections.abc import Iterator
from typing import Any

from mmjax.data import Dataset
from mmjax.errors import InputError, excerpt, one_line
from mmjax.experiment import Experiment
from mmjax.run import files, locations
from mmjax.run.folder import RunFolder

log = logging.getLogger(__name__)


def identity_of(dataset: Dataset) -> dict[str, Any]:
    """The identity of a dataset's records, as its reader tells it. Opens the data."""
    reader = dataset.source.open()
    identity = getattr(reader, "identity", None)  # a source of the user's own may have none
    found = {"records": len(reader)} if identity is None else identity()
    return json.loads(json.dumps(found))  # as it will be read again: tuples are lists


def named_datasets(experiment: Experiment) -> dict[str, Dataset]:
    """{name: dataset}: "data.NAME" of the training data, "evals.NAME.data" of an evaluation."""
    named = {f"data.{name}": dataset for name, (_, dataset) in experiment.data.datasets.items()}
    for name, evaluation in experiment.evals.items():
        named |= {f"evals.{name}.{field}": each for field, each in locations.datasets_of(evaluation).items()}
    return named


def read(folder: RunFolder) -> dict[str, Any]:
    """The recorded {"folder": of relative paths, "datasets": {name: identity}}; empty in older runs.

    Raises:
      InputError: the file is damaged.
    """
    file = folder.path / files.DATA
    recorded = files.read_json(file) if file.exists() else {}
    datasets = recorded.get("datasets", {})
    if not isinstance(recorded.get("folder", ""), str) or not _maps_to_dicts(datasets):
        raise InputError(
            f"expected the folder and datasets of a run in {file}, found {excerpt(recorded)}: restore the "
            "file, or delete it if the data are those that the run was trained with"
        )
    return recorded


def _maps_to_dicts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, dict) for each in value.values())


def check_and_record(
    experiment: Experiment, folder: RunFolder, relative_to: str, *, accept: bool = False
) -> None:
    """Compares the data with those that the run recorded; then records them. Opens all data.

    Args:
      relative_to: the folder that relative paths refer to, which is recorded too.
      accept: other data are accepted, with a line in the log.

    Raises:
      InputError: the data are others than the run's.
    """
    recorded = read(folder)
    known, found, refused = recorded.get("datasets", {}), {}, []
    for name, dataset in named_datasets(experiment).items():
        found[name] = identity_of(dataset)
        lines = list(differences(known.get(name, found[name]), found[name]))
        text = f"{name}: {'; '.join(lines[:5])}" + (f"; and {len(lines) - 5} more" if lines[5:] else "")
        if lines and not accept and not keeps_order(known[name], found[name]):
            refused.append(text)
        elif lines:
            log.warning("the data have changed since the run began, and are accepted: %s", text)
    if refused:
        listed = "".join(f"\n  {line}" for line in refused[:5])
        raise InputError(
            f"expected the data that {folder.path} was trained with, found others:{listed}\n"
            "Their examples would come in another order. Restore the data, pass --accept-data to go on with "
            "these, or choose another folder with --run-dir"
        )
    contents = {"folder": relative_to, "datasets": found}
    if folder.claimed and contents != recorded:
        files.write_atomically(folder.path / files.DATA, json.dumps(contents, indent=1) + "\n")


def changed_data(experiment: Experiment, folder: RunFolder, name: str) -> list[str]:
    """The differences of the data of the evaluation `name` from those that the run recorded."""
    known, prefix, lines = read(folder).get("datasets", {}), f"evals.{name}.", []
    for key, dataset in named_datasets(experiment).items():
        if key.startswith(prefix) and key in known:
            lines += [f"{key}: {line}" for line in differences(known[key], identity_of(dataset))]
    return lines


def differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """The differences of two identities, a line each, such as "added b.tar" and "records 40 -> 50"."""
    for key in {**old, **new}:
        before, after = old.get(key), new.get(key)
        if _equal(before, after):
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _differences_of_parts(before, after)
        else:
            yield f"{one_line(str(key), 40)} {excerpt(before, 60)} -> {excerpt(after, 60)}"


def _equal(before: Any, after: Any) -> bool:
    """Equal, dicts also in their order, which is that of the files."""
    return json.dumps(before) == json.dumps(after)


def _differences_of_parts(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """Of {file: size} or {array: description}."""
    common = [name for name in old if name in new]
    for word, names in (("removed", old.keys() - new.keys()), ("added", new.keys() - old.keys())):
        yield from (f"{word} {one_line(name, 60)}" for name in sorted(names))
    for name in common:
        if old[name] != new[name]:
            yield f"changed {one_line(name, 60)}: {excerpt(old[name], 60)} -> {excerpt(new[name], 60)}"
    if common != [name for name in new if name in old]:
        yield "the files are in another order"


def keeps_order(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether record n of one is the same or a mended record n of the other, as far as the identities tell.

    They have as many records. Each file (or array) has the same name or, if it was renamed, the same size.
    """
    if old.keys() != new.keys() or old.get("records") != new.get("records"):
        return False
    for key in old.keys() - {"records"}:
        before, after = old[key], new[key]
        if not isinstance(before, dict) or not isinstance(after, dict):
            if before != after:
                return False
        elif key == "documents":  # of a source that makes several records of each
            if not keeps_order(before, after):
                return False
        elif "digest" in before and before != after:  # of many files: their order is not known
            return False
        elif not _keeps_places(before, after):
            return False
    return True


def _keeps_places(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether the n-th part of one is the n-th of the other: by its name, or renamed and otherwise equal."""
    return len(before) == len(after) and all(
        old == new or (old not in after and new not in before and before[old] == after[new])
        for old, new in zip(before, after, strict=True)
    )
