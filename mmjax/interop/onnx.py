"""DINOv2 in an ONNX file, as PyTorch exports it: an own reader of the few fields that are needed.

ONNX files are protocol buffers (https://protobuf.dev/programming-guides/encoding) of the messages in
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. Only the file's structure is read: no operator runs.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mmjax.errors import InputError, excerpt

MAX_FIELDS = 2_000_000  # of one file
DTYPES: dict[int, Any] = {
    1: np.float32, 3: np.int8, 2: np.uint8, 6: np.int32, 7: np.int64, 9: np.bool_, 10: np.float16,
    11: np.float64, 16: ml_dtypes.bfloat16,
}  # fmt: skip
# Names within a layer, of transformers 5 in memory and of its files.
RENAMED = {
    ".attention.q_proj.": ".attention.attention.query.", ".attention.k_proj.": ".attention.attention.key.",
    ".attention.v_proj.": ".attention.attention.value.", ".attention.o_proj.": ".attention.output.dense.",
}  # fmt: skip
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


@dataclasses.dataclass
class Buffer:
    """The bytes of a file, mapped from the disk, and the number of fields that may still be read from it."""

    file: Path
    content: np.ndarray  # uint8
    left: int

    def refuse(self, found: str) -> InputError:
        """The error for bytes that are no ONNX."""
        return InputError(f"expected an ONNX model in {self.file}, found {found}")


@dataclasses.dataclass(frozen=True)
class Node:
    """One operation: its name, such as "/encoder/layer.0/mlp/fc1/MatMul", kind, and names of its inputs."""

    name: str
    kind: str
    inputs: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Graph:
    """The nodes of a model, its arrays by name, and the outputs of its nodes "Constant" by name."""

    nodes: tuple[Node, ...]
    arrays: Mapping[str, np.ndarray]
    constants: Mapping[str, np.ndarray]


def read_dinov2(file: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(config.json, {name: array}) as Hugging Face would write the same encoder; views of the file's bytes.

    PyTorch's export renames what is multiplied by a matrix, and computes constants in advance. Kernels are
    therefore found by the names of their MatMul nodes (and are [in, out]), and positions by their use.

    Raises:
      InputError: the file is damaged, or holds another model.
    """
    graph = read_graph(file)
    ends = [name for name in graph.arrays if name.endswith("embeddings.cls_token")]
    if len(ends) != 1:
        raise InputError(f"expected the encoder DINOv2 in {file}, found {len(ends)} arrays 'cls_token'")
    prefix = ends[0].removesuffix("embeddings.cls_token")
    arrays = {
        name.removeprefix(prefix): array for name, array in graph.arrays.items() if name.startswith(prefix)
    }
    for node in graph.nodes:
        path = node.name.removeprefix("/").removesuffix("/MatMul").replace("/", ".")
        if node.kind == "MatMul" and path.startswith(prefix):
            kernels = [graph.arrays[name] for name in node.inputs if name in graph.arrays]
            arrays |= {f"{path.removeprefix(prefix)}.weight": kernel.T for kernel in kernels}
    for ours, theirs in RENAMED.items():
        arrays = {name.replace(ours, theirs): array for name, array in arrays.items()}
    if "embeddings.position_embeddings" not in arrays:
        arrays["embeddings.position_embeddings"] = _positions(file, graph, prefix)
    return _config(file, graph, arrays, prefix), arrays


def _positions(file: Path, graph: Graph, prefix: str) -> np.ndarray:
    """The table "1 L D": the class token's position, which is concatenated, and those of the patches."""
    place = "/" + prefix.replace(".", "/") + "embeddings/"
    parts: dict[str, list[np.ndarray]] = {"Concat": [], "Reshape": []}
    for node in graph.nodes:
        if node.kind in parts and node.name.startswith(place):
            found = [graph.arrays[name] for name in node.inputs[:1] if name in graph.arrays]
            parts[node.kind] += [array for array in found if array.ndim == 3 and len(array) == 1]
    first, rest = parts["Concat"], parts["Reshape"]
    if len(first) != 1 or len(rest) != 1 or first[0].shape[-1] != rest[0].shape[-1]:
        raise InputError(
            f"expected positions of one class token and of patches in {file}, found arrays of the shapes "
            f"{[array.shape for array in (*first, *rest)]}"
        )
    return np.concatenate([first[0], rest[0]], axis=1)


