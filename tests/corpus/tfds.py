"""TensorFlow Datasets and ArrayRecord files."""

import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from corpus.case import Case
from mmjax import data
from mmjax.data.records import lookup_text

FEATURES = "tensorflow_datasets.core.features"


def write_entries(path: Path, *entries: bytes) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for entry in entries:
        writer.write(entry)
    writer.close()


def read(path: Path, **options: Any) -> list[dict[str, Any]]:
    reader = data.ArrayRecord(str(path), **options).open()
    return [dict(reader[index]) for index in range(len(reader))]


def entries(name: str, promise: str, content: tuple[bytes, ...], expected: Any, **options: Any) -> Case:
    """An ArrayRecord file of these entries: the expected records, or the message."""

    def give(folder: Path) -> Any:
        write_entries(folder / "a.array_record", *content)
        return read(folder / "a.array_record", **options)

    if promise == "right":
        return Case("ArrayRecord", name, "right", give, expected=expected)
    return Case("ArrayRecord", name, promise, give, message=expected)


def damaged(name: str, change: Callable[[bytes], bytes], promise: str, message: str) -> Case:
    """A file of three entries of 1,000 bytes, changed."""

    def give(folder: Path) -> Any:
        path = folder / "a.array_record"
        write_entries(path, *(random.Random(number).randbytes(1000) for number in range(3)))
        path.write_bytes(change(path.read_bytes()))
        return read(path, field="raw")

    return Case("ArrayRecord", name, promise, give, rf"(?=.*a\.array_record).*({message})")


def two_shards(folder: Path) -> Any:
    write_entries(folder / "a.array_record", b"1", b"2")
    write_entries(folder / "b.array_record", b"3")
    return [record["raw"] for record in read(folder, field="raw")]


def replaced(folder: Path) -> Any:
    """Other entries at the path of an open file."""
    write_entries(folder / "a.array_record", b"1", b"2")
    reader = data.ArrayRecord(str(folder), field="raw").open()
    write_entries(folder / "a.array_record", b"3", b"4")
    return reader[0]


def fifo(folder: Path) -> Any:
    os.mkfifo(folder / "a.array_record")
    return read(folder)


