"""Parses the text of a compiled XLA program into computations and instructions.

`jax.jit(f).lower(...).compile().as_text()` returns the program of one device after partitioning, so its
shapes are those of local shards. Operations: https://openxla.org/xla/operation_semantics.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

# Four-bit types are packed in pairs.
ELEMENT_BYTES = {
    "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "s32": 4, "u32": 4, "s64": 8,
    "u64": 8, "f8e4m3": 1, "f8e4m3fn": 1, "f8e4m3b11fnuz": 1, "f8e4m3fnuz": 1, "f8e5m2": 1, "f8e5m2fnuz": 1,
    "f8e8m0fnu": 1,
    "f16": 2, "bf16": 2, "f32": 4, "f64": 8, "c64": 8, "c128": 16, "token": 0, "opaque": 0,
}  # fmt: skip
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%([\w.\-]+) = ")
_COMPUTATION = re.compile(r"^(ENTRY )?%([\w.\-]+) .*\{$")


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of an instruction's result, as one device stores it."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes on one device."""
        if self.dtype not in ELEMENT_BYTES:
            raise ValueError(f"expected an element type among {sorted(ELEMENT_BYTES)}, found {self.dtype!r}")
        return math.ceil(math.prod(self.shape) * ELEMENT_BYTES[self.dtype])


@dataclasses.dataclass(frozen=True)
class Instruction:
    """`%name = type opcode(operands), attributes`."""

    name: str
    opcode: str
    type: str
    operands: tuple[str, ...]
    literal: str  # the text in parentheses: a constant's value, or a parameter's number
    attributes: str
    is_root: bool

    @functools.cached_property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays of the result; those of a tuple in order.

        >>> parse(EXAMPLE).entry.instructions[0].arrays
        (Array(dtype='f32', shape=(8, 4)),)
        """
        return tuple(
            Array(dtype, tuple(int(size) for size in sizes.split(",") if size))
            for dtype, sizes in _ARRAY.findall(self.type)
        )

    @functools.cached_property
    def num_bytes(self) -> int:
        """Bytes of all arrays of the result."""
        return sum(array.num_bytes for array in self.arrays)

    @functools.cached_property
    def arrays_per_element(self) -> tuple[int, ...]:
        """The number of arrays in each element of a tuple.

        >>> root = dataclasses.replace(parse(EXAMPLE).entry.root, type="(f32[2]{0}, (f32[], s32[]))")
        >>> root.arrays_per_element
        (1, 2)
        """
        counts, depth = [], 0
        for token in re.finditer(r"[()]|\[[\d,]*\]", re.sub(r"\{[^}]*\}", "", self.type)):
            if token.group() in "()":
                depth += 1 if token.group() == "(" else -1
                if depth == 2 and token.group() == "(":
                    counts.append(0)
            elif depth < 2:
                counts.append(1)
            else:
                counts[-1] += 1
        return tuple(counts)

    @property
    def source(self) -> str:
        """JAX's name stack of the operation; empty if XLA added the instruction."""
        match = re.search(r'op_name="([^"]*)"', self.attributes)
        return match.group(1) if match else ""

    def called_computations(self, *keys: str) -> tuple[str, ...]:
        """Names of the computations in the attributes `keys`.

        >>> parse(EXAMPLE).entry.instructions[1].called_computations("to_apply")
        ('double',)
        """
        texts = re.findall(rf"\b(?:{'|'.join(keys)})=(\{{[^}}]*\}}|%[\w.\-]+)", self.attributes)
        return tuple(name for text in texts for name in _NAME.findall(text))

    def integer_attribute(self, key: str) -> tuple[int, ...]:
        """The value of an attribute such as `key={0,2}`: (0, 2); empty if it is missing."""
        match = re.search(rf"\b{key}=\{{([\d,]*)\}}", self.attributes)
        return tuple(int(text) for text in match.group(1).split(",") if text) if match else ()


@dataclasses.dataclass(frozen=True)
class Computation:
    """A named sequence of instructions, in the order of execution if the program is scheduled."""

    name: str
    instructions: tuple[Instruction, ...]

    def __getitem__(self, name: str) -> Instruction:
        return self._by_name[name]

    @functools.cached_property
    def _by_name(self) -> dict[str, Instruction]:
        return {instruction.name: instruction for instruction in self.instructions}

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """{name of an instruction: the instructions that read its result}."""
        users: dict[str, list[Instruction]] = {instruction.name: [] for instruction in self.instructions}
        for instruction in self.instructions:
            for operand in dict.fromkeys(instruction.operands):
                users[operand].append(instruction)
        return users

    @functools.cached_property
    def root(self) -> Instruction:
        """The instruction whose result the computation returns."""
        return next(instruction for instruction in self.instructions if instruction.is_root)

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        """{number of a parameter: its instruction}."""
        return {int(i.literal): i for i in self.instructions if i.opcode == "parameter"}


