"""A run goes on with other devices and rules: the same examples in the same order, the same loss.

Each source is run to its end on its own topology, uninterrupted. For each pair, a copy of it loses what came
after the checkpoint of step 3, as if it had been killed then, and goes on on the target's topology. The data
are a mixture in which a third of the rows have no picture, with dropout, masking and crops drawn anew.

MMJAX_ELASTIC=all tries every pair of all topologies rather than the sample: more than ten minutes.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from mmjax import sharding
from mmjax.checkpoint.manager import Checkpoints
from mmjax.experiment import Experiment, load
from mmjax.run import loop
from mmjax.sharding import MeshShape
from mmjax.testing import TOLERANCE

pytestmark = pytest.mark.once

CHANGES = tiny.DRAWN_WORDS | {
    # Eight heads, and a table of 48 rows: eight devices divide them.
    "num_heads=2, mlp_width=2 * WIDTH)": "num_heads=8, mlp_width=2 * WIDTH, dropout=0.2, scan=False)",
    "encoders.TextTransformer(vocab={vocab}, max_length=6, trunk=trunk(depth=2))": (
        "encoders.TextTransformer(vocab=48, max_length=6, trunk=trunk())"
    ),
    # Two thirds of the rows are pictures with captions, one third captions alone.
    'data.Mixture({{"colours": (1.0, dataset())}}, batch_size=8)': (
        'data.Mixture({{"colours": (2.0, dataset()), "captions": (1.0, captions())}}, batch_size=8)'
    ),
    "def experiment() -> Experiment:": """def captions() -> data.Dataset:
    both = dataset()
    return data.Dataset(both.source, streams={{"text": both.streams["text"]}})


def experiment() -> Experiment:""",
    # Adam divides by the gradient's size: at its usual epsilon a gradient that is zero on paper becomes an
    # update of full size, in a direction that rounding has chosen.
    "peak_learning_rate=1e-3": "peak_learning_rate=1e-2, epsilon=1e-3, accumulation_steps=2",
    'evals={{"retrieval": evals.Retrieval(data=dataset(), heads=("image", "text"), batch_size=8)}},': "",
}
STEP, NUM_STEPS = 3, 6  # the checkpoint lies within an accumulated update
LOSSES = ("loss", "loss/pairs", "loss/words")

# A new Rules constant joins by itself, on a mesh of the axes that it speaks of.
RULES = {name: value for name, value in vars(sharding).items() if isinstance(value, sharding.Rules)}


def mesh(rules: str, num_devices: int) -> MeshShape:
    """A factor of two to each axis over which the rules split more than the batch; the last has the rest."""
    fields = [field.name for field in dataclasses.fields(RULES[rules]) if field.name != "act_batch"]
    named = {axis for field in fields for axis in RULES[rules].mesh_axes(field)}
    axes = [axis for axis in ("fsdp", "tensor", "sequence") if axis in named] or ["data"]
    sizes = {"data": 1}
    for factor in range(num_devices.bit_length() - 1):
        axis = axes[min(factor, len(axes) - 1)]
        sizes[axis] = 2 * sizes.get(axis, 1)
    return MeshShape(**sizes)


CLASSIC = ("REPLICATED", "FSDP", "TENSOR", "FSDP_TENSOR")
ALL = [(num_devices, rules) for rules in RULES for num_devices in (1, 2, 4, 8)]
SOME = [(1, "REPLICATED"), (8, "FSDP"), (2, "TENSOR"), (4, "FSDP_TENSOR"), (8, "TENSOR"), (2, "FSDP")]
SOME += [(4, "REPLICATED"), (8, "FSDP_TENSOR"), *((8, name) for name in RULES if name not in CLASSIC)]
if os.environ.get("MMJAX_ELASTIC") == "all":
    PAIRS = [(source, target) for source in ALL for target in ALL]
else:  # each once as a source and as a target, to the next; test_resume.py goes on with what it had
    PAIRS = [(SOME[i], SOME[(i + 1) % len(SOME)]) for i in range(len(SOME))]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Experiment:
    """One experiment for all; which topology is told apart."""
    file = tiny.write(tmp_path_factory.mktemp("data"), replace=CHANGES)
    return load(file, [f"num_steps={NUM_STEPS}", f"save_every={STEP}", "max_to_keep=9"])


@pytest.fixture(scope="module")
def run(experiment, tmp_path_factory):
    """A function that trains in a folder on a topology; returns the digest of each step's global batch."""
    traced, seen = tiny.Traced(), {}

    def watched(feed, wait=loop.TrainInput.next):
        batch, waited = wait(feed)
        seen[max(seen, default=0) + 1] = digest(batch)
        return batch, waited

    def train(run_dir: Path, topology: tuple[int, str], first: int = 0) -> dict[int, str]:
        num_devices, rules = topology
        seen.clear()
        seen.update({first: ""} if first else {})
        e = dataclasses.replace(experiment, mesh=mesh(rules, num_devices), rules=RULES[rules])
        with pytest.MonkeyPatch.context() as patch:
            traced.install(patch)
            patch.setattr(loop.TrainInput, "next", watched)
            loop.run(e, run_dir, devices=jax.devices()[:num_devices])
        seen.pop(first, None)
        return dict(seen)

    folder = tmp_path_factory.mktemp("compiled")
    cached = tiny.compilation_cache(folder)
    next(cached)
    yield train
    next(cached, None)


