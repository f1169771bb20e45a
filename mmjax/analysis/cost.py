"""What a compiled program costs a device: arithmetic, memory traffic, and memory when it is fullest."""

import dataclasses
import itertools
import math
import re

from mmjax.analysis.hlo import Computation, Instruction, Program

# They name what is there already, or are free.
ALIASES = (
    "bitcast",
    "get-tuple-element",
    "tuple",
    "parameter",
    "constant",
    "opt-barrier",
    "partition-id",
    "while",
)
# They read or replace a part of their first operand.
PARTIAL = ("dynamic-slice", "slice", "gather", "dynamic-update-slice")
# Results that may take the place of an operand that nobody reads afterwards.
IN_PLACE = ("fusion", "add", "multiply", "subtract", "divide", "negate", "select", "maximum", "all-reduce")


def matmul_flops(program: Program) -> float:
    """FLOPs of its matrix products, two for each multiply-add; what is computed twice counts twice.

    Other arithmetic, Fourier transforms too, is left out, as in `train.flops`.
    """
    total = 0.0
    for where, instruction, count in program.executed():
        if instruction.opcode == "dot":
            left = where[instruction.operands[0]].arrays[0].shape
            contracted = math.prod(left[i] for i in instruction.integers("lhs_contracting_dims"))
            total += 2.0 * count * contracted * math.prod(instruction.arrays[0].shape)
    return total


def memory_traffic(program: Program) -> float:
    """Bytes that its instructions read and write, were nothing kept on the chip from one to the next.

    Of an array that a fusion only slices or updates in part, the part. A GPU or TPU fuses otherwise than the
    CPU for which the program may be compiled: a guide, not a measure.
    """
    total = 0.0
    for where, instruction, count in program.executed(fused=False):
        if instruction.opcode not in (*ALIASES, "conditional", "call"):
            read = sum(_read(program, where, instruction, i) for i in range(len(instruction.operands)))
            total += count * (read + _written(program, where, instruction))
    return total


def _read(program: Program, where: Computation, instruction: Instruction, number: int) -> int:
    array = where[instruction.operands[number]]
    readers = [instruction]
    if instruction.opcode == "fusion":
        inner = program.computations[instruction.called("calls")[0]]
        array = inner.parameters[number]
        readers = inner.users[array.name]
    if all(user.opcode in PARTIAL and array.name not in user.operands[1:] for user in readers):
        parts = [0 if user.opcode == "dynamic-update-slice" else user.num_bytes for user in readers]
        return min(array.num_bytes, sum(parts))
    return array.num_bytes


def _written(program: Program, where: Computation, instruction: Instruction) -> int:
    updated = _update(program, where, instruction)
    return instruction.num_bytes if updated is None else updated[1]


def _update(program: Program, where: Computation, instruction: Instruction) -> tuple[int, int] | None:
    """(number of the operand, bytes of the part) if the result is that operand with a part replaced."""
    if instruction.opcode == "dynamic-update-slice":
        return 0, where[instruction.operands[1]].num_bytes
    if instruction.opcode != "fusion":
        return None
    inner = program.computations[instruction.called("calls")[0]]
    root = inner.root
    while root.opcode == "bitcast":
        root = inner[root.operands[0]]
    if root.opcode != "dynamic-update-slice":
        return None
    target = inner[root.operands[0]]
    while target.opcode == "bitcast":
        target = inner[target.operands[0]]
    if target.opcode != "parameter":
        return None
    return int(target.literal), inner[root.operands[1]].num_bytes


@dataclasses.dataclass
class Buffer:
    """Memory of one array, from the instruction that makes it to the last that reads it."""

    num_bytes: int
    source: str  # JAX's name stack of the instruction
    born: int
    dies: int


def peak_buffers(program: Program) -> list[Buffer]:
    """What lies in a device's memory when it is fullest, but for arguments, results and constants.

    Follows a scheduled program, with the aliases that XLA's buffer assignment makes (loops and updates in
    place, element-wise results over operands that die there) but without its packing.
    """
    return _peak(program, program.entry, {})


