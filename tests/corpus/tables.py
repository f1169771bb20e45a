"""JSON lines and nested JSON."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from corpus.case import Case
from mmjax import data


def read(path: Path) -> list[dict[str, Any]]:
    """All records of JSON lines, without their keys."""
    reader = data.Jsonl(str(path)).open()
    return [{k: v for k, v in reader[index].items() if k != "__key__"} for index in range(len(reader))]


def lines(content: bytes, look: Callable[[Path], Any] = read) -> Callable[[Path], Any]:
    def give(folder: Path) -> Any:
        (folder / "a.jsonl").write_bytes(content)
        return look(folder / "a.jsonl")

    return give


def right(name: str, content: bytes, *expected: dict[str, Any]) -> Case:
    return Case("JSON lines", name, "right", lines(content), expected=list(expected))


def skipped(name: str, line: bytes, message: str) -> Case:
    """A good line, and a bad one, which is read."""

    def look(path: Path) -> Any:
        reader = data.Jsonl(str(path)).open()
        assert len(reader) == 2 and reader[0]["text"] == "good"
        return reader[1]

    content = b'{"text": "good"}\n' + line + b"\n"
    return Case("JSON lines", name, "skipped", lines(content, look), rf"^a\.jsonl:\d: .*{message}")


def refused(name: str, content: bytes, message: str) -> Case:
    return Case("JSON lines", name, "refused", lines(content), message)


def key_of_second(path: Path) -> str:
    return data.Jsonl(str(path)).open()[1]["__key__"]


def change(path: Path) -> Any:
    reader = data.Jsonl(str(path)).open()
    path.write_bytes(b'{"text": "another line"}\n')
    return reader[0]


def give_hole(folder: Path) -> Any:
    """One line of 600 MiB, in a file with a hole."""
    with (folder / "a.jsonl").open("wb") as file:
        file.truncate(600 * 2**20)
    return data.Jsonl(str(folder / "a.jsonl")).open()[0]


def give_fifo(folder: Path) -> Any:
    os.mkfifo(folder / "a.jsonl")
    return read(folder)


GOOD = {"text": "eins"}
json_lines = (
    right("one line without an end", b'{"text": "eins"}', GOOD),
    right("a byte order mark", b'\xef\xbb\xbf{"text": "eins"}\n', GOOD),
    right("lines of Windows", b'{"text": "eins"}\r\n{"text": "eins"}\r\n', GOOD, GOOD),
    right("blank lines", b'\n  \t\n{"text": "eins"}\n\r\n\n', GOOD),
    right("white space around", b'  {"text": "eins"}\t \n', GOOD),
    right(
        "line separators of Unicode within a text",
        '{"text": "a\u2028b\u0085c"}\n'.encode(),
        {"text": "a\u2028b\u0085c"},
    ),
    right("an escaped pair of surrogates", b'{"text": "\\ud83d\\ude00"}\n', {"text": "\U0001f600"}),
    right("a line of 3 MB", b'{"text": "' + b"a" * 3_000_000 + b'"}\n', {"text": "a" * 3_000_000}),
    right("a key __key__ is the line's own", b'{"__key__": [7], "text": "eins"}\n', GOOD),
    right(
        "numbers of any size",
        b'{"n": 12345678901234567890123, "x": 1e400}\n',
        {"n": 12345678901234567890123, "x": float("inf")},
    ),
    right(
        "1,000 keys", json.dumps({str(n): n for n in range(1000)}).encode(), {str(n): n for n in range(1000)}
    ),
    right("objects within objects", b'{"a": {"b": {"c": [{"d": 1}]}}}', {"a": {"b": {"c": [{"d": 1}]}}}),
    Case(
        "JSON lines",
        "keys count blank lines",
        "right",
        lines(b'{}\n\n\n{"a": 1}\n', key_of_second),
        expected="a.jsonl:4",
    ),
    skipped("half a line", b'{"text": "ei', "expected JSON, found b'"),
    skipped("a list", b'["text"]', "expected a JSON object, found a list"),
    skipped("a text", b'"text"', "expected a JSON object, found a str"),
    skipped("null", b"null", "expected a JSON object, found a NoneType"),
    skipped("a number", b"7", "expected a JSON object, found a int"),
    skipped("two objects", b'{"a": 1} {"b": 2}', "expected JSON.*Extra data"),
    skipped("a comma at the end", b'{"a": 1},', "expected JSON.*Extra data"),
    skipped("single quotes", b"{'a': 1}", "expected JSON"),
    skipped("a key twice", b'{"text": "a", "text": "b"}', "the key 'text' occurs twice"),
    skipped("a key twice, deep within", b'{"a": [{"b": 1, "b": 2}]}', "the key 'b' occurs twice"),
    skipped("Latin-1", b'{"text": "caf\xe9"}', "expected UTF-8, found the byte 0xe9 at 13"),
    skipped("NUL bytes", b'{"text": "\0"}', "expected JSON.*control character"),
    skipped("a line of NUL bytes, as after a crash", bytes(4096), "expected JSON"),
    skipped("control characters", b'{"a": \x1b[31m}', "expected JSON"),
    skipped("100,000 brackets", b"[" * 100_000, "expected JSON.*recursion"),
    skipped("100,000 nested objects", b'{"a":' * 100_000, "expected JSON.*recursion"),
    skipped("a number of 5,000 digits", b'{"n": ' + b"7" * 5000 + b"}", "expected JSON.*digits"),
    skipped(
        "a line of 9 MB", b'{"text": "' + b"a" * 9_000_000 + b'"}', "at most 8388608 bytes, found 9000013"
    ),
    Case("JSON lines", "a line of 600 MiB", "skipped", give_hole, "at most 8388608 bytes, found 629145600"),
    refused("an empty file", b"", "found no line in 1 file"),
    refused("only blank lines", b"\n\r\n  \n", "found no line"),
    refused("packed by gzip", gzip.compress(b'{"text": "eins"}\n'), "gzip format.*`gunzip`"),
    refused("UTF-16", '{"text": "eins"}\n'.encode("utf-16"), "UTF-16 in .*iconv"),
    Case("JSON lines", "changed while open", "refused", lines(b'{"text": "eins"}\n', change), "has changed"),
    Case("JSON lines", "a FIFO", "refused", give_fifo, "regular file.*a FIFO"),
)


def lookup(name: str, promise: str, record: dict[str, Any], path: str, expected: Any) -> Case:
    """A path within a record: the expected value or message."""

    def give(folder: Path) -> Any:
        return data.lookup({"__key__": "k"} | record, path)

    if promise == "right":
        return Case("path in a record", name, "right", give, expected=expected)
    return Case("path in a record", name, "skipped", give, f"^k: .*{expected}")


paths = (
    lookup("a field with dots", "right", {"noto.png": b"P", "noto": b"{}"}, "noto.png", b"P"),
    lookup("a key in JSON", "right", {"json": b'{"a": {"b": "x"}}'}, "json.a.b", "x"),
    lookup("an item of a list", "right", {"json": b'{"a": ["x", "y"]}'}, "json.a.1", "y"),
    lookup("JSON of another field", "right", {"meta.json": b'{"a": 7}'}, "meta.json.a", 7),
    lookup("JSON with a byte order mark", "right", {"json": b'\xef\xbb\xbf{"a": 7}'}, "json.a", 7),
    lookup(
        "zero and False are values", "right", {"json": b'{"a": [0, false, ""]}'}, "json.a", [0, False, ""]
    ),
    lookup(
        "an item beyond the list",
        "skipped",
        {"json": b'{"a": ["x"]}'},
        "json.a.1",
        "expected '1' of 'json.a.1' .*found a list",
    ),
    lookup("a negative item", "skipped", {"json": b'{"a": ["x"]}'}, "json.a.-1", "found a list"),
    lookup("null", "skipped", {"json": b'{"a": null}'}, "json.a", "found null"),
    lookup("a key of a text", "skipped", {"json": b'{"a": "x"}'}, "json.a.b", "found a str"),
    lookup(
        "another case of a key",
        "skipped",
        {"json": b'{"Caption": "x"}'},
        "json.caption",
        r"found the keys \['Caption'\]",
    ),
    lookup("damaged JSON", "skipped", {"json": b"{"}, "json.a", "expected JSON in 'json', found b'{'"),
    lookup(
        "JSON that is Latin-1",
        "skipped",
        {"json": b'"\xe9"'},
        "json",
        "expected UTF-8 in 'json', found the byte 0xe9 at 1",
    ),
    lookup("JSON with a key twice", "skipped", {"json": b'{"a": 1, "a": 2}'}, "json.a", "'a' occurs twice"),
    lookup("JSON of 100,000 brackets", "skipped", {"json": b"[" * 100_000}, "json.a", "recursion"),
    lookup(
        "JSON of 9 MB",
        "skipped",
        {"json": b" " * 9_000_000 + b"{}"},
        "json.a",
        "at most 8388608 bytes in 'json'",
    ),
    lookup(
        "100,000 keys",
        "skipped",
        {"json": json.dumps({str(n): n for n in range(100_000)}).encode()},
        "json.a",
        "and 99990 more",
    ),
    lookup("100,000 fields", "skipped", {str(n): n for n in range(100_000)}, "jpg", "and 99990 more"),
    lookup("a name of a megabyte", "skipped", {"a" * 2**20: 1}, "jpg", r"found only \['aaaa.*\.\.\."),
    lookup(
        "names that are no text",
        "skipped",
        {"a": {1: 2, "b": 3, None: 4}},
        "a.x",
        r"found the keys \['1', 'None', 'b'\]",
    ),
    lookup(
        "half a surrogate in a key",
        "skipped",
        {"json": b'{"\\ud800": 1}'},
        "json.a",
        r"the keys \['.*ud800'\]",
    ),
    lookup(
        "control characters in a key", "skipped", {"json": b'{"\\u001b[31m\\n": 1}'}, "json.a", r"\\x1b\[31m"
    ),
    lookup("a field of webdataset in upper case", "skipped", {"jpg": b""}, "JPG", "Did you mean 'jpg'"),
    lookup(
        "a field close by", "skipped", {"captions": b"", "jpg": b""}, "caption", "Did you mean 'captions'"
    ),
    lookup("nothing close by", "skipped", {"wav": b""}, "jpg", r"found only \['wav'\]$"),
)

CASES: tuple[Case, ...] = (*json_lines, *paths)
