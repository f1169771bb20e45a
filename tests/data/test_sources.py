"""Sources: the records read, and the errors for invalid data."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from mmjax import data
from mmjax.data.sources.base import threadsafe_cache
from mmjax.errors import InputError


def open_error(source) -> str:
    """The message of the InputError that opening raises."""
    with pytest.raises(InputError) as caught:
        source.open()
    return str(caught.value)


def sample_tar(make, name="shard.tar"):
    return make.tar(
        {
            "README": b"not in a sample",
            "a/1.noto.png": b"P1",
            "a/1.json": b'{"names": {"de": "eins"}}',
            "a/2.noto.png": b"P2",
            "a/._2.png": b"written by another system",
        },
        name,
    )


def test_webdataset_groups_members_by_key_and_reads_on_demand(make):
    reader = data.WebDataset(sample_tar(make)).open()
    assert [reader[i]["__key__"] for i in range(len(reader))] == ["a/1", "a/2"]
    assert list(reader[0]) == ["__key__", "noto.png", "json"] and reader[1]["noto.png"] == b"P2"
    assert data.lookup(reader[0], "json.names.de") == "eins"


def test_webdataset_reads_a_folder_a_glob_and_a_tuple(make):
    first, second = sample_tar(make, "1.tar"), sample_tar(make, "2.tar")
    folder = os.path.dirname(first)
    for path in (folder, f"{folder}/*.tar", (first, second)):
        assert len(data.WebDataset(path).open()) == 4


def test_webdataset_index_is_cached_next_to_the_shard_and_renewed_when_it_changes(make):
    path = sample_tar(make)
    data.WebDataset(path).open()
    sidecar = f"{path}.index.json"
    index = json.loads(Path(sidecar).read_text().splitlines()[0])
    assert index["size"] == os.path.getsize(path)
    make.tar({"z.txt": b"z"})  # another file at the same path
    assert data.WebDataset(path).open()[0]["__key__"] == "z"
    Path(sidecar).write_text("{damaged")
    os.utime(path)
    assert data.WebDataset(path).open()[0]["txt"] == b"z"


def test_webdataset_index_goes_to_the_user_cache_when_the_folder_is_read_only(make, tmp_path):
    path = sample_tar(make)
    os.chmod(make.folder, 0o555)
    try:
        assert len(data.WebDataset(path).open()) == 2
        assert not os.path.exists(f"{path}.index.json")
        assert [f.name.startswith("shard.tar.") for f in (tmp_path / "cache" / "mmjax").iterdir()] == [True]
    finally:
        os.chmod(make.folder, 0o755)


def test_webdataset_works_if_no_folder_is_writable(make, tmp_path):
    (tmp_path / "cache").write_text("a file at the path of the cache folder")
    path = sample_tar(make)
    os.chmod(make.folder, 0o555)
    try:
        assert len(data.WebDataset(path).open()) == 2
    finally:
        os.chmod(make.folder, 0o755)


@pytest.mark.parametrize("name", ["/etc/1.txt", "../1.txt", "a/../../1.txt", "a\\..\\1.txt"])
def test_webdataset_refuses_names_that_leave_the_archive(make, name):
    message = open_error(data.WebDataset(make.tar({"a/1.txt": b"x", name: b"y"})))
    assert f"expected names inside the archive, found {name!r}" in message


@pytest.mark.parametrize(
    "size", [700, 1024, 1500, 2048, 2100]
)  # within data, after a member, within a header, ...
def test_webdataset_refuses_a_truncated_tar(make, size):
    path = make.tar({"1.txt": b"x" * 300, "2.txt": b"y" * 600})
    with open(path, "rb+") as file:
        file.truncate(size)
    message = open_error(data.WebDataset(path))
    assert re.search(rf"found {path} truncated or damaged: .* byte \d+ of {size}\. Fetch it again", message)


def test_webdataset_refuses_a_damaged_header(make):
    path = make.tar({"1.txt": b"x" * 300, "2.txt": b"y" * 600})
    with open(path, "rb+") as file:
        file.seek(1024)
        file.write(b"?" * 512)
    assert "truncated or damaged: invalid header at byte 1024" in open_error(data.WebDataset(path))


def test_webdataset_refuses_a_compressed_tar(make):
    (make.folder / "x.tar").write_bytes(b"\x1f\x8b" + bytes(2000))
    assert "expected a plain, uncompressed tar file" in open_error(
        data.WebDataset(str(make.folder / "x.tar"))
    )


def test_webdataset_refuses_a_duplicate_field(make):
    path = make.folder / "twice.tar"
    both = [Path(make.tar({"1.txt": text}, f"{text[0]}.tar")).read_bytes()[:1024] for text in (b"x", b"y")]
    path.write_bytes(b"".join(both) + bytes(1024))
    assert "expected one 'txt' per sample, found '1.txt' twice" in open_error(data.WebDataset(str(path)))


def test_webdataset_detects_truncation_after_opening(make):
    path = make.tar({"1.txt": b"x" * 300})
    reader = data.WebDataset(path).open()
    with open(path, "rb+") as file:
        file.truncate(600)
    with pytest.raises(InputError, match="10240 bytes.*has changed .600 bytes"):
        reader[0]["txt"]


@pytest.mark.parametrize("source", [data.WebDataset, data.Jsonl, data.Npz, data.ArrayRecord])
def test_error_for_missing_files_ends_with_the_hint(make, source):
    missing = str(make.folder / "no" / "such")
    message = open_error(source(missing, hint="Set MMJAX_DATA."))
    assert f"expected data at {missing}" in message and message.endswith("Set MMJAX_DATA.")
    assert f"{make.folder} exists" in message
    suffix = {"WebDataset": ".tar", "Jsonl": ".jsonl", "Npz": ".npz", "ArrayRecord": ".array_record"}[
        source.__name__
    ]
    assert f"expected files *{suffix} in the folder {make.folder}" in open_error(source(str(make.folder)))
    assert "expected files that match" in open_error(source(str(make.folder / "*.none")))


def test_constructing_a_source_accesses_no_files():
    source = data.ConsecutiveSentences(data.Jsonl("/no/where"))
    assert dataclasses.replace(source, source=data.Jsonl("/else/where")).source.path == "/else/where"


def test_sources_of_the_same_files_share_a_reader(make):
    path = sample_tar(make)
    assert data.WebDataset(path).open() is data.WebDataset(path, hint="any").open()


def test_threadsafe_cache_calls_once_from_several_threads():
    calls, barrier = [], threading.Barrier(4)

    @threadsafe_cache
    def slow(name):
        calls.append(name)
        threading.Event().wait(0.05)
        return object()

    def race():
        barrier.wait()
        slow("a")

    threads = [threading.Thread(target=race) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert calls == ["a"]


def test_invalid_jsonl_lines_are_bad_examples(make):
    lines = [{"text": "eins"}, b"", b'{"text": "\xff"}', b"{broken", b"[1]", {"text": "zwei"}]
    reader = data.Jsonl(make.jsonl(lines)).open()
    assert len(reader) == 5
    assert reader[0] == {"text": "eins", "__key__": "lines.jsonl:1"} and reader[4]["text"] == "zwei"
    reasons = []
    for index in (1, 2, 3):
        with pytest.raises(data.BadExample) as caught:
            reader[index]
        reasons.append(str(caught.value))
    assert reasons[0].startswith("lines.jsonl:3: expected UTF-8, found the byte 0xff at 10")
    assert reasons[1].startswith("lines.jsonl:4: expected JSON, found b'{broken'")
    assert reasons[2] == "lines.jsonl:5: expected a JSON object, found a list: b'[1]'"


def test_arrays_and_npz_read_rows(make):
    arrays = {"image": np.zeros((3, 2, 2), np.uint8), "label": np.arange(3)}
    np.savez(make.folder / "a.npz", **arrays)
    path = str(make.folder / "a.npz")
    for source in (data.Arrays(arrays), data.Npz(path)):
        reader = source.open()
        assert len(reader) == 3 and reader[2]["label"] == 2 and reader[2]["__key__"].endswith("[2]")
    assert set(data.Npz(path, fields=("label",)).open()[0]) == {"__key__", "label"}
    assert "expected the arrays ['none']" in open_error(data.Npz(path, fields=("none",)))
    assert "found the lengths {'a': 1, 'b': 2}" in open_error(data.Arrays({"a": [1], "b": [1, 2]}))
    assert "expected at least one array" in open_error(data.Arrays({}))


def test_npz_refuses_pickled_objects_and_truncated_files(make):
    np.savez(make.folder / "p.npz", x=np.array([{"a": 1}], dtype=object))
    assert "expected an .npz file of plain arrays" in open_error(data.Npz(str(make.folder / "p.npz")))
    (make.folder / "cut.npz").write_bytes(b"PK\x03\x04 truncated")
    assert "expected an .npz file of plain arrays" in open_error(data.Npz(str(make.folder / "cut.npz")))


def test_consecutive_sentences_pairs_sentences_within_a_document(make):
    documents = [
        {"sentences": [{"text": t} for t in "abc"]},
        {"sentences": [{"text": "d"}]},
        {"other": 1},
        {"sentences": [{"text": "e"}, {"none": 1}]},
    ]
    reader = data.ConsecutiveSentences(data.Jsonl(make.jsonl(documents))).open()
    assert len(reader) == 4
    assert reader[1] == {"__key__": "lines.jsonl:1#1", "first": "b", "second": "c"}
    with pytest.raises(
        data.BadExample, match=r"lines.jsonl:3: expected the field 'sentences', found only \['other'\]"
    ):
        reader[2]
    with pytest.raises(
        data.BadExample, match=r"lines.jsonl:4#0: expected 'text' .* found the keys \['none'\]"
    ):
        reader[3]
    plain = data.Jsonl(make.jsonl([{"s": ["x", "y"]}], "plain.jsonl"))
    assert data.ConsecutiveSentences(plain, sentences="s", text="").open()[0]["second"] == "y"
    single = data.Jsonl(make.jsonl([{"sentences": ["x"]}], "single.jsonl"))
    assert "expected documents of two or more sentences" in open_error(data.ConsecutiveSentences(single))


def test_array_record_reads_packed_maps_or_bytes(make):
    writer = pytest.importorskip("array_record.python.array_record_module").ArrayRecordWriter
    path = str(make.folder / "x.array_record")
    file = writer(path, "group_size:1")
    file.write(data.pack({"png": b"P", "text": "eins", "n": 1}))
    file.write(b"\xc1 not msgpack")
    file.write(b"\x01")
    file.close()
    reader = data.ArrayRecord(path).open()
    assert reader[0] == {"__key__": "x.array_record[0]", "png": b"P", "text": "eins", "n": 1}
    with pytest.raises(data.BadExample, match="expected a packed map, found b"):
        reader[1]
    with pytest.raises(data.BadExample, match="expected a packed map, found a int"):
        reader[2]
    assert data.ArrayRecord(path, field="raw").open()[2]["raw"] == b"\x01"
    (make.folder / "no.array_record").write_bytes(b"not an ArrayRecord")
    assert "expected an ArrayRecord file" in open_error(
        data.ArrayRecord(str(make.folder / "no.array_record"))
    )


def test_tfds_needs_a_prepared_folder(make):
    message = open_error(data.Tfds(str(make.folder)))
    assert f"expected a prepared dataset in {make.folder}, found no dataset_info.json" in message


PREPARE = """
import io, sys
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from mmjax import data
from mmjax.errors import InputError