def _peak(program: Program, where: Computation, known: dict[str, list[Buffer]]) -> list[Buffer]:
    """`known`: what was found of computations that are called from several places."""
    if where.name in known:
        return known[where.name]
    values: dict[str, tuple[Buffer | None, ...]] = {}  # one for each array; None: memory of the caller
    inside: list[list[Buffer]] = []
    for i, instruction in enumerate(where.instructions):
        operands = [buffer for name in instruction.operands for buffer in values[name]]
        for buffer in operands:
            if buffer is not None:
                buffer.dies = i
        values[instruction.name] = _buffers(program, where, instruction, values, i)
        called = [program.computations[name] for name in _called(instruction)]
        inside.append(max((_peak(program, c, known) for c in called), key=_size, default=[]))
    results = {id(buffer) for buffer in values[where.root.name]}
    for i, instruction in enumerate(where.instructions):
        if instruction.opcode in IN_PLACE:
            _take_over(values, instruction, i)
    every = {id(b): b for made in values.values() for b in made if b is not None and id(b) not in results}
    change = [0] * (len(inside) + 1)
    for buffer in every.values():
        change[buffer.born] += buffer.num_bytes
        change[buffer.dies + 1] -= buffer.num_bytes
    live = list(itertools.accumulate(change))
    fullest = max(range(len(inside)), key=lambda i: live[i] + _size(inside[i]))
    known[where.name] = [b for b in every.values() if b.born <= fullest <= b.dies] + inside[fullest]
    return known[where.name]


def _size(buffers: list[Buffer]) -> int:
    return sum(buffer.num_bytes for buffer in buffers)


def _called(instruction: Instruction) -> tuple[str, ...]:
    """Computations whose arrays lie in memory: those of a fusion stay on the chip."""
    if instruction.opcode in ("while", "conditional", "call"):
        keys = ("body", "branch_computations", "true_computation", "false_computation", "to_apply")
        return instruction.called(*keys)
    return ()


def _buffers(
    program: Program, where: Computation, instruction: Instruction, values: dict, i: int
) -> tuple[Buffer | None, ...]:
    """Where each array of the result lies."""
    opcode, operands = instruction.opcode, instruction.operands
    if opcode in ("parameter", "constant", "partition-id"):
        return (None,) * len(instruction.arrays)
    if opcode == "tuple":
        return tuple(buffer for name in operands for buffer in values[name])
    if opcode == "get-tuple-element":
        elements = [values[name] for name in operands][0]
        sizes = where[operands[0]].element_sizes
        index = int(re.findall(r"index=(\d+)", instruction.attributes)[0])
        start = sum(sizes[:index])
        return elements[start : start + sizes[index]]
    if opcode == "while":
        _name_after_writers(program.computations[instruction.called("body")[0]], values[operands[0]])
    if opcode in ("bitcast", "while", "opt-barrier"):
        return values[operands[0]]
    if opcode.endswith("-start"):
        return (None,) * len(instruction.arrays)  # its -done stands for both
    updated = _update(program, where, instruction)
    if updated is not None and where[operands[updated[0]]].num_bytes == instruction.num_bytes:
        return values[operands[updated[0]]]
    # XLA's own copies have no name: that of what they copy.
    source = instruction.source or next((b.source for name in operands for b in values[name] if b), "")
    return tuple(Buffer(array.num_bytes, source, i, i) for array in instruction.arrays)


def _name_after_writers(body: Computation, carried: tuple[Buffer | None, ...]) -> None:
    """What a loop fills belongs to what fills it, not to the zeros that it was before."""
    if body.root.opcode != "tuple":
        return
    for buffer, name in zip(carried, body.root.operands, strict=False):
        if buffer is not None and body[name].source and body[name].opcode != "get-tuple-element":
            buffer.source = body[name].source


def _take_over(values: dict, instruction: Instruction, i: int) -> None:
    """Lets each new array take the place of an operand of its size that dies here."""
    dying = [
        b for name in instruction.operands for b in values[name] if b is not None and b.dies == i > b.born
    ]
    for made in values[instruction.name]:
        if made is not None and made.born == i:
            for buffer in dying:
                if buffer.dies == i and buffer.num_bytes == made.num_bytes:
                    buffer.dies = i - 1
                    break
