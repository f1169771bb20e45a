"""Collectives are found in hand-written HLO with known answers, and in small compiled functions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mmjax.analysis.collectives import Collective, find_collectives

MESH = {"data": 2, "fsdp": 4, "tensor": 1}
PROGRAM = """HloModule m, is_scheduled=true, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {{
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}}

ENTRY %main (x: f32[8,4]) -> f32[8,4] {{
  %x = f32[8,4]{{1,0}} parameter(0)
  %y = bf16[4]{{0}} constant({{...}})
  {lines}
}}
"""


def find(*lines: str, mesh=MESH) -> list[Collective]:
    return find_collectives(PROGRAM.format(lines="\n  ".join(lines)), mesh)


def find_one(line: str, mesh=MESH) -> Collective:
    (found,) = find(f"ROOT %c = {line}", mesh=mesh)
    return found


@pytest.mark.parametrize(
    "groups, axes, size, first",
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", ("fsdp",), 4, (0, 1, 2, 3)),
        ("replica_groups={{0,4},{1,5},{2,6},{3,7}}", ("data",), 2, (0, 4)),
        ("replica_groups={}", ("data", "fsdp"), 8, (0, 1, 2, 3, 4, 5, 6, 7)),
        ("replica_groups=[2,4]<=[8]", ("fsdp",), 4, (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", ("data",), 2, (0, 4)),
        ("replica_groups=[1,8]<=[8]", ("data", "fsdp"), 8, (0, 1, 2, 3, 4, 5, 6, 7)),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}", ("fsdp",), 4, (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}", ("data",), 2, (0, 4)),
        ("replica_groups=mesh[a=2,b=4] {a,b}", ("data", "fsdp"), 8, (0, 1, 2, 3, 4, 5, 6, 7)),
        ("replica_groups=mesh['a'=8] {'a':(1)2}", ("data",), 2, (0, 4)),
        ("replica_groups=mesh['a'=8] {'a':(2)4}", ("fsdp",), 4, (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=8] {'a':(4)2,'a':(1)2}", ("data", "fsdp"), 4, (0, 1, 4, 5)),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}", ("data",), 2, (0, 4)),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=(0,4,1,5,2,6,3,7) {'b'}", ("data",), 2, (0, 4)),
    ],
)
def test_groups_are_parsed_in_each_of_xlas_notations(groups, axes, size, first):
    found = find_one(f"f32[8,4]{{1,0}} all-reduce(%x), channel_id=1, {groups}, to_apply=%add")
    assert (found.axes, found.group_size, found.group) == (axes, size, first)


# Bytes of the payload, and bytes that each of the four devices along fsdp sends.
@pytest.mark.parametrize(
    "line, kind, num_bytes, ring_bytes",
    [
        ("f32[8,4] all-reduce(%x), {g}, to_apply=%add", "all-reduce", 128, 192),
        ("f32[32,4] all-gather(%x), {g}, dimensions={{0}}", "all-gather", 512, 384),
        ("f32[2,4] reduce-scatter(%x), {g}, dimensions={{0}}, to_apply=%add", "reduce-scatter", 128, 96),
        ("f32[8,4] all-to-all(%x), {g}, dimensions={{0}}", "all-to-all", 128, 96),
        ("(f32[2,4], f32[2,4], f32[4,4]) all-to-all(%x, %x, %x), {g}", "all-to-all", 128, 96),
        ("pred[8,4] collective-permute(%x), source_target_pairs={{{{0,1}}}}", "collective-permute", 32, 32),
    ],
)
def test_bytes_of_each_kind(line, kind, num_bytes, ring_bytes):
    found = find_one(line.format(g="replica_groups=[2,4]<=[8]"))
    assert (found.kind, found.num_bytes, found.ring_bytes) == (kind, num_bytes, ring_bytes)
    assert found.count == 1 and not found.is_sliced


def test_arrays_combined_in_one_instruction_are_separate_collectives():
    first, second = find(
        "%c = (f32[8,4]{1,0}, /*index=1*/bf16[4]{0}) all-reduce(%x, %y), replica_groups=[2,4]<=[8]",
        '%g = f32[8,4]{1,0} get-tuple-element(%c), index=0, metadata={op_name="kernel"}',
        '%h = bf16[4]{0} get-tuple-element(%c), index=1, metadata={op_name="bias"}',
        "%i = s32[] constant(0)",
        "%s = f32[2,4] dynamic-slice(%g, %i, %i)",
        "ROOT %n = bf16[4] negate(%h)",
    )
    assert (first.kind, first.num_bytes, first.source) == ("reduce-scatter", 128, "kernel")
    assert (second.kind, second.num_bytes, second.source) == ("all-reduce", 8, "bias")
    assert first.instruction == second.instruction == "c"


def test_an_asynchronous_pair_counts_once_and_without_its_operands():
    (gather,) = find(
        "%s = (f32[8,4], f32[32,4]) all-gather-start(%x), replica_groups=[2,4]<=[8], dimensions={0}",
        "ROOT %d = f32[32,4] all-gather-done(%s)",
    )
    assert (gather.kind, gather.num_bytes, gather.count) == ("all-gather", 512, 1)


def test_a_wrapped_asynchronous_call_counts_once():
    text = PROGRAM.format(
        lines="%s = ((f32[8,4]), f32[2,4], u32[]) async-start(%x), calls=%wrapped\n"
        "  ROOT %d = f32[2,4] async-done(%s), calls=%wrapped"
    )
    wrapped = (
        "\n%wrapped (p: f32[8,4]) -> f32[2,4] {\n  %p = f32[8,4] parameter(0)\n"
        "  ROOT %r = f32[2,4] reduce-scatter(%p), replica_groups=[2,4]<=[8], to_apply=%add\n}\n"
    )
    (scatter,) = find_collectives(text.replace("\nENTRY", wrapped + "\nENTRY"), MESH)
    assert (scatter.kind, scatter.num_bytes, scatter.count) == ("reduce-scatter", 128, 1)


def test_a_permute_moves_along_the_axes_in_which_its_pairs_differ():
    pairs = "source_target_pairs={{0,0},{1,2},{2,1},{3,3},{4,4},{5,6},{6,5},{7,7}}"
    found = find_one(f"f32[8,4] collective-permute(%x), {pairs}")
    assert (found.axes, found.group) == (("fsdp",), (1, 2))
    other = find_one(f"f32[8,4] collective-permute(%x), {pairs}", mesh={"data": 2, "fsdp": 2, "tensor": 2})
    assert other.axes == ("fsdp", "tensor")


SUM = "%c = f32[8,4] all-reduce(%x), replica_groups=[2,4]<=[8], to_apply=%add"


@pytest.mark.parametrize(
    "readers, is_sliced",
    [
        (["ROOT %s = f32[2,4] dynamic-slice(%c, %i, %j)"], True),
        (["%b = f32[4,8] bitcast(%c)", "ROOT %s = f32[1,8] dynamic-slice(%b, %i, %j)"], True),
        (
            ["ROOT %s = f32[4,4] dynamic-slice(%c, %i, %j)"],
            False,
        ),  # half of the array, but there are four devices
        (["%s = f32[2,4] dynamic-slice(%c, %i, %j)", "ROOT %n = f32[8,4] negate(%c)"], False),
        (["%s = f32[2,4] dynamic-slice(%c, %i, %j)", "ROOT %t = (f32[8,4]) tuple(%c)"], False),
    ],
)
def test_an_all_reduce_of_which_each_device_keeps_its_part_is_a_reduce_scatter(readers, is_sliced):
    (found,) = find("%i = s32[] constant(0)", "%j = s32[] constant(0)", SUM, *readers)
    assert (found.kind, found.is_sliced) == ("reduce-scatter" if is_sliced else "all-reduce", is_sliced)
    assert (found.num_bytes, found.ring_bytes) == (128, 96 if is_sliced else 192)


def test_an_all_reduce_that_is_the_result_is_not_sliced():
    (found,) = find("%i = s32[] constant(0)", "ROOT " + SUM, "%s = f32[2,4] dynamic-slice(%c, %i, %i)")
    assert not found.is_sliced


def test_groups_of_one_device_are_left_out():
    assert not find("ROOT %c = f32[8,4] all-reduce(%x), replica_groups=[8,1]<=[8], to_apply=%add")
    assert not find("ROOT %c = f32[8,4] collective-permute(%x), source_target_pairs={{0,0},{1,1}}")


def test_unsupported_collectives_are_rejected():
    with pytest.raises(ValueError, match="found ragged-all-to-all"):
        find_one("f32[8,4] ragged-all-to-all(%x), replica_groups={{0,1}}")
    with pytest.raises(ValueError, match="expected replica_groups or source_target_pairs, found"):
        find_one("f32[8,4] all-reduce(%x), replica_groups=new[8], to_apply=%add")
    with pytest.raises(ValueError, match="with an ENTRY computation"):
        find_collectives("HloModule empty", MESH)


LOOP = """
%body (t: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %t = (s32[], f32[8,4]) parameter(0)
  %n = s32[] get-tuple-element(%t), index=0
  %v = f32[8,4] get-tuple-element(%t), index=1
  %c = f32[8,4] all-reduce(%v), replica_groups=[2,4]<=[8], to_apply=%add, metadata={op_name="while/body/dot"}
  ROOT %out = (s32[], f32[8,4]) tuple(%n, %c)
}

