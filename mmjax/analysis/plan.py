"""What a train step will need of a machine that is not at hand: memory, talk between devices, time.

The real step is compiled for simulated devices, and nothing is run. docs/plan.md says how far off that is.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from mmjax.analysis import cost, hlo
from mmjax.analysis.collectives import Collective, collectives
from mmjax.analysis.memory import Memory, compile_step, largest_batch, measure
from mmjax.errors import InputError
from mmjax.experiment import Experiment
from mmjax.experiment.validation import tracing
from mmjax.run.session import Session
from mmjax.train.accelerators import ACCELERATORS, Accelerator
from mmjax.train.flops import train_flops


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """Devices of one kind, and what is known of them."""

    name: str
    num_devices: int
    hbm_bytes: int
    accelerator: Accelerator

    @classmethod
    def of(cls, name: str, num_devices: int, hbm_bytes: int | None = None, **changes: Any) -> "Machine":
        """`changed_streams`: fields of the data sheet of `name`, None where it holds.

        Raises InputError for a name without a data sheet.
        """
        if name not in ACCELERATORS:
            raise InputError(f"expected a device among {sorted(ACCELERATORS)}, found {name!r}")
        changes = {field: value for field, value in changes.items() if value is not None}
        accelerator = dataclasses.replace(ACCELERATORS[name], **changes)
        hbm_bytes = accelerator.hbm_bytes if hbm_bytes is None else hbm_bytes
        return cls(name=name, num_devices=num_devices, hbm_bytes=hbm_bytes, accelerator=accelerator)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CollectiveTraffic:
    """Collectives of a kind over the same mesh axes."""

    kind: str
    axes: tuple[str, ...]
    over: str  # "links" within a node or "network" between nodes
    times: int  # arrays exchanged in a step
    sent_bytes: float  # by each device in a step
    largest: str  # JAX's name stack of the one that sends most

    @classmethod
    def of(cls, found: Sequence[Collective], node_size: int) -> list["CollectiveTraffic"]:
        """Rows by kind, axes and network, those that send most first."""
        rows: dict[tuple, list[Collective]] = {}
        for collective in found:
            nodes = {position // node_size for position in collective.group}
            over = "links" if len(nodes) == 1 else "network"
            rows.setdefault((collective.kind, collective.axes, over), []).append(collective)
        talk = [
            cls(
                kind=kind,
                axes=axes,
                over=over,
                times=sum(c.count for c in members),
                sent_bytes=sum(c.total_bytes for c in members),
                largest=max(members, key=lambda c: c.total_bytes).source,
            )
            for (kind, axes, over), members in rows.items()
        ]
        return sorted(talk, key=lambda row: -row.sent_bytes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The answer. Bytes and FLOPs are of one device and one step, but for `flops`."""

    experiment: str
    machine: Machine
    mesh: dict[str, int]
    batch_size: int
    memory: Memory
    largest_batch: int | None  # None: not even one row a device fits
    talk: list[CollectiveTraffic]
    flops: float  # of the model, on all devices together; recomputation counts nothing
    device_flops: float  # matrix products that one device computes, repeated work included
    memory_traffic: float  # bytes read and written
    seconds: dict[str, float]  # the least that each resource takes
    half_precision: bool  # bfloat16 or float16, which a CPU's program widens

    @property
    def limit(self) -> str:
        """The resource that takes longest."""
        return max(self.seconds, key=self.seconds.__getitem__)

    @property
    def step_seconds(self) -> float:
        """If all else hides behind the limiting resource."""
        return self.seconds[self.limit]

    @property
    def mfu(self) -> float:
        """The model's share of the machine's peak at that speed."""
        return self.flops / (self.machine.accelerator.flops * self.machine.num_devices * self.step_seconds)

    def to_json(self) -> dict[str, Any]:
        """Every field, and what follows from them."""
        derived = {"limit": self.limit, "step_seconds": self.step_seconds, "mfu": self.mfu}
        fits = {"total_bytes": self.memory.total, "fits": self.memory.total <= self.machine.hbm_bytes}
        return dataclasses.asdict(self) | derived | fits


def simulate(num_devices: int) -> list:
    """CPU devices of which nothing but the number is used. To be called before JAX starts a backend."""
    try:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", num_devices)
    except RuntimeError as error:  # JAX has started: those that it has may do
        if jax.device_count("cpu") < num_devices:
            raise InputError(
                f"expected to simulate {num_devices} devices, found that JAX has started with "
                f"{jax.device_count('cpu')}: plan in a process of its own"
            ) from error
    return jax.devices("cpu")[:num_devices]


