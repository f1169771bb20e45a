"""WebDataset shards: names, links, headers, damage."""

import bz2
import gzip
import io
import itertools
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from corpus.case import Case
from corpus.tar_files import BOTH, END, TWO, extended, header, member, pax, read, with_bytes
from mmjax import data


def archive(*parts: bytes, end: bytes = END) -> Callable[[Path], Any]:
    """Writes these parts as one tar file and reads it."""

    def give(folder: Path) -> Any:
        (folder / "a.tar").write_bytes(b"".join(parts) + end)
        return read(folder / "a.tar")

    return give


def right(name: str, expected: Any, *parts: bytes, end: bytes = END) -> Case:
    return Case("tar", name, "right", archive(*parts, end=end), expected=expected)


def refused(name: str, message: str, *parts: bytes, end: bytes = END) -> Case:
    return Case("tar", name, "refused", archive(*parts, end=end), rf"(?=.*a\.tar).*({message})")


# (name of a member, its key and field in the webdataset library 1.0.2; None: no sample)
NAMES = (
    ("7.jpg", ("7", "jpg")),
    ("7.JPG", ("7", "jpg")),
    ("Photo.Noto.PNG", ("Photo", "noto.png")),
    ("photo.1.jpeg", ("photo", "1.jpeg")),
    ("a.b/7.jpg", ("a.b/7", "jpg")),
    ("A/b.c/d.e/7.Seg.PNG", ("A/b.c/d.e/7", "seg.png")),
    ("a b/c d.txt", ("a b/c d", "txt")),
    ("日本/犬.Txt", ("日本/犬", "txt")),
    ("7.jpg.", ("7", "jpg.")),
    ("7.", ("7", "")),
    ("{7}[8]*.txt", ("{7}[8]*", "txt")),
    ("README", None),
    ("a.b/README", None),
    ("__meta__/version.json", None),
    ("__index__", None),
    ("__7.txt", ("__7", "txt")),
)
webdataset_names = (
    right(
        f"the name {name!r} means what it means in webdataset",
        {"z": {"txt": b"z"}} | ({} if known is None else {known[0]: {known[1]: b"x"}}),
        member("z.txt", b"z"),
        member(name),
    )
    for name, known in NAMES
)

links = (
    right("a hard link", BOTH | {"3": {"txt": b"one"}}, TWO, header("3.txt", kind=b"1", link="1.txt")),
    right(
        "a hard link with a dot folder",
        BOTH | {"3": {"txt": b"two"}},
        TWO,
        header("./3.txt", kind=b"1", link="./2.txt"),
    ),
    right(
        "a hard link to a file outside any sample",
        {"1": {"txt": b"x"}},
        member("blob"),
        header("1.txt", kind=b"1", link="blob"),
    ),
    right(
        "a chain of links",
        BOTH | {"3": {"txt": b"one"}, "4": {"txt": b"one"}},
        TWO,
        header("3.txt", kind=b"1", link="1.txt"),
        header("4.txt", kind=b"2", link="3.txt"),
    ),
    right(
        "a symbolic link before its target",
        {"0": {"txt": b"one"}} | BOTH,
        header("0.txt", kind=b"2", link="1.txt"),
        TWO,
    ),
    right(
        "a symbolic link to another folder",
        {"a/1": {"txt": b"x"}, "b/c/2": {"txt": b"x"}},
        member("a/1.txt"),
        header("b/c/2.txt", kind=b"2", link="../../a/1.txt"),
    ),
    right(
        "a symbolic link to a folder",
        {"a/1": {"txt": b"x"}},
        member("a/1.txt"),
        header("link.d", kind=b"2", link="a"),
    ),
    right("a file packed twice is a link to itself", BOTH, TWO, header("1.txt", kind=b"1", link="1.txt")),
    refused(
        "a symbolic link to nothing",
        "no file in it.*dereference",
        TWO,
        header("3.txt", kind=b"2", link="9.txt"),
    ),
    refused("a hard link to nothing", "no file in it", TWO, header("3.txt", kind=b"1", link="9.txt")),
    refused(
        "a symbolic link to /etc/passwd", "no file in it", TWO, header("3.txt", kind=b"2", link="/etc/passwd")
    ),
    refused(
        "a symbolic link out of the archive",
        "no file in it",
        TWO,
        header("3.txt", kind=b"2", link="../1.txt"),
    ),
    refused(
        "symbolic links in a circle",
        "no file in it",
        header("3.txt", kind=b"2", link="4.txt"),
        header("4.txt", kind=b"2", link="3.txt"),
    ),
)

