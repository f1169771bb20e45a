"""Measures the memory of a compiled train step on each device, and finds the largest batch that fits."""

import dataclasses
import importlib.metadata
import math
import re
from collections import Counter
from typing import Any

import jax

from mmjax import sharding, training
from mmjax.analysis import cost, hlo
from mmjax.experiment.validation import tracing
from mmjax.run.session import Session

# The compiled code is never run, so it need not be fast.
FAST_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    FAST_COMPILE["xla_cpu_use_fusion_emitters"] = False  # removed in 0.11
else:
    # Without these passes, XLA for CPU keeps and exchanges bfloat16 and float16 as other devices do. Earlier
    # versions cannot compile products of bfloat16 then.
    FAST_COMPILE["xla_disable_hlo_passes"] = "float-normalization-bf16,float-normalization-f16"
# `largest_batch` compiles at most this multiple of the experiment's batch.
MAX_BATCH_RATIO = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on one device."""

    state: int  # parameters, optimizer, step and key, live during the whole step
    batch: int
    temporaries: int  # at the peak: gradients, activations, gathered parameters, ...
    groups: dict[str, dict[str, int]]  # part of the model -> "parameters" | "optimizer" | "gradients" | ...

    @property
    def total_bytes(self) -> int:
        """Bytes at the peak of the step."""
        return self.state + self.batch + self.temporaries


def compile_step(session: Session) -> jax.stages.Compiled:
    """The train step, compiled for the session's mesh."""
    experiment = session.experiment
    step = training.jit_step(
        session.learner, session.optimizer, session.abstract, session.mesh, experiment.rules
    )
    with tracing(experiment):
        lowered = step.lower(session.abstract, experiment.data.spec())
    is_simulated = session.mesh.devices.flat[0].platform == "cpu"
    return lowered.compile(compiler_options=FAST_COMPILE if is_simulated else None)


def measure_memory(session: Session, compiled: jax.stages.Compiled, program: hlo.Program) -> Memory:
    """The memory of the compiled step, whose parsed text is `program`."""
    batch_sharding = sharding.batch_sharding(session.mesh, session.experiment.rules)
    return Memory(
        state=sum(device_bytes(x, x.sharding) for x in jax.tree.leaves(session.abstract)),
        batch=sum(device_bytes(x, batch_sharding) for x in jax.tree.leaves(session.experiment.data.spec())),
        temporaries=temporary_bytes(compiled),
        groups=bytes_by_part(session, program),
    )


def device_bytes(x: Any, placement: jax.sharding.Sharding) -> int:
    """Bytes of the shard of `x` on one device."""
    return math.prod(placement.shard_shape(x.shape)) * x.dtype.itemsize


def temporary_bytes(compiled: jax.stages.Compiled) -> int:
    """Bytes on one device beside the arguments. Results that reuse donated arguments need none."""
    stats = compiled.memory_analysis()
    if stats is None:
        raise RuntimeError("expected XLA's memory analysis, found that this backend gives none")
    return stats.temp_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes


# Parameters are in modules such as encoders_text, operations around modules in scopes such as encode_text.
# A dot precedes the names of methods, such as Learner.encode_streams.
SCOPES = {"encode": "encoders", "head": "heads", "objective": "objectives"}
PARTS = re.compile(
    r"(?<![.\w])(encoders|encode|heads|head|objectives|objective)_([\w-]+)|(?<![.\w])(fusion|update)\b"
)


def model_part(source: str, session: Session) -> str:
    """The part that a parameter's path or a name stack belongs to: "encoders text", "fusion", "other", ..."""
    match = PARTS.search(source)
    if not match:
        return "other"
    kind, name, unnamed = match.groups()
    if unnamed:
        return unnamed
    if kind == "encode":  # this scope has the name of the stream, which may differ from its encoder's
        name = session.experiment.model.encoder_name(name)
    return f"{SCOPES.get(kind, kind)} {name}"


def bytes_by_part(session: Session, program: hlo.Program) -> dict[str, dict[str, int]]:
    """{part of the model: {"parameters" | "optimizer" | "gradients" | "forward" | "backward": bytes}}.

    "forward" and "backward" (the update included) are the arrays of those passes that are live at the peak.
    """
    parts: dict[str, Counter] = {}

    def add(source: str, column: str, num_bytes: int) -> None:
        parts.setdefault(model_part(source, session), Counter())[column] += num_bytes

    for column, tree in (("parameters", session.abstract.params), ("optimizer", session.abstract.opt_state)):
        for path, x in jax.tree.leaves_with_path(tree):
            name = training.optimizer.path_name(path)
            add(name, column, device_bytes(x, x.sharding))
            if column == "parameters":
                add(name, "gradients", device_bytes(x, x.sharding))
    for buffer in cost.peak_buffers(program):
        is_backward = "transpose(" in buffer.source or "/update/" in buffer.source
        add(buffer.source, "backward" if is_backward else "forward", buffer.num_bytes)
    order = ("encoders", "fusion", "heads", "objectives", "update", "other")
    return {name: dict(parts[name]) for name in sorted(parts, key=lambda n: (order.index(n.split()[0]), n))}


def largest_batch(session: Session, memory: Memory, hbm_bytes: int) -> int | None:
    """The largest global batch that fits in `hbm_bytes` per device; None if one row per device does not fit.

    Models the temporaries of b rows per device as c + p b + q b^2: c for gradients, p for activations, q for
    comparisons of each row with those of all devices. The experiment's batch gives one equation for p and q.
    A second compilation gives another, at the batch that would fit if q were 0, an upper bound of the result.
    """
    experiment = session.experiment
    batch_sharding = sharding.batch_sharding(session.mesh, experiment.rules)
    rows = batch_sharding.shard_shape((experiment.data.batch_size,))[0]
    num_shards = experiment.data.batch_size // rows
    free_bytes = hbm_bytes - memory.state
    constant = sum(group.get("gradients", 0) for group in memory.groups.values())
    constant = min(constant, memory.temporaries)
    batch_row_bytes = memory.batch / rows
    linear = (memory.temporaries - constant) / rows
    if free_bytes < constant + batch_row_bytes:
        return None
    upper_bound = int((free_bytes - constant) / (linear + batch_row_bytes))
    second_rows = max(1, min(upper_bound, MAX_BATCH_RATIO * rows))
    quadratic = 0.0
    if second_rows != rows:
        data = dataclasses.replace(experiment.data, batch_size=second_rows * num_shards)
        second = dataclasses.replace(session, experiment=dataclasses.replace(experiment, data=data))
        second_slope = (temporary_bytes(compile_step(second)) - constant) / second_rows
        # Where XLA's choices make the curve concave, q is 0: a line through the second point.
        quadratic = max(0.0, (second_slope - linear) / (second_rows - rows))
        linear = second_slope - quadratic * second_rows

    def fits(b: int) -> bool:
        return constant + (linear + batch_row_bytes) * b + quadratic * b * b <= free_bytes

    if not fits(1):
        return None
    largest = 1
    while fits(2 * largest):
        largest *= 2
    for step in (largest >> shift for shift in range(1, largest.bit_length())):
        largest += step if fits(largest + step) else 0
    return largest * num_shards
