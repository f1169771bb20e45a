"""TensorFlow Datasets prepared as ArrayRecord, read without TensorFlow."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmjax.data.records import MAX_JSON_BYTES, BadExample, Record
from mmjax.data.sources.array_record import explain
from mmjax.data.sources.base import Reader, Source, threadsafe_cache
from mmjax.data.sources.files import FileStamp, fingerprint, identify
from mmjax.data.sources.paths import refuse_foreign
from mmjax.errors import InputError, excerpt, one_line
from mmjax.spec import Spec

_CLASS_KEYS = {"type", "pythonClassName", "python_class_name", "proto_cls"}  # in features.json
_OWN_CLASS = re.compile(r"tensorflow_datasets\.core\.features\.\w+\.\w+|tensorflow_datasets\.\w+")


@dataclasses.dataclass(frozen=True)
class Tfds(Spec, Source):
    """One split of a prepared dataset. Its features are the fields; nested ones have paths ("objects.label").

    path: the folder of the version (`.../name/config/1.0.0`), which contains `dataset_info.json`.
    split: a split or a slice of one ("train[:10%]").
    hint: how to get the data; it ends the error message if there are none at `path`.
    """

    path: str
    split: str = "train"
    hint: str = ""

    def open(self) -> Reader:
        try:
            folder = Path(self.path).expanduser().absolute()
            is_prepared = (folder / "dataset_info.json").is_file()
        except (OSError, RuntimeError) as error:  # too long, not permitted, an unknown ~user
            reason = one_line(getattr(error, "strerror", None) or str(error))
            raise InputError(f"expected a folder, found {excerpt(self.path)}: {reason}") from error
        if not is_prepared:
            refuse_foreign(self.path)
            advice = (
                self.hint
                or "Prepare it with tfds (file_format='array_record') and name the version's folder."
            )
            shown = one_line(str(folder))
            raise InputError(f"expected a prepared dataset in {shown}, found no dataset_info.json. {advice}")
        return _open(str(folder), self.split)


@threadsafe_cache
def _open(folder: str, split: str) -> Reader:
    import tensorflow_datasets as tfds
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    _check_features(Path(folder) / "features.json")
    try:
        builder = tfds.builder_from_directory(folder)
        splits = sorted(builder.info.splits)
    except Exception as error:  # tfds and protobuf raise many kinds for malformed files
        raise InputError(f"expected a prepared dataset in {folder}, found: {one_line(str(error))}") from error
    if split.partition("[")[0] not in (*splits, "all"):
        raise InputError(f"expected one of the splits {splits} of {folder}, found {excerpt(split)}")
    try:
        num_examples = builder.info.splits[split].num_examples
        examples = builder.as_data_source(split=split, file_format="array_record") if num_examples else None
        parts = builder.info.splits[split].file_instructions
    except Exception as error:
        found = one_line(str(error))
        raise InputError(
            f"expected {folder} as ArrayRecord with the split {excerpt(split)}: {found}"
        ) from error
    if examples is None:
        raise InputError(f"expected examples in the split {excerpt(split)} of {folder}, found none")
    shards = [Path(part.filename) for part in parts]
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise InputError(f"expected the shard {missing[0]} in {folder}, found none. Fetch the dataset again.")
    stamps = fingerprint(shards)
    try:
        num_records = len(ArrayRecordDataSource([str(shard) for shard in shards]))
    except (RuntimeError, ValueError, IndexError) as error:
        raise InputError(f"expected ArrayRecord files in {folder}, found: {explain(error)}") from error
    if num_records != (expected := sum(part.examples_in_shard for part in parts)):
        raise InputError(
            f"expected {expected} examples in the shards of {excerpt(split)}, as dataset_info.json says, "
            f"found {num_records} in {folder}. Fetch the dataset again."
        )
    return _Examples(f"{builder.info.name}/{split}", examples, stamps)


def _check_features(file: Path) -> None:
    """Raises InputError unless all classes that the file names are tfds's own: tfds imports any module."""
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            raise InputError(
                f"expected at most {MAX_JSON_BYTES} bytes in {file}, found {file.stat().st_size}"
            )
        rest = [json.loads(file.read_text("utf-8"))]
        while rest:
            value = rest.pop()
            if isinstance(value, Mapping):
                for name in _CLASS_KEYS & value.keys():
                    if isinstance(value[name], str) and not _OWN_CLASS.fullmatch(value[name]):
                        raise InputError(
                            f"expected features of tensorflow_datasets in {file}, found "
                            f"{excerpt(value[name])}, which would run other code. Prepare the dataset with "
                            "the features of tfds alone."
                        )
                if isinstance(content := value.get("json"), str):  # JSON within JSON
                    rest.append(json.loads(content))
                rest.extend(value.values())
            elif isinstance(value, list):
                rest.extend(value)
    except (OSError, ValueError, RecursionError) as error:
        reason = one_line(getattr(error, "strerror", None) or str(error))
        raise InputError(f"expected the features of a prepared dataset in {file}: {reason}") from error


class _Examples:
    def __init__(self, name: str, examples: Any, stamps: tuple[FileStamp, ...]):
        self._name, self._examples, self._stamps = name, examples, stamps

    def __len__(self) -> int:
        return len(self._examples)

    def identity(self) -> dict[str, Any]:
        return {"split": self._name} | identify(self._stamps, len(self))

    def __getitem__(self, index: int) -> Record:
        key = f"{self._name}[{index}]"
        try:
            example = self._examples[index]
        except Exception as error:  # tfds decodes here, and its decoders raise many kinds
            raise BadExample(key, f"expected an example that tfds can decode: {explain(error)}") from error
        return {"__key__": key} | example