LONG = "folder/" * 50 + "7"  # 351 characters
kinds_of_headers = (
    right(
        "a long name of GNU",
        {LONG: {"txt": b"x"}},
        extended(b"L", f"{LONG}.txt\0".encode()),
        member("cut.txt"),
    ),
    right(
        "a long link of GNU",
        {LONG: {"txt": b"x"}, "2": {"txt": b"x"}},
        extended(b"L", f"{LONG}.txt\0".encode()),
        member("cut.txt"),
        extended(b"K", f"{LONG}.txt\0".encode()),
        header("2.txt", kind=b"2", link="cut"),
    ),
    right(
        "a long name of pax",
        {LONG: {"txt": b"x"}},
        extended(b"x", pax(path=f"{LONG}.txt")),
        member("cut.txt"),
    ),
    right(
        "a name of pax ends with its member",
        {"a": {"txt": b"x"}, "2": {"txt": b"x"}},
        extended(b"x", pax(path="a.txt")),
        member("1.txt"),
        member("2.txt"),
    ),
    right("a global header of pax, as git writes", BOTH, extended(b"g", pax(comment="0bb364e")), TWO),
    right(
        "a size of pax",
        {"1": {"txt": b"xyz"}},
        extended(b"x", pax(size="3")),
        header("1.txt"),
        b"xyz" + bytes(509),
    ),
    right(
        "the prefix of a ustar name",
        {"folder/7": {"txt": b"x"}},
        with_bytes(with_bytes(header("7.txt", 1), 257, b"ustar\x0000"), 345, b"folder"),
        b"x" + bytes(511),
    ),
    right(
        "times in GNU's place of the prefix",
        {"7": {"txt": b"x"}},
        with_bytes(header("7.txt", 1), 345, b"14721234567\0"),
        b"x" + bytes(511),
    ),
    right(
        "a header of 1979, without a magic",
        {"7": {"txt": b"x"}},
        with_bytes(with_bytes(header("7.txt", 1), 257, bytes(8)), 156, b"\0"),
        b"x" + bytes(511),
    ),
    right("a contiguous file", {"7": {"txt": b"x"}}, member("7.txt", kind=b"7")),
    right(
        "a size in base 256",
        {"7": {"txt": b"x"}},
        with_bytes(header("7.txt"), 124, b"\x80" + bytes(10) + b"\1"),
        b"x" + bytes(511),
    ),
    right("empty members", {"1": {"txt": b""}, "2": {"txt": b""}}, header("1.txt"), header("2.txt")),
    right(
        "folders, devices and a FIFO between files",
        BOTH,
        header("d.d/", kind=b"5"),
        member("1.txt", b"one"),
        header("tty.0", kind=b"3"),
        header("sd.0", kind=b"4"),
        header("pipe.0", kind=b"6"),
        member("2.txt", b"two"),
    ),
    right("a volume label", BOTH, header("label.1", kind=b"V"), TWO),
    right("bytes that are not UTF-8", {"caf\\xe9": {"txt": b"x"}}, member("caf\udce9.txt")),
    right("control characters in a name", {"a\\nb\\x1b[31m": {"t\\txt": b"x"}}, member("a\nb\x1b[31m.t\txt")),
    right(
        "samples whose members are apart",
        {"1": {"a": b"1", "b": b"3"}, "2": {"a": b"2"}},
        member("1.a", b"1"),
        member("2.a", b"2"),
        member("1.b", b"3"),
    ),
    right("one block of zeros as the end", BOTH, TWO, end=bytes(512)),
    right("a megabyte of zeros after the end", BOTH, TWO, end=bytes(2**20)),
    refused("a sparse member of GNU", "no sparse members", header("1.txt", kind=b"S")),
    refused(
        "a sparse member of pax",
        "no sparse members",
        extended(b"x", pax(**{"GNU.sparse.major": "1"})),
        member("1.txt"),
    ),
    refused("a part of several volumes", "type b'M'.*one volume", header("1.txt", kind=b"M")),
    refused("an unknown type", "type b'@'", header("1.txt", kind=b"@")),
    refused("an absolute name", "inside the archive.*Do not trust", TWO, member("/etc/7.txt")),
    refused("a name with ..", "inside the archive", TWO, member("a/../../7.txt")),
    refused(
        "a name of pax with ..", "inside the archive", extended(b"x", pax(path="../7.txt")), member("7.txt")
    ),
    refused("a name with \\", "inside the archive", member("..\\7.txt")),
    refused("one field twice", "'1.txt' twice", TWO, member("1.txt")),
    refused("one field in two cases", "'1.TXT' twice", TWO, member("1.TXT")),
    refused("a field __key__", "as its key", member("1.__key__")),
)