def png(grey):
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), grey, np.uint8)).save(file, "PNG")
    file.seek(0)
    return file

class Tiny(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    def _info(self):
        features = {"image": tfds.features.Image(shape=(4, 4, 3)), "text": tfds.features.Text()}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))
    def _split_generators(self, manager):
        return {"train": self._generate_examples()}
    def _generate_examples(self):
        yield from ((i, {"image": png(i), "text": f"number {i}"}) for i in range(3))

builder = Tiny(data_dir=sys.argv[1], file_format="array_record")
builder.download_and_prepare()
reader = data.Tfds(str(builder.data_dir), split="train[:2]").open()
identity = reader.identity()
[(file, size)] = identity["files"].items()
assert file.startswith("tiny-train.array_record") and size > 100, identity
assert identity["records"] == 2 and identity["split"] == "tiny/train[:2]", identity
assert len(data.Tfds(str(builder.data_dir), split="all").open()) == 3
texts = {data.lookup(reader[i], "text").decode() for i in range(len(reader))}
assert len(texts) == len(reader) == 2 and reader[0]["__key__"] == "tiny/train[:2][0]", texts
assert data.ImageTransform("image", (2, 2)).decode(reader[1])[0].shape == (2, 2, 3)
try:
    data.Tfds(str(builder.data_dir), split="none").open()
