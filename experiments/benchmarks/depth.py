"""Compile time and memory of a transformer by depth, scanned or unrolled, and by remat policy.

    python experiments/benchmarks/depth.py

Compiles the train step of a masked language model for one CPU device, and runs nothing. Seconds are the CPU
time of the process, which other work on the machine hardly changes. Results: docs/reliability.md.
"""

import itertools
import time

import jax
import jax.numpy as jnp

from mmjax import encoders, fusion, heads, objectives, sharding, training, views
from mmjax.analysis.memory import temporary_bytes
from mmjax.batch import Text
from mmjax.layers import Transformer
from mmjax.learner import Learner
from mmjax.model import MultimodalModel

WIDTH, VOCAB, LENGTH, BATCH = 256, 1024, 64, 32


def learner(depth: int, scan: bool, remat: str) -> Learner:
    """Masked language modelling with a text encoder."""
    trunk = Transformer(depth=depth, width=WIDTH, num_heads=4, mlp_width=4 * WIDTH, scan=scan, remat=remat)
    text = encoders.TextTransformer(vocab=VOCAB, max_length=LENGTH, trunk=trunk)
    masked = views.MaskTokens("text", vocab=VOCAB)
    return Learner(
        model=MultimodalModel(
            encoders={"text": text},
            fusion=fusion.Late(),
            heads={"words": heads.TokenLogits("text", after="encoder")},
        ),
        objectives={"words": objectives.MaskedLanguage("words", view=masked)},
    )


def main() -> None:
    def array(dtype):
        return jax.ShapeDtypeStruct((BATCH, LENGTH), dtype)

    spec = {"text": Text(array(jnp.int32), array(bool), array(jnp.int32), array(jnp.int32))}
    mesh, rules = sharding.MeshShape().make(jax.devices()[:1]), sharding.REPLICATED
    optimizer = training.AdamW(peak_learning_rate=1e-3).make(num_steps=10)
    print("| layers | remat | depth | trace and compile, CPU s | temporaries, MB |")
    print("|---|---|---|---|---|")
    for scan, remat, depth in itertools.product((True, False), ("none", "dots", "full"), (4, 12, 48)):
        if not scan and (remat != "none" or depth == 48):
            continue  # two depths show the growth of unrolled layers
        start = time.process_time()
        model = learner(depth, scan, remat)
        state = training.abstract_state(model, optimizer, spec, 0, mesh, rules)
        program = training.jit_step(model, optimizer, state, mesh, rules).lower(state, spec).compile()
        seconds = time.process_time() - start
        temporary = temporary_bytes(program) / 1e6
        layers = "scanned" if scan else "unrolled"
        print(f"| {layers} | {remat} | {depth} | {seconds:.1f} | {temporary:.0f} |", flush=True)


if __name__ == "__main__":
    main()