def _config(file: Path, graph: Graph, arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, Any]:
    """The fields of DINOv2's config.json, from the shapes and the constants of the first layer."""
    layer = "/" + prefix.replace(".", "/") + "encoder/layer.0/"
    nodes = [node for node in graph.nodes if node.name.startswith(layer)]
    needed = ("embeddings.patch_embeddings.projection.weight", "encoder.layer.0.mlp.fc1.weight")
    patch, up = (arrays.get(name) for name in needed)
    if patch is None or patch.ndim != 4 or up is None or up.ndim != 2:
        raise InputError(f"expected the arrays {list(needed)} of DINOv2 in {file}, found no such two")
    if not any(node.kind == "Erf" for node in nodes):
        raise InputError(f"expected the activation GELU in {file}, found no node 'Erf' in the first layer")
    width, side = patch.shape[0], patch.shape[-1]
    grid = math.isqrt(arrays["embeddings.position_embeddings"].shape[1] - 1)
    layers = {name.split(".")[2] for name in arrays if name.startswith("encoder.layer.")}
    return {
        "model_type": "dinov2", "hidden_size": width, "patch_size": side, "image_size": grid * side,
        "num_hidden_layers": len(layers), "num_attention_heads": _num_heads(file, graph, nodes, width),
        "mlp_ratio": up.shape[0] // max(width, 1), "hidden_act": "gelu", "use_mask_token": False,
        "layer_norm_eps": _epsilon(file, graph, nodes), "qkv_bias": True,
    }  # fmt: skip