KEY = "a.array_record[0]"
array_records = (
    entries(
        "a packed map",
        "right",
        (data.pack({"t": "ü", "n": 1, "x": [0.5, None], "b": b"\0"}),),
        [{"__key__": KEY, "t": "ü", "n": 1, "x": [0.5, None], "b": b"\0"}],
    ),
    entries(
        "a packed record keeps its key",
        "right",
        (data.pack({"__key__": "7", "t": "a"}),),
        [{"__key__": "7", "t": "a"}],
    ),
    entries(
        "bytes",
        "right",
        (b"\xff\xd8", b""),
        [{"__key__": KEY, "jpg": b"\xff\xd8"}, {"__key__": "a.array_record[1]", "jpg": b""}],
        field="jpg",
    ),
    entries("an empty entry", "skipped", (b"",), "expected a packed map"),
    entries("an encoded image without `field`", "skipped", (b"\xff\xd8\xff\xe0" * 9,), "packed map"),
    entries("JSON", "skipped", (b'{"text": "a"}',), "packed map"),
    entries("a packed list", "skipped", (b"\x93\1\2\3",), "found a list"),
    entries("half a map", "skipped", (data.pack({"text": "a" * 99})[:50],), "packed map"),
    entries("a map that claims 4 billion keys", "skipped", (b"\xdf\xff\xff\xff\xff\xa1a\1",), "packed map"),
    entries("a text of 4 GB by its header", "skipped", (b"\x81\xa1a\xdb\xff\xff\xff\xffabc",), "packed map"),
    entries("keys that are numbers", "skipped", (b"\x81\1\2",), "packed map"),
    entries("keys that are lists", "skipped", (b"\x81\x91\1\2",), "packed map"),
    entries("100,000 brackets", "skipped", (b"\x81\xa1a" + b"\x91" * 100_000 + b"\1",), "packed map"),
    entries("text that is not UTF-8", "skipped", (b"\x81\xa1a\xa1\xff",), "packed map"),
    entries("no entry", "refused", (), "expected entries in .*a.array_record"),
    damaged("empty", lambda content: b"", "refused", "empty"),
    damaged(
        "its first half",
        lambda content: content[: len(content) // 2],
        "refused",
        "expected an ArrayRecord file",
    ),
    damaged(
        "without its last bytes", lambda content: content[:-100], "refused", "expected an ArrayRecord file"
    ),
    damaged(
        "bytes after its end", lambda content: content + b"x" * 99, "refused", "expected an ArrayRecord file"
    ),
    damaged("zeros", lambda content: bytes(len(content)), "refused", "expected an ArrayRecord file"),
    damaged("text", lambda content: b"not an ArrayRecord " * 5000, "refused", "expected an ArrayRecord file"),
    damaged("a short text", lambda content: b"not an ArrayRecord", "refused", "expected an ArrayRecord file"),
    damaged(
        "a byte of one chunk",
        lambda content: content[:1500] + b"??" + content[1502:],
        "skipped",
        "found a damaged one",
    ),
    Case("ArrayRecord", "two shards in a folder", "right", two_shards, expected=[b"1", b"2", b"3"]),
    Case("ArrayRecord", "replaced while open", "refused", replaced, "has changed"),
    Case("ArrayRecord", "a FIFO", "refused", fifo, "regular file.*a FIFO"),
)


def field(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer."""
    size, length = b"", len(content)
    while length > 127:
        size, length = size + bytes([length & 127 | 128]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + content


def example(text: bytes) -> bytes:
    """A tf.train.Example {"text": text}."""
    value = field(1, field(1, text))  # Feature{bytes_list{value}}
    return field(1, field(1, field(1, b"text") + field(2, value)))  # Example{features{feature{key, value}}}


def write_dataset(folder: Path, info: dict[str, Any] | None = None, features: Any = None) -> None:
    """A prepared dataset of the texts "eins", "zwei", "drei"."""
    shard = folder / "tiny-train.array_record-00000-of-00001"
    write_entries(shard, *map(example, (b"eins", b"zwei", b"drei")))
    split = {
        "name": "train",
        "numBytes": "9",
        "shardLengths": ["3"],
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    }
    known = {"name": "tiny", "version": "1.0.0", "fileFormat": "array_record", "splits": [split]} | (
        info or {}
    )
    (folder / "dataset_info.json").write_text(json.dumps(known))
    (folder / "features.json").write_text(json.dumps(TEXT if features is None else features))


def named(class_name: str, **content: Any) -> dict[str, Any]:
    return {"pythonClassName": f"{FEATURES}.{class_name}"} | content


TEXT = named(
    "features_dict.FeaturesDict", featuresDict={"features": {"text": named("text_feature.Text", text={})}}
)


def texts(folder: Path, **options: Any) -> list[str]:
    reader = data.Tfds(str(folder), **options).open()
    return [lookup_text(reader[index], "text") for index in range(len(reader))]


def dataset(
    name: str,
    message: str,
    *,
    change: Callable[[Path], object] = lambda folder: None,
    info: dict[str, Any] | None = None,
    features: Any = None,
    promise: str = "refused",
    **options: Any,
) -> Case:
    """A prepared dataset that was changed."""

    def give(folder: Path) -> Any:
        write_dataset(folder, info, features)
        change(folder)
        try:
            return texts(folder, **options)
        finally:
            assert "mmjax_corpus_module" not in sys.modules, "features.json has run code"

    return Case("tfds", name, promise, give, message)


def right(name: str, expected: list[str], **options: Any) -> Case:
    def give(folder: Path) -> Any:
        write_dataset(folder)
        return texts(folder, **options)

    return Case("tfds", name, "right", give, expected=expected)


def overwrite(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


def shard_of(*content: bytes) -> Callable[[Path], object]:
    return lambda folder: write_entries(folder / "tiny-train.array_record-00000-of-00001", *content)


def shard_bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        shard = folder / "tiny-train.array_record-00000-of-00001"
        shard.write_bytes(change(shard.read_bytes()))

    return spoil


def of_class(name: str, class_name: str, wrap: Callable[[dict[str, Any]], Any]) -> Case:
    """features.json names a module beside it."""

    def give(folder: Path) -> Any:
        write_dataset(folder, features=wrap({"pythonClassName": class_name}))
        (folder / "mmjax_corpus_module.py").write_text("raise SystemExit('this must not run')")
        sys.path.insert(0, str(folder))
        try:
            return texts(folder)
        finally:
            sys.path.remove(str(folder))

    return Case(
        "tfds", name, "refused", give, "features of tensorflow_datasets in .*features.json.*other code"
    )


FOREIGN = "mmjax_corpus_module.Feature"
prepared = (
    right("a split", ["eins", "zwei", "drei"]),
    right("a slice", ["zwei", "drei"], split="train[1:]"),
    right("a third", ["eins"], split="train[:34%]"),
    right("all splits", ["eins", "zwei", "drei"], split="all"),
    of_class("a class of another module", FOREIGN, lambda feature: feature),
    of_class(
        "a class of another module, within",
        FOREIGN,
        lambda feature: named("features_dict.FeaturesDict", featuresDict={"features": {"text": feature}}),
    ),
    of_class(
        "a class in the first form of features.json",
        FOREIGN,
        lambda feature: {"type": FOREIGN, "content": "{}"},
    ),
    of_class("a class in snake case", FOREIGN, lambda feature: {"python_class_name": FOREIGN, "text": {}}),
    of_class(
        "a class in JSON within JSON",
        FOREIGN,
        lambda feature: named(
            "sequence_feature.Sequence", jsonFeature={"json": json.dumps({"feature": {"type": FOREIGN}})}
        ),
    ),
    of_class(
        "a module of tfds with a path within",
        FOREIGN,
        lambda feature: {"pythonClassName": f"{FEATURES}.a.b.c.Feature"},
    ),
    of_class("a class of os", FOREIGN, lambda feature: {"pythonClassName": "os.path"}),
    dataset("an unknown class of tfds", "expected a prepared dataset", features=named("no_such.Feature")),
    dataset(
        "no features.json",
        "features of a prepared dataset.*No such file",
        change=lambda f: (f / "features.json").unlink(),
    ),
    dataset(
        "half of features.json", "features.json: ", change=overwrite("features.json", '{"pythonClassName": ')
    ),
    dataset("a list in features.json", "expected a prepared dataset", features=[1]),
    dataset(
        "100,000 brackets in features.json", "features.json", change=overwrite("features.json", "[" * 100_000)
    ),
    dataset(
        "9 MB of features.json",
        "at most 8388608 bytes in .*features.json",
        change=overwrite("features.json", " " * 9_000_000),
    ),
    dataset(
        "half of dataset_info.json",
        "expected a prepared dataset",
        change=overwrite("dataset_info.json", '{"name": '),
    ),
    dataset(
        "a list in dataset_info.json",
        "expected a prepared dataset",
        change=overwrite("dataset_info.json", "[1]"),
    ),
    dataset("an unknown field of dataset_info.json", "expected a prepared dataset", info={"colour": "red"}),
    dataset("no version", "expected a prepared dataset", info={"version": "newest"}),
    dataset("no splits", r"one of the splits \[\]", info={"splits": []}),
    dataset(
        "an unknown file format", "expected a prepared dataset|ArrayRecord", info={"fileFormat": "paper"}
    ),
    dataset("tfrecord", "as ArrayRecord", info={"fileFormat": "tfrecord"}),
    dataset("an unknown split", r"one of the splits \['train'\].*found 'test'", split="test"),
    dataset("a slice that is none", "split", split="train[a:b]"),
    dataset("an empty slice", "found none", split="train[3:3]"),
    dataset(
        "no shard",
        "expected the shard tiny-train.array_record-00000-of-00001.*found none",
        change=lambda f: (f / "tiny-train.array_record-00000-of-00001").unlink(),
    ),
    dataset(
        "half a shard",
        "expected ArrayRecord files",
        change=shard_bytes(lambda content: content[: len(content) // 2]),
    ),
    dataset("an empty shard", "ArrayRecord files", change=shard_bytes(lambda content: b"")),
    dataset(
        "a shard of fewer examples",
        "expected 3 examples.*found 2",
        change=shard_of(example(b"eins"), example(b"zwei")),
    ),
    dataset(
        "a shard of more examples",
        "expected 3 examples.*found 4",
        change=shard_of(*map(example, (b"a", b"b", b"c", b"d"))),
    ),
    dataset("a damaged example", "can decode", change=shard_of(b"\xff" * 30, b"", b""), promise="skipped"),
    dataset(
        "an example without its feature", "can decode|text", change=shard_of(b"", b"", b""), promise="skipped"
    ),
    Case("tfds", "the folder above", "refused", lambda folder: texts(folder), "no dataset_info.json"),
    Case(
        "tfds",
        "a bucket",
        "refused",
        lambda folder: data.Tfds("gs://bucket/tiny/1.0.0").open(),
        "gs:// is not read here",
    ),
    Case(
        "tfds",
        "a name of 300 characters",
        "refused",
        lambda folder: texts(folder / ("a" * 300)),
        "expected a folder",
    ),
)

CASES: tuple[Case, ...] = (*array_records, *prepared)