%condition (t.1: (s32[], f32[8,4])) -> pred[] {
  %t.1 = (s32[], f32[8,4]) parameter(0)
  %end = s32[] constant(7)
  %n.1 = s32[] get-tuple-element(%t.1), index=0
  ROOT %less = pred[] compare(%n.1, %end), direction=LT
}
"""
WHILE = "ROOT %w = (s32[], f32[8,4]) while(%init), condition=%condition, body=%body"


@pytest.mark.parametrize("annotation, count", [('"known_trip_count":{"n":"5"}', 5), ("", 6)])
def test_a_loop_multiplies_the_count(annotation, count):
    """By the trip count that XLA annotates, or that of the condition: from 1 to below 7."""
    lines = (
        "%one = s32[] constant(1)",
        "%first = s32[] copy(%one)",
        "%init = (s32[], f32[8,4]) tuple(%first, %x)",
        WHILE + f", backend_config={{{annotation}}}",
    )
    text = PROGRAM.format(lines="\n  ".join(lines)).replace("\nENTRY", LOOP + "\nENTRY")
    (found,) = find_collectives(text, MESH)
    assert (found.count, found.ring_bytes, found.total_bytes) == (count, 192, 192 * count)
    assert found.source == "while/body/dot"


def test_nested_loops_multiply_the_count():
    outer = """
