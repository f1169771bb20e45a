"""Writes tar files byte by byte, also such as no library writes, and reads them with mmjax."""

import tarfile
from pathlib import Path
from typing import Any

from mmjax import data

END = bytes(1024)


def header(name: str, size: int = 0, kind: bytes = b"0", link: str = "", **other: Any) -> bytes:
    """The header of a member; its data, if any, follow."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    for field, value in other.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def member(name: str, content: bytes = b"x", **other: Any) -> bytes:
    return header(name, len(content), **other) + content + bytes(-len(content) % 512)


def with_bytes(block: bytes, offset: int, value: bytes) -> bytes:
    """A header with other bytes at an offset, and the right checksum."""
    block = block[:offset] + value + block[offset + len(value) :]
    block = block[:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def extended(kind: bytes, records: bytes) -> bytes:
    """An extended header: b"x" and b"g" of pax, b"L" and b"K" of GNU."""
    return header("extended", len(records), kind) + records + bytes(-len(records) % 512)


def pax(**fields: str) -> bytes:
    """Records "LENGTH NAME=VALUE\\n" of an extended header."""
    records = b""
    for name, value in fields.items():
        body = f" {name}={value}\n".encode()
        length = next(n for n in range(len(body), len(body) + 9) if n == len(body) + len(str(n)))
        records += str(length).encode() + body
    return records


def read(path: Path | str) -> dict[str, dict[str, bytes]]:
    """{key: {field: content}} of all samples, as mmjax reads them."""
    reader = data.WebDataset(str(path)).open()
    samples = [reader[index] for index in range(len(reader))]
    return {
        sample["__key__"]: {name: sample[name] for name in sample if name != "__key__"} for sample in samples
    }


TWO = member("1.txt", b"one") + member("2.txt", b"two")
BOTH = {"1": {"txt": b"one"}, "2": {"txt": b"two"}}