except InputError as error:
    assert "expected one of the splits ['train']" in str(error), error
else:
    raise AssertionError("expected an InputError")
"""


def test_tfds_is_read_without_tensorflow(make, tmp_path):
    script = tmp_path / "prepare.py"
    script.write_text(PREPARE)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    run = [sys.executable, str(script), str(tmp_path / "tfds")]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_lookup_errors_list_the_available_fields_and_keys():
    record = {"__key__": "k", "json": b'{"a": {"b": null, "c": [5]}}', "noto.png": b"P"}
    assert (
        data.lookup(record | {"noto": b"{}"}, "noto.png") == b"P" and data.lookup(record, "json.a.c.0") == 5
    )
    for path, message in {
        "jpg": r"k: expected the field 'jpg', found only \['json', 'noto.png'\]",
        "json.a.x": r"k: expected 'x' of 'json.a.x' in 'json.a', found the keys \['b', 'c'\]",
        "json.a.b": "k: expected a value at 'json.a.b', found null",
        "json.a.c.9": "found a list",
    }.items():
        with pytest.raises(data.MissingField, match=message):
            data.lookup(record, path)
    with pytest.raises(data.BadExample, match="k: expected JSON in 'json', found b'{'"):
        data.lookup({"__key__": "k", "json": b"{"}, "json.a")
    with pytest.raises(data.BadExample, match="k: expected UTF-8 in 'json', found the byte 0xff at 1"):
        data.lookup({"__key__": "k", "json": b'"\xff"'}, "json")


def test_with_path_replaces_the_path_of_the_source(make):
    first, second = sample_tar(make, "1.tar"), make.tar({"z.txt": b"z"}, "2.tar")
    dataset = data.Dataset(data.WebDataset(first), {"label": data.LabelTransform("txt")})
    assert data.with_path(dataset, second).source == data.WebDataset(second)
    wrapped = dataclasses.replace(dataset, source=data.ConsecutiveSentences(data.Jsonl(first)))
    assert data.with_path(wrapped, second).source.source.path == second
    with pytest.raises(
        InputError, match="expected a source that reads files, to read .* instead, found Arrays"
    ):
        data.with_path(dataclasses.replace(dataset, source=data.Arrays({"a": [1]})), second)


def test_shared_shards_have_the_number_of_samples_in_their_readme(shared_data, make):
    for name, size in {"avdigits": 300, "grid_s1": 89, "emoji_speech": 198}.items():
        assert len(data.WebDataset(str(shared_data / name / "test.tar")).open()) == size
    assert (
        len(data.ConsecutiveSentences(data.Jsonl(str(shared_data / "ud_ewt" / "val.jsonl"))).open())
        == 2001 - 318
    )


def test_identity_names_files_without_folders_and_counts_records(make, tmp_path):
    path = sample_tar(make)
    size = os.path.getsize(path)
    identity = data.WebDataset(path).open().identity()
    assert identity == {"files": {"shard.tar": size}, "records": 2}
    moved = tmp_path / "moved"
    moved.mkdir()
    os.rename(path, moved / "shard.tar")
    assert data.WebDataset(str(moved)).open().identity() == identity
    both = data.WebDataset((str(moved), sample_tar(make))).open().identity()
    assert both == {"files": {"shard.tar": size, "shard.tar (2)": size}, "records": 4}


def test_identity_of_every_reader(make):
    lines = data.Jsonl(make.jsonl([{"sentences": ["a", "b", "c"]}]))
    assert lines.open().identity() == {"files": {"lines.jsonl": 31}, "records": 1}
    pairs = data.ConsecutiveSentences(lines, text="").open().identity()
    assert pairs == {"documents": lines.open().identity(), "records": 2}
    np.savez(make.folder / "a.npz", x=np.arange(3))
    assert data.Npz(str(make.folder / "a.npz")).open().identity()["files"].keys() == {"a.npz"}
    arrays = {"image": np.zeros((3, 2, 2), np.uint8), "text": ["a", b"b", {"c": object()}]}
    identity = data.Arrays(arrays).open().identity()
    assert identity["records"] == 3 and identity["arrays"]["image"].startswith("uint8 (3, 2, 2) ")
    assert json.loads(json.dumps(identity)) == data.Arrays(arrays).open().identity() == identity
    other = arrays | {"image": arrays["image"] + np.uint8(1)}
    assert data.Arrays(other).open().identity() != identity


def test_identity_of_many_files_is_small(make):
    for number in range(101):
        make.tar({f"{number}.txt": b"x"}, f"{number}.tar")
    identity = data.WebDataset(str(make.folder)).open().identity()
    assert len(json.dumps(identity)) < 200 and identity["files"]["number"] == 101
