"""Overrides: on values, and on an experiment's source before anything heavy is imported."""

import dataclasses
import subprocess
import sys
from typing import Any, Literal

import flax.linen as nn
import pytest
import tiny

from mmjax import sharding
from mmjax.errors import InputError
from mmjax.overrides import override
from mmjax.precheck import check


class Trunk(nn.Module):
    depth: int = 2
    dtype: str = "float32"


class Tower(nn.Module):
    patch: tuple[int, int]
    trunk: Trunk


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole:
    towers: dict[str, Tower]
    rate: float = 0.5
    name: str = "x"
    fast: bool = False
    limit: int | None = None
    kind: Literal["a", "b"] = "a"
    fields: str | tuple[str, ...] = "text"
    free: Any = 3
    mesh: sharding.MeshShape = dataclasses.field(default_factory=sharding.MeshShape)
    rules: sharding.Rules = sharding.REPLICATED

    def __post_init__(self):
        if self.rate > 1:
            raise ValueError(f"expected a rate of at most 1, found {self.rate}")


def whole() -> Whole:
    return Whole(towers={"image": Tower(patch=(4, 8), trunk=Trunk())})


@pytest.mark.parametrize(
    ("assignment", "read", "expected"),
    [
        ("towers.image.trunk.depth=5", lambda w: w.towers["image"].trunk.depth, 5),
        ("towers.image.patch.1=2", lambda w: w.towers["image"].patch, (4, 2)),
        ("towers.image.patch=(2, 2)", lambda w: w.towers["image"].patch, (2, 2)),
        ("towers.image.trunk.dtype=bfloat16", lambda w: w.towers["image"].trunk.dtype, "bfloat16"),
        ("rate=1", lambda w: w.rate, 1.0),
        ("rate=1e-3", lambda w: w.rate, 1e-3),
        ("name=5", lambda w: w.name, "5"),
        ("name=a=b", lambda w: w.name, "a=b"),
        ("fast=true", lambda w: w.fast, True),
        ("limit=7", lambda w: w.limit, 7),
        ("limit=None", lambda w: w.limit, None),
        ("kind=b", lambda w: w.kind, "b"),
        ("fields=names", lambda w: w.fields, "names"),
        ("fields=('a', 'b')", lambda w: w.fields, ("a", "b")),
        ("free=4", lambda w: w.free, 4),
        ("mesh.fsdp=8", lambda w: w.mesh.fsdp, 8),
        ("rules=FSDP", lambda w: w.rules, sharding.FSDP),
        ("mesh=MeshShape(data=2)", lambda w: w.mesh, sharding.MeshShape(data=2)),
    ],
)
def test_override_changes_one_field(assignment, read, expected):
    before = whole()
    found = read(override(before, assignment))
    assert found == expected and type(found) is type(expected)
    assert before == whole()


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            "towers.image.trunk.depht=5",
            "'towers.image.trunk' (Trunk) has no field 'depht': did you mean 'depth'? valid",
        ),
        (
            "towers.imag.patch=5",
            "'towers' (dict) has no field 'imag': did you mean 'image'? valid fields are ['image']",
        ),
        ("towers.image.patch.2=5", "(tuple) has no field '2': valid fields are ['0', '1']"),
        ("towers.image.name=5", "has no field 'name'"),  # linen's own
        ("nosuch=1", "Whole has no field 'nosuch'"),
        ("towers.image.trunk.depth=5.0", "'towers.image.trunk.depth' expects int (now 2), found float 5.0"),
        ("towers.image.trunk.depth=many", "expects int (now 2), found 'many'"),
        ("towers.image.trunk.depth=True", "expects int (now 2), found bool True"),
        ("towers.image.patch=(1, 2, 3)", "expects tuple[int, int] (now (4, 8)), found tuple (1, 2, 3)"),
        ("kind=c", "expects Literal['a', 'b'] (now 'a'), found 'c'"),
        ("fast=1", "expects bool (now False), found int 1"),
        ("limit=x", "expects int | None (now None), found 'x'"),
        ("rate.deeper=1", "'rate' is 0.5, which has no fields"),
        ("rate=2", "override 'rate=2' was refused: expected a rate of at most 1, found 2.0"),
        ("rules=FSPD", "'rules' expects a value like Rules: 'FSPD' is no class or constant of mmjax"),
        ("rules=__import__('os').system('true')", "'rules' expects a value like Rules"),
        ("mesh=sharding.FSDP.embed", "'mesh' expects a value like MeshShape"),
        ("rate", "an override reads path.to.field=value, found 'rate'"),
        ("a..b=1", "an override reads path.to.field=value"),
    ],
)
def test_override_refuses(assignment, message):
    with pytest.raises(InputError) as refusal:
        override(whole(), assignment)
    assert message in str(refusal.value)


