"""What strategies cost, of compiled programs: bytes sent and bytes held, against what they need on paper.

`experiments/benchmarks/collectives.py` has the model, the strategies and the arithmetic. Which collectives a
strategy has is golden: after a change that is meant, `MMJAX_GOLDEN=1 pytest tests/test_strategies.py`.
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
from mmjax.analysis.collectives import Collective, collectives
from mmjax.train.state import init_state

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parents[1] / "golden" / "collectives"
LEAST_BYTES = 512  # of scalars and norms, XLA versions combine as they like


def load_benchmark():
    path = ROOT / "experiments" / "benchmarks" / "collectives.py"
    spec = importlib.util.spec_from_file_location("benchmark_collectives", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


benchmark = load_benchmark()
SIZES = benchmark.Sizes()
NAMES = [  # a strategy on one worker, so that it is compiled once
    pytest.param(name, marks=pytest.mark.xdist_group(f"strategy {name}")) for name in benchmark.STRATEGIES
]


@functools.cache
def program(name: str, sizes=SIZES):
    """The compiled step of a strategy, and its mesh; "ONE" is a single device."""
    mesh = (
        benchmark.STRATEGIES[name].make() if name != "ONE" else sharding.MeshShape().make(jax.devices()[:1])
    )
    rules = getattr(sharding, name, sharding.REPLICATED)
    return benchmark.compiled(sizes, rules, mesh), mesh


def found(name: str) -> list[Collective]:
    compiled, mesh = program(name)
    return collectives(compiled.as_text(), mesh.shape)


@pytest.mark.parametrize("name", NAMES)
def test_devices_send_what_the_strategy_needs(name):
    _, mesh = program(name)
    paper = benchmark.needed(SIZES, getattr(sharding, name), mesh).total()
    assert benchmark.sent(found(name)).total() == pytest.approx(paper, rel=0.05)


def counted(found: list[Collective]) -> dict[str, list[str]]:
    """{what, over which axes, how large, how often it runs: where in the model, each time it is there}."""
    where: dict[str, list[str]] = {}
    for each in found:
        if each.num_bytes >= LEAST_BYTES:
            line = f"{each.kind} over {'+'.join(each.axes)}: {each.num_bytes} bytes x {each.count}"
            where.setdefault(line, []).append(each.source)
    return dict(sorted(where.items()))


def differences(now: dict[str, list[str]], golden: dict[str, int]) -> list[str]:
    """What was added or is gone, with the parts of the model. XLA's versions name those otherwise."""
    return [
        f"{line}: {golden.get(line, 0)} times, now {len(now.get(line, []))}, from {now.get(line)}"
        for line in sorted(now.keys() | golden.keys())
        if len(now.get(line, [])) != golden.get(line, 0)
    ]


def golden(name: str) -> dict[str, int]:
    rows = (GOLDEN / f"{name}.txt").read_text().splitlines()
    return {line: int(times) for line, _, times in (row.rpartition(", times ") for row in rows)}


@pytest.mark.parametrize("name", NAMES)
def test_collectives_are_the_golden_ones(name):
    now = counted(found(name))
    if os.environ.get("MMJAX_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        rows = [f"{line}, times {len(sources)}\n" for line, sources in now.items()]
        (GOLDEN / f"{name}.txt").write_text("".join(rows))
    assert differences(now, golden(name)) == []


@pytest.mark.xdist_group("strategy FSDP")
def test_a_collective_that_is_added_is_named():
    source = "jit(step)/jvp(Learner)/encoders_text/trunk/layers/mlp/up"
    extra = dataclasses.replace(
        found("FSDP")[0], kind="all-gather", axes=("fsdp",), num_bytes=4000, count=2, source=source
    )
    assert differences(counted([*found("FSDP"), extra]), golden("FSDP")) == [
        f"all-gather over fsdp: 4000 bytes x 2: 0 times, now 1, from ['{source}']"
    ]


@pytest.mark.parametrize("name", NAMES)
def test_state_held_by_a_device_is_what_the_rules_say(name):
    """XLA's memory analysis, against parameters and moments divided as their logical axes are mapped."""
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
    expected = held(boxed.params, rules) + 2 * held(boxed.params, rules.of_optimizer()) + batch
    analysis = compiled.memory_analysis()
    assert analysis.argument_size_in_bytes == pytest.approx(expected, rel=1e-3, abs=100)


@pytest.mark.parametrize("name", ["REPLICATED", "FSDP", "SEQUENCE"])
def test_activations_fall_to_an_eighth(name):
    """Rows or positions are split over eight devices; so is what more examples need in memory."""

    def of_more_examples(name: str) -> float:
        larger = dataclasses.replace(SIZES, batch=2 * SIZES.batch)
        once, twice = (program(name, s)[0].memory_analysis().temp_size_in_bytes for s in (SIZES, larger))
        return twice - once

    # XLA chooses what shares a buffer anew for every program: found 0.88 to 1.00.
    assert of_more_examples(name) == pytest.approx(of_more_examples("ONE") / 8, rel=0.15)
