"""Finds the collectives of a compiled program: kind, bytes, mesh axes and number of executions."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import TypeAlias

import numpy as np

from mmjax.analysis.hlo import Computation, Instruction, Program, parse

# Bytes that each of n devices sends, as a fraction of `num_bytes`. All-reduce, all-gather and reduce-scatter
# use a ring, which sends the minimum (Thakur et al. 2005); all-to-all and permute send directly.
RING_FACTORS = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1.0,
}
# No JAX program is known to contain these.
UNSUPPORTED = ("collective-broadcast", "ragged-all-to-all", "collective-reduce", "send", "recv")
_IOTA = r"\[[\d,]+\](?:T\([\d,]+\))?"
# Their result has the values of their operand, so a reader of it reads the collective's result.
_PASS_THROUGH = ("bitcast", "copy", "reshape", "transpose", "convert", "get-tuple-element")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """One array that devices exchange.

    An asynchronous start and its done are one collective. Arrays that XLA combined in one instruction are
    several.

    num_bytes: the payload of one group per execution, in the type that the program has: the result of an
      all-gather, one device's operand of an all-reduce or reduce-scatter, one device's shard for an
      all-to-all or collective-permute.
    is_sliced: an all-reduce of whose result each device keeps only its part. XLA turns it into a
      reduce-scatter on GPUs and TPUs, which is its `kind`, but not on CPUs.
    """

    kind: str  # a key of RING_FACTORS
    num_bytes: int
    group_size: int  # number of devices in a group; for a permute, the product of the sizes of `axes`
    axes: tuple[str, ...]  # mesh axes along which the devices of a group differ, outermost first
    group: tuple[int, ...]  # the first group, as positions in mesh.devices.flat
    count: int  # number of executions, loops multiplied
    source: str  # JAX's name stack of the operation that caused it
    instruction: str  # its name in the program, which combined arrays share
    is_sliced: bool = False

    @property
    def ring_bytes(self) -> float:
        """Bytes that each device sends per execution."""
        return self.num_bytes * RING_FACTORS[self.kind](self.group_size)

    @property
    def total_bytes(self) -> float:
        """Bytes that each device sends in all executions together."""
        return self.ring_bytes * self.count


def find_collectives(text: str | Program, mesh_shape: Mapping[str, int]) -> list[Collective]:
    """Returns the collectives of `compiled.as_text()` in order, without those of groups of one device.

    Args:
      mesh_shape: {axis: size} of the mesh that it was compiled for, outermost first: `mesh.shape`.

    Raises:
      ValueError: a collective is not among `RING_FACTORS`, or a loop around it has an unknown trip count.
    """
    program = parse(text) if isinstance(text, str) else text
    found = []
    for computation, instruction, count in program.executed_instructions():
        kind = instruction.opcode.removesuffix("-start")
        if kind in UNSUPPORTED:
            raise ValueError(f"expected one of {list(RING_FACTORS)}, found {kind} ({instruction.source})")
        if kind not in RING_FACTORS:
            continue
        groups = _groups(instruction.attributes, mesh_shape)
        axes = _axes(groups, mesh_shape)
        size = groups.shape[1]
        if kind == "collective-permute":
            size = math.prod(mesh_shape[axis] for axis in axes)
        if size == 1:
            continue
        for index, (values, num_bytes) in enumerate(_results(computation, instruction)):
            if kind == "all-reduce":
                operand = computation[instruction.operands[index]]
                if all(_is_widened(program, computation, operand, value) for value in values):
                    num_bytes //= 2
            is_sliced = kind == "all-reduce" and all(
                _is_sliced(program, computation, value, size) for value in values
            )
            found.append(
                Collective(
                    kind="reduce-scatter" if is_sliced else kind,
                    # The result of a reduce-scatter on one device is 1 / size of the payload.
                    num_bytes=num_bytes * size if kind == "reduce-scatter" else num_bytes,
                    group_size=size,
                    axes=axes,
                    group=_first_group(groups, kind),
                    count=count,
                    source=values[0].source or instruction.source,
                    instruction=instruction.name,
                    is_sliced=is_sliced,
                )
            )
    return found


def _results(computation: Computation, instruction: Instruction) -> Iterator[tuple[list[Instruction], int]]:
    """Yields (the instructions that hold it, its bytes) for each result array of a collective.

    XLA combines several all-reduces into one with a tuple of results. The tuple of an all-to-all is one array
    in pieces.
    """
    done = instruction
    if instruction.opcode.endswith("-start"):  # its result contains its operands too, that of -done does not
        done = next(user for user in computation.users[instruction.name] if user.opcode.endswith("-done"))
    if len(done.arrays) == 1 or instruction.opcode.startswith("all-to-all"):
        yield [done], done.num_bytes
        return
    for index, array in enumerate(done.arrays):
        values = [user for user in computation.users[done.name] if f"index={index}," in user.attributes + ","]
        yield values or [done], array.num_bytes


def _first_group(groups: np.ndarray, kind: str) -> tuple[int, ...]:
    """The first group; of a permute, the first pair of different devices."""
    if kind == "collective-permute":
        groups = groups[groups[:, 0] != groups[:, 1]]
    return tuple(groups[0].tolist())


_Caller: TypeAlias = tuple[Computation, Instruction]  # a fusion, and the computation that holds it


def _readers(
    program: Program, computation: Computation, value: Instruction, callers: tuple[_Caller, ...] = ()
) -> Iterator[tuple[Instruction | None, tuple[Instruction, ...]]]:
    """Yields each instruction that reads `value`, and the instructions that pass the value on to it.

    Looks into fusions, and behind those that only convert, copy or reshape. The reader is None where the
    value is a result of the program or of a loop.
    """
    if value.is_root and not callers:
        yield None, ()
    elif value.is_root:
        outer, fusion = callers[-1]
        yield from _readers(program, outer, fusion, callers[:-1])
    for user in computation.users[value.name]:
        if user.opcode in _PASS_THROUGH:
            for reader, path in _readers(program, computation, user, callers):
                yield reader, (user, *path)
        elif user.opcode == "fusion":
            fused = program.computations[user.called_computations("calls")[0]]
            inside = (*callers, (computation, user))
            for number, operand in enumerate(user.operands):
                if operand == value.name:
                    yield from _readers(program, fused, fused.parameters[number], inside)
        else:
            yield user, ()


def _is_sliced(program: Program, computation: Computation, value: Instruction, num_parts: int) -> bool:
    """Whether every reader of `value` is a dynamic-slice of `1 / num_parts` of it."""
    size = math.prod(value.arrays[0].shape)
    readers = [reader for reader, _ in _readers(program, computation, value)]
    return bool(readers) and all(
        reader is not None
        and reader.opcode == "dynamic-slice"
        and math.prod(reader.arrays[0].shape) * num_parts == size
        for reader in readers
    )


def _is_widened(program: Program, computation: Computation, operand: Instruction, value: Instruction) -> bool:
    """Whether XLA for CPU exchanges float32 where the program has bfloat16 or float16: twice the bytes.

    It converts the operand of an all-reduce to float32, since CPUs cannot add narrow types of several
    devices, and the result `value` back. Other devices exchange the narrow type.
    """
    narrow = ("bf16", "f16")
    readers = list(_readers(program, computation, value))
    if operand.opcode == "fusion":
        computation = program.computations[operand.called_computations("calls")[0]]
        operand = computation.root
    return (
        value.arrays[0].dtype == "f32"
        and operand.opcode == "convert"
        and computation[operand.operands[0]].arrays[0].dtype in narrow
        and all(any(step.arrays[0].dtype in narrow for step in path) for _, path in readers)
    )


def _groups(attributes: str, mesh_shape: Mapping[str, int]) -> np.ndarray:
    """Positions of the devices in `mesh.devices.flat`: int "groups members"; of a permute "pairs 2"."""
    if match := re.search(r"source_target_pairs=\{([\d,{}]*)\}", attributes):
        return _explicit_groups(match.group(1))
    if match := re.search(r"replica_groups=\{([\d,{}]*)\}", attributes):
        all_devices = np.arange(math.prod(mesh_shape.values()))[None]
        return _explicit_groups(match.group(1)) if match.group(1) else all_devices
    if match := re.search(rf"replica_groups=(\[[\d,]+\])<=({_IOTA})", attributes):
        return _iota(match.group(2)).reshape(_numbers(match.group(1)))
    device_ids = rf"(?:, device_ids=\(({_IOTA}|[\d,]+)\))?"
    if match := re.search(rf"replica_groups=mesh\[([^\]]*)\]{device_ids} \{{([^}}]*)\}}", attributes):
        return _groups_by_axis(*match.groups())
    raise ValueError(f"expected replica_groups or source_target_pairs, found {attributes[:200]}")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _explicit_groups(text: str) -> np.ndarray:
    """Parses `{0,1},{2,3}`."""
    return np.array([_numbers(group) for group in re.findall(r"\{([\d,]*)\}", text)])


def _iota(text: str) -> np.ndarray:
    """Parses `[4,2]T(1,0)`: np.arange in that shape, transposed, then flattened."""
    shape, _, order = text.partition("T")
    iota = np.arange(math.prod(_numbers(shape))).reshape(_numbers(shape))
    return iota.transpose(_numbers(order)).ravel() if order else iota.ravel()


def _groups_by_axis(axes: str, device_ids: str | None, group_axes: str) -> np.ndarray:
    """Parses `mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a':(1)2,'b'}`: XLA's own axes, or parts of them.

    A part `(before)size` is the middle axis when the axis is reshaped to (before, size, after).
    """
    sizes = {name: int(size) for name, size in re.findall(r"'?([\w.\-]+)'?=(\d+)", axes)}
    ids = np.arange(math.prod(sizes.values()))
    if device_ids:
        ids = _iota(device_ids) if "[" in device_ids else np.array(_numbers(device_ids))
    parts = re.findall(r"'?([\w.\-]+)'?(?::\((\d+)\)(\d+))?", group_axes)
    shape, group_dimensions = [], []
    for name, size in sizes.items():
        cuts = sorted((int(before), int(part)) for axis, before, part in parts if axis == name and before)
        position = 1
        for before, part in cuts:
            shape += [before // position, part]
            group_dimensions.append(len(shape) - 1)
            position = before * part
        shape.append(size // position)
        if (name, "", "") in parts:
            group_dimensions.append(len(shape) - 1)
    rest = [dimension for dimension in range(len(shape)) if dimension not in group_dimensions]
    members = math.prod(shape[dimension] for dimension in group_dimensions)
    return ids.reshape(shape).transpose(*rest, *group_dimensions).reshape(-1, members)


def _axes(groups: np.ndarray, mesh_shape: Mapping[str, int]) -> tuple[str, ...]:
    """The mesh axes along which the devices of at least one group differ."""
    positions = np.unravel_index(groups, tuple(mesh_shape.values()))
    return tuple(
        axis
        for axis, position in zip(mesh_shape, positions, strict=True)
        if (position != position[:, :1]).any()
    )
