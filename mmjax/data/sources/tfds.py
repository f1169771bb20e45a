"""TensorFlow Datasets prepared as ArrayRecord, read without TensorFlow."""

import dataclasses
from pathlib import Path
from typing import Any

from mmjax.data.records import Record
from mmjax.data.sources.base import Reader, Source, threadsafe_cache
from mmjax.data.sources.paths import FileStamp, fingerprint, identify
from mmjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Tfds(Source):
    """One split of a prepared dataset. Its features are the fields; nested ones have paths ("objects.label").

    path: the folder of the version (`.../name/config/1.0.0`), which contains `dataset_info.json`.
    split: a split or a slice of one ("train[:10%]").
    hint: how to get the data; it ends the error message if there are none at `path`.
    """

    path: str
    split: str = "train"
    hint: str = ""

    def open(self) -> Reader:
        folder = Path(self.path).expanduser().absolute()
        if not (folder / "dataset_info.json").is_file():
            advice = (
                self.hint
                or "Prepare it with tfds (file_format='array_record') and name the version's folder."
            )
            raise InputError(f"expected a prepared dataset in {folder}, found no dataset_info.json. {advice}")
        return _open(str(folder), self.split)


@threadsafe_cache
def _open(folder: str, split: str) -> Reader:
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(folder)
    if split.partition("[")[0] not in (*builder.info.splits, "all"):
        raise InputError(
            f"expected one of the splits {sorted(builder.info.splits)} of {folder}, found {split!r}"
        )
    try:
        examples = builder.as_data_source(split=split)
        shards = [Path(part.filename) for part in builder.info.splits[split].file_instructions]
        return _Examples(f"{builder.info.name}/{split}", examples, fingerprint(shards))
    except (NotImplementedError, ValueError) as error:
        raise InputError(f"expected {folder} as ArrayRecord with the split {split!r}: {error}") from error


class _Examples:
    def __init__(self, name: str, examples: Any, stamps: tuple[FileStamp, ...]):
        self._name, self._examples, self._stamps = name, examples, stamps

    def __len__(self) -> int:
        return len(self._examples)

    def identity(self) -> dict[str, Any]:
        return {"split": self._name} | identify(self._stamps, len(self))

    def __getitem__(self, index: int) -> Record:
        return {"__key__": f"{self._name}[{index}]"} | self._examples[index]
