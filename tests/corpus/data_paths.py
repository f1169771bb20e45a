"""Paths of data: folders, globs, URLs, links, other things than files."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from corpus.case import Case
from corpus.tar_files import END, member, read


def at(name: str, promise: str, make: Callable[[Path], object], path: str, expected: Any) -> Case:
    """A folder that `make` fills, and the path that is read there. The expected message, or the samples."""

    def give(folder: Path) -> Any:
        make(folder)
        return read(folder / path if path else path)

    if promise == "right":
        return Case("data path", name, "right", give, expected=expected)
    return Case("data path", name, "refused", give, message=expected)


def write(*names: str) -> Callable[[Path], None]:
    """Writes tar files; that of "b.tar" holds a sample with the key "b"."""

    def make(folder: Path) -> None:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(member(f"{Path(name).name.partition('.')[0]}.txt") + END)

    return make


def then(first: Callable[[Path], object], second: Callable[[Path], object]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        first(folder)
        second(folder)

    return make


def listen(folder: Path) -> None:
    """A socket in the file system, by a relative name, since a socket's name is short."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("a.tar")


def one(*keys: str) -> dict[str, dict[str, bytes]]:
    return {key: {"txt": b"x"} for key in keys}


ODD = "lr[1e-3] *{x} \n ü"
CASES: tuple[Case, ...] = (
    at(
        "a glob meets indexes, parts and dot files",
        "right",
        then(
            write("train-0.tar", "train-1.tar", "train-0.tar.index.json", "train-2.tar.part"),
            lambda folder: read(folder / "train-0.tar"),
        ),
        "train-*",
        one("train-0", "train-1"),
    ),
    at("a folder with dot files", "right", write("a.tar", "._a.tar", ".b.tar", "c.tar.part"), ".", one("a")),
    at("a glob over folders", "right", write("x/a.tar", "y/z/b.tar"), "**", one("a", "b")),
    at("a file in a folder of odd characters", "right", write(f"{ODD}/a.tar"), f"{ODD}/a.tar", one("a")),
    at("a glob in a folder of odd characters", "right", write(f"{ODD}/a.tar"), f"{ODD}/*.tar", one("a")),
    at("a file whose name has braces", "right", write("{0..1}.tar"), "{0..1}.tar", one("{0")),
    at("a file whose name has ::", "right", write("a::b.tar"), "a::b.tar", one("a::b")),
    at("a file whose name is a pattern", "right", write("[a].tar"), "[a].tar", one("[a]")),
    at(
        "a symbolic link to a file",
        "right",
        then(write("a.tar"), lambda f: (f / "b").symlink_to("a.tar")),
        "b",
        one("a"),
    ),
    at(
        "braces",
        "refused",
        write("x-0.tar"),
        "x-{0..9}.tar",
        "braces are not expanded here.*a glob, '.*x-\\*.tar'",
    ),
    at("braces of names", "refused", write("x.tar"), "{x,y}.tar", "braces are not expanded here"),
    at("a list by ::", "refused", write("a.tar"), "a.tar::b.tar", "not split at '::'.*tuple"),
    at("an empty path", "refused", write("a.tar"), "", "an empty one"),
    at("a folder without tar files", "refused", write("a.tar.gz"), ".", r"only \['a.tar.gz'\]"),
    at("an empty folder", "refused", write(), ".", "the folder is empty"),
    at("a glob without matches", "refused", write("a.tar"), "*.zip", "found none"),
    at("a NUL", "refused", write(), "a\0.tar", "expected (the path of )?data"),
    at("a name of 300 characters", "refused", write(), "a" * 300, "File name too long"),
    at("a path of 5,000 characters", "refused", write(), "a/" * 2500, "File name too long|only"),
    at(
        "a broken link",
        "refused",
        lambda f: (f / "a.tar").symlink_to("b.tar"),
        "a.tar",
        "link to a file that does not exist",
    ),
    at(
        "a broken link beside shards",
        "refused",
        then(write("a.tar"), lambda f: (f / "b.tar").symlink_to("c.tar")),
        "*.tar",
        "b.tar, found: No such file",
    ),
    at(
        "links in a circle",
        "refused",
        lambda f: (f / "a.tar").symlink_to("a.tar"),
        "a.tar",
        "link to a file that does not exist|symbolic",
    ),
    at("a file in place of a folder", "refused", write("a.tar"), "a.tar/b.tar", "found none|Not a directory"),
    at("a FIFO", "refused", lambda f: os.mkfifo(f / "a.tar"), "a.tar", "regular file.*a FIFO"),
    at(
        "a FIFO beside shards",
        "refused",
        then(write("a.tar"), lambda f: os.mkfifo(f / "b.tar")),
        ".",
        "regular file.*a FIFO",
    ),
    at("a socket", "refused", listen, "a.tar", "regular file.*a socket"),
    at("a folder named as a shard", "refused", write("a.tar", "b.tar/x"), ".", "regular file.*a folder"),
    *(
        Case("data path", f"{path!r}", "refused", lambda folder, path=path: read(path), message)
        for path, message in {
            "s3://bucket/x.tar": "s3:// is not read here.*Fetch or mount",
            "gs://bucket/*.tar": "gs:// is not read here",
            "https://host/{0..9}.tar": "https:// is not read here",
            "file:///data/x.tar": "file:// is not read here",
            "hf://datasets/x": "hf:// is not read here",
            "pipe:curl -s https://host/x.tar": "commands are not run here",
            "~no-such-user-here/x.tar": "home directory|found none",
            "/dev/zero": "regular file.*a device",
        }.items()
    ),
)
