"""Bytes that each device sends in a train step, by sharding strategy: in theory and in the compiled program.

    JAX_NUM_CPU_DEVICES=8 python experiments/benchmarks/collectives.py

It compiles and runs nothing. The model is a masked language model (token table tied to the logits) with
scanned layers, which is the default. Results, with date and commit: docs/reliability.md.
"""

import dataclasses
import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmjax import encoders, fusion, heads, objectives, sharding, training, views
from mmjax.analysis.collectives import RING_FACTORS, Collective, find_collectives
from mmjax.batch import Batch, Text
from mmjax.layers import Transformer
from mmjax.learner import Learner
from mmjax.model import MultimodalModel
from mmjax.sharding import MeshShape, Rules

FLOAT_BYTES = 4


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of the model and of the global batch."""

    depth: int = 6
    width: int = 64
    heads: int = 8
    vocab: int = 128
    length: int = 16
    batch: int = 16

    def learner(self) -> Learner:
        trunk = Transformer(
            depth=self.depth, width=self.width, num_heads=self.heads, mlp_width=4 * self.width
        )
        text = encoders.TextTransformer(vocab=self.vocab, max_length=self.length, trunk=trunk)
        return Learner(
            model=MultimodalModel(
                encoders={"text": text},
                fusion=fusion.Late(),
                heads={"words": heads.TokenLogits("text", after="encoder")},
            ),
            objectives={
                "words": objectives.MaskedLanguage("words", view=views.MaskTokens("text", vocab=self.vocab))
            },
        )

    def spec(self) -> Batch:
        def array(dtype):
            return jax.ShapeDtypeStruct((self.batch, self.length), dtype)

        return {"text": Text(array(jnp.int32), array(bool), array(jnp.int32), array(jnp.int32))}


STRATEGIES = {
    "REPLICATED": MeshShape(data=8),
    "ZERO1": MeshShape(data=1, fsdp=8),
    "FSDP": MeshShape(data=1, fsdp=8),
    "TENSOR": MeshShape(data=1, tensor=8),
    "SEQUENCE": MeshShape(data=1, sequence=8),
    "FSDP_TENSOR": MeshShape(data=2, fsdp=2, tensor=2),
    "FSDP_SEQUENCE": MeshShape(data=2, fsdp=2, sequence=2),
    "FSDP_TENSOR_SEQUENCE": MeshShape(data=1, fsdp=2, sequence=2, tensor=2),
}
OPTIMIZER = training.AdamW(peak_learning_rate=1e-3, weight_decay=0.1).make(num_steps=10)


def abstract_state(sizes: Sizes, rules: Rules, mesh: jax.sharding.Mesh) -> training.TrainState:
    """Shapes and shardings of the train state."""
    return training.abstract_state(sizes.learner(), OPTIMIZER, sizes.spec(), 0, mesh, rules)


def compile_step(sizes: Sizes, rules: Rules, mesh: jax.sharding.Mesh) -> jax.stages.Compiled:
    """Compiles the train step for the mesh."""
    state = abstract_state(sizes, rules, mesh)
    rows = sharding.batch_sharding(mesh, rules)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows), sizes.spec())
    return training.jit_step(sizes.learner(), OPTIMIZER, state, mesh, rules).lower(state, batch).compile()


def theoretical_bytes(sizes: Sizes, rules: Rules, mesh: jax.sharding.Mesh) -> Counter[str]:
    """{kind of collective: bytes that each device must send in a step}, in theory.

    Gradients are summed over all devices whose rows or positions differ, and twice for the token table, which
    is used in the lookup and in the tied logits. ZeRO-1 replaces this all-reduce by a reduce-scatter, and
    all-gathers the updated parameters. ZeRO-3 gathers parameters before use, and gathers those of scanned
    layers again for the backward pass (Rajbhandari et al. 2020, section 7.2). Tensor parallelism sums
    activations four times per layer (Shoeybi et al. 2019, section 3), once at the lookup and once behind the
    logits. Sequence parallelism exchanges four activation arrays in the forward and four in the backward pass
    (Jacobs et al. 2023, section 3.2).
    """
    sent: Counter[str] = Counter()

    def count(axes: tuple[str, ...]) -> int:
        return math.prod(mesh.shape[axis] for axis in axes)

    def send(kind: str, num_bytes: float, axes: tuple[str, ...]) -> None:
        if count(axes) > 1:
            sent[kind] += num_bytes * RING_FACTORS[kind](count(axes))

    summed_axes = rules.mesh_axes("act_batch") + rules.mesh_axes("act_length")
    state = abstract_state(sizes, rules, mesh)
    moments = jax.tree.leaves(optax.tree_utils.tree_get(state.opt_state, "mu"))
    for (path, parameter), moment in zip(jax.tree.leaves_with_path(state.params), moments, strict=True):
        name = jax.tree_util.keystr(path)
        parameter_axes, gradient_axes = (_split_axes(x.sharding) for x in (parameter, moment))
        split = tuple(axis for axis in gradient_axes if axis in summed_axes)  # by ZeRO
        other_axes = tuple(axis for axis in summed_axes if axis not in split)
        unsummed_axes = tuple(axis for axis in parameter_axes if axis not in summed_axes)
        shard_bytes = FLOAT_BYTES * parameter.size / count(unsummed_axes)
        uses = 2 if name.endswith("['encoders_text']['table']") else 1
        if split:
            send("reduce-scatter", uses * shard_bytes, split)
            send("all-reduce", uses * shard_bytes / count(split), other_axes)
            gathers = 2 if set(split) <= set(parameter_axes) and "layers" in name else 1
            send("all-gather", gathers * shard_bytes, split)
        else:
            send("all-reduce", uses * shard_bytes, summed_axes)
    tensor, sequence = rules.mesh_axes("heads"), rules.mesh_axes("act_length")
    rows = sizes.batch / count(rules.mesh_axes("act_batch"))
    positions = rows * sizes.length / count(sequence)
    activation_bytes = FLOAT_BYTES * positions * sizes.width
    send("all-reduce", (4 * sizes.depth + 2) * activation_bytes, tensor)
    # The softmax over a sharded vocabulary: maximum, sum, the label's logit, and the sum of its gradient.
    # The accuracy: the maximum of each shard and its index.
    send("all-reduce", 4 * FLOAT_BYTES * positions, tensor)
    send("all-gather", 2 * FLOAT_BYTES * positions * count(tensor), tensor)
    send("all-to-all", 8 * sizes.depth * activation_bytes / count(tensor), sequence)
    return sent


def _split_axes(placement: jax.sharding.NamedSharding) -> tuple[str, ...]:
    """The mesh axes that an array is sharded over."""
    axes = []
    for entry in placement.spec:
        axes += [] if entry is None else [entry] if isinstance(entry, str) else list(entry)
    return tuple(axes)


def program_bytes(collectives: list[Collective]) -> Counter[str]:
    """{kind of collective: bytes that each device sends in a step} of a compiled program."""
    total: Counter[str] = Counter()
    for collective in collectives:
        total[collective.kind] += collective.total_bytes
    return total


def main() -> None:
    sizes = Sizes(depth=12, width=256, vocab=4096, length=64, batch=64)
    print(f"{sizes}\n")
    print("| rules | mesh | theory, MB | program, MB | program / theory | state per device, MB |")
    print("|---|---|---|---|---|---|")
    for name, shape in STRATEGIES.items():
        rules, mesh = getattr(sharding, name), shape.make()
        program = compile_step(sizes, rules, mesh)
        theory = theoretical_bytes(sizes, rules, mesh)
        measured = program_bytes(find_collectives(program.as_text() or "", mesh.shape))
        state_bytes = sum(
            FLOAT_BYTES * np.prod(x.sharding.shard_shape(x.shape))
            for x in jax.tree.leaves(abstract_state(sizes, rules, mesh))
        )
        ratio = measured.total() / theory.total()
        axes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1)
        print(
            f"| {name} | {axes} | {_megabytes(theory)} | {_megabytes(measured)} | {ratio:.3f} "
            f"| {state_bytes / 1e6:.2f} |",
            flush=True,
        )


def _megabytes(total: Counter[str]) -> str:
    """MB as `total (kind MB, ...)`."""
    kinds = ", ".join(f"{kind} {total[kind] / 1e6:.2f}" for kind in RING_FACTORS if total[kind] >= 5e3)
    return f"{total.total() / 1e6:.2f} ({kinds})"


if __name__ == "__main__":
    main()
