"""The interfaces of sources and readers, and a cache that lets equal sources share one reader."""

import dataclasses
import functools
import os
import threading
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from mmjax.data.records import Record
from mmjax.data.sources.files import FileStamp, fingerprint
from mmjax.data.sources.paths import find_files
from mmjax.errors import InputError
from mmjax.spec import Spec


@runtime_checkable
class Reader(Protocol):
    """Random access to records. Its methods may be called from several threads."""

    def __len__(self) -> int:
        """The number of records."""

    def __getitem__(self, index: int) -> Record:
        """Reads one record. Raises BadExample if the record is invalid, InputError if its file is."""

    def identity(self) -> dict[str, Any]:
        """Describes these data by a small JSON value, which stays the same when the files are moved.

        A run records it, and refuses to resume with other data. Examples: `{"files": {"train-0000.tar":
        10240}, "records": 40}`; `{"arrays": {"label": "int64 (40,) 1c291ca3"}, "records": 40}`.
        """


@runtime_checkable
class Source(Protocol):
    """Describes where records are. A hashable, frozen value; only `open` accesses the disk."""

    def open(self) -> Reader:
        """Returns a reader; equal sources share one. Raises InputError if data are missing or invalid."""


@dataclasses.dataclass(frozen=True)
class FileSource(Spec, Source):
    """The base of sources that read files.

    path: a file, a folder (all its files with the format's suffix), a glob, or a tuple of those.
    hint: how to get the data; it ends the error message if there are none at `path`.
    """

    path: str | tuple[str, ...]
    hint: str = dataclasses.field(default="", kw_only=True)

    def find(self, suffix: str) -> tuple[FileStamp, ...]:
        """The stamp of each file; `suffix` selects files in folders."""
        return fingerprint(find_files(self.path, suffix, self.hint))


def spread_indices(size: int, most: int) -> list[int]:
    """At most `most` indices below `size`, spread evenly, the first and last included: a sample of records.

    >>> spread_indices(10, 4), spread_indices(2, 4), spread_indices(0, 4)
    ([0, 3, 6, 9], [0, 1], [])
    """
    if size <= most:
        return list(range(size))
    return [round(number * (size - 1) / (most - 1)) for number in range(most)] if most > 1 else [0][:most]


_LOCK = threading.RLock()  # re-entrant: opening a tokenizer opens its source


def threadsafe_cache(function: Callable[..., Any]) -> Callable[..., Any]:
    """Caches results by the hashable arguments, and calls `function` from one thread at a time.

    With `functools.lru_cache` alone, two threads could open the same reader at once.
    """
    cached = functools.lru_cache(maxsize=64)(function)

    @functools.wraps(function)
    def locked(*args: Any) -> Any:
        with _LOCK:
            return cached(*args)

    return locked


def replace_path(source: Any, path: str) -> Any:
    """The same source with another `path`; in a source that wraps another, the inner path is replaced."""
    fields = {field.name for field in dataclasses.fields(source)}
    if "path" in fields:
        return dataclasses.replace(source, path=os.fspath(path))
    if "source" in fields:
        return dataclasses.replace(source, source=replace_path(source.source, path))
    raise InputError(
        f"expected a source that reads files, to read {path} instead, found {type(source).__name__}"
    )
