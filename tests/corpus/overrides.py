"""Overrides: types and ranges of fields, and steps that do not fit together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny

from corpus.case import Case
from mmjax.experiment import load, to_text


def with_override(*assignments: str, change: dict[str, str] | None = None) -> Callable[[Path], Any]:
    """Loads the tiny experiment with these overrides."""
    return lambda folder: load(tiny.write(folder, change), assignments)


DATA = "data.datasets.colours.1.streams"
# (name, assignment, message)
TYPES = [
    ("a class for a value", "data=data.Dataset", "'data' expects .*class data.Dataset"),
    (
        "a dataset for a mixture",
        "data=data.Dataset(source=data.Npz(path='x'),streams={})",
        "'data' expects data.Mixture .*found data.Dataset",
    ),
    ("None for a mixture", "data=None", "'data' expects data.Mixture .*found None"),
    ("a list for a dict", "model.encoders=[1]", r"'model.encoders' expects Mapping\[str, encoders.Encoder\]"),
    ("a list as a key", "data.datasets={[]: 1}", r"expects literals as keys, each once, found .*1"),
    ("a key twice", "evals={'a': 1, 'a': 2}", "expects literals as keys, each once"),
    (
        "a sibling of the same package",
        "optimizer.schedule=training.AdamW(peak_learning_rate=1.0)",
        "'optimizer.schedule' expects training.Schedule .*found training.AdamW",
    ),
    ("an encoder for a fusion", "model.fusion=encoders.ResNet()", "'model.fusion' expects fusion.Fusion"),
    ("a float of steps", "num_steps=10.0", "'num_steps' expects int .*found float 10.0"),
    ("a bool of steps", "num_steps=true", "'num_steps' expects int .*found bool True"),
    ("an int for a bool", f"{DATA}.image.flip=1", "flip' expects bool .*found int 1"),
    ("text for a number", "data.batch_size=many", "'data.batch_size' expects int .*found 'many'"),
    ("a complex number", "optimizer.b1=1j", "'optimizer.b1' expects float"),
    ("a sum", "num_steps=1+1", "'num_steps' expects int .*found '1\\+1'"),
    ("900 minus signs", "num_steps=" + "-" * 900 + "1", "'num_steps' expects int"),
    ("bytes", "name=b'x'", "expected a name of letters"),
    ("a set", f"{DATA}.image.augmentations={{1}}", "augmentations' expects"),
    ("a tuple too long", f"{DATA}.image.size=(8, 8, 8)", r"size' expects tuple\[int, int\]"),
    ("a tuple for one number", f"{DATA}.text.length=(6,)", "length' expects int"),
    ("an unknown choice", "optimizer.schedule.kind=linear", "'cosine' or 'wsd' or 'rsqrt' or 'constant'"),
    ("another case of a choice", "on_nonfinite=Stop", "'stop' or 'skip' or 'rollback'"),
    ("a string of streams for a tuple", "evals.retrieval.subsets_of=image", r"expects tuple\[str, \.\.\.\]"),
    ("an item of a wrong type", "evals.retrieval.subsets_of=('image', 3)", "subsets_of.1' expects str"),
    ("a mesh of rules", "mesh=sharding.FSDP", "'mesh' expects sharding.MeshShape"),
    (
        "a constant that is none",
        "rules=FSPD",
        "'rules' expects sharding.Rules .*'FSPD' is no class or constant",
    ),
    (
        "an inner value of a wrong type",
        "optimizer=training.Lion(peak_learning_rate=1.0, schedule=3)",
        "'optimizer.schedule' expects training.Schedule, found int 3",
    ),
    ("an abstract class", "optimizer=training.optimizer.Optimizer(peak_learning_rate=1.0)", "abstract class"),
    ("a missing field", "optimizer=training.Lion()", r"expects the fields \['peak_learning_rate'\]"),
    ("a field twice", "mesh=sharding.MeshShape(data=1, data=2)", "expects the field 'data' once"),
    (
        "a position for a keyword",
        "mesh=sharding.MeshShape(1)",
        "literals and calls of mmjax's classes by keyword",
    ),
]
RANGES = [
    (
        "no accumulation",
        "optimizer.accumulation_steps=0",
        "'optimizer.accumulation_steps' expects int from 1",
    ),
    ("a batch of 1e9", "data.batch_size=1000000000", "'data.batch_size' expects int from 1 to 1,048,576"),
    ("a batch of 0", "data.batch_size=0", "'data.batch_size' expects int from 1"),
    ("a negative batch", "data.batch_size=-8", "'data.batch_size' expects int from 1 .*found int -8"),
    (
        "a negative rate",
        "optimizer.peak_learning_rate=-0.001",
        "'optimizer.peak_learning_rate' expects float above 0",
    ),
    ("an infinite rate", "optimizer.peak_learning_rate=inf", "'optimizer.peak_learning_rate' expects float"),
    ("a rate of NaN", "optimizer.peak_learning_rate=nan", "'optimizer.peak_learning_rate' expects float"),
    (
        "a rate that overflows",
        "optimizer.peak_learning_rate=1e400",
        "'optimizer.peak_learning_rate' expects float",
    ),
    ("a negative norm to clip", "optimizer.clip_norm=-1", "'optimizer.clip_norm' expects float above 0"),
    ("a norm of 0 to clip", "optimizer.clip_norm=0", "'optimizer.clip_norm' expects float above 0"),
    ("a decay above 1", "optimizer.b1=2", "'optimizer.b1' expects float at least 0, below 1"),
    ("a decay of 1", "optimizer.b2=1.0", "'optimizer.b2' expects float at least 0, below 1"),
    ("no epsilon", "optimizer.epsilon=0", "'optimizer.epsilon' expects float above 0"),
    ("a grey level of 999", f"{DATA}.image.background=999", "background' expects int from 0 to 255"),
    ("a standard deviation of 0", f"{DATA}.image.std=0", "std' expects float above 0"),
    (
        "a standard deviation of 0 in one channel",
        f"{DATA}.image.std=(.5, 0.0, .5)",
        "std.1' expects float above 0",
    ),
    ("two channels", f"{DATA}.image.channels=2", "channels' expects 1 or 3"),
    ("a picture of no height", f"{DATA}.image.size=(0, 8)", "size.0' expects int from 1"),
    ("a crop of more than all", f"{DATA}.image.crop_scale=(.5, 1.5)", "crop_scale.1' expects float above 0"),
    ("a text of two tokens", f"{DATA}.text.length=2", "length' expects int from 3"),
    ("a vocabulary of 0", f"{DATA}.text.tokenizer.vocab_size=0", "vocab_size' expects int from 1"),
    (
        "no depth",
        "model.encoders.image.trunk.depth=0",
        "'model.encoders.image.trunk.depth' expects int from 1",
    ),
    (
        "a depth of a million",
        "model.encoders.image.trunk.depth=1000000",
        "trunk.depth' expects int from 1 to 1,000",
    ),
    ("no width", "model.encoders.text.trunk.width=0", "trunk.width' expects int from 1"),
    ("a dropout of 1", "model.encoders.text.trunk.dropout=1.0", "dropout' expects float at least 0, below 1"),
    ("a negative weight", "objectives.pairs.weight=-1", "'objectives.pairs.weight' expects float at least 0"),
    (
        "a temperature of 0",
        "objectives.pairs.initial_temperature=0",
        "initial_temperature' expects float above 0",
    ),
    (
        "a weight of 0 in a mixture",
        "data.datasets.colours.0=0",
        "'data.datasets.colours.0' expects float above 0",
    ),
    (
        "more bad examples than all",
        "data.max_bad_fraction=1.5",
        "'data.max_bad_fraction' expects float from 0 to 1",
    ),
    ("no steps", "num_steps=0", "'num_steps' expects int from 1"),
    ("more steps than an int32", "num_steps=2147483648", "'num_steps' expects int from 1 to 2,147,483,647"),
    ("4,000 digits of steps", "num_steps=" + "9" * 4000, "'num_steps' expects int from 1"),
    ("5,000 digits of steps", "num_steps=" + "9" * 5000, "'num_steps' expects int from 1"),
    ("a negative seed", "seed=-1", "'seed' expects int from 0"),
    ("a mesh axis of 0", "mesh.fsdp=0", "'mesh.fsdp' expects -1 or int from 1"),
    ("a mesh axis of -2", "mesh.data=-2", "'mesh.data' expects -1 or int from 1"),
    ("two open mesh axes", "mesh.fsdp=-1", "for one mesh axis at most"),
    ("an R@0", "evals.retrieval.ks=(0,)", "ks.0' expects int from 1"),
]
STEPS = [
    (
        "more accumulation than steps",
        ("optimizer.accumulation_steps=16",),
        "optimizer.accumulation_steps expects at most num_steps=4, found 16: the run would end",
    ),
    (
        "steps that accumulation does not divide",
        ("optimizer.accumulation_steps=3",),
        "num_steps expects a multiple of .*=3, found 4: the last 1 steps would .*use num_steps=6 or 3",
    ),
    (
        "a warm-up as long as the run",
        ("optimizer.schedule.warmup_steps=4",),
        r"optimizer.schedule.warmup_steps=4 does not fit .* add optimizer.schedule.warmup_steps=0",
    ),
    (
        "a warm-up that leaves no time to decay",
        ("num_steps=10", "optimizer.schedule=Schedule(kind='wsd', warmup_steps=9)"),
        "expected at most 8",
    ),
    (
        "a keep_every that save_every does not divide",
        ("keep_every=3", "save_every=2"),
        "keep_every expects a mult",
    ),
    (
        "a batch that the mesh does not divide",
        ("mesh.data=3",),
        "expected data.batch_size to be a multiple of 3",
    ),
    ("a name that is a path", ("name=../x",), "expected a name of letters"),
    ("a name of control characters", ("name=\x1b[31mred",), "expected a name of letters"),
    ("a field that no class has", ("model.encoders.image.trunk.depht=2",), "did you mean 'depth'"),
    ("a field of 100,000 letters", ("x" * 100_000 + "=1",), "Experiment has no field 'xxx"),
    ("an item far behind the end", (f"{DATA}.image.size.{'9' * 5000}=1",), "has no field '999"),
    ("no equals sign", ("num_steps",), "an override reads path.to.field=value"),
    ("an empty part of a path", ("model..depth=1",), "an override reads path.to.field=value"),
]

CASES: tuple[Case, ...] = (
    *(
        Case("overrides", name, "refused", with_override(text), message)
        for name, text, message in TYPES + RANGES
    ),
    *(Case("overrides", name, "refused", with_override(*texts), message) for name, texts, message in STEPS),
    Case(
        "overrides",
        "an int for a float",
        "right",
        lambda f: to_text(load(tiny.write(f), ["optimizer.weight_decay=0"])).count("weight_decay=0.0"),
        expected=1,
    ),
    Case(
        "overrides",
        "a list for a tuple",
        "right",
        lambda f: load(tiny.write(f), ["evals.retrieval.ks=[1, 2]"]).evals["retrieval"].ks == (1, 2),
        expected=True,
    ),
)
