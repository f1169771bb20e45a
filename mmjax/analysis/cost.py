"""Counts FLOPs, memory traffic and peak memory of a compiled program on one device."""

import dataclasses
import itertools
import math
import re

from mmjax.analysis.hlo import Computation, Instruction, Program

# They move no data: their result aliases an operand, or is a constant.
ALIASES = (
    "bitcast", "get-tuple-element", "tuple", "parameter", "constant", "opt-barrier", "partition-id", "while",
)  # fmt: skip
# They read or replace only a part of their first operand.
PARTIAL = ("dynamic-slice", "slice", "gather", "dynamic-update-slice")
# Their result may reuse the memory of an operand that no later instruction reads.
IN_PLACE = ("fusion", "add", "multiply", "subtract", "divide", "negate", "select", "maximum", "all-reduce")


def matmul_flops(program: Program) -> float:
    """FLOPs of the matrix products, two per multiply-add. Recomputed products count again.

    Other operations, Fourier transforms included, are not counted, as in `training.flops`.
    """
    flops = 0.0
    for computation, instruction, count in program.executed_instructions():
        if instruction.opcode == "dot":
            left = computation[instruction.operands[0]].arrays[0].shape
            contracted = math.prod(left[i] for i in instruction.integer_attribute("lhs_contracting_dims"))
            flops += 2.0 * count * contracted * math.prod(instruction.arrays[0].shape)
    return flops


def memory_traffic(program: Program) -> float:
    """Bytes that the instructions read and write, if no result stayed in a cache or registers.

    Where a fusion only slices or updates a part of an array, that part counts. An estimate for GPUs and TPUs,
    which fuse operations differently from CPUs.
    """
    num_bytes = 0.0
    for computation, instruction, count in program.executed_instructions(include_fused=False):
        if instruction.opcode not in (*ALIASES, "conditional", "call"):
            numbers = range(len(instruction.operands))
            read = sum(_read_bytes(program, computation, instruction, number) for number in numbers)
            num_bytes += count * (read + _written_bytes(program, computation, instruction))
    return num_bytes


def _read_bytes(program: Program, computation: Computation, instruction: Instruction, number: int) -> int:
    """Bytes that `instruction` reads of its operand `number`."""
    array = computation[instruction.operands[number]]
    readers = [instruction]
    if instruction.opcode == "fusion":
        fused = program.computations[instruction.called_computations("calls")[0]]
        array = fused.parameters[number]
        readers = fused.users[array.name]
    if all(user.opcode in PARTIAL and array.name not in user.operands[1:] for user in readers):
        parts = [0 if user.opcode == "dynamic-update-slice" else user.num_bytes for user in readers]
        return min(array.num_bytes, sum(parts))
    return array.num_bytes


def _written_bytes(program: Program, computation: Computation, instruction: Instruction) -> int:
    update = _partial_update(program, computation, instruction)
    return instruction.num_bytes if update is None else update[1]


def _partial_update(
    program: Program, computation: Computation, instruction: Instruction
) -> tuple[int, int] | None:
    """(number of the operand, bytes of the part), if the result is an operand with a part replaced."""
    if instruction.opcode == "dynamic-update-slice":
        return 0, computation[instruction.operands[1]].num_bytes
    if instruction.opcode != "fusion":
        return None
    fused = program.computations[instruction.called_computations("calls")[0]]
    root = fused.root
    while root.opcode == "bitcast":
        root = fused[root.operands[0]]
    if root.opcode != "dynamic-update-slice":
        return None
    target = fused[root.operands[0]]
    while target.opcode == "bitcast":
        target = fused[target.operands[0]]
    if target.opcode != "parameter":
        return None
    return int(target.literal), fused[root.operands[1]].num_bytes


@dataclasses.dataclass
class Buffer:
    """Memory of one array. It is live from instruction `first_use`, which computes it, to `last_use`."""

    num_bytes: int
    source: str  # JAX's name stack of the instruction that computes it
    first_use: int  # position of the instruction in its computation
    last_use: int


def peak_buffers(program: Program) -> list[Buffer]:
    """The live buffers when a device uses most memory, without arguments, results and constants.

    Simulates a scheduled program with the aliases of XLA's buffer assignment (loops and updates in place,
    element-wise results in the memory of operands at their last use), but without its packing.
    """
    return _peak(program, program.entry, {})


