"""DINOv2 in ONNX files: its outputs, resized positions, and damaged files."""

import shutil
import struct
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.batch import Image
from mmjax.errors import InputError
from mmjax.interop import load_pretrained, save_pretrained
from mmjax.interop.onnx import read_graph
from mmjax.interop.resize import bicubic, resize_positions

REFERENCES = Path(__file__).parent / "references"
ONNX = REFERENCES / "dinov2_onnx" / "model.onnx"


def outputs(name: str) -> dict[str, np.ndarray]:
    with np.load(REFERENCES / name / "outputs.npz") as file:
        return dict(file)


@pytest.mark.parametrize("size", ["3x4", "5x7", "10x14", "16x9", "1x2"])
def test_bicubic_is_that_of_torch(size):
    arrays = outputs("bicubic")
    height, width = map(int, size.split("x"))
    found = bicubic(arrays["in/x"], height, width)
    np.testing.assert_allclose(found, arrays[f"out/{size}"], atol=1e-5)


@pytest.mark.parametrize("name", ["dinov2_onnx", "dinov2_onnx_old"])
def test_the_onnx_model_gives_its_outputs_for_images_of_another_size(name):
    """As transformers 5 names and writes its attention, and as transformers 4 does."""
    expected = outputs(name)
    encoder, params = load_pretrained(REFERENCES / name / "model.onnx", image_size=20)
    pixels = jnp.asarray(expected["in/pixels"])
    found = encoder.apply({"params": params}, Image(pixels=pixels, mask=jnp.ones(len(pixels), bool)))
    np.testing.assert_allclose(found.embeddings, expected["out/hidden"], atol=1e-5)
    assert encoder.trunk.layer_scale is not None and encoder.trunk.num_heads == 2


def test_the_onnx_model_can_be_written_as_a_folder(tmp_path):
    encoder, params = load_pretrained(ONNX)
    config = save_pretrained(tmp_path, encoder, params)
    assert config["model_type"] == "dinov2" and config["image_size"] == 12
    again, same = load_pretrained(tmp_path)
    assert again == encoder
    np.testing.assert_array_equal(same["positions"]["table"], params["positions"]["table"])


@pytest.mark.parametrize("name", ["vit", "deit", "dinov2", "dinov2_giant"])
def test_positions_of_other_models_are_resized(name):
    encoder, params = load_pretrained(REFERENCES / name, image_size=20)
    _, original = load_pretrained(REFERENCES / name)
    num_first = encoder.num_class_tokens
    table = resize_positions(original["positions"]["table"], num_first, (5, 5))
    np.testing.assert_array_equal(params["positions"]["table"], table)
    np.testing.assert_array_equal(table[:num_first], original["positions"]["table"][:num_first])
    assert table.shape[0] == num_first + 25


def test_clip_reads_images_of_another_size():
    _, params = load_pretrained(REFERENCES / "clip", image_size=8)
    assert params["encoders_image"]["positions"]["table"].shape[0] == 1 + 4


@pytest.mark.parametrize(
    "name, size, message",
    [
        ("vit", 13, "does not divide into patches"),
        ("vit", 0, "image_size from 1 to"),
        ("vit", 2**20, "image_size from 1 to"),
        ("bert", 12, "for models that read images"),
    ],
)
def test_refused_sizes(name, size, message):
    with pytest.raises(InputError, match=message):
        load_pretrained(REFERENCES / name, image_size=size)


def field(number: int, content: bytes | int) -> bytes:
    """One field of a protocol buffer."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    content = b""
    while value > 127:
        content, value = content + bytes([value & 127 | 128]), value >> 7
    return content + bytes([value])


def tensor(shape=(2, 3), kind=1, raw=bytes(24), name=b"a", more=b"") -> bytes:
    return b"".join(field(1, n) for n in shape) + field(2, kind) + field(8, name) + field(9, raw) + more


def graph(*tensors: bytes) -> bytes:
    return field(7, b"".join(field(5, each) for each in tensors))


def test_a_small_graph_is_read(tmp_path):
    values = struct.pack("<6f", *range(6))
    packed = field(1, varint(2) + varint(3)) + field(2, 1) + field(8, b"b") + field(9, values)
    (tmp_path / "a.onnx").write_bytes(graph(tensor(raw=values), packed))
    arrays = read_graph(tmp_path / "a.onnx").arrays
    for name in "ab":
        np.testing.assert_array_equal(arrays[name], np.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "found 0 graphs"),
        (graph() + graph(), "found 2 graphs"),
        (graph(), "found 0 arrays 'cls_token'"),
        (b"\xff" * 20, "a number without an end"),
        (b"\x0b", "wire type 3"),
        (varint(7 << 3 | 2) + varint(2**40), "a field of 1099511627776 bytes"),
        (field(7, 5), "found 0 graphs"),
        (field(7, field(5, 5)), "the number 5 in place of a message"),
        (field(7, field(1, field(3, b"x" * 5000))), "a name of 5000 bytes"),
        (graph(tensor(), tensor()), "the array 'a' twice"),
        (graph(tensor(shape=(2, 4))), r"24 raw bytes of the array 'a' of the shape \[2, 4\]"),
        (graph(tensor(shape=(2**63 - 1, 2**63 - 1))), "24 raw bytes"),
        (graph(tensor(shape=(2**63 - 1, 0), raw=b"")), "0 raw bytes"),
        (graph(tensor(shape=(1,) * 9)), "24 raw bytes"),
        (graph(tensor(kind=8)), "of the data type 8"),
        (graph(tensor(kind=2**70)), "a number without an end|data type"),
        (graph(tensor(more=field(14, 1))), "in another file"),
        (graph(tensor(more=field(13, field(1, b"location") + field(2, b"/etc/passwd")))), "in another file"),
    ],
)  # fmt: skip
def test_hostile_files(tmp_path, content, message):
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_pretrained(tmp_path / "a.onnx")


def test_too_many_fields(tmp_path, monkeypatch):
    monkeypatch.setattr("mmjax.interop.onnx.MAX_FIELDS", 100)
    (tmp_path / "a.onnx").write_bytes(field(1, 1) * 101)
    with pytest.raises(InputError, match="more than 100 fields"):
        load_pretrained(tmp_path / "a.onnx")


@pytest.mark.parametrize("size", [1, 100, 5_000, 30_000, -1])
def test_truncated_files(tmp_path, size):
    (tmp_path / "a.onnx").write_bytes(ONNX.read_bytes()[:size])
    with pytest.raises(InputError, match=r"expected .*a\.onnx"):
        load_pretrained(tmp_path / "a.onnx")


def test_damaged_bytes_never_end_in_another_error(tmp_path):
    """A byte of the file's structure is changed: the model is refused, or reads as some model."""
    content, rng = ONNX.read_bytes(), np.random.default_rng(0)
    file = tmp_path / "a.onnx"
    for place in rng.integers(0, len(content), 40):
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.integers(8)
        file.write_bytes(damaged)
        try:
            read_graph(file)
            load_pretrained(file)
        except InputError:
            continue


def test_missing_files(tmp_path):
    with pytest.raises(InputError, match=r"expected weights in .*no\.onnx"):
        load_pretrained(tmp_path / "no.onnx")
    shutil.copytree(REFERENCES / "vit", tmp_path / "folder.onnx")
    load_pretrained(tmp_path / "folder.onnx")
