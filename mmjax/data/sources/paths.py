"""From what a spec names (a file, a folder, a glob, several) to files; and readers that equal specs share."""

import dataclasses
import functools
import glob
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mmjax.data.records import Record
from mmjax.errors import InputError


@runtime_checkable
class Reader(Protocol):
    """Random access to records. Safe to call from several threads."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


@runtime_checkable
class Source(Protocol):
    """A frozen value that says where records are. Making one touches no disk; opening it does."""

    def open(self) -> Reader: ...


def find_files(path: str | tuple[str, ...], suffix: str, hint: str = "") -> tuple[Path, ...]:
    """The files that ``path`` names, folders and globs in sorted order, absolute.

    Raises:
        InputError: one of the names leads to no file. Its message ends with ``hint``.
    """
    files: list[Path] = []
    for name in (path,) if isinstance(path, str) else path:
        place = Path(name).expanduser().absolute()
        if place.is_dir():
            found = sorted(place.glob(f"*{suffix}"))
            expected = f"files *{suffix} in the folder {place}"
        elif glob.has_magic(str(place)) and not place.exists():
            found = [Path(match) for match in sorted(glob.glob(str(place), recursive=True))]
            expected = f"files that match {place}"
        else:
            found = [place] if place.is_file() else []
            expected = f"data at {place}"
        if not found:
            parent = next((p for p in place.parents if p.exists()), place)
            there = (
                "nothing there"
                if parent == place.parent or place.exists()
                else f"that {parent} exists but not what follows"
            )
            raise InputError(
                f"expected {expected}, found {there}. {hint or 'Correct the path, or fetch the data.'}"
            )
        files += found
    return tuple(files)


def fingerprint(files: Sequence[Path]) -> tuple[tuple[str, int, int], ...]:
    """What tells that a file has changed: (path, size in bytes, modification time in ns) of each."""
    return tuple((str(f), (s := f.stat()).st_size, s.st_mtime_ns) for f in files)


_OPENING = threading.RLock()  # re-entrant: a tokenizer opens its source while it is being opened itself


def threadsafe_cache(make: Callable[..., Any]) -> Callable[..., Any]:
    """Memoise an opener by its hashable arguments, so that equal specs share one reader. Safe among threads.

    ``functools.lru_cache`` alone would let two threads do the same slow opening at once.
    """
    cached = functools.lru_cache(maxsize=64)(make)

    @functools.wraps(make)
    def opener(*args: Any) -> Any:
        with _OPENING:
            return cached(*args)

    return opener


def replace_path(source: Any, path: str) -> Any:
    """The same source at another path; a source that wraps another passes the path on."""
    fields = {field.name for field in dataclasses.fields(source)}
    if "path" in fields:
        return dataclasses.replace(source, path=os.fspath(path))
    if "source" in fields:
        return dataclasses.replace(source, source=replace_path(source.source, path))
    raise InputError(
        f"expected a source that reads files, to read {path} instead, found {type(source).__name__}"
    )
