"""The memory that a train step needs on each device of a mesh, and the batch that fills it."""

import dataclasses
import importlib.metadata
import math
import re
from collections import Counter
from typing import Any

import jax

from mmjax import sharding, train
from mmjax.analysis import cost, hlo
from mmjax.experiment.validation import tracing
from mmjax.run.session import Session

# The code that it makes is never run, so that it need not be good.
FAST_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):  # later ones: no such flag
    FAST_COMPILE["xla_cpu_use_fusion_emitters"] = False
# How many times the batch at hand the second compilation may take.
FARTHEST = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on one device."""

    state: int  # parameters, optimizer, step and key, all through the step
    batch: int
    temporaries: int  # at the fullest moment: gradients, activations, gathered parameters, ...
    groups: dict[str, dict[str, int]]  # part of the model -> "parameters" | "optimizer" | "gradients" | ...

    @property
    def total(self) -> int:
        return self.state + self.batch + self.temporaries


def compile_step(session: Session) -> jax.stages.Compiled:
    """The train step as XLA makes it for the set-up's mesh."""
    experiment = session.experiment
    step = train.jit_step(
        session.learner, session.optimizer, session.abstract, session.mesh, experiment.rules
    )
    with tracing(experiment), sharding.using(session.mesh, experiment.rules):
        lowered = step.lower(session.abstract, experiment.data.spec())
    simulated = session.mesh.devices.flat[0].platform == "cpu"
    return lowered.compile(compiler_options=FAST_COMPILE if simulated else None)


def measure(session: Session, compiled: jax.stages.Compiled, program: hlo.Program) -> Memory:
    """Memory of the compiled step; `program` is its text, read."""
    rows = sharding.batch_sharding(session.mesh, session.experiment.rules)
    return Memory(
        state=sum(device_bytes(x, x.sharding) for x in jax.tree.leaves(session.abstract)),
        batch=sum(device_bytes(x, rows) for x in jax.tree.leaves(session.experiment.data.spec())),
        temporaries=temporary_bytes(compiled),
        groups=groups(session, program),
    )


def device_bytes(x: Any, lies: jax.sharding.Sharding) -> int:
    """Of an array so sharded, what one device holds."""
    return math.prod(lies.shard_shape(x.shape)) * x.dtype.itemsize


def temporary_bytes(compiled: jax.stages.Compiled) -> int:
    """What the step needs beside its arguments; results in the place of donated arguments need nothing."""
    stats = compiled.memory_analysis()
    if stats is None:
        raise RuntimeError("expected XLA's memory analysis, found that this backend gives none")
    return stats.temp_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes


# Parameters are under the names of modules; what is computed around those, under scopes of their own.
SCOPES = {"encode": "encoders", "head": "heads", "objective": "objectives"}
PARTS = re.compile(r"\b(encoders|encode|heads|head|objectives|objective)_([\w-]+)|\b(fusion|update)\b")


def part_of(source: str, session: Session) -> str:
    """The tower, fusion, head or objective that a parameter's path or a name stack belongs to."""
    found = PARTS.search(source)
    if not found:
        return "other"
    kind, name, alone = found.groups()
    if alone:
        return alone
    if kind == "encode":  # a stream, whose tower may have another name
        name = session.experiment.model.encoder_name(name)
    return f"{SCOPES.get(kind, kind)} {name}"


def groups(session: Session, program: hlo.Program) -> dict[str, dict[str, int]]:
    """{part of the model: {"parameters" | "optimizer" | "gradients" | "forward" | "backward": bytes}}.

    "forward" and "backward" (with the update) are what those made and the device holds when it is fullest.
    """
    table: dict[str, Counter] = {}

    def add(source: str, column: str, num_bytes: int) -> None:
        table.setdefault(part_of(source, session), Counter())[column] += num_bytes

    for column, tree in (("parameters", session.abstract.params), ("optimizer", session.abstract.opt_state)):
        for path, x in jax.tree.leaves_with_path(tree):
            name = train.optimizer.path_name(path)
            add(name, column, device_bytes(x, x.sharding))
            if column == "parameters":
                add(name, "gradients", device_bytes(x, x.sharding))
    for buffer in cost.peak_buffers(program):
        later = "transpose(" in buffer.source or "/update/" in buffer.source
        add(buffer.source, "backward" if later else "forward", buffer.num_bytes)
    order = ("encoders", "fusion", "heads", "objectives", "update", "other")
    return {name: dict(table[name]) for name in sorted(table, key=lambda n: (order.index(n.split()[0]), n))}


def largest_batch(session: Session, memory: Memory, hbm_bytes: int) -> int | None:
    """The largest global batch that fits.

    Temporaries are taken to be c + p b + q b^2 of b rows a device: c the gradients, whatever the batch; p
    what each row keeps; q what compares each row with those of all devices. A second compilation, at the
    batch that would fit were q 0 and so at or beyond the answer, tells p from q.
    """
    experiment = session.experiment
    lies = sharding.batch_sharding(session.mesh, experiment.rules)
    rows = lies.shard_shape((experiment.data.batch_size,))[0]
    ways = experiment.data.batch_size // rows
    free = hbm_bytes - memory.state
    constant = sum(group.get("gradients", 0) for group in memory.groups.values())
    constant = min(constant, memory.temporaries)
    row = memory.batch / rows
    slope = (memory.temporaries - constant) / rows
    if free < constant + row:
        return None
    other = max(1, min(int((free - constant) / (slope + row)), FARTHEST * rows))
    curve = 0.0
    if other != rows:
        data = dataclasses.replace(experiment.data, batch_size=other * ways)
        changed = dataclasses.replace(session, experiment=dataclasses.replace(experiment, data=data))
        there = (temporary_bytes(compile_step(changed)) - constant) / other
        # Through both points; XLA's choices may bend it the other way, and then a line must do.
        curve = max(0.0, (there - slope) / (other - rows))
        slope = there - curve * other

    def fits(b: int) -> bool:
        return constant + (slope + row) * b + curve * b * b <= free

    if not fits(1):
        return None
    most = 1
    while fits(2 * most):
        most *= 2
    for step in (most >> shift for shift in range(1, most.bit_length())):
        most += step if fits(most + step) else 0
    return most * ways
