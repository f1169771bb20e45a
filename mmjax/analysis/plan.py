"""Estimates memory, communication and time of a train step on devices that are not available: `mmjax plan`.

Compiles the real train step for simulated devices, and runs nothing. docs/plan.md measures the errors.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from mmjax.analysis import cost, hlo
from mmjax.analysis.collectives import Collective, find_collectives
from mmjax.analysis.memory import Memory, compile_step, largest_batch, measure_memory
from mmjax.errors import InputError
from mmjax.experiment import Experiment
from mmjax.experiment.validation import tracing
from mmjax.run.session import Session
from mmjax.training.accelerators import ACCELERATORS, Accelerator, find_accelerator
from mmjax.training.flops import train_flops


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """A number of equal devices, and their data sheet."""

    name: str
    num_devices: int
    hbm_bytes: int
    accelerator: Accelerator

    @classmethod
    def from_data_sheet(
        cls, name: str, num_devices: int, hbm_bytes: int | None = None, **changes: Any
    ) -> "Machine":
        """Devices of the data sheet of `name`, which may be short.

        `hbm_bytes` and fields in `changes` override it if not None.

        Raises InputError if no data sheet has this name.
        """
        name = find_accelerator(name)
        changes = {field: value for field, value in changes.items() if value is not None}
        accelerator = dataclasses.replace(ACCELERATORS[name], **changes)
        hbm_bytes = accelerator.hbm_bytes if hbm_bytes is None else hbm_bytes
        return cls(name=name, num_devices=num_devices, hbm_bytes=hbm_bytes, accelerator=accelerator)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CollectiveTraffic:
    """The collectives of one kind over the same mesh axes and the same network."""

    kind: str
    axes: tuple[str, ...]
    network: str  # "links" within a node or "network" between nodes
    num_arrays: int  # exchanged in a step
    sent_bytes: float  # by each device in a step
    largest_source: str  # JAX's name stack of the collective that sends most

    def to_json(self) -> dict[str, Any]:
        """The fields under the keys of `mmjax plan --json`."""
        keys = {"network": "over", "num_arrays": "times", "largest_source": "largest"}
        return {keys.get(name, name): value for name, value in dataclasses.asdict(self).items()}


def summarize_collectives(collectives: Sequence[Collective], node_size: int) -> list[CollectiveTraffic]:
    """The traffic by kind, axes and network, largest first."""
    groups: dict[tuple, list[Collective]] = {}
    for collective in collectives:
        nodes = {position // node_size for position in collective.group}
        network = "links" if len(nodes) == 1 else "network"
        groups.setdefault((collective.kind, collective.axes, network), []).append(collective)
    traffic = [
        CollectiveTraffic(
            kind=kind,
            axes=axes,
            network=network,
            num_arrays=sum(c.count for c in group),
            sent_bytes=sum(c.total_bytes for c in group),
            largest_source=max(group, key=lambda c: c.total_bytes).source,
        )
        for (kind, axes, network), group in groups.items()
    ]
    return sorted(traffic, key=lambda row: -row.sent_bytes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Memory, communication and time of a train step. Bytes and FLOPs are those of one device in one step."""

    experiment: str
    machine: Machine
    mesh: dict[str, int]
    batch_size: int
    memory: Memory
    largest_batch: int | None  # None: one row per device does not fit
    collective_traffic: list[CollectiveTraffic]
    flops: float  # of the model on all devices together, without recomputation
    device_flops: float  # of the matrix products that one device computes, repeated work included
    memory_traffic: float  # bytes read and written by the program for CPUs: an estimate, not a minimum
    seconds: dict[str, float]  # the minimum that each resource takes
    half_precision: bool  # the step uses bfloat16 or float16, which XLA for CPU partly widens

    @property
    def bottleneck(self) -> str:
        """The resource that takes longest."""
        return max(self.seconds, key=self.seconds.__getitem__)

    @property
    def step_seconds(self) -> float:
        """The time of a step in which all other resources overlap with the bottleneck."""
        return self.seconds[self.bottleneck]

    @property
    def mfu(self) -> float:
        """The model's FLOP/s at that step time, as a fraction of the machine's peak."""
        return self.flops / (self.machine.accelerator.flops * self.machine.num_devices * self.step_seconds)

    def to_json(self) -> dict[str, Any]:
        """All fields and derived values under the keys of `mmjax plan --json`."""
        fields = dataclasses.asdict(self)
        del fields["collective_traffic"]
        return fields | {
            "talk": [row.to_json() for row in self.collective_traffic],
            "limit": self.bottleneck,
            "step_seconds": self.step_seconds,
            "mfu": self.mfu,
            "total_bytes": self.memory.total_bytes,
            "fits": self.memory.total_bytes <= self.machine.hbm_bytes,
        }


def simulate_devices(num_devices: int) -> list:
    """CPU devices to compile for. Call it before JAX starts a backend."""
    try:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", num_devices)
    except RuntimeError as error:  # JAX has started, but may have enough devices
        if jax.device_count("cpu") < num_devices:
            raise InputError(
                f"expected to simulate {num_devices} devices, found that JAX has started with "
                f"{jax.device_count('cpu')}: plan in a new process"
            ) from error
    return jax.devices("cpu")[:num_devices]


def make_plan(experiment: Experiment, machine: Machine, devices: Sequence) -> Plan:
    """Compiles the train step twice: at the experiment's batch size, and at one that about fills the memory.

    Args:
      devices: as many as the machine has: simulated, or of a topology of `jax.experimental.topologies`.

    Raises:
      InputError: experiment, mesh and devices do not fit. Lists every array that the mesh does not divide.
    """
    session = Session.of(experiment, list(devices))
    compiled = compile_step(session)
    text = compiled.as_text() or ""
    program, device = hlo.parse(text), machine.accelerator
    memory = measure_memory(session, compiled, program)
    collectives = find_collectives(program, session.mesh.shape)
    collective_traffic = summarize_collectives(collectives, device.node_size)
    with tracing(experiment):
        flops = train_flops(session.learner, session.abstract.params, experiment.data.spec())
    device_flops, memory_traffic = cost.matmul_flops(program), cost.memory_traffic(program)
    return Plan(
        experiment=experiment.name,
        machine=machine,
        mesh=dict(session.mesh.shape),
        batch_size=experiment.data.batch_size,
        memory=memory,
        largest_batch=largest_batch(session, memory, machine.hbm_bytes),
        collective_traffic=collective_traffic,
        flops=flops,
        device_flops=device_flops,
        memory_traffic=memory_traffic,
        seconds=min_seconds(device, device_flops, memory, sent_bytes_by_network(collective_traffic)),
        half_precision="bf16[" in text or "f16[" in text,
    )


def sent_bytes_by_network(traffic: Sequence[CollectiveTraffic]) -> dict[str, float]:
    """{"links" | "network": bytes that each device sends in a step}."""
    networks = ("links", "network")
    return {name: sum(row.sent_bytes for row in traffic if row.network == name) for name in networks}


def min_seconds(
    device: Accelerator, device_flops: float, memory: Memory, sent_bytes: Mapping[str, float]
) -> dict[str, float]:
    """The time that each resource of a device takes at its peak rate, at least.

    The memory must at least be read for the batch, and be read and written for the state.
    """
    return {
        "compute": device_flops / device.flops,
        "memory": (2 * memory.state + memory.batch) / device.hbm_bandwidth,
        "links": sent_bytes["links"] / device.link_bandwidth,
        "network": sent_bytes["network"] / device.network_bandwidth,
    }