def digest(batch) -> str:
    """Of every array of the global batch, rows in order."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(jax.device_get(batch))]
    return hashlib.sha256(b"".join(leaf.tobytes() for leaf in leaves)).hexdigest()


@pytest.fixture(scope="module")
def sources(run, tmp_path_factory):
    """(folder, digests) of a topology's uninterrupted run, made when first asked for."""
    made = {}

    def source(topology):
        if topology not in made:
            folder = tmp_path_factory.mktemp("source") / "run"
            made[topology] = folder, run(folder, topology)
        return made[topology]

    return source


def rows_of(run_dir: Path) -> dict[int, dict]:
    return {row["step"]: row for row in map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())}


def state_of(run_dir: Path) -> dict[str, np.ndarray]:
    checkpoints = Checkpoints(run_dir / "checkpoints", read_only=True)
    leaves = jax.tree.leaves_with_path(checkpoints.restore_arrays(NUM_STEPS))
    checkpoints.close()
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def test_rows_without_a_picture_are_in_every_part_of_the_run(experiment):
    """What is claimed of mixtures and missing modalities is claimed of these data."""
    setup = loop.Session.of(experiment, jax.devices()[:1])
    for step in (0, STEP):
        feed = loop.TrainInput(setup, step, 0)
        present = np.asarray(feed.next()[0]["image"].mask)
        feed.close()
        assert 0 < present.sum() < len(present) == 8


@pytest.mark.parametrize("source, target", PAIRS, ids=lambda t: f"{t[0]}-{t[1]}")
def test_goes_on_elsewhere(run, sources, tmp_path, source, target, record_property):
    folder, digests = sources(source)
    shutil.copytree(folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / str(NUM_STEPS))
    continued = run(tmp_path / "run", target, first=STEP)
    assert continued == {step: digests[step] for step in range(STEP + 1, NUM_STEPS + 1)}

    reference, expected_digests = sources(SOME[0])
    assert digests == expected_digests and len(set(digests.values())) == NUM_STEPS
    found, expected = rows_of(tmp_path / "run"), rows_of(reference)
    assert list(found) == list(expected) == list(range(1, NUM_STEPS + 1))
    apart = {
        (step, name): abs(found[step][name] / expected[step][name] - 1) for step in found for name in LOSSES
    }
    for side, (num_devices, rules) in (("source", source), ("target", target)):
        record_property(f"{side} devices", num_devices)
        record_property(f"{side} rules", rules)
    record_property("apart", max(apart.values()))
    assert {where: value for where, value in apart.items() if value > TOLERANCE["sharded"]} == {}
    if source == target:
        assert_same_bits(tmp_path / "run", folder)


def assert_same_bits(run_dir: Path, uninterrupted: Path) -> None:
    """The whole state at the end, and every number that was logged on the way."""
    found, expected = state_of(run_dir), state_of(uninterrupted)
    assert found.keys() == expected.keys() and any("nu" in name for name in found)
    assert [name for name in found if found[name].tobytes() != expected[name].tobytes()] == []
    rows, wanted = rows_of(run_dir), rows_of(uninterrupted)
    names = (*LOSSES, "grad_norm", "update_norm", "learning_rate")
    assert [(step, name) for step in wanted for name in names if rows[step][name] != wanted[step][name]] == []


def test_the_sample_has_every_number_of_devices_and_every_rules_on_both_sides():
    for side in (0, 1):
        assert {pair[side][0] for pair in PAIRS} == {1, 2, 4, 8}
        assert {pair[side][1] for pair in PAIRS} == set(RULES)
