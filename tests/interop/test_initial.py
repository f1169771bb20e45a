"""A run's parameters start from files, sharded; its checkpoints do not need the files again."""

import dataclasses
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from mmjax.errors import InputError
from mmjax.experiment import from_text, load, to_text
from mmjax.interop import load_pretrained
from mmjax.interop.pretrained import flatten
from mmjax.run import loop
from mmjax.run.session import Session

REFERENCES = Path(__file__).parent / "references"


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("initial"), tiny.NO_EVALS)


@pytest.fixture
def bert(tmp_path) -> Path:
    return Path(shutil.copytree(REFERENCES / "bert", tmp_path / "bert"))


def experiment(file: Path, folder: Path, *overrides: str):
    """The tiny experiment, whose text encoder is the one in `folder`."""
    value = load(file, overrides)
    encoder, _ = load_pretrained(folder)
    model = value.model.clone(encoders={**value.model.encoders, "text": encoder})
    return dataclasses.replace(value, model=model, init_from={"encoders.text": str(folder)})


@pytest.mark.parametrize("rules", ["REPLICATED", "FSDP", "TENSOR"])
def test_each_device_gets_its_part_of_the_file(file, bert, rules):
    axis = {"REPLICATED": "data", "FSDP": "fsdp", "TENSOR": "tensor"}[rules]
    value = experiment(file, bert, "mesh.data=1", f"mesh.{axis}=2", f"rules={rules}")
    assert from_text(to_text(value)) == value
    session = Session.of(value, jax.devices()[:2])
    state, fresh = session.new_state(), Session.of(
        dataclasses.replace(value, init_from=None), jax.devices()[:2]
    ).new_state()  # fmt: skip
    _, expected = load_pretrained(bert)
    found = flatten(state.params["model"]["encoders_text"])
    assert found.keys() == flatten(expected).keys()
    for path, array in flatten(expected).items():
        np.testing.assert_array_equal(found[path], array, err_msg=path)
    kernel = found["trunk/layers/mlp/up/kernel"]
    abstract = flatten(session.abstract.params["model"]["encoders_text"])
    assert kernel.sharding == abstract["trunk/layers/mlp/up/kernel"].sharding
    assert (kernel.addressable_shards[0].data.size < kernel.size) == (rules != "REPLICATED")
    # Everything else starts as it does without the file, the optimizer included.
    jax.tree.map(np.testing.assert_array_equal, state.opt_state, fresh.opt_state)
    others = flatten(state.params), flatten(fresh.params)
    for path in others[1]:
        if not path.startswith("model/encoders_text/"):
            np.testing.assert_array_equal(others[0][path], others[1][path], err_msg=path)


def test_a_run_trains_from_the_file_and_resumes_without_it(file, bert, tmp_path):
    value = experiment(file, bert, "num_steps=2")
    loop.run(value, tmp_path / "run", devices=jax.devices()[:1])
    shutil.rmtree(bert)
    assert loop.run(value, tmp_path / "run", devices=jax.devices()[:1]) == {}
    with pytest.raises(InputError, match="bert"):
        loop.run(value, tmp_path / "another", devices=jax.devices()[:1])


def test_from_a_run_whole_and_by_part(file, tmp_path):
    devices = jax.devices()[:1]
    first = load(file, ["num_steps=2"])
    loop.run(first, tmp_path / "first", devices=devices)
    trained = tiny.read_state(tmp_path / "first")
    whole = dataclasses.replace(first, seed=1, init_from=str(tmp_path / "first"))
    params = flatten(Session.of(whole, devices).new_state().params)
    image = dataclasses.replace(first, seed=1, init_from={"encoders.image": str(tmp_path / "first")})
    part = flatten(Session.of(image, devices).new_state().params)
    assert len(params) > 10
    for path in params:
        saved = trained[f"params/{path}"]
        np.testing.assert_array_equal(params[path], saved, err_msg=path)
        if path.startswith("model/encoders_image/"):
            np.testing.assert_array_equal(part[path], saved, err_msg=path)
    table = "model/encoders_text/table"
    assert not np.array_equal(part[table], trained[f"params/{table}"])


@pytest.mark.parametrize(
    "init_from, message",
    [
        ({"encoders.speech": "x"}, r"names the part 'encoders.speech': expected one of \['encoders.image'"),
        ({"encoders.text": "nowhere"}, "nowhere"),
        ({"heads.text": "BERT"}, "gives 'heads.text' the pretrained model"),
        ({"encoders.image": "BERT"}, "encoders.image is another architecture"),
        ("BERT", "the model is another architecture"),
    ],
)
def test_refused(file, bert, init_from, message):
    name = {"BERT": str(bert)}
    folders = name.get(init_from, init_from) if isinstance(init_from, str) else {
        part: name.get(folder, folder) for part, folder in init_from.items()
    }  # fmt: skip
    value = dataclasses.replace(experiment(file, bert), init_from=folders)
    with pytest.raises(InputError, match=message):
        Session.of(value, jax.devices()[:1]).new_state()


def test_an_encoder_that_computes_something_else_is_refused(file, bert):
    value = experiment(file, bert)
    encoder = value.model.encoders["text"]
    changed = encoder.clone(trunk=encoder.trunk.clone(activation="relu", dropout=0.1, dtype="bfloat16"))
    model = value.model.clone(encoders={**value.model.encoders, "text": changed})
    with pytest.raises(InputError, match=r"encoders.text.trunk.activation: 'gelu' -> 'relu'$"):
        Session.of(dataclasses.replace(value, model=model), jax.devices()[:1]).new_state()


def test_another_run_of_another_shape_is_listed(file, tmp_path):
    devices = jax.devices()[:1]
    loop.run(load(file, ["num_steps=2"]), tmp_path / "run", devices=devices)
    wider = load(file, ["model.heads.text.dim=4", "model.heads.image.dim=4"])
    value = dataclasses.replace(wider, init_from=str(tmp_path / "run"))
    with pytest.raises(InputError, match=r"heads_image/linear/kernel: \(16, 8\) -> \(16, 4\)"):
        Session.of(value, devices).new_state()