def plan(experiment: Experiment, machine: Machine, devices: Sequence) -> Plan:
    """Compiles the train step twice: for the experiment's batch, and for one that about fills the memory.

    devices: as many as the machine has; simulated ones, or those of a `jax.experimental.topologies`.

    Raises:
      InputError: experiment, mesh and devices do not fit; every array that does not divide is listed.
    """
    session = Session.of(experiment, list(devices))
    compiled = compile_step(session)
    text = compiled.as_text() or ""
    program, device = hlo.parse(text), machine.accelerator
    memory = measure(session, compiled, program)
    talk = CollectiveTraffic.of(collectives(program, session.mesh.shape), device.node_size)
    with tracing(experiment):
        flops = train_flops(session.learner, session.abstract.params, experiment.data.spec())
    device_flops, traffic = cost.matmul_flops(program), cost.memory_traffic(program)
    sent = {over: sum(row.sent_bytes for row in talk if row.over == over) for over in ("links", "network")}
    return Plan(
        experiment=experiment.name,
        machine=machine,
        mesh=dict(session.mesh.shape),
        batch_size=experiment.data.batch_size,
        memory=memory,
        largest_batch=largest_batch(session, memory, machine.hbm_bytes),
        talk=talk,
        flops=flops,
        device_flops=device_flops,
        memory_traffic=traffic,
        seconds=bounds(device, device_flops, traffic, sent),
        half_precision="bf16[" in text or "f16[" in text,
    )


def bounds(
    device: Accelerator, device_flops: float, traffic: float, sent: Mapping[str, float]
) -> dict[str, float]:
    """Seconds that each resource of a device needs at least; `sent` is bytes over "links" and "network"."""
    return {
        "compute": device_flops / device.flops,
        "memory": traffic / device.hbm_bandwidth,
        "links": sent["links"] / device.link_bandwidth,
        "network": sent["network"] / device.network_bandwidth,
    }


def describe(plan: Plan) -> str:
    """The plan in words."""
    machine, memory = plan.machine, plan.memory
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items() if size > 1) or "of one device"
    lines = [
        f"{plan.experiment} on {machine.num_devices} x {machine.name}: mesh {mesh}, "
        f"batch {plan.batch_size:,}",
        "",
    ]
    columns = ("parameters", "optimizer", "gradients", "forward", "backward")
    rows = [
        [name, *(size(group.get(column, 0)) for column in columns)] for name, group in memory.groups.items()
    ]
    totals = [sum(group.get(column, 0) for group in memory.groups.values()) for column in columns]
    lines += table([["memory of a device", *columns], *rows, ["sum", *map(size, totals)]])
    if plan.largest_batch is None:
        largest = "not even one row a device fits"
    else:
        largest = f"the largest batch that fits is about {plan.largest_batch:,}"
    verdict = "fits" if memory.total <= machine.hbm_bytes else "DOES NOT FIT"
    lines += [
        "(forward, backward: what those passes made that lies in memory when it is fullest)",
        "",
        f"state {size(memory.state)} + batch {size(memory.batch)} + temporaries {size(memory.temporaries)} = "
        f"{size(memory.total)} of {size(machine.hbm_bytes)}: {verdict}; {largest}",
        "",
    ]
    rows = [
        [
            f"{row.kind} over {' '.join(row.axes)}",
            row.over,
            f"{row.times:,}",
            size(row.sent_bytes),
            tail(row.largest),
        ]
        for row in plan.talk
    ]
    header = ["collectives of a step", "over", "arrays", "a device sends", "most of it for"]
    lines += [*table([header, *rows], left=(0, 1, 4)), ""] if rows else ["no collectives", ""]
    share = plan.flops / machine.num_devices
    lines += [
        f"arithmetic: {plan.flops:.3g} FLOPs of the model a step; a device computes {plan.device_flops:.3g}, "
        f"{plan.device_flops / share:.2f} x its share",
        "least time: "
        + ", ".join(f"{name} {seconds * 1e3:.3g} ms" for name, seconds in plan.seconds.items()),
        f"limited by {plan.limit}: at best {plan.step_seconds * 1e3:.3g} ms a step, "
        f"{plan.batch_size / plan.step_seconds:,.0f} examples/s, MFU {plan.mfu:.1%}",
    ]
    if plan.half_precision:
        lines.append(
            "note: compiled for CPUs, which widen 16-bit arithmetic to 32: temporaries, bytes sent and "
            "memory traffic are up to twice what a GPU or TPU needs"
        )
    return "\n".join(lines) + "\n"


def table(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    """Columns aligned, those in `left` to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def aligned(row: Sequence[str]) -> str:
        cells = enumerate(zip(row, widths, strict=True))
        return "  ".join(cell.ljust(width) if i in left else cell.rjust(width) for i, (cell, width) in cells)

    return [aligned(row).rstrip() for row in rows]


def size(num_bytes: float) -> str:
    """
    >>> size(3 * 2**30), size(1536), size(0)
    ('3.00 GiB', '1.50 KiB', '0 B')
    """
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:,.2f} {unit}"
    return f"{num_bytes:.0f} B"


def tail(source: str, parts: int = 3) -> str:
    """The end of a name stack, where the module is.

    >>> tail("jit(step)/jvp(Learner)/model.encode/encoders_audio/jit(fft)/fft")
    'encoders_audio/jit(fft)/fft'
    """
    return "/".join(source.split("/")[-parts:])
