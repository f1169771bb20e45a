"""The text of a compiled XLA program as values: computations, instructions, and how often each runs.

`jax.jit(f).lower(...).compile().as_text()` gives the program of one device after partitioning, so every shape
in it is what one device holds. The grammar: https://openxla.org/xla/operation_semantics.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

# Bytes of an element; four-bit types are packed in pairs.
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
    """One array of an instruction's result, as one device holds it."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
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
    literal: str  # what stands between the parentheses: a constant's value, a parameter's number
    attributes: str
    is_root: bool

    @functools.cached_property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays of the result, those of a tuple in order.

        >>> parse(EXAMPLE).entry.instructions[0].arrays
        (Array(dtype='f32', shape=(8, 4)),)
        """
        return tuple(
            Array(dtype, tuple(int(size) for size in sizes.split(",") if size))
            for dtype, sizes in _ARRAY.findall(self.type)
        )

    @functools.cached_property
    def num_bytes(self) -> int:
        return sum(array.num_bytes for array in self.arrays)

    @functools.cached_property
    def element_sizes(self) -> tuple[int, ...]:
        """How many arrays each element of a tuple holds.

        >>> dataclasses.replace(parse(EXAMPLE).entry.root, type="(f32[2]{0}, (f32[], s32[]))").element_sizes
        (1, 2)
        """
        sizes, depth = [], 0
        for mark in re.finditer(r"[()]|\[[\d,]*\]", re.sub(r"\{[^}]*\}", "", self.type)):
            if mark.group() in "()":
                depth += 1 if mark.group() == "(" else -1
                if depth == 2 and mark.group() == "(":
                    sizes.append(0)
            elif depth < 2:
                sizes.append(1)
            else:
                sizes[-1] += 1
        return tuple(sizes)

    @property
    def source(self) -> str:
        """Where in the model it comes from: JAX's name stack, empty if XLA made it."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found.group(1) if found else ""

    def called(self, *keys: str) -> tuple[str, ...]:
        """Names of the computations under `keys` among the attributes.

        >>> parse(EXAMPLE).entry.instructions[1].called("to_apply")
        ('double',)
        """
        texts = re.findall(rf"\b(?:{'|'.join(keys)})=(\{{[^}}]*\}}|%[\w.\-]+)", self.attributes)
        return tuple(name for text in texts for name in _NAME.findall(text))

    def integers(self, key: str) -> tuple[int, ...]:
        """`key={0,2}` among the attributes -> (0, 2); empty if it is not there."""
        found = re.search(rf"\b{key}=\{{([\d,]*)\}}", self.attributes)
        return tuple(int(text) for text in found.group(1).split(",") if text) if found else ()


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions in the order in which they run, if the program is scheduled."""

    name: str
    instructions: tuple[Instruction, ...]

    def __getitem__(self, name: str) -> Instruction:
        return self._by_name[name]

    @functools.cached_property
    def _by_name(self) -> dict[str, Instruction]:
        return {instruction.name: instruction for instruction in self.instructions}

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """{instruction: those that read it}."""
        users: dict[str, list[Instruction]] = {instruction.name: [] for instruction in self.instructions}
        for instruction in self.instructions:
            for operand in dict.fromkeys(instruction.operands):
                users[operand].append(instruction)
        return users

    @functools.cached_property
    def root(self) -> Instruction:
        return next(instruction for instruction in self.instructions if instruction.is_root)

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        return {int(i.literal): i for i in self.instructions if i.opcode == "parameter"}


@dataclasses.dataclass(frozen=True)
class Program:
    """Every computation of a module, and the one that runs."""

    computations: dict[str, Computation]
    entry: Computation

    def executed(
        self, computation: Computation | None = None, count: int = 1, *, fused: bool = True
    ) -> Iterator[tuple[Computation, Instruction, int]]:
        """(where, instruction, times that it runs), in order. Both branches of a conditional count.

        fused: what is inside fusions, too.
        """
        where = self.entry if computation is None else computation
        for instruction in where.instructions:
            yield where, instruction, count
            if instruction.opcode == "while":
                inner, times = instruction.called("body", "condition"), self.trip_count(where, instruction)
            elif instruction.opcode == "conditional":
                keys = ("branch_computations", "true_computation", "false_computation")
                inner, times = instruction.called(*keys), 1
            elif instruction.opcode in ("call", "async-start") or (fused and instruction.opcode == "fusion"):
                inner, times = instruction.called("calls", "to_apply"), 1
            else:
                continue
            for name in inner:
                yield from self.executed(self.computations[name], count * times, fused=fused)

    def trip_count(self, where: Computation, loop: Instruction) -> int:
        """How often a `while` runs: as XLA states, else from `i < bound` and the constant where i starts.

        Raises ValueError for a loop whose end depends on data.
        """
        found = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes)
        if found:
            return int(found.group(1))
        condition = self.computations[loop.called("condition")[0]]
        test, names = condition.root, list(condition.root.operands)
        if test.opcode == "fusion":
            inner = self.computations[test.called("calls")[0]]
            test = inner.root
            names = [names[int(inner[name].literal)] for name in test.operands if inner[name].operands == ()]
        if "direction=LT" in test.attributes and len(names) == 2:
            index, bound = (condition[name] for name in names)
            start = where[loop.operands[0]]
            if index.opcode == "get-tuple-element" and bound.opcode == "constant" and start.opcode == "tuple":
                number = int(re.findall(r"index=(\d+)", index.attributes)[0])
                first = where[start.operands[number]]
                while first.opcode in ("copy", "bitcast"):
                    first = where[first.operands[0]]
                if first.opcode == "constant":
                    return max(0, int(bound.literal) - int(first.literal))
        raise ValueError(
            f"expected the loop {loop.name} to state how often it runs, or to compare a counter with a "
            f"constant, found {test.opcode} in {condition.name}: its end depends on data"
        )


def parse(text: str) -> Program:
    """The program of `compiled.as_text()`. Raises ValueError if that has no ENTRY.

    >>> [instruction.opcode for instruction in parse(EXAMPLE).entry.instructions]
    ['parameter', 'call']
    """
    computations, entry, name, instructions = {}, "", "", []
    for line in text.splitlines():
        if found := _COMPUTATION.match(line):
            name, instructions = found.group(2), []
            entry = name if found.group(1) else entry
        elif line == "}":
            computations[name] = Computation(name, tuple(instructions))
        elif found := _INSTRUCTION.match(line):
            instructions.append(_instruction(line[found.end() :], found.group(2), bool(found.group(1))))
    if entry not in computations:
        raise ValueError("expected the text of a compiled program with an ENTRY computation, found none")
    return Program(computations, computations[entry])


def _instruction(text: str, name: str, is_root: bool) -> Instruction:
    """`text`: what follows the equals sign."""
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
    """Where the parenthesis that opens at `start` closes."""
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
