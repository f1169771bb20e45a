"""What devices send each other in a step, by strategy: what it needs on paper, and what XLA compiled.

    JAX_NUM_CPU_DEVICES=8 python experiments/benchmarks/collectives.py

Compiles, and runs nothing. The model is a text tower with masked words (token table tied to the logits); its
layers are scanned, as is the default. Results, with date and commit: docs/reliability.md.
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

FLOAT = 4  # bytes


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of the model and of the global batch."""

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
    """Shapes and shardings."""
    return training.abstract_state(sizes.learner(), OPTIMIZER, sizes.spec(), 0, mesh, rules)


def compiled(sizes: Sizes, rules: Rules, mesh: jax.sharding.Mesh) -> jax.stages.Compiled:
    """The train step for the mesh."""
    state = abstract_state(sizes, rules, mesh)
    rows = sharding.batch_sharding(mesh, rules)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows), sizes.spec())
    return training.jit_step(sizes.learner(), OPTIMIZER, state, mesh, rules).lower(state, batch).compile()


def needed(sizes: Sizes, rules: Rules, mesh: jax.sharding.Mesh) -> Counter[str]:
    """{kind: bytes that each device must send in a step}, on paper.

    Gradients are summed over all devices whose rows or positions differ; a table that is read twice (looked
    up, and tied to the logits) twice. ZeRO-1 replaces their all-reduce by reduce-scatter, and gathers the
    updated parameters; ZeRO-3 gathers parameters before use, those of scanned layers again for the backward
    pass (Rajbhandari et al. 2020, section 7.2). Tensor parallelism sums activations four times a layer
    (Shoeybi et al. 2019, section 3), once at the lookup and once behind the logits; sequence parallelism
    exchanges four arrays of them forwards and backwards (Jacobs et al. 2023, section 3.2).
    """
    sent: Counter[str] = Counter()

    def count(axes: tuple[str, ...]) -> int:
        return math.prod(mesh.shape[axis] for axis in axes)

    def send(kind: str, num_bytes: float, axes: tuple[str, ...]) -> None:
        if count(axes) > 1:
            sent[kind] += num_bytes * RING_FACTORS[kind](count(axes))

    summed = rules.mesh_axes("act_batch") + rules.mesh_axes("act_length")
    state = abstract_state(sizes, rules, mesh)
    moments = jax.tree.leaves(optax.tree_utils.tree_get(state.opt_state, "mu"))
    for (path, whole), moment in zip(jax.tree.leaves_with_path(state.params), moments, strict=True):
        name = jax.tree_util.keystr(path)
        parameter_parts, gradient_parts = (_parts(x.sharding) for x in (whole, moment))
        split = tuple(axis for axis in gradient_parts if axis in summed)  # by ZeRO
        others = tuple(axis for axis in summed if axis not in split)
        held = FLOAT * whole.size / count(tuple(axis for axis in parameter_parts if axis not in summed))
        uses = 2 if name.endswith("['encoders_text']['table']") else 1
        if split:
            send("reduce-scatter", uses * held, split)
            send("all-reduce", uses * held / count(split), others)
            gathers = 1
            if set(split) <= set(parameter_parts):
                gathers = 2 if "layers" in name else 1
            send("all-gather", gathers * held, split)
        else:
            send("all-reduce", uses * held, summed)
    tensor, sequence = rules.mesh_axes("heads"), rules.mesh_axes("act_length")
    rows = sizes.batch / count(rules.mesh_axes("act_batch"))
    positions = rows * sizes.length / count(sequence)
    activations = FLOAT * positions * sizes.width
    send("all-reduce", (4 * sizes.depth + 2) * activations, tensor)
    # The softmax over a split vocabulary: maximum, sum, the label's logit, its gradient's sum; and for the
    # accuracy each part's best score and place.
    send("all-reduce", 4 * FLOAT * positions, tensor)
    send("all-gather", 2 * FLOAT * positions * count(tensor), tensor)
    send("all-to-all", 8 * sizes.depth * activations / count(tensor), sequence)
    return sent


def _parts(placed: jax.sharding.NamedSharding) -> tuple[str, ...]:
    """The mesh axes that split an array."""
    axes = []
    for entry in placed.spec:
        axes += [] if entry is None else [entry] if isinstance(entry, str) else list(entry)
    return tuple(axes)


def sent(found: list[Collective]) -> Counter[str]:
    """{kind: bytes that each device sends in a step}, of a program's collectives."""
    total: Counter[str] = Counter()
    for each in found:
        total[each.kind] += each.total_bytes
    return total


def main() -> None:
    sizes = Sizes(depth=12, width=256, vocab=4096, length=64, batch=64)
    print(f"{sizes}\n")
    print("| rules | mesh | theory, MB | program, MB | program / theory | state per device, MB |")
    print("|---|---|---|---|---|---|")
    for name, shape in STRATEGIES.items():
        rules, mesh = getattr(sharding, name), shape.make()
        program = compiled(sizes, rules, mesh)
        paper, found = needed(sizes, rules, mesh), sent(find_collectives(program.as_text(), mesh.shape))
        held = sum(
            FLOAT * np.prod(x.sharding.shard_shape(x.shape))
            for x in jax.tree.leaves(abstract_state(sizes, rules, mesh))
        )
        ratio = found.total() / paper.total()
        axes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1)
        print(
            f"| {name} | {axes} | {_kinds(paper)} | {_kinds(found)} | {ratio:.3f} | {held / 1e6:.2f} |",
            flush=True,
        )


def _kinds(total: Counter[str]) -> str:
    """`total (kind share, ...)`."""
    kinds = ", ".join(f"{kind} {total[kind] / 1e6:.2f}" for kind in RING_FACTORS if total[kind] >= 5e3)
    return f"{total.total() / 1e6:.2f} ({kinds})"


if __name__ == "__main__":
    main()
