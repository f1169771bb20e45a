"""A run resumes on other devices and rules with the same examples in the same order, and the same losses.

Each source topology trains one uninterrupted run. For each pair, a copy of the source's run loses its last
checkpoint, as if it had been killed after step 3, and resumes on the target's topology. In the data, one
third of the rows have no image. Dropout, masking and crops are random in each step.

MMJAX_ELASTIC=all tests every pair of all topologies instead of the sample. It takes more than ten minutes.
"""

import dataclasses
import hashlib
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from mmjax import sharding
from mmjax.experiment import Experiment, load
from mmjax.run import loop
from mmjax.sharding import MeshShape
from mmjax.testing import TOLERANCE

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("compilation_cache")]

REPLACEMENTS = {
    **tiny.RANDOM_MASKING,
    **tiny.NO_EVALS,
    # Eight heads and 48 table rows are multiples of eight devices.
    "num_heads=2, mlp_width=2 * WIDTH)": "num_heads=8, mlp_width=2 * WIDTH, dropout=0.2, scan=False)",
    "encoders.TextTransformer(vocab={vocab}, max_length=6, trunk=trunk(depth=2))": (
        "encoders.TextTransformer(vocab=48, max_length=6, trunk=trunk())"
    ),
    # Two thirds of the rows have an image and a caption; one third have only a caption.
    'data.Mixture({{"colours": (1.0, dataset())}}, batch_size=8)': (
        'data.Mixture({{"colours": (2.0, dataset()), "captions": (1.0, captions())}}, batch_size=8)'
    ),
    "def experiment() -> Experiment:": """def captions() -> data.Dataset:
    pairs = dataset()
    return data.Dataset(pairs.source, streams={{"text": pairs.streams["text"]}})


def experiment() -> Experiment:""",
    # A key bias has a gradient of rounding errors alone. Adam with a small epsilon would amplify them.
    "peak_learning_rate=1e-3": "peak_learning_rate=1e-2, epsilon=1e-3, accumulation_steps=2",
}
STEP, NUM_STEPS = 3, 6  # at the checkpoint of STEP, half of an update is accumulated
LOSSES = ("loss", "loss/pairs", "loss/words")

# All Rules constants of the package, so that a new one is tested too.
RULES = {name: value for name, value in vars(sharding).items() if isinstance(value, sharding.Rules)}


def mesh(rules: str, num_devices: int) -> MeshShape:
    """Size 2 for each axis that the rules use for more than the batch; the last takes all other devices."""
    fields = [field.name for field in dataclasses.fields(RULES[rules]) if field.name != "act_batch"]
    named = {axis for field in fields for axis in RULES[rules].mesh_axes(field)}
    axes = [axis for axis in ("fsdp", "tensor", "sequence") if axis in named] or ["data"]
    sizes = {"data": 1}
    for factor in range(num_devices.bit_length() - 1):
        axis = axes[min(factor, len(axes) - 1)]
        sizes[axis] = 2 * sizes.get(axis, 1)
    return MeshShape(**sizes)


COMMON = ("REPLICATED", "FSDP", "TENSOR", "FSDP_TENSOR")
ALL = [(num_devices, rules) for rules in RULES for num_devices in (1, 2, 4, 8)]
SAMPLE = [(1, "REPLICATED"), (8, "FSDP"), (2, "TENSOR"), (4, "FSDP_TENSOR"), (8, "TENSOR"), (2, "FSDP")]
SAMPLE += [(4, "REPLICATED"), (8, "FSDP_TENSOR"), *((8, name) for name in RULES if name not in COMMON)]
if os.environ.get("MMJAX_ELASTIC") == "all":
    PAIRS = [(source, target) for source in ALL for target in ALL]
else:  # a cycle: each is a source once and a target once; test_resume.py covers equal topologies
    PAIRS = list(zip(SAMPLE, [*SAMPLE[1:], SAMPLE[0]], strict=True))


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Experiment:
    """The experiment that all topologies train."""
    file = tiny.write(tmp_path_factory.mktemp("data"), replace=REPLACEMENTS)
    return load(file, [f"num_steps={NUM_STEPS}", f"save_every={STEP}", "max_to_keep=9"])


