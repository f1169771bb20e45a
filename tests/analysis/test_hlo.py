"""The text of compiled programs is parsed completely."""

import jax
import jax.numpy as jnp
import pytest

from mmjax.analysis.hlo import EXAMPLE, Array, parse


def test_every_instruction_of_a_compiled_program_is_parsed():
    def function(x):
        return jax.lax.fori_loop(0, 3, lambda i, y: jnp.sin(y @ y) + i, x).astype(jnp.bfloat16)

    text = jax.jit(function).lower(jnp.zeros((16, 16))).compile().as_text()
    program = parse(text)
    assert sum(len(c.instructions) for c in program.computations.values()) == text.count(" = ")
    counts = {}
    for _, instruction, count in program.executed_instructions():
        counts.setdefault(instruction.opcode, set()).add(count)
    assert counts["while"] == {1} and 3 in counts["dot"] | counts["fusion"]
    assert program.entry.root.arrays == (Array("bf16", (16, 16)),)


def test_executed_instructions_include_calls_and_optionally_fusions():
    program = parse(EXAMPLE)
    assert [i.name for _, i, _ in program.executed_instructions()] == ["y", "call", "x", "sum"]
    fused = parse(EXAMPLE.replace("call(%y), to_apply", "fusion(%y), kind=kLoop, calls"))
    assert [i.name for _, i, _ in fused.executed_instructions()] == ["y", "call", "x", "sum"]
    assert [i.name for _, i, _ in fused.executed_instructions(include_fused=False)] == ["y", "call"]


def test_types_with_tuples_tiles_and_comments_are_parsed():
    line = "  ROOT %call = (bf16[8,4]{1,0:T(8,128)(2,1)}, pred[], /*index=2*/s4[3]{0}) call(%y)"
    root = parse(EXAMPLE.replace(EXAMPLE.splitlines()[-2], line)).entry.root
    assert root.arrays == (Array("bf16", (8, 4)), Array("pred", ()), Array("s4", (3,)))
    assert root.num_bytes == 64 + 1 + 2
    assert root.operands == ("y",)


def test_an_unknown_element_type_is_rejected():
    with pytest.raises(ValueError, match="found 'f7'"):
        _ = parse(EXAMPLE.replace("f32", "f7")).entry.root.num_bytes
