"""Arrays in memory and in npz files."""

import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from corpus.case import Case
from mmjax import data


def npy(array: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **options)
    return file.getvalue()


def claiming(shape: tuple[int, ...], dtype: str = "|u1", content: bytes = b"", order: bool = False) -> bytes:
    """An .npy file whose header claims this shape."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": order, "descr": dtype})
    return file.getvalue() + content


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def twice() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("x.npy", "y.npy"):
            archive.writestr(zipfile.ZipInfo(name), npy(np.arange(3)))
    return file.getvalue().replace(b"y.npy", b"x.npy")


def encrypted() -> bytes:
    content = bytearray(zipped({"x.npy": npy(np.arange(3))}))
    for start, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(start) + flags] |= 1
    return bytes(content)


def bomb(mib: int) -> bytes:
    """An array of zeros that deflates to a thousandth."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as member:
        member.write(claiming((mib, 2**20)))
        for _ in range(mib):
            member.write(bytes(2**20))
    return file.getvalue()


def lying(size: int) -> bytes:
    """A zip directory that states another size of the member than the local header."""
    content = bytearray(zipped({"x.npy": npy(np.arange(3))}, zipfile.ZIP_DEFLATED))
    struct.pack_into("<I", content, content.index(b"PK\x01\x02") + 24, size)
    return bytes(content)


def flipped() -> bytes:
    content = bytearray(zipped({"x.npy": npy(np.arange(100))}))
    content[300] ^= 255
    return bytes(content)


def deflated_damage() -> bytes:
    content = bytearray(zipped({"x.npy": npy(np.arange(1000))}, zipfile.ZIP_DEFLATED))
    content[60:160] = b"\xff" * 100
    return bytes(content)


def read(path: Path, **options: Any) -> dict[str, list[Any]]:
    """{field: values} of all records."""
    reader = data.Npz(str(path), **options).open()
    records = [reader[index] for index in range(len(reader))]
    return {
        name: [np.asarray(record[name]).tolist() for record in records]
        for name in records[0]
        if name != "__key__"
    }


def npz(name: str, content: Callable[[], bytes], message: str) -> Case:
    def give(folder: Path) -> Any:
        (folder / "a.npz").write_bytes(content())
        return read(folder / "a.npz")

    return Case("npz", name, "refused", give, rf"(?=.*a\.npz).*({message})")


def right(name: str, content: Callable[[], bytes], expected: Any, **options: Any) -> Case:
    def give(folder: Path) -> Any:
        (folder / "a.npz").write_bytes(content())
        return read(folder / "a.npz", **options)

    return Case("npz", name, "right", give, expected=expected)


def of(**arrays: np.ndarray) -> Callable[[], bytes]:
    def content() -> bytes:
        file = io.BytesIO()
        np.savez(file, **arrays)
        return file.getvalue()

    return content


def fifo(folder: Path) -> Any:
    os.mkfifo(folder / "a.npz")
    return read(folder / "a.npz")


def two_files(folder: Path) -> Any:
    for name in "ab":
        (folder / f"{name}.npz").write_bytes(of(x=np.arange(3))())
    return read(folder)