@pytest.fixture(scope="module")
def run(experiment, compilation_cache):
    """A function that trains in a folder on a topology; returns {step: digest of its global batch}."""
    programs, digests = tiny.SharedPrograms(), {}

    def next_with_digest(train_input, next_batch=loop.TrainInput.next):
        batch, waited = next_batch(train_input)
        digests[max(digests, default=0) + 1] = digest(batch)
        return batch, waited

    def train(run_dir: Path, topology: tuple[int, str], first_step: int = 0) -> dict[int, str]:
        num_devices, rules = topology
        digests.clear()
        digests.update({first_step: ""} if first_step else {})
        e = dataclasses.replace(experiment, mesh=mesh(rules, num_devices), rules=RULES[rules])
        with pytest.MonkeyPatch.context() as patch:
            programs.install(patch)
            patch.setattr(loop.TrainInput, "next", next_with_digest)
            loop.run(e, run_dir, devices=jax.devices()[:num_devices])
        digests.pop(first_step, None)
        return dict(digests)

    return train


def digest(batch) -> str:
    """SHA-256 of all arrays of the global batch, with the rows in order."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(jax.device_get(batch))]
    return hashlib.sha256(b"".join(leaf.tobytes() for leaf in leaves)).hexdigest()


@pytest.fixture(scope="module")
def sources(run, tmp_path_factory):
    """A function: topology -> (folder, digests) of its uninterrupted run, which trains at the first call."""
    runs = {}

    def source(topology):
        if topology not in runs:
            folder = tmp_path_factory.mktemp("source") / "run"
            runs[topology] = folder, run(folder, topology)
        return runs[topology]

    return source


def rows_by_step(run_dir: Path) -> dict[int, dict]:
    return {row["step"]: row for row in tiny.read_jsonl(run_dir / "metrics.jsonl")}


def test_batches_before_and_after_the_checkpoint_have_missing_images(experiment):
    session = loop.Session.of(experiment, jax.devices()[:1])
    for step in (0, STEP):
        train_input = loop.TrainInput(session, step, 0)
        mask = np.asarray(train_input.next()[0]["image"].mask)
        train_input.close()
        assert 0 < mask.sum() < len(mask) == 8


@pytest.mark.parametrize("source, target", PAIRS, ids=lambda t: f"{t[0]}-{t[1]}")
def test_resumes_on_another_topology(run, sources, tmp_path, source, target, record_property):
    folder, digests = sources(source)
    shutil.copytree(folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / str(NUM_STEPS))
    resumed_digests = run(tmp_path / "run", target, first_step=STEP)
    assert resumed_digests == {step: digests[step] for step in range(STEP + 1, NUM_STEPS + 1)}

    reference, expected_digests = sources(SAMPLE[0])
    assert digests == expected_digests and len(set(digests.values())) == NUM_STEPS
    found, expected = rows_by_step(tmp_path / "run"), rows_by_step(reference)
    assert list(found) == list(expected) == list(range(1, NUM_STEPS + 1))
    differences = {
        (step, name): abs(found[step][name] / expected[step][name] - 1) for step in found for name in LOSSES
    }
    for side, (num_devices, rules) in (("source", source), ("target", target)):
        record_property(f"{side} devices", num_devices)
        record_property(f"{side} rules", rules)
    record_property("difference", max(differences.values()))
    assert {key: value for key, value in differences.items() if value > TOLERANCE["sharded"]} == {}
    if source == target:
        assert_same_run(tmp_path / "run", folder)


def assert_same_run(run_dir: Path, uninterrupted: Path) -> None:
    """Asserts bitwise equality of the final state and the logged metrics."""
    tiny.assert_same_state(*(tiny.read_state(path, NUM_STEPS) for path in (run_dir, uninterrupted)))
    rows, expected = rows_by_step(run_dir), rows_by_step(uninterrupted)
    names = (*LOSSES, "grad_norm", "update_norm", "learning_rate")
    different = [
        (step, name) for step in expected for name in names if rows[step][name] != expected[step][name]
    ]
    assert different == []


def test_sample_covers_all_device_counts_and_rules_as_source_and_target():
    for side in (0, 1):
        assert {pair[side][0] for pair in PAIRS} == {1, 2, 4, 8}
        assert {pair[side][1] for pair in PAIRS} == set(RULES)
