"""Indexes of shards that are stale, damaged or made by others."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from corpus.case import Case
from corpus.tar_files import BOTH, END, TWO, member, read


def numbered(letter: str) -> tuple[bytes, dict[str, dict[str, bytes]]]:
    """A tar file of 20 samples, and the samples."""
    names = [f"{letter}{number}" for number in range(10, 30)]
    content = b"".join(member(f"{name}.txt", name.encode()) for name in names) + END
    return content, {name: {"txt": name.encode()} for name in names}


def index_case(name: str, spoil: Callable[[Path, Path], object], letter: str = "n") -> Case:
    """An index that does not belong to the tar file is made anew."""

    def give(folder: Path) -> Any:
        path, index = folder / "a.tar", folder / "a.tar.index.json"
        path.write_bytes(numbered("n")[0])
        read(path)  # writes the index
        mtime = path.stat().st_mtime_ns
        spoil(path, index)
        os.utime(path, ns=(0, mtime))  # opened again, since its ctime differs
        return read(path)

    return Case("tar index", name, "right", give, expected=numbered(letter)[1])


def edit_samples(edit: Callable[[list[Any]], Any]) -> Callable[[Path, Path], None]:
    """Writes other samples, with the right digest."""

    def spoil(path: Path, index: Path) -> None:
        head, _, body = index.read_text().partition("\n")
        samples = json.loads(body)
        body = json.dumps(edit(samples) or samples)
        head = json.loads(head) | {"sha256": hashlib.sha256(body.encode()).hexdigest()}
        index.write_text(json.dumps(head) + "\n" + body)

    return spoil


def set_span(place: int, value: Any) -> Callable[[Path, Path], None]:
    return edit_samples(lambda samples: samples[3][1]["txt"].__setitem__(place, value))


def swap(samples: list[Any]) -> None:
    samples[0][1], samples[1][1] = samples[1][1], samples[0][1]


def instead(make: Callable[[Path], object]) -> Callable[[Path, Path], None]:
    """Something else in place of the index."""

    def spoil(path: Path, index: Path) -> None:
        index.unlink()
        make(index)

    return spoil


def write_hole(index: Path) -> None:
    with index.open("wb") as file:
        file.truncate(2**30)


def without_home(folder: Path) -> Any:
    """A read-only folder, and no folder for indexes: no HOME, and a user without an entry in passwd."""
    path = folder / "shards" / "a.tar"
    path.parent.mkdir()
    path.write_bytes(TWO + END)
    path.parent.chmod(0o555)
    expanduser, saved = (
        os.path.expanduser,
        {name: os.environ.pop(name, None) for name in ("HOME", "XDG_CACHE_HOME")},
    )
    os.path.expanduser = lambda name: name  # what it does without an entry
    try:
        return read(path)
    finally:
        os.path.expanduser = expanduser
        os.environ.update({name: value for name, value in saved.items() if value is not None})
        path.parent.chmod(0o755)


CASES: tuple[Case, ...] = (
    index_case(
        "of an earlier file of the same size and time",
        lambda path, _: path.write_bytes(numbered("m")[0]),
        "m",
    ),
    index_case("half written", lambda _, index: index.write_bytes(index.read_bytes()[:200])),
    index_case("empty", lambda _, index: index.write_bytes(b"")),
    index_case(
        "of version 1",
        lambda path, index: index.write_text(
            json.dumps(
                {
                    "version": 1,
                    "size": path.stat().st_size,
                    "mtime_ns": path.stat().st_mtime_ns,
                    "samples": [["n10", {"txt": [1, 1]}]],
                }
            )
        ),
    ),
    index_case("a list", lambda _, index: index.write_text("[]\n[]")),
    index_case("nested deeply", lambda _, index: index.write_text("[" * 100_000)),
    index_case("random bytes", lambda _, index: index.write_bytes(bytes(range(256)) * 10)),
    index_case("of a gigabyte", lambda _, index: write_hole(index)),
    index_case("a FIFO", instead(os.mkfifo)),
    index_case("a folder", instead(Path.mkdir)),
    index_case("a link to nothing", instead(lambda index: index.symlink_to("nothing"))),
    index_case("an offset before the file", set_span(0, -512)),
    index_case("an offset in another member", set_span(0, 1024)),
    index_case("an offset beyond the file", set_span(0, 2**40)),
    index_case("an offset that is text", set_span(0, "512")),
    index_case("an offset that is a fraction", set_span(0, 512.5)),
    index_case("a negative size", set_span(1, -3)),
    index_case("a size beyond the file", set_span(1, 10**12)),
    index_case("another checksum", set_span(2, 7)),
    index_case("fields of two samples exchanged", edit_samples(swap)),
    index_case("a sample twice", edit_samples(lambda samples: samples.append(samples[0]))),
    index_case("a span of two numbers", edit_samples(lambda samples: samples[0][1]["txt"].pop())),
    index_case("samples without fields", edit_samples(lambda samples: [[key, None] for key, _ in samples])),
    index_case("keys that are numbers", edit_samples(lambda samples: [[7, fields] for _, fields in samples])),
    index_case("samples in an object", edit_samples(lambda samples: {"samples": samples})),
    Case("tar index", "no home, and a read-only folder", "right", without_home, expected=BOTH),
)
