"""What devices say to each other in one run of a compiled program: kind, bytes, mesh axes, how often."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

from mmjax.analysis.hlo import Computation, Instruction, Program, parse

# What each device must send in a ring, as a share of `num_bytes`, among n devices (Thakur et al. 2005; no
# algorithm sends less, but for all-to-all and permute, which send directly).
RING = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1.0,
}
# They occur in no program of JAX's that this reader has seen.
UNREAD = ("collective-broadcast", "ragged-all-to-all", "collective-reduce", "send", "recv")
_IOTA = r"\[[\d,]+\](?:T\([\d,]+\))?"
# A result under another name: what reads it, reads the collective.
_SAME = ("bitcast", "copy", "reshape", "transpose", "convert", "get-tuple-element")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """One array that devices exchange; asynchronous pairs are one, arrays that XLA combined are apart.

    num_bytes: of the whole payload of one group, each time it runs: what an all-gather has gathered, what
      an all-reduce or reduce-scatter sums (one device's copy), what one device holds of an all-to-all or
      hands on in a collective-permute.
    sliced: written as an all-reduce of which every device keeps only its own part. XLA leaves it so on CPUs,
      and makes it the reduce-scatter that `kind` says on GPUs and TPUs.
    """

    kind: str  # a key of RING
    num_bytes: int
    group_size: int  # devices that talk to each other; of a permute, the product of `axes`
    axes: tuple[str, ...]  # mesh axes along which the devices of a group differ, outermost first
    group: tuple[int, ...]  # the first group, as positions in mesh.devices.flat
    count: int  # times that it runs: loops that contain it multiply
    source: str  # JAX's name stack: the part of the model that caused it
    instruction: str  # its name in the program; the same where several arrays are combined
    sliced: bool = False

    @property
    def ring_bytes(self) -> float:
        """Bytes that each device sends each time it runs."""
        return self.num_bytes * RING[self.kind](self.group_size)

    @property
    def total_bytes(self) -> float:
        """Bytes that each device sends in one run of the program."""
        return self.ring_bytes * self.count


def collectives(text: str | Program, mesh_shape: Mapping[str, int]) -> list[Collective]:
    """Every collective of `compiled.as_text()`, in order, but for those of groups of one device.

    mesh_shape: {axis: size} of the mesh that it was compiled for, outermost first: `mesh.shape`. Devices are
      counted by their position in `mesh.devices.flat`, as in the program.

    Raises:
      ValueError: a collective that is not among `RING`, or a loop of unknown length around one.
    """
    program = parse(text) if isinstance(text, str) else text
    found = []
    for where, instruction, count in program.executed():
        kind = instruction.opcode.removesuffix("-start")
        if kind in UNREAD:
            raise ValueError(f"expected one of {list(RING)}, found {kind} ({instruction.source})")
        if kind not in RING:
            continue
        groups = _groups(instruction.attributes, mesh_shape)
        axes = _axes(groups, mesh_shape)
        size = groups.shape[1]
        if kind == "collective-permute":
            size = math.prod(mesh_shape[axis] for axis in axes)
        if size == 1:
            continue
        for values, num_bytes in _results(where, instruction):
            sliced = kind == "all-reduce" and all(_sliced(program, where, value, size) for value in values)
            found.append(
                Collective(
                    kind="reduce-scatter" if sliced else kind,
                    # What a reduce-scatter leaves on one device is a part of the payload.
                    num_bytes=num_bytes * size if kind == "reduce-scatter" else num_bytes,
                    group_size=size,
                    axes=axes,
                    group=_first(groups, kind),
                    count=count,
                    source=values[0].source or instruction.source,
                    instruction=instruction.name,
                    sliced=sliced,
                )
            )
    return found


def _results(where: Computation, instruction: Instruction) -> Iterator[tuple[list[Instruction], int]]:
    """(the values that hold it, its bytes) for each array that the collective makes.

    XLA combines several all-reduces into one with a tuple of results. The tuple of an all-to-all is one array
    in pieces.
    """
    done = instruction
    if instruction.opcode.endswith("-start"):  # whose tuple holds its operands, too
        done = next(user for user in where.users[instruction.name] if user.opcode.endswith("-done"))
    if len(done.arrays) == 1 or instruction.opcode.startswith("all-to-all"):
        yield [done], done.num_bytes
        return
    for index, array in enumerate(done.arrays):
        values = [user for user in where.users[done.name] if f"index={index}," in user.attributes + ","]
        yield values or [done], array.num_bytes


def _first(groups: np.ndarray, kind: str) -> tuple[int, ...]:
    """The first group, or the first pair that moves."""
    moving = groups[groups[:, 0] != groups[:, 1]] if kind == "collective-permute" else groups
    return tuple(moving[0].tolist())


def _sliced(program: Program, where: Computation, value: Instruction, parts: int) -> bool:
    """Whether all that reads `value` reads `1 / parts` of it, by dynamic-slice."""
    if value.is_root or not where.users[value.name]:
        return False
    for user in where.users[value.name]:
        if user.opcode in _SAME:
            if not _sliced(program, where, user, parts):
                return False
        elif user.opcode == "fusion":
            inner = program.computations[user.called("calls")[0]]
            for number, operand in enumerate(user.operands):
                if operand == value.name and not _sliced(program, inner, inner.parameters[number], parts):
                    return False
        elif user.opcode != "dynamic-slice" or user.num_bytes * parts != value.num_bytes:
            return False
    return True


def _groups(attributes: str, mesh_shape: Mapping[str, int]) -> np.ndarray:
    """Positions of devices, int ``"groups members"``; of a permute ``"pairs 2"``."""
    if found := re.search(r"source_target_pairs=\{([\d,{}]*)\}", attributes):
        return _explicit(found.group(1))
    if found := re.search(r"replica_groups=\{([\d,{}]*)\}", attributes):
        everyone = np.arange(math.prod(mesh_shape.values()))[None]
        return _explicit(found.group(1)) if found.group(1) else everyone
    if found := re.search(rf"replica_groups=(\[[\d,]+\])<=({_IOTA})", attributes):
        return _iota(found.group(2)).reshape(_numbers(found.group(1)))
    device_ids = rf"(?:, device_ids=\(({_IOTA}|[\d,]+)\))?"
    if found := re.search(rf"replica_groups=mesh\[([^\]]*)\]{device_ids} \{{([^}}]*)\}}", attributes):
        return _named(*found.groups())
    raise ValueError(f"expected replica_groups or source_target_pairs, found {attributes[:200]}")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _explicit(text: str) -> np.ndarray:
    """`{0,1},{2,3}`."""
    return np.array([_numbers(group) for group in re.findall(r"\{([\d,]*)\}", text)])


def _iota(text: str) -> np.ndarray:
    """`[4,2]T(1,0)`: 0, 1, ... in that shape, transposed; flat."""
    shape, _, order = text.partition("T")
    iota = np.arange(math.prod(_numbers(shape))).reshape(_numbers(shape))
    return iota.transpose(_numbers(order)).ravel() if order else iota.ravel()


def _named(axes: str, device_ids: str | None, over: str) -> np.ndarray:
    """`mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a':(1)2,'b'}`: XLA's own axes, whole or in part.

    A part (before)size of an axis is the middle one of before x size x after that the axis is cut into.
    """
    sizes = {name: int(size) for name, size in re.findall(r"'?([\w.\-]+)'?=(\d+)", axes)}
    ids = np.arange(math.prod(sizes.values()))
    if device_ids:
        ids = _iota(device_ids) if "[" in device_ids else np.array(_numbers(device_ids))
    parts = re.findall(r"'?([\w.\-]+)'?(?::\((\d+)\)(\d+))?", over)
    shape, chosen = [], []
    for name, size in sizes.items():
        cuts = sorted((int(before), int(part)) for other, before, part in parts if other == name and before)
        position = 1
        for before, part in cuts:
            shape += [before // position, part]
            chosen.append(len(shape) - 1)
            position = before * part
        shape.append(size // position)
        if (name, "", "") in parts:
            chosen.append(len(shape) - 1)
    rest = [dimension for dimension in range(len(shape)) if dimension not in chosen]
    members = math.prod(shape[dimension] for dimension in chosen)
    return ids.reshape(shape).transpose(*rest, *chosen).reshape(-1, members)


def _axes(groups: np.ndarray, mesh_shape: Mapping[str, int]) -> tuple[str, ...]:
    """The mesh axes along which any group's devices differ."""
    positions = np.unravel_index(groups, tuple(mesh_shape.values()))
    return tuple(
        axis
        for axis, position in zip(mesh_shape, positions, strict=True)
        if (position != position[:, :1]).any()
    )
