"""Formats the result of `mmjax plan` for the terminal."""

from mmjax.analysis.memory import Memory
from mmjax.analysis.plan import CollectiveTraffic, Plan
from mmjax.cli.tables import align_columns

MEMORY_COLUMNS = ("parameters", "optimizer", "gradients", "forward", "backward")


def format_plan(plan: Plan) -> str:
    """The plan as text: memory by part of the model, collectives, then the minimum time of a step."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items() if size > 1) or "of one device"
    lines = [
        f"{plan.experiment} on {plan.machine.num_devices} x {plan.machine.name}: mesh {mesh}, "
        f"batch {plan.batch_size:,}",
        "",
        *_memory_lines(plan.memory),
        "",
        _verdict(plan),
        "",
        *_collective_lines(plan.collective_traffic),
        "",
        *_time_lines(plan),
    ]
    if plan.half_precision:
        lines.append(
            "note: compiled for CPUs, which compute in 32 bits: temporaries and memory traffic are up to "
            "twice what a GPU or TPU needs in 16"
        )
    return "\n".join(lines) + "\n"


def _memory_lines(memory: Memory) -> list[str]:
    rows = [
        [name, *(format_bytes(group.get(column, 0)) for column in MEMORY_COLUMNS)]
        for name, group in memory.groups.items()
    ]
    totals = [sum(group.get(column, 0) for group in memory.groups.values()) for column in MEMORY_COLUMNS]
    return [
        *align_columns([["memory of a device", *MEMORY_COLUMNS], *rows, ["sum", *map(format_bytes, totals)]]),
        "(forward, backward: arrays computed in those passes that are in memory at its peak)",
    ]


def _verdict(plan: Plan) -> str:
    memory, hbm_bytes = plan.memory, plan.machine.hbm_bytes
    if plan.largest_batch is None:
        largest = "not even one row per device fits"
    else:
        largest = f"the largest batch that fits is about {plan.largest_batch:,}"
    verdict = "fits" if memory.total_bytes <= hbm_bytes else "DOES NOT FIT"
    return (
        f"state {format_bytes(memory.state)} + batch {format_bytes(memory.batch)} + temporaries "
        f"{format_bytes(memory.temporaries)} = {format_bytes(memory.total_bytes)} of "
        f"{format_bytes(hbm_bytes)}: {verdict}; {largest}"
    )


def _collective_lines(traffic: list[CollectiveTraffic]) -> list[str]:
    if not traffic:
        return ["no collectives"]
    rows = [
        [f"{row.kind} over {' '.join(row.axes)}", row.network, f"{row.num_arrays:,}",
         format_bytes(row.sent_bytes), last_parts(row.largest_source)]
        for row in traffic
    ]  # fmt: skip
    header = ["collectives of a step", "through", "arrays", "sent by a device", "largest part for"]
    return align_columns([header, *rows], left=(0, 1, 4))


def _time_lines(plan: Plan) -> list[str]:
    share = plan.flops / plan.machine.num_devices
    times = ", ".join(f"{name} {seconds * 1e3:.3g} ms" for name, seconds in plan.seconds.items())
    traffic_seconds = plan.memory_traffic / plan.machine.accelerator.hbm_bandwidth
    return [
        f"arithmetic: {plan.flops:.3g} FLOPs of the model a step; a device computes {plan.device_flops:.3g}, "
        f"{plan.device_flops / share:.2f} x its share",
        f"minimum time: {times}",
        f"memory traffic, an estimate: {format_bytes(plan.memory_traffic)}, {traffic_seconds * 1e3:.3g} ms",
        f"limited by {plan.bottleneck}: at best {plan.step_seconds * 1e3:.3g} ms a step, "
        f"{plan.batch_size / plan.step_seconds:,.0f} examples/s, MFU {plan.mfu:.1%}",
    ]


def format_bytes(num_bytes: float) -> str:
    """
    >>> format_bytes(3 * 2**30), format_bytes(1536), format_bytes(0)
    ('3.00 GiB', '1.50 KiB', '0 B')
    """
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:,.2f} {unit}"
    return f"{num_bytes:.0f} B"


def last_parts(source: str, num_parts: int = 3) -> str:
    """The end of a name stack, which names the module.

    >>> last_parts("jit(step)/jvp(Learner)/model.encode/encoders_audio/jit(fft)/fft")
    'encoders_audio/jit(fft)/fft'
    """
    return "/".join(source.split("/")[-num_parts:])