EXPERIMENT = "from mmjax.experiment import Experiment\n"
WRONG = [
    "nosuch.field=1",
    "num_steps=many",
    "optimizer.peak_lr=1",
    "optimizer.schedule.kind=linear",
    "model.encoders.image.trunk.depht=3",
    "model.encoders.imag.trunk.depth=3",
    "model.encoders.image.stem.patch=(2,)",
    "objectives.pair.weight=2",
    "objectives.pairs.weight=heavy",
    "mesh.fspd=2",
    "rules.embd=data",
    "data.batchsize=3",
    "evals.retrieval.batchsize=3",
]
RIGHT = [
    "num_steps=10",
    "model.encoders.text.trunk.depth=3",
    "model.heads.image.dim=4",
    "optimizer.clip_norm=None",
    "optimizer=train.Lion(peak_learning_rate=1e-4)",
    "objectives.pairs.weight=2",
    "mesh.data=2",
    "rules=FSDP",
    "data.batch_size=4",
]


@pytest.mark.parametrize("assignment", WRONG)
def test_source_is_refused_in_the_words_of_the_value(assignment, tmp_path):
    from mmjax.experiment import load

    file = tiny.write(tmp_path)
    with pytest.raises(InputError) as early:
        check(file, [assignment])
    with pytest.raises(InputError) as late:
        load(file, [assignment])
    assert str(early.value) == str(late.value)


@pytest.mark.parametrize("assignment", RIGHT)
def test_source_lets_right_overrides_pass(assignment, tmp_path):
    from mmjax.experiment import load

    file = tiny.write(tmp_path)
    check(file, [assignment])
    load(file, [assignment])


@pytest.mark.parametrize(
    "source",
    [
        "def experiment():\n    made = make()\n    return made\n",
        EXPERIMENT + "def experiment():\n    if 1:\n        return Experiment()\n    return 2\n",
        "def experiment():\n    kw = {'x': 1}\n    kw['y'] = {'z': 2}\n    return kw\n",
        "from mine import Experiment\ndef experiment():\n    return Experiment(a=1)\n",
        "def experiment(): return {**other}\n",
        "def experiment():\n    return experiment()\n",
        "experiment = 3\n",
    ],
)
def test_source_that_is_too_clever_is_left_to_the_value(source, tmp_path):
    (tmp_path / "clever.py").write_text(source)
    check(tmp_path / "clever.py", ["y.z=1"])


def test_earlier_override_may_bring_the_fields_of_a_later_one(tmp_path):
    check(tiny.write(tmp_path), ["optimizer=train.Lion(peak_learning_rate=1e-4)", "optimizer.b3=0.9"])


def test_precheck_imports_nothing_heavy(tmp_path):
    program = (
        "import sys; from mmjax.precheck import check; check(sys.argv[1], ['num_steps=3']); "
        "print(sorted({'jax', 'numpy', 'flax'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, tiny.write(tmp_path)], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


AUGMENTED = {
    '"image", size=(8, 8))': '"image", size=(8, 8), flip=True, augmentations='
    "(data.augment.RandAugment(magnitude=5.0), data.augment.ColorJitter()))"
}
IMAGE = "data.datasets.colours.1.streams.image"


@pytest.mark.parametrize(
    "assignment",
    [
        f"{IMAGE}.augmentations.0.magnitude=7",
        f"{IMAGE}.augmentations.1.hue=0.2",
        f"{IMAGE}.augmentations=()",
        "evals.retrieval.subsets_of=('image', 'text')",
    ],
)
def test_augmentations_and_subsets_can_be_overridden(assignment, tmp_path):
    from mmjax.experiment import from_text, load, to_text

    file = tiny.write(tmp_path, AUGMENTED)
    check(file, [assignment])
    made = load(file, [assignment])
    assert made != load(file) and from_text(to_text(made)) == made


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            f"{IMAGE}.augmentations.0.magnitud=7",
            "(RandAugment) has no field 'magnitud': did you mean 'magnitude'?",
        ),
        (f"{IMAGE}.augmentations.0.magnitude=strong", "magnitude' expects float (now 5.0), found 'strong'"),
        (f"{IMAGE}.augmentations.2.hue=0.1", "valid fields are ['0', '1']"),
    ],
)
def test_wrong_overrides_of_augmentations_are_refused_early_too(assignment, message, tmp_path):
    from mmjax.experiment import load

    file = tiny.write(tmp_path, AUGMENTED)
    for refuse in (check, load):
        with pytest.raises(InputError) as refusal:
            refuse(file, [assignment])
        assert message in str(refusal.value)


def test_an_overridden_augmentation_is_still_checked(tmp_path):
    from mmjax.experiment import load

    with pytest.raises(InputError, match="RandAugment expects a magnitude from 0 to 30"):
        load(tiny.write(tmp_path, AUGMENTED), [f"{IMAGE}.augmentations.0.magnitude=31"])