@dataclasses.dataclass(frozen=True)
class Program:
    """The computations of a module, and the one at which execution starts."""

    computations: dict[str, Computation]
    entry: Computation

    def executed_instructions(
        self, computation: Computation | None = None, count: int = 1, *, include_fused: bool = True
    ) -> Iterator[tuple[Computation, Instruction, int]]:
        """Yields (its computation, instruction, number of executions), from `computation` or the entry on.

        Loops multiply the number, which is `count` outside of them. Includes both branches of a conditional
        and, with `include_fused`, the instructions inside fusions.
        """
        computation = self.entry if computation is None else computation
        for instruction in computation.instructions:
            yield computation, instruction, count
            opcode, repeats = instruction.opcode, 1
            if opcode == "while":
                keys, repeats = ("body", "condition"), self.trip_count(computation, instruction)
            elif opcode == "conditional":
                keys = ("branch_computations", "true_computation", "false_computation")
            elif opcode in ("call", "async-start") or (include_fused and opcode == "fusion"):
                keys = ("calls", "to_apply")
            else:
                continue
            for called in map(self.computations.__getitem__, instruction.called_computations(*keys)):
                yield from self.executed_instructions(called, count * repeats, include_fused=include_fused)

    def trip_count(self, computation: Computation, loop: Instruction) -> int:
        """The iterations of a `while`: annotated by XLA, or from its condition `i < constant`.

        Raises ValueError if the number depends on data.
        """
        match = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes)
        if match:
            return int(match.group(1))
        condition = self.computations[loop.called_computations("condition")[0]]
        test, names = condition.root, list(condition.root.operands)
        if test.opcode == "fusion":
            inner = self.computations[test.called_computations("calls")[0]]
            test = inner.root
            names = [names[int(inner[name].literal)] for name in test.operands if inner[name].operands == ()]
        if "direction=LT" in test.attributes and len(names) == 2:
            index, bound = (condition[name] for name in names)
            start = computation[loop.operands[0]]
            if index.opcode == "get-tuple-element" and bound.opcode == "constant" and start.opcode == "tuple":
                number = int(re.findall(r"index=(\d+)", index.attributes)[0])
                first = computation[start.operands[number]]
                while first.opcode in ("copy", "bitcast"):
                    first = computation[first.operands[0]]
                if first.opcode == "constant":
                    return max(0, int(bound.literal) - int(first.literal))
        raise ValueError(
            f"expected the loop {loop.name} to have a known trip count, or to compare a counter with a "
            f"constant, found {test.opcode} in {condition.name}: its number of iterations depends on data"
        )


def parse(text: str) -> Program:
    """Parses `compiled.as_text()`. Raises ValueError if it has no ENTRY computation.

    >>> [instruction.opcode for instruction in parse(EXAMPLE).entry.instructions]
    ['parameter', 'call']
    """
    computations, entry, name, instructions = {}, "", "", []
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            name, instructions = match.group(2), []
            entry = name if match.group(1) else entry
        elif line == "}":
            computations[name] = Computation(name, tuple(instructions))
        elif match := _INSTRUCTION.match(line):
            instructions.append(_instruction(line[match.end() :], match.group(2), bool(match.group(1))))
    if entry not in computations:
        raise ValueError("expected the text of a compiled program with an ENTRY computation, found none")
    return Program(computations, computations[entry])


def _instruction(text: str, name: str, is_root: bool) -> Instruction:
    """Parses `text`, the part of the line after the equals sign."""
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    start = text.index("(", end)
    stop = _closing(text, start)
    literal = text[start + 1 : stop]
    return Instruction(
        name=name,
        opcode=text[end:start].strip(),
        type=text[:end],
        operands=tuple(_NAME.findall(literal)),
        literal=literal,
        attributes=text[stop + 1 :],
        is_root=is_root,
    )


def _closing(text: str, start: int) -> int:
    """The position at which the parenthesis that opens at `start` closes."""
    depth = 0
    for match in re.finditer(r"[()]", text[start:]):
        depth += 1 if match.group() == "(" else -1
        if depth == 0:
            return start + match.start()
    raise ValueError(f"expected a closing parenthesis in: {text[start : start + 80]}")


EXAMPLE = """HloModule example

%double (x: f32[8,4]) -> f32[8,4] {
  %x = f32[8,4]{1,0} parameter(0)
  ROOT %sum = f32[8,4]{1,0} add(%x, %x)
}

ENTRY %main (y: f32[8,4]) -> f32[8,4] {
  %y = f32[8,4]{1,0} parameter(0)
  ROOT %call = f32[8,4]{1,0} call(%y), to_apply=%double
}
"""
