"""The saved index of a tar file: where the fields of its samples are, so that it is not scanned again."""

import hashlib
import json
import os
import stat
import zlib
from pathlib import Path
from typing import Any, TypeAlias

from mmjax.data.sources.files import FileStamp, open_unchanged, read_at
from mmjax.data.sources.tar import BLOCK

Span: TypeAlias = tuple[int, int, int]  # offset and size in bytes of a member's data, and its `checksum`
Sample: TypeAlias = tuple[str, dict[str, Span]]  # key, {field: span}
_VERSION = 2
_MAX_BYTES = 16 * 2**20  # of an index, since parsed JSON takes up to 20 times its size; else scan each time
_NUM_PROBES = 16  # members that are compared with the tar file when its index is loaded


def checksum(key: str, field: str, header: int) -> int:
    """The CRC-32 of a member's header block, key and field, by which a wrong span is noticed.

    header: the CRC-32 of the header block alone.
    """
    return zlib.crc32(f"{key}.{field}".encode(), header)


def is_member(file: int, key: str, field: str, span: Span) -> bool:
    """Whether the header before the span is that of the member from which the field was indexed."""
    block = read_at(file, BLOCK, span[0] - BLOCK)
    return checksum(key, field, zlib.crc32(block)) == span[2]


def load(stamp: FileStamp) -> list[Sample] | None:
    """The saved samples of this version of the tar file; None if there are none that can be trusted."""
    file = _index_file(Path(stamp.path))
    try:
        if file is None or not stat.S_ISREG((status := file.stat()).st_mode) or status.st_size > _MAX_BYTES:
            return None
        head, _, body = file.read_bytes().partition(b"\n")
        if json.loads(head) != _head(stamp, body):
            return None
        samples = [
            (key, {name: (*span,) for name, span in fields.items()}) for key, fields in json.loads(body)
        ]
        return samples if _is_index_of(samples, stamp) else None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None  # absent or damaged: the tar file is scanned again


def save(stamp: FileStamp, samples: list[Sample]) -> None:
    """Saves an index, if it is small enough and there is a folder for it."""
    file = _index_file(Path(stamp.path))
    body = json.dumps(samples, separators=(",", ":")).encode()
    index = json.dumps(_head(stamp, body)).encode() + b"\n" + body
    if file is None or len(index) > _MAX_BYTES:
        return
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # cannot save: the next run scans again
    try:
        part.write_bytes(index)
        part.replace(file)  # atomic: several processes may index the same tar file at once
    except OSError:
        part.unlink(missing_ok=True)  # full disk: leave no partial index


def _head(stamp: FileStamp, body: bytes) -> dict[str, Any]:
    """The first line of an index: which tar file, and a digest of the second line, the samples."""
    return {
        "version": _VERSION,
        "size": stamp.size,
        "mtime_ns": stamp.mtime_ns,
        "sha256": hashlib.sha256(body).hexdigest(),
    }


def _index_file(path: Path) -> Path | None:
    """Next to the tar file; if its folder is read-only, in the user's cache; None without a home."""
    folder = path.parent
    # os.access is always true for root, so check the mode bits too.
    if folder.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH) and os.access(folder, os.W_OK):
        return folder / f"{path.name}.index.json"
    caches = os.environ.get("XDG_CACHE_HOME")
    if not caches:
        home = os.path.expanduser("~")  # stays "~" for a user without HOME and without a passwd entry
        if home == "~":
            return None
        caches = os.path.join(home, ".cache")
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return Path(caches) / "mmjax" / f"{path.name}.{digest}.index.json"


def _is_index_of(samples: list[Sample], stamp: FileStamp) -> bool:
    """Whether the types are right, no sample occurs twice, and the members are where the index says."""
    spans = [(key, field, span) for key, fields in samples for field, span in fields.items()]
    keys = [key for key, _ in samples]
    return (
        all(isinstance(key, str) for key in keys)
        and len(set(keys)) == len(keys)
        and all(_is_span(span, stamp.size) for _, _, span in spans)
        and _has_members(stamp, spans[:: max(1, len(spans) // _NUM_PROBES)])
    )


def _is_span(span: tuple[Any, ...], size: int) -> bool:
    if len(span) != 3 or not all(type(number) is int for number in span):
        return False
    return BLOCK <= span[0] and 0 <= span[1] <= size - span[0]


def _has_members(stamp: FileStamp, spans: list[tuple[str, str, Span]]) -> bool:
    """Whether the headers before these spans are the ones that were scanned."""
    with open_unchanged(stamp) as file:
        return all(is_member(file, *span) for span in spans)