PLAIN = "expected an .npz file of plain arrays"
npz_files = (
    right(
        "arrays of several types",
        of(x=np.arange(3), y=np.array([0.5, 1, 2]), z=np.array(["a", "b", "ü"])),
        {"x": [0, 1, 2], "y": [0.5, 1.0, 2.0], "z": ["a", "b", "ü"]},
    ),
    right("one of two arrays", of(x=np.arange(3), y=np.arange(4)), {"x": [0, 1, 2]}, fields=("x",)),
    right(
        "Fortran's order",
        of(x=np.asfortranarray(np.arange(6).reshape(3, 2))),
        {"x": [[0, 1], [2, 3], [4, 5]]},
    ),
    right("big-endian numbers", of(x=np.arange(3, dtype=">i4")), {"x": [0, 1, 2]}),
    right("compressed", lambda: zipped({"x.npy": npy(np.arange(3))}, zipfile.ZIP_DEFLATED), {"x": [0, 1, 2]}),
    right(
        "compressed by LZMA", lambda: zipped({"x.npy": npy(np.arange(3))}, zipfile.ZIP_LZMA), {"x": [0, 1, 2]}
    ),
    right("a name in a folder", lambda: zipped({"a/x.npy": npy(np.arange(2))}), {"a/x": [0, 1]}),
    right(
        "the second version of the format",
        lambda: zipped({"x.npy": npy(np.arange(2), version=(2, 0))}),
        {"x": [0, 1]},
    ),
    npz("a bomb of 260 MiB", lambda: bomb(260), "at most ten times the.*without compression"),
    npz(
        "a header that claims a petabyte",
        lambda: zipped({"x.npy": claiming((2**40, 1024))}),
        "claims the shape",
    ),
    npz(
        "a header that claims more than there is",
        lambda: zipped({"x.npy": claiming((10,), content=b"abc")}),
        "claims the shape",
    ),
    npz(
        "a header that claims less than there is",
        lambda: zipped({"x.npy": claiming((2,), content=b"abc")}),
        "claims the shape",
    ),
    npz("a negative side", lambda: zipped({"x.npy": claiming((-3, -1), content=b"abc")}), "claims the shape"),
    npz("records of no bytes", lambda: zipped({"x.npy": claiming((10**12, 0))}), "claims the shape"),
    npz(
        "a header that is code",
        lambda: zipped({"x.npy": b"\x93NUMPY\x01\x00\x20\x00{'descr': __import__('os').getpid()}"}),
        PLAIN,
    ),
    npz(
        "a header of 60,000 brackets",
        lambda: zipped({"x.npy": b"\x93NUMPY\x01\x00\x60\xea" + b"[" * 60_000}),
        PLAIN,
    ),
    npz("an unknown version", lambda: zipped({"x.npy": b"\x93NUMPY\x09\x00" + bytes(100)}), PLAIN),
    npz("a number", of(x=np.float32(7)), "holds one number"),
    npz(
        "pickled objects",
        lambda: zipped({"x.npy": npy(np.array([{}], dtype=object), allow_pickle=True)}),
        "holds pickled objects",
    ),
    npz(
        "pickled objects in a structure",
        lambda: zipped({"x.npy": claiming((1,), "|O", b"cos\nsystem\n")}),
        "pickled objects",
    ),
    npz("two lengths", of(x=np.arange(3), y=np.arange(4)), r"lengths \{'x': 3, 'y': 4\}"),
    npz("no array", lambda: zipped({}), "at least one array"),
    npz("a text file among arrays", lambda: zipped({"x.npy": npy(np.arange(3)), "README": b"hello"}), PLAIN),
    npz("one name twice", twice, "each array once"),
    npz("encrypted", encrypted, f"{PLAIN}.*(password|encrypted)"),
    npz("a flipped bit", flipped, f"{PLAIN}.*CRC"),
    npz("damaged compression", deflated_damage, PLAIN),
    npz("a directory that states a smaller size", lambda: lying(140), PLAIN),
    npz("a directory that states 4 GB", lambda: lying(2**32 - 2), "at most ten times"),
    npz("one .npy file", lambda: npy(np.arange(3)), PLAIN),
    npz("a pickle", lambda: b"\x80\x04K\x07.", PLAIN),
    npz("cut in the middle", lambda: of(x=np.arange(1000))()[:4000], PLAIN),
    npz("cut at its end", lambda: of(x=np.arange(1000))()[:-10], PLAIN),
    npz("empty", lambda: b"", PLAIN),
    Case("npz", "a FIFO", "refused", fifo, "regular file.*a FIFO"),
    Case("npz", "two files in a folder", "refused", two_files, "one .npz file.*Name one"),
)


def in_memory(name: str, arrays: dict[str, Any], message: str) -> Case:
    return Case("arrays", name, "refused", lambda _: data.Arrays(arrays).open(), message)


def rows(name: str, arrays: dict[str, Any], expected: list[dict[str, Any]]) -> Case:
    def give(folder: Path) -> Any:
        reader = data.Arrays(arrays).open()
        return [dict(reader[index]) for index in range(len(reader))]

    return Case("arrays", name, "right", give, expected=expected)


def identities(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], Any]:
    """Whether changed arrays have another identity."""
    array = np.arange(1000)
    return lambda _: (
        data.Arrays({"x": array}).open().identity() != data.Arrays({"x": change(array)}).open().identity()
    )


arrays = (
    rows(
        "lists",
        {"x": [1, None], "y": ["a", b"b"]},
        [{"x": 1, "y": "a", "__key__": "arrays[0]"}, {"x": None, "y": b"b", "__key__": "arrays[1]"}],
    ),
    rows("a tuple", {"x": (1, 2)}, [{"x": 1, "__key__": "arrays[0]"}, {"x": 2, "__key__": "arrays[1]"}]),
    rows("keys of the user's", {"__key__": [7], "x": [1]}, [{"__key__": "7", "x": 1}]),
    in_memory("no array", {}, "at least one array"),
    in_memory("two lengths", {"x": [1], "y": [1, 2]}, r"lengths \{'x': 1, 'y': 2\}"),
    in_memory("a number", {"x": 7}, "expected an array or list.*'x'.*found int 7"),
    in_memory("an array of no axis", {"x": np.float32(7)}, "expected an array or list"),
    in_memory("a text in place of texts", {"x": "abc"}, "found str 'abc'"),
    in_memory("bytes in place of encoded images", {"x": b"\x89PNG"}, "found bytes"),
    in_memory("a table in place of its columns", {"x": {"a": [1]}}, "found dict"),
    in_memory("a set, which has no order", {"x": {1, 2}}, "found set"),
    in_memory("a generator", {"x": (i for i in range(3))}, "found generator"),
    in_memory("None", {"x": None}, "found NoneType None"),
    Case(
        "arrays", "another order is another identity", "right", identities(lambda x: x[::-1]), expected=True
    ),
    Case(
        "arrays",
        "another type is another identity",
        "right",
        identities(lambda x: x.astype(np.int32)),
        expected=True,
    ),
    Case("arrays", "one row less is another identity", "right", identities(lambda x: x[:-1]), expected=True),
    Case(
        "arrays",
        "a copy has the same identity",
        "right",
        identities(lambda x: x[::2].repeat(2) // 2 * 2 + x % 2),
        expected=False,
    ),
)

CASES: tuple[Case, ...] = (*npz_files, *arrays)
