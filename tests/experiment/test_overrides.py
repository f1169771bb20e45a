"""Overrides by dotted path: changed fields and errors."""

import dataclasses
import re
from typing import Any, Literal

import flax.linen as nn
import pytest
import tiny

from mmjax import sharding
from mmjax.errors import InputError
from mmjax.experiment import from_text, load, to_text
from mmjax.experiment.overrides import override


class Trunk(nn.Module):
    depth: int = 2
    dtype: str = "float32"


class Encoder(nn.Module):
    patch: tuple[int, int]
    trunk: Trunk


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    encoders: dict[str, Encoder]
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


def example() -> Example:
    return Example(encoders={"image": Encoder(patch=(4, 8), trunk=Trunk())})


@pytest.mark.parametrize(
    ("assignment", "read", "expected"),
    [
        ("encoders.image.trunk.depth=5", lambda w: w.encoders["image"].trunk.depth, 5),
        ("encoders.image.patch.1=2", lambda w: w.encoders["image"].patch, (4, 2)),
        ("encoders.image.patch=(2, 2)", lambda w: w.encoders["image"].patch, (2, 2)),
        ("encoders.image.trunk.dtype=bfloat16", lambda w: w.encoders["image"].trunk.dtype, "bfloat16"),
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
    before = example()
    found = read(override(before, assignment))
    assert found == expected and type(found) is type(expected)
    assert before == example()


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            "encoders.image.trunk.depht=5",
            "'encoders.image.trunk' (Trunk) has no field 'depht': did you mean 'depth'? valid",
        ),
        (
            "encoders.imag.patch=5",
            "'encoders' (dict) has no field 'imag': did you mean 'image'? valid fields are ['image']",
        ),
        ("encoders.image.patch.2=5", "(tuple) has no field '2': valid fields are ['0', '1']"),
        ("encoders.image.name=5", "has no field 'name'"),  # a field of linen itself
        ("nosuch=1", "Example has no field 'nosuch'"),
        (
            "encoders.image.trunk.depth=5.0",
            "'encoders.image.trunk.depth' expects int (now 2), found float 5.0",
        ),
        ("encoders.image.trunk.depth=many", "expects int (now 2), found 'many'"),
        ("encoders.image.trunk.depth=True", "expects int (now 2), found bool True"),
        ("encoders.image.patch=(1, 2, 3)", "expects tuple[int, int] (now (4, 8)), found tuple (1, 2, 3)"),
        ("kind=c", "expects 'a' or 'b' (now 'a'), found 'c'"),
        ("fast=1", "expects bool (now False), found int 1"),
        ("limit=x", "expects int or None (now None), found 'x'"),
        ("rate.deeper=1", "'rate' is 0.5, which has no fields"),
        ("rate=2", "override 'rate=2' was refused: expected a rate of at most 1, found 2.0"),
        (
            "rules=FSPD",
            "'rules' expects sharding.Rules (now sharding.Rules), found 'FSPD': 'FSPD' is no class",
        ),
        ("rules=__import__('os').system('true')", "'rules' expects sharding.Rules"),
        ("mesh=sharding.FSDP.embed", "'mesh' expects sharding.MeshShape"),
        ("rate", "an override reads path.to.field=value, found 'rate'"),
        ("a..b=1", "an override reads path.to.field=value"),
    ],
)
def test_override_refuses(assignment, message):
    with pytest.raises(InputError) as refusal:
        override(example(), assignment)
    assert message in str(refusal.value)


REFUSED = {
    "nosuch.field=1": "Experiment has no field 'nosuch'",
    "num_steps=many": "'num_steps' expects int",
    "optimizer.peak_lr=1": "'optimizer' (AdamW) has no field 'peak_lr'",
    "optimizer.schedule.kind=linear": "'optimizer.schedule.kind' expects 'cosine' or 'wsd'",
    "model.encoders.image.trunk.depht=3": "has no field 'depht': did you mean 'depth'?",
    "model.encoders.imag.trunk.depth=3": "'model.encoders' (dict) has no field 'imag': did you mean 'image'?",
    "model.encoders.image.stem.patch=(2,)": "'model.encoders.image.stem.patch' expects tuple[int, int]",
    "objectives.pair.weight=2": "has no field 'pair': did you mean 'pairs'?",
    "objectives.pairs.weight=heavy": "'objectives.pairs.weight' expects float",
    "mesh.fspd=2": "'mesh' (MeshShape) has no field 'fspd': did you mean 'fsdp'?",
    "rules.embd=data": "'rules' (Rules) has no field 'embd': did you mean 'embed'?",
    "data.batchsize=3": "'data' (Mixture) has no field 'batchsize': did you mean 'batch_size'?",
    "evals.retrieval.batchsize=3": "'evals.retrieval' (Retrieval) has no field 'batchsize'",
}
ACCEPTED = [
    "num_steps=10",
    "model.encoders.text.trunk.depth=3",
    "model.heads.image.dim=4",
    "optimizer.clip_norm=None",
    "optimizer=training.Lion(peak_learning_rate=1e-4)",
    "objectives.pairs.weight=2",
    "mesh.data=2",
    "rules=FSDP",
    "data.batch_size=4",
]


@pytest.mark.parametrize(("assignment", "message"), REFUSED.items())
def test_load_refuses_an_override(assignment, message, tmp_path):
    with pytest.raises(InputError, match=re.escape(message)):
        load(tiny.write(tmp_path), [assignment])


@pytest.mark.parametrize("assignment", ACCEPTED)
def test_load_applies_an_override(assignment, tmp_path):
    file = tiny.write(tmp_path)
    assert load(file, [assignment]) != load(file)


def test_later_overrides_see_the_fields_of_earlier_ones(tmp_path):
    overrides = ["optimizer=training.Lion(peak_learning_rate=1e-4)", "optimizer.b2=0.9"]
    assert load(tiny.write(tmp_path), overrides).optimizer.b2 == 0.9


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
    file = tiny.write(tmp_path, AUGMENTED)
    changed = load(file, [assignment])
    assert changed != load(file) and from_text(to_text(changed)) == changed


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            f"{IMAGE}.augmentations.0.magnitud=7",
            "(RandAugment) has no field 'magnitud': did you mean 'magnitude'?",
        ),
        (
            f"{IMAGE}.augmentations.0.magnitude=strong",
            "magnitude' expects float from 0 to 30 (now 5.0), found 'strong'",
        ),
        (f"{IMAGE}.augmentations.2.hue=0.1", "valid fields are ['0', '1']"),
    ],
)
def test_overrides_of_augmentations_are_refused(assignment, message, tmp_path):
    file = tiny.write(tmp_path, AUGMENTED)
    with pytest.raises(InputError) as refusal:
        load(file, [assignment])
    assert message in str(refusal.value)


def test_overridden_augmentation_is_validated(tmp_path):
    with pytest.raises(InputError, match="magnitude' expects float from 0 to 30 .*, found int 31"):
        load(tiny.write(tmp_path, AUGMENTED), [f"{IMAGE}.augmentations.0.magnitude=31"])