%outer (u: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %u = (s32[], f32[8,4]) parameter(0)
  ROOT %v.1 = (s32[], f32[8,4]) while(%u), condition=%condition, body=%body, backend_config={FIVE}
}
""".replace("FIVE", '"known_trip_count":{"n":"5"}')
    lines = (
        "%init = (s32[], f32[8,4]) parameter(1)",
        WHILE.replace("%body", "%outer") + ', backend_config={"known_trip_count":{"n":"3"}}',
    )
    text = PROGRAM.format(lines="\n  ".join(lines)).replace("\nENTRY", LOOP + outer + "\nENTRY")
    assert [c.count for c in find_collectives(text, MESH)] == [15]


def test_a_loop_whose_condition_is_fused_has_a_trip_count():
    fused = LOOP.replace("compare(%n.1, %end), direction=LT", "fusion(%n.1, %end), kind=kLoop, calls=%test")
    test = (
        "\n%test (p: s32[], q: s32[]) -> pred[] {\n  %p = s32[] parameter(0)\n  %q = s32[] parameter(1)\n"
        "  ROOT %l = pred[] compare(%p, %q), direction=LT\n}\n"
    )
    lines = ("%zero = s32[] constant(0)", "%init = (s32[], f32[8,4]) tuple(%zero, %x)", WHILE)
    text = PROGRAM.format(lines="\n  ".join(lines)).replace("\nENTRY", test + fused + "\nENTRY")
    assert [c.count for c in find_collectives(text, MESH)] == [7]


def test_a_loop_with_a_data_dependent_trip_count_is_rejected():
    lines = ("%init = (s32[], f32[8,4]) parameter(1)", WHILE)
    text = PROGRAM.format(lines="\n  ".join(lines)).replace("\nENTRY", LOOP + "\nENTRY")
    with pytest.raises(ValueError, match="the loop w to have a known trip count"):
        find_collectives(text, MESH)


# Programs that XLA compiles.


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return jax.make_mesh(tuple(MESH.values()), tuple(MESH), axis_types=(AxisType.Auto,) * 3)


def layers(weights, x):
    """Five scanned layers with 64 x 64 weights."""
    y, _ = jax.lax.scan(lambda x, weight: (jnp.tanh(x @ weight), None), x, weights)
    return jnp.square(y).sum()


def gradient_step(weights, x):
    return weights - 0.1 * jax.grad(layers)(weights, x)


def compiled_step(mesh: Mesh, weights: PartitionSpec) -> str:
    split = NamedSharding(mesh, weights)
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    step = jax.jit(gradient_step, in_shardings=(split, rows), out_shardings=split)
    shapes = jax.ShapeDtypeStruct((5, 64, 64), jnp.float32), jax.ShapeDtypeStruct((512, 64), jnp.float32)
    return step.lower(*shapes).compile().as_text()


def summary(found: list[Collective]) -> list[tuple]:
    return sorted((c.kind, c.axes, c.num_bytes, c.count, c.is_sliced) for c in found)


WEIGHT = 64 * 64 * 4  # bytes


def test_data_parallelism_all_reduces_each_gradient(mesh):
    found = find_collectives(compiled_step(mesh, PartitionSpec()), mesh.shape)
    assert summary(found) == [("all-reduce", ("data", "fsdp"), WEIGHT, 5, False)]
    assert found[0].total_bytes == 5 * WEIGHT * 2 * 7 / 8
    assert "transpose(jvp())" in found[0].source


def test_fully_sharded_weights_are_gathered_twice_and_their_gradients_scattered(mesh):
    """Forward and backward pass gather; an all-reduce of which a slice is kept counts as a reduce-scatter."""
    found = find_collectives(compiled_step(mesh, PartitionSpec(None, "fsdp")), mesh.shape)
    assert summary(found) == [
        ("all-gather", ("fsdp",), WEIGHT, 5, False),
        ("all-gather", ("fsdp",), WEIGHT, 5, False),
        ("all-reduce", ("data",), WEIGHT // 4, 5, False),
        ("reduce-scatter", ("fsdp",), WEIGHT, 5, True),
    ]


def test_explicit_collectives_are_found_as_written(mesh):
    """In shard_map no partitioner chooses the collectives."""
    split = PartitionSpec(("data", "fsdp"))

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=split, out_specs=split)
    def communicate(x):  # "8 64" on each of eight devices
        x = jax.lax.all_to_all(x, "fsdp", 1, 0, tiled=True)  # "32 16"
        x = jax.lax.ppermute(x, "data", [(0, 1), (1, 0)])
        x = jax.lax.psum_scatter(x, "fsdp", tiled=True)  # "8 16"
        x = jax.lax.all_gather(x, ("data", "fsdp"), tiled=True)  # "64 16"
        return jax.lax.psum(x, "data")

    text = jax.jit(communicate).lower(jax.ShapeDtypeStruct((64, 64), jnp.float32)).compile().as_text()
    assert [(c.kind, c.axes, c.num_bytes, c.ring_bytes) for c in find_collectives(text, mesh.shape)] == [
        ("all-to-all", ("fsdp",), 2048, 2048 * 3 / 4),
        ("collective-permute", ("data",), 2048, 2048),
        ("reduce-scatter", ("fsdp",), 2048, 2048 * 3 / 4),
        ("all-gather", ("data", "fsdp"), 4096, 4096 * 7 / 8),
        ("all-reduce", ("data",), 4096, 4096),
    ]


def test_axes_do_not_depend_on_the_order_of_devices(mesh):
    """The program numbers devices by their position in the mesh, not by id."""
    devices = np.array(jax.devices())[[3, 1, 0, 2, 7, 5, 4, 6]].reshape(2, 4, 1)
    other = Mesh(devices, tuple(MESH), axis_types=(AxisType.Auto,) * 3)
    split = PartitionSpec(None, "fsdp")
    expected = find_collectives(compiled_step(mesh, split), mesh.shape)
    assert find_collectives(compiled_step(other, split), other.shape) == expected
