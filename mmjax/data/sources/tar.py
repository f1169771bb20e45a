"""The members of an uncompressed tar file: ustar, pax (POSIX.1-2001) and GNU formats.

Python's tarfile ends an archive at a damaged header or a zeroed block without a word, and follows negative
sizes back in circles. Here each byte belongs to a member or to the padding, or the file is refused.
"""

import dataclasses
import os
import tarfile
import zlib
from collections.abc import Iterator
from typing import NoReturn

from mmjax.data.sources.files import FileStamp, read_at, refuse_compressed
from mmjax.errors import InputError, excerpt

BLOCK = 512  # bytes; a tar file is a sequence of blocks that ends with a block of zeros
_MAX_NAME = 2**16  # bytes of the extended headers of one member
_MAX_PADDING = 16 * 2**20  # bytes of zeros after the end; tar writes 10 KiB unless asked for more
_EXTENDED = {b"L": "path", b"K": "linkpath"}  # GNU's long names, as pax calls them
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, FIFOs
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_SKIPPED = (b"V", b"D")  # GNU's volume label and its list of a folder


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """One member of a tar file.

    name: with `/`; bytes that are not UTF-8 are lone surrogates (PEP 383).
    kind: "file", "hard link", "symbolic link", "folder", or "other": a device, FIFO or label.
    target: of a link.
    offset, size: of its data, in bytes.
    header: the CRC-32 of its header block, which lies before the data.
    """

    name: str
    kind: str
    target: str
    offset: int
    size: int
    header: int


def read_members(file: int, stamp: FileStamp) -> Iterator[Member]:
    """Yields the members in order, in time that grows with their number, whatever sizes the headers claim.

    Raises:
        InputError: no tar file, a compressed or damaged one, sparse members, or bytes after its end.
    """
    offset, common, extended = 0, dict[str, str](), dict[str, str]()
    while (block := read_at(file, BLOCK, offset)) != bytes(BLOCK):
        info = _parse(block, offset, stamp)
        fields = common | extended
        size = _size(info, fields, offset, stamp)
        offset += BLOCK
        if offset + size > stamp.size:
            _refuse(stamp, f"a member of {size} bytes at byte {offset}")
        if info.type in (b"x", b"X", b"g", b"L", b"K"):
            new = _read_extended(file, info.type, offset, size, stamp)
            common, extended = (common | new, extended) if info.type == b"g" else (common, extended | new)
        else:
            if info.type == tarfile.GNUTYPE_SPARSE or "sparse" in fields:
                raise InputError(
                    f"expected no sparse members, found {excerpt(info.name)} in {stamp.shown}. "
                    "Pack it without --sparse."
                )
            yield _member(info, block, fields, offset, size, stamp)
            extended = {}
        offset += -(-size // BLOCK) * BLOCK
    if extended:
        _refuse(stamp, f"a long name without its member before byte {offset}")
    _check_padding(file, offset, stamp)


def _parse(block: bytes, offset: int, stamp: FileStamp) -> tarfile.TarInfo:
    if offset == 0:
        refuse_compressed(stamp.path, block, "a plain, uncompressed tar file")
    if offset and not block:
        _refuse(stamp, f"no end-of-archive block at byte {offset}")
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        if offset == 0:
            raise InputError(
                f"expected a plain, uncompressed tar file, found {stamp.shown}: {error}"
            ) from error
        _refuse(stamp, f"{error} at byte {offset}")
    if block[257:265] == b"ustar  \0":  # GNU's old format has times where others have a prefix of the name
        info.name = block[:100].partition(b"\0")[0].decode("utf-8", "surrogateescape")
    return info


def _size(info: tarfile.TarInfo, fields: dict[str, str], offset: int, stamp: FileStamp) -> int:
    """Bytes of the data that follow the header."""
    if info.type in _WITHOUT_DATA:
        return 0
    text = fields.get("size", "") if info.type in _FILES else ""
    size = int(text) if text.isdecimal() and len(text) < 20 else info.size
    if size < 0 or (text and str(size) != text):
        _refuse(stamp, f"the size {excerpt(text or size)} in the header at byte {offset}")
    return size


def _read_extended(file: int, kind: bytes, offset: int, size: int, stamp: FileStamp) -> dict[str, str]:
    """The fields of an extended header, which describe the next member (or all following: b"g")."""
    if size > _MAX_NAME:
        _refuse(stamp, f"an extended header of {size} bytes at byte {offset}")
    data = read_at(file, size, offset)
    if kind in _EXTENDED:
        return {_EXTENDED[kind]: data.partition(b"\0")[0].decode("utf-8", "surrogateescape")}
    fields, start = {}, 0
    while start < len(data.rstrip(b"\0")):  # "LENGTH NAME=VALUE\n", where LENGTH counts all of it
        length, space, _ = data[start : start + 20].partition(b" ")
        end = start + (int(length) if length.isdigit() else 0)
        name, equals, value = data[start + len(length) + 1 : end - 1].partition(b"=")
        if not (space and equals and end <= len(data) and data[end - 1 : end] == b"\n"):
            _refuse(stamp, f"a malformed extended header at byte {offset + start}")
        if name.startswith(b"GNU.sparse."):
            fields["sparse"] = "1"
        elif name in (b"path", b"linkpath", b"size"):  # all others are passed over, and take no memory
            fields[name.decode()] = value.decode("utf-8", "surrogateescape")
        start = end
    return fields


def _member(
    info: tarfile.TarInfo, block: bytes, fields: dict[str, str], offset: int, size: int, stamp: FileStamp
) -> Member:
    name = fields.get("path") or info.name
    kinds = {tarfile.LNKTYPE: "hard link", tarfile.SYMTYPE: "symbolic link", tarfile.DIRTYPE: "folder"}
    kind = "file" if info.type in _FILES else kinds.get(info.type, "other")
    if kind == "other" and info.type not in (*_WITHOUT_DATA, *_SKIPPED):
        raise InputError(
            f"expected files, folders and links, found {excerpt(name)} of the type {excerpt(info.type)} in "
            f"{stamp.shown}. Pack it again as one volume."
        )
    target = fields.get("linkpath") or info.linkname
    return Member(name, kind, target, offset, size, zlib.crc32(block))


def _check_padding(file: int, offset: int, stamp: FileStamp) -> None:
    """Only zeros follow the end: else a part was zeroed, or two tar files were joined, and half is unread."""
    if stamp.size - offset > _MAX_PADDING:
        _refuse(stamp, f"only zeros after byte {offset}")
    rest = read_at(file, stamp.size - offset, offset)
    if rest.strip(b"\0"):
        found = offset + len(rest) - len(rest.lstrip(b"\0"))
        raise InputError(
            f"expected nothing after the end of the tar file {stamp.shown} at byte {offset}, found data at "
            f"byte {found} of {stamp.size}: two joined tar files, or damage. Unpack it with "
            f"`tar --ignore-zeros -xf {os.path.basename(stamp.shown)}`, check the files, and pack them again."
        )


def _refuse(stamp: FileStamp, found: str) -> NoReturn:
    raise InputError(
        f"expected a whole tar file, found {stamp.shown} truncated or damaged: {found} of {stamp.size}. "
        "Fetch it again."
    )