def _num_heads(file: Path, graph: Graph, nodes: list[Node], width: int) -> int:
    """H, from the shape (batch, length, H, K) or (batch, length, -1, K) that the queries are given."""
    for node in nodes:
        found = [graph.constants[name] for name in node.inputs[2:] if name in graph.constants]
        if node.kind == "Concat" and len(node.inputs) == 4 and [x.size for x in found] == [1, 1]:
            heads, size = (int(x.reshape(())) for x in found)
            if size > 0 and width % size == 0 and heads in (-1, width // size):
                return width // size
    raise InputError(f"expected a reshape to (batch, length, heads, width) in {file}, found none")


def _epsilon(file: Path, graph: Graph, nodes: list[Node]) -> float:
    """The epsilon of the first norm."""
    for node in nodes:
        if node.name.endswith("/norm1/Add") and node.kind == "Add" and len(node.inputs) == 2:
            value = graph.constants.get(node.inputs[1])
            if value is not None and value.size == 1:
                return float(f"{float(value.reshape(())):.6g}")  # 1e-06, not its nearest float32
    raise InputError(f"expected a layer norm of several nodes in {file}, found none: export it with opset 14")


def read_graph(file: Path) -> Graph:
    """The graph of an ONNX file. Raises InputError if it is damaged."""
    size = file.stat().st_size
    buffer = Buffer(file, np.memmap(file, np.uint8, mode="r") if size else np.zeros(0, np.uint8), MAX_FIELDS)
    graphs = [value for number, value in fields(buffer, 0, size) if number == 7 and isinstance(value, tuple)]
    if len(graphs) != 1:
        raise buffer.refuse(f"{len(graphs)} graphs")
    nodes, arrays, constants = [], {}, {}
    for number, value in fields(buffer, *graphs[0]):
        if number == 1:
            node, outputs, tensor = _node(buffer, _span(buffer, value))
            nodes.append(node)
            if node.kind == "Constant" and tensor is not None and outputs:
                constants[outputs[0]] = tensor
        elif number == 5:
            name, array = _tensor(buffer, _span(buffer, value))
            if name in arrays:
                raise buffer.refuse(f"the array {excerpt(name)} twice")
            arrays[name] = array
    return Graph(tuple(nodes), arrays, constants)


def _node(buffer: Buffer, span: tuple[int, int]) -> tuple[Node, list[str], np.ndarray | None]:
    """(node, names of its outputs, the value of a Constant)."""
    inputs, outputs, name, kind, tensor = [], [], "", "", None
    for number, value in fields(buffer, *span):
        if number == 1:
            inputs.append(_text(buffer, value))
        elif number == 2:
            outputs.append(_text(buffer, value))
        elif number == 3:
            name = _text(buffer, value)
        elif number == 4:
            kind = _text(buffer, value)
        elif number == 5 and kind in ("", "Constant"):
            for inner, attribute in fields(buffer, *_span(buffer, value)):
                if inner == 5:
                    tensor = _tensor(buffer, _span(buffer, attribute))[1]
    return Node(name, kind, tuple(inputs)), outputs, tensor


def _tensor(buffer: Buffer, span: tuple[int, int]) -> tuple[str, np.ndarray]:
    """(name, array), a view of the file's bytes."""
    shape, kind, name, raw = [], 0, "", None
    for number, value in fields(buffer, *span):
        if number == 1:  # one by one, or packed
            shape += [value] if isinstance(value, int) else _varints(buffer, value)
        elif number == 2:
            kind = value
        elif number == 8:
            name = _text(buffer, value)
        elif number == 9:
            raw = _span(buffer, value)
        elif number in (13, 14) and value:
            raise buffer.refuse(f"the array {excerpt(name)} in another file: save it within the model")
    if kind not in DTYPES:
        raise buffer.refuse(f"the array {excerpt(name)} of the data type {excerpt(kind)}")
    dtype = np.dtype(DTYPES[kind])
    start, end = raw or (0, 0)
    fits = len(shape) <= 8 and math.prod(shape) * dtype.itemsize == end - start
    if not fits or math.prod(max(n, 1) for n in shape) >= 2**40:
        raise buffer.refuse(f"{end - start} raw bytes of the array {excerpt(name)} of the shape {shape[:9]}")
    return name, buffer.content[start:end].view(dtype).reshape(shape)


def fields(buffer: Buffer, start: int, end: int) -> Iterator[tuple[int, int | tuple[int, int]]]:
    """(field number, value) of the message in these bytes: an int, or the (start, end) of bytes."""
    while start < end:
        buffer.left -= 1
        if buffer.left < 0:
            raise buffer.refuse(f"more than {MAX_FIELDS:,} fields")
        key, start = _varint(buffer, start, end)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, start = _varint(buffer, start, end)
            yield number, value
            continue
        if kind not in (FIXED64, BYTES, FIXED32):
            raise buffer.refuse(f"the wire type {kind} at byte {start}")
        length = {FIXED64: 8, FIXED32: 4}.get(kind)
        if length is None:
            length, start = _varint(buffer, start, end)
        if length > end - start:
            raise buffer.refuse(f"a field of {length} bytes at byte {start}, where {end - start} are left")
        yield number, (start, start + length)
        start += length


def _varint(buffer: Buffer, start: int, end: int) -> tuple[int, int]:
    """(value, where the next byte is)."""
    value = 0
    for i, byte in enumerate(buffer.content[start : min(end, start + 10)].tolist()):
        value |= (byte & 127) << (7 * i)
        if byte < 128:
            return value, start + i + 1
    raise buffer.refuse(f"a number without an end at byte {start}")


def _varints(buffer: Buffer, span: tuple[int, int]) -> list[int]:
    values, (start, end) = [], span
    while start < end and len(values) < 9:
        value, start = _varint(buffer, start, end)
        values.append(value)
    return values


def _span(buffer: Buffer, value: int | tuple[int, int]) -> tuple[int, int]:
    if isinstance(value, int):
        raise buffer.refuse(f"the number {value} in place of a message")
    return value


def _text(buffer: Buffer, value: int | tuple[int, int]) -> str:
    start, end = _span(buffer, value)
    if end - start > 4096:
        raise buffer.refuse(f"a name of {end - start} bytes")
    return bytes(buffer.content[start:end]).decode("utf-8", "replace")