def truncated(size: int) -> Case:
    give = archive((TWO + END)[:size], end=b"")
    return Case(
        "tar",
        f"the first {size} bytes",
        "refused",
        give,
        "whole tar file.*truncated or damaged|plain, uncompressed tar file.*truncated|empty header",
    )


DAMAGE = "truncated or damaged"
damage = (
    *(truncated(size) for size in (0, 1, 511, 512, 513, 1023, 1024, 1535, 1537, 2047, 2048)),
    refused("two joined files", "after the end.*--ignore-zeros", TWO, END, member("3.txt")),
    refused("two joined files of 10 KiB", "data at byte 10240 of", TWO, bytes(8192), member("3.txt")),
    refused(
        "a zeroed header",
        "after the end",
        member("1.txt"),
        bytes(512),
        member("2.txt")[512:],
        member("3.txt"),
    ),
    refused(
        "a zeroed header of an empty member", "after the end", member("1.txt"), bytes(512), member("3.txt")
    ),
    refused("a zeroed page", "after the end", TWO, bytes(4096), TWO),
    refused("text after the end", "after the end", TWO, end=END + b"text"),
    refused(
        "only zeros after the first half", f"{DAMAGE}: only zeros after byte 2048", TWO, end=bytes(17 * 2**20)
    ),
    refused("a wrong checksum", DAMAGE, TWO, header("3.txt").replace(b"3.txt", b"4.txt")),
    refused("a header of ?", DAMAGE, TWO, b"?" * 512),
    refused(
        "a size of -512, back to the header",
        f"{DAMAGE}: the size -512",
        with_bytes(header("1.txt"), 124, b"\xff" * 10 + b"\xfe\0"),
    ),
    refused(
        "a size of -512 in octal", f"{DAMAGE}: the size", with_bytes(header("1.txt"), 124, b"-0000001000\0")
    ),
    refused(
        "a size of 2^63",
        f"{DAMAGE}: a member of",
        with_bytes(header("1.txt"), 124, b"\x80\0\0\0\x80" + bytes(7)),
    ),
    refused("a size that is no number", DAMAGE, TWO, with_bytes(header("3.txt"), 124, b"elevenbytes\0")),
    refused("a size beyond the file", f"{DAMAGE}: a member of 4096 bytes", header("1.txt", 4096)),
    refused(
        "a negative size of pax", f"{DAMAGE}: the size", extended(b"x", pax(size="-512")), header("1.txt")
    ),
    refused(
        "a pax header without lengths",
        f"{DAMAGE}: a malformed",
        extended(b"x", b"path=1.txt\n"),
        header("1.txt"),
    ),
    refused(
        "a pax header of length 0",
        f"{DAMAGE}: a malformed",
        extended(b"x", b"0 path=1.txt\n"),
        header("1.txt"),
    ),
    refused(
        "a pax header of a megabyte", f"{DAMAGE}: an extended header of", extended(b"x", bytes(2**20)), TWO
    ),
    refused("a long name without a member", f"{DAMAGE}: a long name", TWO, extended(b"L", b"3.txt\0")),
    refused("no sample", "found no sample", member("README")),
    refused("an empty archive", "found no sample"),
    refused("an empty file", "plain, uncompressed", end=b""),
    refused("other bytes", "plain, uncompressed", bytes(range(1, 255)) * 100),
    refused("JSON", "plain, uncompressed", b'{"text": "a"}\n' * 100),
)


def packed(kind: str, pack: Callable[[bytes], bytes], command: str) -> Case:
    give = archive(pack(TWO + END), end=b"")
    return Case("tar", f"packed by {kind}", "refused", give, f"uncompressed.*{kind} format.*`{command}`")


def zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.tar", content)
    return file.getvalue()


compressed = (
    packed("gzip", gzip.compress, "gunzip"),
    packed("bzip2", bz2.compress, "bunzip2"),
    packed("xz", lzma.compress, "unxz"),
    packed("zstd", lambda content: b"\x28\xb5\x2f\xfd" + content, "unzstd"),
    packed("zip", zipped, "unzip"),
)


