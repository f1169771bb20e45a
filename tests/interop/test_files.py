"""Files of weights that are damaged, hostile or of another kind are refused before anything is allocated."""

import json
import os
import pickle
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mmjax.errors import InputError
from mmjax.interop import load_pretrained

BERT = Path(__file__).parent / "references" / "bert"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of a good model."""
    for name in ("config.json", "model.safetensors"):
        shutil.copy(BERT / name, tmp_path)
        os.chmod(tmp_path / name, 0o644)
    return tmp_path


def with_header(folder: Path, header: dict | bytes, content: bytes = b"\0" * 64) -> None:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + content)


def entry(dtype="F32", shape=(4, 4), offsets=(0, 64)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    "header",
    [
        {"a": entry(offsets=(0, 128))},  # beyond the file
        {"a": entry(offsets=(0, 32))},  # fewer bytes than the shape needs
        {"a": entry(), "b": entry()},  # overlapping
        {"a": entry(offsets=(32, 96))},  # a hole before the first
        {"a": entry(shape=(2**40, 2**40))},  # a shape of more bytes than there are
        {"a": entry(shape=(-4, -4))},
        {"a": entry(dtype="OBJECT")},
        {"a": {"dtype": "F32"}},
        {"a": [1, 2]},
        b"[" * 5000,
        b"not json",
        b"\xff\xfe",
        b'{"a": 1',
    ],
)  # fmt: skip
def test_hostile_headers(folder, header):
    with_header(folder, header)
    with pytest.raises(InputError, match=r"model\.safetensors"):
        load_pretrained(folder)


@pytest.mark.parametrize("size", [0, 4, 8, 100, 5000])
def test_truncated_files(folder, size):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(InputError, match=r"expected a safetensors file, found .*model\.safetensors"):
        load_pretrained(folder)


def test_a_header_of_a_huge_size(folder):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(InputError, match="expected a safetensors file"):
        load_pretrained(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "flax_model.msgpack", "tf_model.h5"])
def test_pickled_weights_are_refused_with_the_conversion(folder, name):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps({"a": 1}))
    for path in (folder, folder / name):
        with pytest.raises(InputError, match=r"expected weights as safetensors.*torch\.save_file"):
            load_pretrained(path)


@pytest.mark.parametrize(
    "config, message",
    [
        ({"model_type": "unheard-of"}, "expected a model_type among .*'bert'.*found 'unheard-of'"),
        ({"model_type": ["bert"]}, "expected a model_type among"),
        ({}, "expected a model_type among .* found None"),
        ({"model_type": "bert"}, "expected a whole number 'hidden_size'"),
        ({"hidden_size": -16}, "expected a whole number 'hidden_size'.*found -16"),
        ({"hidden_size": 1e9}, "expected a whole number 'hidden_size'"),
        ({"hidden_size": True}, "expected a whole number 'hidden_size'"),
        ({"hidden_act": "exec"}, "expected 'hidden_act'.*found 'exec'"),
        ({"layer_norm_eps": "0"}, "expected a number 'layer_norm_eps'"),
        ({"num_hidden_layers": 3}, r"16 missing \(encoder\.layer\.2|16 missing \(bert\.encoder\.layer\.2"),
        ({"num_hidden_layers": 1}, r"0 missing \(none\) and 16 left over \(bert\.encoder\.layer\.1"),
        ({"num_attention_heads": 3}, "'bert.encoder.layer.0.attention.self.query.weight' of the form"),
    ],
)  # fmt: skip
def test_configurations_of_another_model(folder, config, message):
    file = folder / "config.json"
    whole = json.loads(file.read_text()) if len(config) == 1 and "model_type" not in config else {}
    file.write_text(json.dumps(whole | config))
    with pytest.raises(InputError, match=message):
        load_pretrained(folder)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\0", "[" * 100_000])
def test_configurations_that_are_none(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json"):
        load_pretrained(folder)


def test_arrays_of_another_shape(folder):
    arrays = load_file(folder / "model.safetensors")
    arrays["bert.embeddings.word_embeddings.weight"] = np.zeros((7, 16), np.float32)
    save_file(arrays, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"table.*\(50, 16\).*\(7, 16\)"):
        load_pretrained(folder)


def test_missing_files_pipes_and_indexes_that_point_elsewhere(folder, tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        load_pretrained(tmp_path / "nowhere")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))
    with pytest.raises(InputError, match="expected files beside"):
        load_pretrained(folder)
    index.write_text(json.dumps({"weight_map": [1]}))
    with pytest.raises(InputError, match="weight_map"):
        load_pretrained(folder)
    index.unlink()
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(InputError, match="expected a regular file"):
        load_pretrained(folder)
