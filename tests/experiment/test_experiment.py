"""Experiments: validation, text, and loading from a file."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from catalog.of_objectives import OBJECTIVES

from mmjax import balance, data, objectives, sharding, views
from mmjax.errors import InputError
from mmjax.experiment import Experiment, from_text, load, reading, serialize, to_text
from mmjax.experiment.validation import best_metric, validate
from mmjax.layers import Transformer


@pytest.fixture
def experiment(tmp_path) -> Experiment:
    return load(tiny.write(tmp_path))


def test_text_round_trips(experiment):
    text = to_text(experiment)
    assert from_text(text) == experiment
    assert to_text(from_text(text)) == text


def test_text_has_every_field_and_the_names_that_packages_export(experiment):
    text = to_text(experiment)
    assert text.startswith("Experiment(\n    name='tiny',\n    num_steps=4,\n    data=data.Mixture(\n")
    for expected in (
        "encoders.ViT(",
        "layers.Transformer(",
        "fusion.Late(",
        "rules=sharding.Rules(",
        "max_to_keep=2,",
    ):
        assert expected in text
    assert "parent=" not in text


def test_text_keeps_values_exactly():
    value = {
        "numbers": (1, -2.5, 1e-9, float("inf"), True, None),
        "long": tuple(f"it's {n}, \n a 'word'" for n in range(40)),
        "dtype": jnp.bfloat16,
        "single": (1,),
        "empty": {"a": (), "b": {}, "c": []},
    }
    text = serialize.to_text(value)
    assert reading.from_text(text) == value
    assert max(map(len, text.splitlines())) < 130


def test_text_of_arrays_is_a_digest_that_cannot_be_read():
    first, second = (serialize.to_text(data.Arrays({"x": np.full(3, fill)})) for fill in (1, 2))
    assert first != second
    with pytest.raises(InputError, match="'array' is no class or constant of mmjax"):
        reading.from_text(first)


def test_text_of_other_packages_classes_cannot_be_read(experiment):
    text = to_text(dataclasses.replace(experiment, data=Foreign(experiment.data.datasets, 8)))
    assert "data=test_experiment.Foreign(" in text.replace("tests.", "")
    with pytest.raises(InputError, match="Foreign' is no class or constant of mmjax"):
        from_text(text)


class Foreign(data.Mixture):
    pass


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "().__class__",
        "(lambda: 1)()",
        "[x for x in (1, 2)]",
        "1 + 1",
        "f'{1}'",
        "experiment.Path('/')",
        "experiment.load('x.py')",
        "sharding.MeshShape(*[1])",
        "sharding.MeshShape(**{'data': 1})",
        "sharding.MeshShape(1)",
        "sharding.MeshShape.make()",
        "sharding.mesh.jax",
        "sharding.MeshShape",
        "cli.main()",
        "os.path",
        "sharding.MeshShape(nosuch=1)",
        "Experiment(",
        "",
    ],
)
def test_from_text_refuses_all_but_literals_and_classes_of_mmjax(text):
    with pytest.raises(InputError):
        reading.from_text(text)


def test_changed_fields_have_paths(experiment):
    changed = dataclasses.replace(experiment, seed=3, mesh=sharding.MeshShape(fsdp=2))
    texts = to_text(experiment), to_text(changed)
    assert serialize.changed_fields(*texts) == {"seed": ("0", "3"), "mesh.fsdp": ("1", "2")}


def test_an_int_for_a_float_is_no_change(experiment):
    def text(weight, other):
        changed = balance.Scheduled(schedules={"pairs": ((0, weight), (9, other))})
        return to_text(dataclasses.replace(experiment, balance=changed))

    assert serialize.changed_fields(text(1, 1.0), text(1.0, 1)) == {}
    assert list(serialize.changed_fields(text(1, 1.0), text(2, 1))) == ["balance.schedules.pairs"]


def test_shared_module_is_refused_and_the_error_has_both_paths(experiment):
    trunk = Transformer(depth=1, width=16, num_heads=2, mlp_width=32)
    encoders = {name: encoder.clone(trunk=trunk) for name, encoder in experiment.model.encoders.items()}
    with pytest.raises(InputError) as refusal:
        validate(dataclasses.replace(experiment, model=experiment.model.clone(encoders=encoders)))
    assert "'model.encoders.image.trunk' and 'model.encoders.text.trunk' are the same Transformer" in str(
        refusal.value
    )


def test_objective_of_a_missing_head_is_refused(experiment):
    wrong = {"x": objectives.InfoNCE("video", "text")}
    with pytest.raises(InputError) as refusal:
        validate(dataclasses.replace(experiment, objectives=wrong))
    expected = "objective 'x' reads ['text', 'video'], but the model's heads produce ['image', 'text']"
    assert str(refusal.value) == expected


def test_eval_of_a_missing_head_is_refused(experiment):
    wrong = {
        "x": dataclasses.replace(experiment.evals["retrieval"], heads={"image": "nosuch", "text": "text"})
    }
    with pytest.raises(
        InputError, match=r"eval 'x' reads \['nosuch', 'text'\], but the model's heads produce"
    ):
        validate(dataclasses.replace(experiment, evals=wrong))


def test_objective_whose_stream_the_data_lack_is_refused(experiment):
    (_, dataset), *_ = experiment.data.datasets.values()
    images = dataclasses.replace(dataset, streams={"image": dataset.streams["image"]})
    with pytest.raises(InputError, match=r"'pairs' needs the stream 'text', but the data give \['image'\]"):
        validate(dataclasses.replace(experiment, data=data.Mixture({"x": (1.0, images)}, batch_size=8)))


@pytest.mark.parametrize(
    ("objective", "stream"),
    [
        (objectives.Classification("image", labels="kind"), "kind"),
        (objectives.MultiLabel("image", labels="kinds"), "kinds"),
        (objectives.InfoNCE("image", "text", match_by="keywords"), "keywords"),
        (objectives.VectorQuantised("image", "patches", (4, 4)), "patches"),
    ],
)
def test_objective_whose_targets_the_data_lack_is_refused(experiment, objective, stream):
    message = (
        f"objective 'x' has its targets in the stream '{stream}', but the data give ['image', 'text']: add a "
        "transform that makes it, or name another stream"
    )
    with pytest.raises(InputError) as refusal:
        validate(dataclasses.replace(experiment, objectives={"x": objective}))
    assert str(refusal.value) == message


def test_view_may_provide_the_targets(experiment):
    view = views.MaskPatches("image", (2, 2), unmasked_stream="patches")
    changed = {"x": objectives.VectorQuantised("image", "patches", (4, 4), view=view)}
    validate(dataclasses.replace(experiment, objectives=changed))


def test_target_streams_of_every_objective_are_a_tuple_of_names():
    for row in OBJECTIVES:
        targets = row.make("float32").target_streams()
        assert isinstance(targets, tuple) and all(isinstance(stream, str) for stream in targets), row.name


def test_view_of_a_stream_that_no_head_reads_is_refused(experiment):
    drop = views.Chain((views.DropStreams((("text", 0.5), ("audio", 0.5))),))
    wrong = {"pairs": dataclasses.replace(experiment.objectives["pairs"], view=drop)}
    message = (
        r"view of objective 'pairs' needs the encoding of 'audio', but the heads \['image', 'text'\] read"
    )
    with pytest.raises(InputError, match=message):
        validate(dataclasses.replace(experiment, objectives=wrong))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mesh": sharding.MeshShape(data=3)}, "expected data.batch_size to be a multiple of 3, found 8"),
        ({"num_steps": 0}, "num_steps' expects int from 1 to 2,147,483,647, found int 0"),
        ({"name": "../x"}, "expected a name of letters"),
        ({"objectives": {}}, "expected at least one objective"),
        (
            {"on_nonfinite": "ignore"},
            "on_nonfinite' expects 'stop' or 'skip' or 'rollback', found str 'ignore'",
        ),
        ({"best_mode": "highest"}, "best_mode' expects 'max' or 'min', found str 'highest'"),
        ({"keep_every": -2}, "keep_every' expects int from 0"),
        ({"keep_every": 3}, "keep_every expects a multiple of save_every=2, found 3: no other step"),
        (
            {"keep_best": "R@5"},
            r"keep_best expects 'eval/metric' with an eval among \['retrieval'\], found 'R@5'",
        ),
        ({"keep_best": "retrieval/"}, "found 'retrieval/'"),
        (
            {"keep_best": "retrieval/R@5"},
            "expects evaluations during the run, found 'retrieval' only at",
        ),
    ],
)
def test_validate_refuses(experiment, change, message):
    with pytest.raises(InputError, match=message):
        validate(dataclasses.replace(experiment, **change))


@pytest.mark.parametrize("change", [{"eval_every": 2}, {"evals": 2}])
def test_keep_best_accepts_a_repeated_evaluation(experiment, change):
    if "evals" in change:
        change = {"evals": {"retrieval": dataclasses.replace(experiment.evals["retrieval"], every=2)}}
    changed = dataclasses.replace(experiment, keep_best="retrieval/image->text/R@5", keep_every=4, **change)
    validate(changed)
    assert best_metric(changed) == ("retrieval", "image->text/R@5")


def test_changed_fields_give_absent_fields_their_defaults(experiment):
    """An older version, which lacked the fields, has written the text."""
    text = to_text(experiment)
    old = "".join(
        line
        for line in text.splitlines(keepends=True)
        if not line.startswith(("    keep_", "    best_mode", "    on_nonfinite"))
        and "hash_buckets" not in line
    )
    assert old.count("\n") == text.count("\n") - 5
    assert serialize.changed_fields(old, text) == {} == serialize.changed_fields(text, old)
    changed = to_text(dataclasses.replace(experiment, on_nonfinite="skip", seed=1))
    assert serialize.changed_fields(old, changed) == {
        "seed": ("0", "1"),
        "on_nonfinite": ("'stop'", "'skip'"),
    }


def test_mesh_size_of_minus_one_is_checked_once_the_devices_are_known(experiment):
    validate(experiment)
    with pytest.raises(InputError, match="multiple of 3, found 8"):
        validate(experiment, num_devices=3)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def experiment(:\n", "SyntaxError"),
        ("import nosuchmodule\n", "line 1: ModuleNotFoundError: No module named 'nosuchmodule'"),
        ("def experiment():\n    return 1 / 0\n", "line 2: ZeroDivisionError"),
        ("x = 1\n", r"to define experiment\(\) -> Experiment, found NoneType"),
        ("def experiment():\n    return 3\n", r"to define experiment\(\) -> Experiment, found int"),
    ],
)
def test_load_refuses_a_broken_file(source, message, tmp_path):
    (tmp_path / "broken.py").write_text(source)
    with pytest.raises(InputError, match=message):
        load(tmp_path / "broken.py")


def test_load_refuses_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="expected an experiment file, found nothing at"):
        load(tmp_path / "nosuch.py")
