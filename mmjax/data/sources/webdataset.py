"""WebDataset shards: uncompressed tar files with random access by offset."""

import bisect
import dataclasses
import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from mmjax.data.records import MAX_FIELD_BYTES, BadExample, Record
from mmjax.data.sources import tar_index
from mmjax.data.sources.base import FileSource, Reader, threadsafe_cache
from mmjax.data.sources.files import FileStamp, identify, open_unchanged, read_at
from mmjax.data.sources.tar import Member, read_members
from mmjax.data.sources.tar_index import Sample, Span
from mmjax.errors import InputError, excerpt

_MAX_LINKS = 40  # symbolic links that lead to one file, as in Linux
_METADATA = re.compile(r"__[^/]*__(/|$)")  # names that the webdataset library keeps for itself


@dataclasses.dataclass(frozen=True)
class WebDataset(FileSource):
    """Tar files whose members are grouped into samples by their names up to the first dot.

    `a.b/7.noto.PNG` is the field `noto.png` of the sample `a.b/7`: only dots of the file name count, and
    fields are in lower case, as in the webdataset library. Links are followed within the tar file. A member
    is read when a transform accesses its field. Opening indexes the shards, or loads a saved index.

    path, hint: see `FileSource`; the suffix is `.tar`.
    """

    def open(self) -> Reader:
        return _open(self.find(".tar"))


@threadsafe_cache
def _open(stamps: tuple[FileStamp, ...]) -> Reader:
    return _Shards(stamps, [(stamp, *sample) for stamp in stamps for sample in _index(stamp)])


class _Shards:
    def __init__(self, stamps: tuple[FileStamp, ...], samples: list[tuple[FileStamp, str, dict[str, Span]]]):
        if not samples:
            raise InputError(
                f"expected members such as '7.jpg' (KEY.FIELD) in {stamps[0].shown}, found no sample in "
                f"{len(stamps)} tar file(s). Correct the path, or pack the data again."
            )
        self._stamps, self._samples = stamps, samples

    def __len__(self) -> int:
        return len(self._samples)

    def identity(self) -> dict[str, Any]:
        return identify(self._stamps, len(self))

    def __getitem__(self, index: int) -> Record:
        return _Sample(*self._samples[index])


class _Sample(Mapping[str, Any]):
    """One sample, whose fields are read on access."""

    def __init__(self, stamp: FileStamp, key: str, fields: dict[str, Span]):
        self._stamp, self._key, self._fields = stamp, key, fields

    def __getitem__(self, field: str) -> Any:
        if field == "__key__":
            return self._key
        offset, size, _ = span = self._fields[field]
        if size > MAX_FIELD_BYTES:
            limit = f"expected at most {MAX_FIELD_BYTES} bytes in {field!r}"
            raise BadExample(self._key, f"{limit}, found {size}")
        with open_unchanged(self._stamp) as file:
            if not tar_index.is_member(file, self._key, field, span):
                raise InputError(
                    f"expected {field!r} of {excerpt(self._key)} at byte {offset} of {self._stamp.shown}, "
                    "found another member: the saved index is of another file. Delete it (.index.json)."
                )
            data = read_at(file, size, offset)
        if len(data) != size:
            raise InputError(
                f"expected {size} bytes at {offset} of {self._stamp.shown}, found {len(data)}: it has changed"
            )
        return data

    def __iter__(self) -> Iterator[str]:
        yield "__key__"
        yield from self._fields

    def __contains__(self, field: object) -> bool:  # Mapping's own would read the field
        return field == "__key__" or field in self._fields

    def __len__(self) -> int:
        return 1 + len(self._fields)


def _index(stamp: FileStamp) -> list[Sample]:
    """The samples of one shard, from the saved index if it belongs to this version of the file."""
    if (samples := tar_index.load(stamp)) is None:
        with open_unchanged(stamp) as file:
            samples = _group(list(read_members(file, stamp)), stamp)
        tar_index.save(stamp, samples)
    return samples


def _group(members: list[Member], stamp: FileStamp) -> list[Sample]:
    # A file that is packed twice is a link to itself the second time.
    members = [m for m in members if not (m.kind == "hard link" and m.target == m.name)]
    names = {_name_inside(member, stamp): member for member in members}
    in_order = sorted(names)
    samples: dict[str, dict[str, Span]] = {}
    for member in members:
        name = PurePosixPath(member.name)
        stem, dot, field = name.name.partition(".")
        if not stem or not dot or _METADATA.match(member.name):
            continue  # a file outside any sample (README, .DS_Store), or metadata of the shard
        file = _follow(member, names, in_order, stamp)
        if file.kind != "file":
            continue  # a folder, or a device
        key, field = _printable(str(name.with_name(stem))), _printable(field.lower())
        fields = samples.setdefault(key, {})
        if field in fields or field == "__key__":
            found = f"{excerpt(member.name)} {'twice' if field in fields else 'as its key'}"
            raise InputError(
                f"expected one {field!r} per sample, found {found} in {stamp.shown}. Pack it again."
            )
        fields[field] = (file.offset, file.size, tar_index.checksum(key, field, file.header))
    return list(samples.items())


def _name_inside(member: Member, stamp: FileStamp) -> str:
    """The member's name without `.` parts. Raises InputError if it leads out of the archive."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\\" in member.name:
        raise InputError(
            f"expected names inside the archive, found {excerpt(member.name)} in {stamp.shown}. "
            "Do not trust this file."
        )
    return str(name)


def _follow(member: Member, names: dict[str, Member], in_order: list[str], stamp: FileStamp) -> Member:
    """The member itself, or the one that it links to, over any number of links."""
    link = member
    for _ in range(_MAX_LINKS):
        if not member.kind.endswith("link"):
            return member
        target = member.target
        if member.kind == "symbolic link":  # relative to the folder of the link
            target = posixpath.join(posixpath.dirname(member.name), target)
        target = posixpath.normpath(target)
        if target not in names:
            after = bisect.bisect_left(in_order, f"{target}/")
            if after < len(in_order) and in_order[after].startswith(f"{target}/"):
                return dataclasses.replace(member, kind="folder")
            break
        member = names[target]
    raise InputError(
        f"expected the target of the {link.kind} {excerpt(link.name)} in {stamp.shown}, found that "
        f"{excerpt(link.target)} is no file in it. Pack it again with --dereference."
    )


def _printable(name: str) -> str:
    """The name with control characters, and bytes that are not UTF-8, written as `\\n` and `\\xff`."""
    name = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda control: repr(control[0])[1:-1], name)
