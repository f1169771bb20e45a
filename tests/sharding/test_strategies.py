"""Bytes sent and bytes held by each strategy's compiled step, against the theoretical values.

`experiments/benchmarks/collectives.py` has the model, the strategies and the arithmetic. The collectives of
each strategy are golden: after an intended change, `MMJAX_GOLDEN=1 pytest tests/sharding/test_strategies.py`.
"""

import dataclasses
import functools
import importlib.util
import math
import os
from pathlib import Path

import jax
import pytest

from mmjax import sharding
from mmjax.analysis.collectives import Collective, find_collectives
from mmjax.training.state import init_state

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parents[1] / "golden" / "collectives"
MIN_BYTES = 512  # XLA versions combine smaller collectives (scalars, norms) differently


def load_benchmark():
    path = ROOT / "experiments" / "benchmarks" / "collectives.py"
    spec = importlib.util.spec_from_file_location("benchmark_collectives", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


benchmark = load_benchmark()
SIZES = benchmark.Sizes()
NAMES = [  # each strategy on one xdist worker, so that it is compiled once
    pytest.param(name, marks=pytest.mark.xdist_group(f"strategy {name}")) for name in benchmark.STRATEGIES
]


@functools.cache
def program(name: str, sizes=SIZES):
    """(the compiled step of a strategy, its mesh). "ONE": a single device."""
    mesh = (
        benchmark.STRATEGIES[name].make() if name != "ONE" else sharding.MeshShape().make(jax.devices()[:1])
    )
    rules = getattr(sharding, name, sharding.REPLICATED)
    return benchmark.compile_step(sizes, rules, mesh), mesh


def found(name: str) -> list[Collective]:
    compiled, mesh = program(name)
    return find_collectives(compiled.as_text(), mesh.shape)


@pytest.mark.parametrize("name", NAMES)
def test_devices_send_the_theoretical_number_of_bytes(name):
    _, mesh = program(name)
    theory = benchmark.theoretical_bytes(SIZES, getattr(sharding, name), mesh).total()
    assert benchmark.program_bytes(found(name)).total() == pytest.approx(theory, rel=0.05)


def sources_by_line(found: list[Collective]) -> dict[str, list[str]]:
    """{line of kind, axes, size and count: the modules in which such a collective occurs}."""
    sources: dict[str, list[str]] = {}
    for each in found:
        if each.num_bytes >= MIN_BYTES:
            line = f"{each.kind} over {'+'.join(each.axes)}: {each.num_bytes} bytes x {each.count}"
            sources.setdefault(line, []).append(each.source)
    return dict(sorted(sources.items()))


def differences(now: dict[str, list[str]], golden: dict[str, int]) -> list[str]:
    """Added and removed collectives, with their modules, whose names depend on the version of XLA."""
    return [
        f"{line}: {golden.get(line, 0)} times, now {len(now.get(line, []))}, from {now.get(line)}"
        for line in sorted(now.keys() | golden.keys())
        if len(now.get(line, [])) != golden.get(line, 0)
    ]


def golden(name: str) -> dict[str, int]:
    rows = (GOLDEN / f"{name}.txt").read_text().splitlines()
    return {line: int(times) for line, _, times in (row.rpartition(", times ") for row in rows)}


@pytest.mark.parametrize("name", NAMES)
def test_collectives_equal_the_golden_file(name):
    now = sources_by_line(found(name))
    if os.environ.get("MMJAX_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        rows = [f"{line}, times {len(sources)}\n" for line, sources in now.items()]
        (GOLDEN / f"{name}.txt").write_text("".join(rows))
    assert differences(now, golden(name)) == []


@pytest.mark.xdist_group("strategy FSDP")
def test_an_added_collective_is_reported():
    source = "jit(step)/jvp(Learner)/encoders_text/trunk/layers/mlp/up"
    extra = dataclasses.replace(
        found("FSDP")[0], kind="all-gather", axes=("fsdp",), num_bytes=4000, count=2, source=source
    )
    assert differences(sources_by_line([*found("FSDP"), extra]), golden("FSDP")) == [
        f"all-gather over fsdp: 4000 bytes x 2: 0 times, now 1, from ['{source}']"
    ]


@pytest.mark.parametrize("name", NAMES)
def test_bytes_of_state_on_a_device_follow_the_rules(name):
    """XLA's memory analysis, against parameters and moments divided as the rules map their axes."""
    compiled, mesh = program(name)
    rules = getattr(sharding, name)
    boxed = jax.eval_shape(lambda: init_state(SIZES.learner(), benchmark.OPTIMIZER, SIZES.spec(), 0))

    def held(boxed, rules) -> float:
        specs = jax.tree.leaves(
            sharding.annotate.logical_specs(boxed), is_leaf=lambda x: isinstance(x, jax.P)
        )
        shapes = jax.tree.leaves(sharding.unbox(boxed))
        ways = [
            math.prod(mesh.shape[a] for axis in spec if axis for a in rules.mesh_axes(axis)) for spec in specs
        ]
        return sum(4 * x.size / n for x, n in zip(shapes, ways, strict=True))

    rows = math.prod(mesh.shape[axis] for axis in rules.mesh_axes("act_batch"))
    batch = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(SIZES.spec())) / rows
    expected = held(boxed.params, rules) + 2 * held(boxed.params, rules.for_optimizer()) + batch
    analysis = compiled.memory_analysis()
    assert analysis.argument_size_in_bytes == pytest.approx(expected, rel=1e-3, abs=100)


@pytest.mark.parametrize("name", ["REPLICATED", "FSDP", "SEQUENCE"])
def test_activations_need_an_eighth_of_the_memory(name):
    """Rows or positions are split over eight devices, and so is the memory that more examples need."""

    def of_more_examples(name: str) -> float:
        larger = dataclasses.replace(SIZES, batch=2 * SIZES.batch)
        once, twice = (program(name, s)[0].memory_analysis().temp_size_in_bytes for s in (SIZES, larger))
        return twice - once

    # XLA assigns buffers anew for every program: ratios from 0.88 to 1.00 were found.
    assert of_more_examples(name) == pytest.approx(of_more_examples("ONE") / 8, rel=0.15)
