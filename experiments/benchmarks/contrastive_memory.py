"""Memory of a contrastive loss and its gradient by batch size: the dense B x B matrix against tiles.

    python experiments/benchmarks/contrastive_memory.py
    JAX_NUM_CPU_DEVICES=8 python experiments/benchmarks/contrastive_memory.py --devices 8
    python experiments/benchmarks/contrastive_memory.py --time

Memory is the temporary memory that XLA allocates per device, without embeddings and gradients
(`memory_analysis`). Programs are compiled and not run, so that sizes larger than any machine's memory can be
measured. `--time` runs both losses where both fit. Results: docs/contrastive.md.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import sharding
from mmjax.objectives.base import masked_mean
from mmjax.objectives.contrastive import TILE_SIZE, PairMask, info_nce
from mmjax.sharding import MeshShape

BATCHES = (1024, 4096, 16_384, 65_536, 262_144)
WIDTHS = (64, 512)
MIB = 2**20


def dense_info_nce(first, second, scale, pairs: PairMask, label_smoothing: float = 0.0):
    """InfoNCE with the whole B x B matrix: the reference for the tiled loss."""
    logits = scale * (first @ second.T)
    valid = pairs.valid[:, None] & pairs.valid[None, :]
    positive = jnp.eye(pairs.valid.shape[0], dtype=bool)
    if pairs.checksums is not None and pairs.has_checksum is not None:
        is_equal = (pairs.checksums[:, None] == pairs.checksums[None, :]).all(-1)
        positive |= is_equal & pairs.has_checksum[:, None] & pairs.has_checksum[None, :]
    positive &= valid
    losses = []
    for scores, positives in ((logits, positive), (logits.T, positive.T)):
        log_probability = jax.nn.log_softmax(jnp.where(valid, scores, -1e9), axis=1)
        target = positives / jnp.maximum(positives.sum(1, keepdims=True), 1)
        uniform = pairs.valid[None, :] / jnp.maximum(pairs.valid.sum(), 1)
        target = (1 - label_smoothing) * target + label_smoothing * uniform
        losses.append(masked_mean(-(target * log_probability).sum(1), pairs.valid))
    return (losses[0] + losses[1]) / 2


def tiled_info_nce(
    first, second, scale, pairs: PairMask, label_smoothing: float = 0.0, tile_size: int = TILE_SIZE
):
    """The loss of `objectives.InfoNCE`."""
    return info_nce(first, second, scale, pairs, label_smoothing=label_smoothing, tile_size=tile_size)[0]


def compile_gradient(loss, batch: int, width: int, mesh: jax.sharding.Mesh) -> jax.stages.Compiled:
    """Compiles the loss and its gradients by the embeddings (sharded like the batch) and the scale."""
    rows = sharding.batch_sharding(mesh, sharding.REPLICATED)

    def array(dtype, *shape):
        return jax.ShapeDtypeStruct((batch, *shape), dtype, sharding=rows)

    def value(first, second, scale, pairs):
        return loss(first, second, scale, pairs)

    embeddings, scale = array(jnp.float32, width), jax.ShapeDtypeStruct((), jnp.float32)
    pairs = PairMask(array(bool), array(jnp.uint32, 2), array(bool))
    with sharding.using(mesh, sharding.REPLICATED):
        gradient = jax.jit(
            jax.value_and_grad(value, argnums=(0, 1, 2)), out_shardings=(None, (rows, rows, None))
        )
        return gradient.lower(embeddings, embeddings, scale, pairs).compile()


def temporary_mib(program: jax.stages.Compiled) -> float:
    """MiB per device, without arguments and gradients."""
    stats = program.memory_analysis()
    if stats is None:
        raise RuntimeError("expected a memory analysis from XLA, but this backend has none")
    return stats.temp_size_in_bytes / MIB


def memory(num_devices: int) -> None:
    mesh = MeshShape().make(jax.devices()[:num_devices])
    print(
        f"| B | E | embeddings per device, MiB | dense, {num_devices} devices, MiB "
        f"| tiles of {TILE_SIZE}, MiB |"
    )
    print("|---|---|---|---|---|")
    for width in WIDTHS:
        for batch in BATCHES:
            dense, tiled = (
                temporary_mib(compile_gradient(loss, batch, width, mesh))
                for loss in (dense_info_nce, tiled_info_nce)
            )
            embeddings = 2 * batch * width * 4 / num_devices / MIB
            print(f"| {batch:,} | {width} | {embeddings:,.1f} | {dense:,.1f} | {tiled:,.1f} |", flush=True)


def seconds(program: jax.stages.Compiled, batch: int, width: int, repeats: int = 5) -> float:
    """The minimum over `repeats`, because other work on the machine can only add time."""
    rng = np.random.default_rng(0)
    embeddings = [rng.normal(size=(batch, width)).astype(np.float32) / width**0.5 for _ in range(2)]
    checksums = rng.integers(0, 2**32, (batch, 2), dtype=np.uint32)
    pairs = PairMask(np.ones(batch, bool), checksums, np.ones(batch, bool))
    arguments = jax.device_put((*embeddings, np.float32(10.0), pairs))
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        times.append(time.perf_counter() - start)
    return min(times[1:])


def speed() -> None:
    mesh = MeshShape().make(jax.devices()[:1])
    print("| B | E | tile | dense, s | tiled, s | tiled / dense |")
    print("|---|---|---|---|---|---|")
    for batch, width in ((1024, 64), (4096, 64), (4096, 512)):
        dense = seconds(compile_gradient(dense_info_nce, batch, width, mesh), batch, width)
        for tile_size in (256, 512, 1024, 4096):
            if tile_size > batch:
                continue

            def loss(*arguments, tile_size=tile_size):
                return tiled_info_nce(*arguments, tile_size=tile_size)

            tiled = seconds(compile_gradient(loss, batch, width, mesh), batch, width)
            print(
                f"| {batch} | {width} | {tile_size} | {dense:.3f} | {tiled:.3f} | {tiled / dense:.2f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--time", action="store_true")
    chosen = parser.parse_args()
    if chosen.time:
        speed()
    else:
        memory(chosen.devices)


if __name__ == "__main__":
    main()
