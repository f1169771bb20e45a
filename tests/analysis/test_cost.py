"""Costs of small programs equal those counted by hand, and those that XLA reports."""

import jax
import jax.numpy as jnp
import pytest

from mmjax.analysis import cost
from mmjax.analysis.hlo import parse
from mmjax.training import flops

PROGRAM = """HloModule m, is_scheduled=true

%part (p: f32[100,8], i: s32[]) -> f32[1,8] {
  %p = f32[100,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %z = s32[] constant(0)
  ROOT %d = f32[1,8]{1,0} dynamic-slice(%p, %i, %z)
}

%put (q: f32[100,8], u: f32[1,8], j: s32[]) -> f32[100,8] {
  %q = f32[100,8]{1,0} parameter(0)
  %u = f32[1,8]{1,0} parameter(1)
  %j = s32[] parameter(2)
  %o = s32[] constant(0)
  ROOT %r = f32[100,8]{1,0} dynamic-update-slice(%q, %u, %j, %o)
}

ENTRY %main (x: f32[100,8], n: s32[]) -> f32[1,8] {
  %x = f32[100,8]{1,0} parameter(0)
  %n = s32[] parameter(1)
LINES
}
"""
ARRAY, ROW, INDEX = 3200, 32, 4  # bytes


def program(*lines: str):
    return parse(PROGRAM.replace("LINES", "\n".join(f"  {line}" for line in lines)))


@pytest.mark.parametrize(
    "line, num_bytes",
    [
        ("ROOT %y = f32[100,8]{1,0} negate(%x)", 2 * ARRAY),
        ("ROOT %y = f32[1,8]{1,0} dynamic-slice(%x, %n, %n)", 2 * ROW + 2 * INDEX),
        ("ROOT %y = f32[1,8]{1,0} fusion(%x, %n), kind=kLoop, calls=%part", 2 * ROW + INDEX),
        ("ROOT %y = f32[800]{0} bitcast(%x)", 0),
    ],
)
def test_traffic_counts_what_is_read_and_written(line, num_bytes):
    assert cost.memory_traffic(program(line)) == num_bytes


def test_an_update_in_place_reads_and_writes_the_part():
    made = program(
        "%row = f32[1,8]{1,0} fusion(%x, %n), kind=kLoop, calls=%part",
        "ROOT %y = f32[100,8]{1,0} fusion(%x, %row, %n), kind=kLoop, calls=%put",
    )
    assert cost.memory_traffic(made) == (2 * ROW + INDEX) + (2 * ROW + INDEX)


def buffers(*lines: str) -> list[tuple[int, str]]:
    return [(buffer.num_bytes, buffer.source) for buffer in cost.peak_buffers(program(*lines))]


def test_peak_buffers_are_those_live_at_the_peak():
    lines = (
        '%a = f32[100,8]{1,0} transpose(%x), metadata={op_name="a"}',
        '%b = f32[50,8]{1,0} slice(%a), metadata={op_name="b"}',
        '%c = f32[25,8]{1,0} slice(%b), metadata={op_name="c"}',
        "ROOT %d = f32[1,8]{1,0} slice(%c)",
    )
    assert buffers(*lines) == [(3200, "a"), (1600, "b")]
    kept = (*lines[:3], "ROOT %d = f32[1,8]{1,0} custom-call(%c, %a)")
    assert buffers(*kept) == [(3200, "a"), (1600, "b"), (800, "c")]


def test_results_and_aliases_need_no_memory():
    assert buffers("ROOT %y = f32[100,8]{1,0} negate(%x)") == []
    assert buffers("%y = f32[800]{0} bitcast(%x)", "ROOT %z = f32[1]{0} slice(%y)") == []
    in_place = (
        "%a = f32[100,8]{1,0} transpose(%x)",
        "%b = f32[100,8]{1,0} negate(%a)",
        "ROOT %c = f32[1,8]{1,0} slice(%b)",
    )
    assert sum(size for size, _ in buffers(*in_place)) == ARRAY
    transposed = (in_place[0], "%b = f32[100,8]{1,0} transpose(%a)", in_place[2])
    assert sum(size for size, _ in buffers(*transposed)) == 2 * ARRAY
    used_later = (*in_place[:2], "ROOT %c = f32[1,8]{1,0} custom-call(%b, %a)")
    assert sum(size for size, _ in buffers(*used_later)) == 2 * ARRAY


def test_an_update_in_place_needs_no_memory():
    lines = (
        "%a = f32[100,8]{1,0} transpose(%x)",
        "%row = f32[1,8]{1,0} fusion(%x, %n), kind=kLoop, calls=%part",
        "%y = f32[100,8]{1,0} fusion(%a, %row, %n), kind=kLoop, calls=%put",
        "ROOT %c = f32[1,8]{1,0} custom-call(%y, %a)",
    )
    assert sum(size for size, _ in buffers(*lines)) == ARRAY + ROW
    swapped = PROGRAM.replace("parameter(0)\n  %u", "parameter(1)\n  %u").replace(
        "%u = f32[1,8]{1,0} parameter(1)", "%u = f32[1,8]{1,0} parameter(0)"
    )
    text = swapped.replace("LINES", "\n".join(f"  {line}" for line in lines).replace("%a, %row", "%row, %a"))
    assert sum(buffer.num_bytes for buffer in cost.peak_buffers(parse(text))) == ARRAY + ROW


def test_copies_without_a_source_get_that_of_their_operand():
    lines = (
        '%a = f32[100,8]{1,0} transpose(%x), metadata={op_name="encoder"}',
        "%b = f32[100,8]{1,0} copy(%a)",
        "ROOT %c = f32[1,8]{1,0} custom-call(%b, %a)",
    )
    assert buffers(*lines) == [(3200, "encoder"), (3200, "encoder")]


def deep(weights, x):
    """Five scanned layers."""
    y, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)
    return jnp.square(y).sum()


SHAPES = jax.ShapeDtypeStruct((5, 64, 64), jnp.float32), jax.ShapeDtypeStruct((512, 64), jnp.float32)


def test_matmul_flops_of_the_program_are_those_of_the_function():
    compiled = jax.jit(deep).lower(*SHAPES).compile()
    found = cost.matmul_flops(parse(compiled.as_text()))
    assert found == flops.count(deep, *SHAPES) == 5 * 2 * 512 * 64 * 64
    gradients = jax.jit(jax.grad(deep)).lower(*SHAPES).compile()
    # A scan computes the gradient of the input of every layer, the first one included.
    assert cost.matmul_flops(parse(gradients.as_text())) == 3 * found


def test_peak_memory_is_that_of_xlas_memory_analysis():
    """The difference is XLA's packing, which saves memory, and alignment, which costs memory."""
    compiled = jax.jit(jax.grad(deep)).lower(*SHAPES).compile()
    reported = compiled.memory_analysis().temp_size_in_bytes
    found = cost.peak_buffers(parse(compiled.as_text()))
    assert sum(buffer.num_bytes for buffer in found) == pytest.approx(reported, rel=0.03)
    kept = [buffer for buffer in found if buffer.num_bytes == 5 * 512 * 64 * 4]
    assert kept and all("jvp" in buffer.source for buffer in kept), "activations of the scanned layers"
