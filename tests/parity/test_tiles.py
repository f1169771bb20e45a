"""Contrastive losses in tiles equal the losses of the whole B x B matrix, which no device ever holds."""

import functools
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import sharding
from mmjax.analysis import hlo
from mmjax.analysis.collectives import find_collectives
from mmjax.objectives.contrastive import PairMask, info_nce, sigmoid_pairs
from mmjax.sharding import MeshShape

pytestmark = pytest.mark.once

LOSS, GRADIENT = 1e-6, 1e-6  # relative tolerances; of gradients, to the maximum of each array
WIDTH = 16


def load_benchmark():
    path = Path(__file__).parents[2] / "experiments" / "benchmarks" / "contrastive_memory.py"
    spec = importlib.util.spec_from_file_location("benchmark_contrastive_memory", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


benchmark = load_benchmark()


def dense_sigmoid(first, second, scale, pairs: PairMask):
    logits = scale * (first @ second.T) - 3.0
    valid = pairs.valid[:, None] & pairs.valid[None, :]
    is_equal = (pairs.checksums[:, None] == pairs.checksums[None, :]).all(-1)
    positive = (
        jnp.eye(len(first), dtype=bool) | is_equal & pairs.has_checksum[:, None] & pairs.has_checksum[None, :]
    )
    loss = -jax.nn.log_sigmoid(jnp.where(positive, logits, -logits))
    return jnp.where(valid, loss, 0).sum() / jnp.maximum(pairs.valid.sum(), 1)


def tiled_sigmoid(first, second, scale, pairs: PairMask, tile_size: int):
    return sigmoid_pairs(first, second, scale, -3.0, pairs, tile_size=tile_size)


LOSSES = {
    "info_nce": (benchmark.dense_info_nce, benchmark.tiled_info_nce),
    "smoothed": (
        functools.partial(benchmark.dense_info_nce, label_smoothing=0.1),
        functools.partial(benchmark.tiled_info_nce, label_smoothing=0.1),
    ),
    "sigmoid": (dense_sigmoid, tiled_sigmoid),
}


def problem(batch: int) -> tuple:
    """Every fifth pair is missing, checksums repeat, and some are missing."""
    rng = np.random.default_rng(batch)
    sides = [rng.normal(size=(batch, WIDTH)).astype(np.float32) for _ in range(2)]
    sides = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in sides]
    checksums = np.repeat(rng.integers(0, batch // 2, (batch, 1)), 2, axis=1).astype(np.uint32)
    pairs = PairMask(np.arange(batch) % 5 != 3, checksums, rng.random(batch) < 0.8)
    return *sides, np.float32(20.0), pairs


def gradient(loss):
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))


def assert_equal(found, expected):
    np.testing.assert_allclose(found[0], expected[0], rtol=LOSS)
    for a, b in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=GRADIENT * np.abs(b).max())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("batch, tile_size", [(40, 64), (40, 8), (37, 8), (37, 36)], ids=str)
def test_tiles_equal_the_whole_matrix(name, batch, tile_size):
    """One tile, tiles that divide the batch, and tiles that do not."""
    dense, tiled = LOSSES[name]
    arguments = problem(batch)
    assert_equal(
        gradient(functools.partial(tiled, tile_size=tile_size))(*arguments), gradient(dense)(*arguments)
    )


MESHES = {
    "1-D": (MeshShape(data=8), sharding.REPLICATED),
    "2-D": (MeshShape(data=2, fsdp=4), sharding.FSDP),
    "beside tensor": (MeshShape(data=2, fsdp=2, tensor=2), sharding.FSDP_TENSOR),
}


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", LOSSES)
def test_a_ring_of_devices_equals_the_whole_matrix(name, mesh):
    (shape, rules), (dense, tiled) = MESHES[mesh], LOSSES[name]
    arguments = problem(80)  # 10 or 20 per device: the last tile of four rows is padded
    device_mesh = shape.make()
    with sharding.using(device_mesh, rules):
        rows = sharding.batch_sharding(device_mesh, rules)
        placed = [jax.device_put(x, rows) if np.ndim(x) else x for x in arguments[:3]]
        placed.append(jax.device_put(arguments[3], rows))
        found = gradient(functools.partial(tiled, tile_size=4))(*placed)
    assert_equal(found, gradient(dense)(*arguments))


@pytest.mark.parametrize("devices", [1, 8])
def test_no_large_array_and_no_all_gather(devices):
    """Reads all arrays of the compiled gradient. The whole matrix would be 16 times the limit."""
    batch, width, tile_size = 1024, 32, 64
    mesh = MeshShape().make(jax.devices()[:devices])
    loss = functools.partial(benchmark.tiled_info_nce, tile_size=tile_size)
    program = hlo.parse(benchmark.compile_gradient(loss, batch, width, mesh).as_text())
    limit = max(batch // devices * width, tile_size * tile_size)
    sizes = [
        (np.prod(array.shape), array, instruction.source)
        for computation in program.computations.values()
        for instruction in computation.instructions
        for array in instruction.arrays
    ]
    assert max(sizes, key=lambda found: found[0])[0] <= 2 * limit, max(sizes, key=lambda found: found[0])
    found = find_collectives(program, mesh.shape)
    assert all(one.kind != "all-gather" for one in found)
    permutes = [one for one in found if one.kind == "collective-permute"]
    assert {one.count for one in permutes} == ({8} if devices == 8 else set())
    assert all(one.num_bytes <= 4 for one in found if one.kind == "all-reduce")
    dense = benchmark.compile_gradient(benchmark.dense_info_nce, batch, width, mesh).as_text()
    assert f"[{batch // devices},{batch}]" in dense  # the search finds such an array


def test_memory_is_linear_in_the_batch_size():
    mesh = MeshShape().make(jax.devices()[:1])
    loss = functools.partial(benchmark.tiled_info_nce, tile_size=64)
    small, large = (
        benchmark.temporary_mib(benchmark.compile_gradient(loss, b, 32, mesh)) for b in (4096, 16_384)
    )
    assert large < 4.5 * small


def test_accuracy_does_not_depend_on_the_tile_size():
    first, second, scale, pairs = jax.tree.map(jnp.asarray, problem(37))
    whole = info_nce(first, second, scale, pairs, tile_size=64)[1]
    assert 0 < whole < 1
    np.testing.assert_allclose(info_nce(first, second, scale, pairs, tile_size=8)[1], whole, rtol=1e-6)