def _peak(program: Program, computation: Computation, cache: dict[str, list[Buffer]]) -> list[Buffer]:
    """As `peak_buffers`, of one computation. `cache` holds results by name of the computation."""
    if computation.name in cache:
        return cache[computation.name]
    values: dict[str, tuple[Buffer | None, ...]] = {}  # one per array; None: memory of the caller
    called_peaks: list[
        list[Buffer]
    ] = []  # per instruction, the largest peak of the computations that it calls
    for i, instruction in enumerate(computation.instructions):
        for buffer in (buffer for name in instruction.operands for buffer in values[name]):
            if buffer is not None:
                buffer.last_use = i
        values[instruction.name] = _result_buffers(program, computation, instruction, values, i)
        called = [program.computations[name] for name in _computations_in_memory(instruction)]
        called_peaks.append(max((_peak(program, c, cache) for c in called), key=_num_bytes, default=[]))
    results = {id(buffer) for buffer in values[computation.root.name]}
    for i, instruction in enumerate(computation.instructions):
        if instruction.opcode in IN_PLACE:
            _reuse_operands(values, instruction, i)
    buffers = {id(b): b for arrays in values.values() for b in arrays if b is not None}
    temporaries = [buffer for key, buffer in buffers.items() if key not in results]
    changes = [0] * (len(called_peaks) + 1)
    for buffer in temporaries:
        changes[buffer.first_use] += buffer.num_bytes
        changes[buffer.last_use + 1] -= buffer.num_bytes
    live = list(itertools.accumulate(changes))
    peak = max(range(len(called_peaks)), key=lambda i: live[i] + _num_bytes(called_peaks[i]))
    live_at_peak = [buffer for buffer in temporaries if buffer.first_use <= peak <= buffer.last_use]
    cache[computation.name] = live_at_peak + called_peaks[peak]
    return cache[computation.name]


def _num_bytes(buffers: list[Buffer]) -> int:
    return sum(buffer.num_bytes for buffer in buffers)


def _computations_in_memory(instruction: Instruction) -> tuple[str, ...]:
    """The called computations whose arrays are in memory: those of a fusion stay on the chip."""
    if instruction.opcode in ("while", "conditional", "call"):
        keys = ("body", "branch_computations", "true_computation", "false_computation", "to_apply")
        return instruction.called_computations(*keys)
    return ()


def _result_buffers(
    program: Program, computation: Computation, instruction: Instruction, values: dict, i: int
) -> tuple[Buffer | None, ...]:
    """The buffer of each array of the result: new ones, or those of operands; None: memory of the caller."""
    opcode, operands = instruction.opcode, instruction.operands
    if opcode in ("parameter", "constant", "partition-id"):
        return (None,) * len(instruction.arrays)
    if opcode == "tuple":
        return tuple(buffer for name in operands for buffer in values[name])
    if opcode == "get-tuple-element":
        elements = [values[name] for name in operands][0]
        counts = computation[operands[0]].arrays_per_element
        index = int(re.findall(r"index=(\d+)", instruction.attributes)[0])
        start = sum(counts[:index])
        return elements[start : start + counts[index]]
    if opcode == "while":
        body = program.computations[instruction.called_computations("body")[0]]
        _set_source_from_body(body, values[operands[0]])
    if opcode in ("bitcast", "while", "opt-barrier"):
        return values[operands[0]]
    if opcode.endswith("-start"):
        return (None,) * len(instruction.arrays)  # the matching -done owns the buffers
    update = _partial_update(program, computation, instruction)
    if update is not None and computation[operands[update[0]]].num_bytes == instruction.num_bytes:
        return values[operands[update[0]]]
    # Copies that XLA adds have no source: they get that of their operand.
    source = instruction.source or next((b.source for name in operands for b in values[name] if b), "")
    return tuple(Buffer(array.num_bytes, source, i, i) for array in instruction.arrays)


def _set_source_from_body(body: Computation, carried: tuple[Buffer | None, ...]) -> None:
    """Attributes arrays that a loop fills to the instruction that fills them, not to their initial zeros."""
    if body.root.opcode != "tuple":
        return
    for buffer, name in zip(carried, body.root.operands, strict=False):
        if buffer is not None and body[name].source and body[name].opcode != "get-tuple-element":
            buffer.source = body[name].source


def _reuse_operands(values: dict, instruction: Instruction, i: int) -> None:
    """Lets each new array reuse the memory of an operand of its size whose last use is this instruction."""
    operands = [buffer for name in instruction.operands for buffer in values[name] if buffer is not None]
    reusable = [buffer for buffer in operands if buffer.last_use == i > buffer.first_use]
    for result in values[instruction.name]:
        if result is not None and result.first_use == i:
            for buffer in reusable:
                if buffer.last_use == i and buffer.num_bytes == result.num_bytes:
                    buffer.last_use = i - 1
                    break