def by_tarfile(form: int) -> Case:
    """A tar file of Python's tarfile, with the samples that tarfile itself finds."""

    def content() -> bytes:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as tar:
            for number, letter in itertools.product(range(9), "ab"):
                info = tarfile.TarInfo(f"{'ordner/' * number}größe {number}.{letter}")
                info.size = 300 * number
                tar.addfile(info, io.BytesIO(letter.encode() * info.size))
        return file.getvalue()

    def expected() -> dict[str, dict[str, bytes]]:
        samples: dict[str, dict[str, bytes]] = {}
        with tarfile.open(fileobj=io.BytesIO(content())) as tar:
            for info in tar:
                key, _, field = info.name.rpartition(".")
                samples.setdefault(key, {})[field] = tar.extractfile(info).read()
        return samples

    names = {tarfile.USTAR_FORMAT: "ustar", tarfile.GNU_FORMAT: "gnu", tarfile.PAX_FORMAT: "pax"}
    return right(f"18 members as tarfile writes them ({names[form]})", expected(), content(), end=b"")


def give_fields(folder: Path) -> Any:
    """10,000 fields in one sample, of which the wanted one is missing."""
    (folder / "a.tar").write_bytes(b"".join(header(f"7.{number}") for number in range(10_000)) + END)
    return data.lookup(data.WebDataset(str(folder / "a.tar")).open()[0], "jpg")


def give_huge(folder: Path) -> Any:
    """A member of 1 GiB, in a file with a hole."""
    with (folder / "a.tar").open("wb") as file:
        file.write(header("7.mp4", 2**30))
        file.truncate(512 + 2**30 + 1024)
    return data.lookup(data.WebDataset(str(folder / "a.tar")).open()[0], "mp4")


def give_replaced(folder: Path, change: Callable[[Path], object]) -> Any:
    """Another tar file at the path of an open one."""
    path = folder / "a.tar"
    path.write_bytes(TWO + END)
    reader = data.WebDataset(str(path)).open()
    change(path)
    return reader[0]["txt"]


def replace_alike(path: Path) -> None:
    """Another file of the same size and time."""
    status = path.stat()
    other = path.with_name("b")
    other.write_bytes(member("1.txt", b"ONE") + member("2.txt", b"TWO") + END)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


def lookup_case(name: str, path: str, message: str, *names: str) -> Case:
    def give(folder: Path) -> Any:
        (folder / "a.tar").write_bytes(b"".join(map(member, names)) + END)
        return data.lookup(data.WebDataset(str(folder / "a.tar")).open()[0], path)

    return Case("tar", name, "skipped", give, message)


while_reading = (
    lookup_case(
        "jpg is wanted, jpeg is there", "jpg", "7: expected the field 'jpg'.*mean 'jpeg'", "7.jpeg", "7.txt"
    ),
    lookup_case("base names with dots", "jpg", "first dot of a file name: write '1.jpg'", "7.1.jpg"),
    lookup_case("a field in upper case", "JPG", "Did you mean 'jpg'", "7.JPG"),
    lookup_case("20 other fields", "jpg", "and 10 more$", *(f"7.{n}" for n in range(20))),
    Case(
        "tar",
        "10,000 fields in one sample",
        "skipped",
        give_fields,
        "7: expected the field 'jpg'.*9990 more",
    ),
    Case(
        "tar",
        "a member of 1 GiB",
        "skipped",
        give_huge,
        "7: expected at most 268435456 bytes in 'mp4', found 1073741824",
    ),
    Case(
        "tar",
        "replaced while open, size and time alike",
        "refused",
        lambda folder: give_replaced(folder, replace_alike),
        "has changed",
    ),
    Case(
        "tar",
        "replaced while open by a longer one",
        "refused",
        lambda folder: give_replaced(folder, lambda path: path.write_bytes(bytes(512) + TWO + END)),
        "has changed",
    ),
    Case(
        "tar",
        "cut while open",
        "refused",
        lambda folder: give_replaced(folder, lambda path: os.truncate(path, 600)),
        "has changed",
    ),
    Case(
        "tar",
        "removed while open",
        "refused",
        lambda folder: give_replaced(folder, Path.unlink),
        "No such file",
    ),
)


CASES: tuple[Case, ...] = (
    *webdataset_names,
    *links,
    *kinds_of_headers,
    *damage,
    *compressed,
    *map(by_tarfile, (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)),
    *while_reading,
)
