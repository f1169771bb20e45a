"""Train steps give the same results under every mesh and rules; invalid axes, rules and sizes raise."""

import dataclasses
import itertools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import encoders, sharding, training
from mmjax.analysis.collectives import find_collectives
from mmjax.errors import InputError
from mmjax.sharding import FSDP, FSDP_TENSOR, REPLICATED, SEQUENCE, TENSOR, ZERO1, MeshShape, Rules
from mmjax.sharding.annotate import warn_padded
from mmjax.sharding.axes import ACTIVATION_AXES, KNOWN_AXES, PARAMETER_AXES
from mmjax.sharding.mesh import group_by_slice
from mmjax.testing import TOLERANCE, tiny_batch, tiny_learner
from mmjax.training.state import init_state, state_shardings

# All `Rules` constants of the package, so that new ones are tested too.
RULES = {name: value for name, value in vars(sharding).items() if isinstance(value, Rules)}
MESHES = {
    name: MeshShape(**{"data": 1} | sizes)
    for name, sizes in {
        "data 8": {"data": 8},
        "fsdp 8": {"fsdp": 8},
        "tensor 8": {"tensor": 8},
        "sequence 8": {"sequence": 8},
        "data 2, fsdp 2, tensor 2": {"data": 2, "fsdp": 2, "tensor": 2},
        "fsdp 2, sequence 2, tensor 2": {"fsdp": 2, "sequence": 2, "tensor": 2},
        "slices 2, data 2, fsdp 2": {"slices": 2, "data": 2, "fsdp": 2},
    }.items()
}
# Runs on every Python version; the others run on one.
EVERYWHERE = {("FSDP_TENSOR_SEQUENCE", "fsdp 2, sequence 2, tensor 2")}
NUM_STEPS = 3
# Adam divides by the gradient's size. With the usual epsilon a gradient that is 0 in theory (a key's bias)
# would give a full-size update in a direction that depends on rounding, which differs between meshes.
OPTIMIZER = training.AdamW(peak_learning_rate=1e-2, epsilon=1e-3, weight_decay=0.1).make(num_steps=10)


@pytest.fixture(scope="module")
def learner():
    """All five objectives. One unrolled layer and one stream updated by the fusion, to compile fast."""
    made = tiny_learner(depth=1, scan=False)
    fusion = made.model.fusion.clone(updated_streams=("text",))
    return made.clone(model=made.model.clone(fusion=fusion))


@pytest.fixture(scope="module")
def boxed(learner):
    """The abstract state in flax's boxes, which hold the logical axes."""
    return jax.eval_shape(lambda: init_state(learner, OPTIMIZER, tiny_batch(), seed=0))


def on_mesh(tree, shardings):
    return jax.tree.map(jax.device_put, tree, shardings)


def compiled_step(learner, boxed, mesh, rules):
    """(training.jit_step, the shardings of its state)."""
    shardings = state_shardings(boxed, mesh, rules)
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), sharding.unbox(boxed), shardings
    )
    return training.jit_step(learner, OPTIMIZER, abstract, mesh, rules), shardings


def steps(step, state, batches) -> list:
    """[(state, metrics) on the host after each step]."""
    after = []
    for batch in batches:
        before = jax.tree.map(lambda x: x.sharding, state)
        state, metrics = step(state, batch)
        assert jax.tree.all(jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), state, before))
        after.append(jax.device_get((state, metrics)))
    return after


def batches() -> list:
    """NUM_STEPS different batches; in the second no example has an image."""
    return [tiny_batch(seed=i, missing=("image",) if i == 1 else ()) for i in range(NUM_STEPS)]


@pytest.fixture(scope="module")
def single(learner, boxed):
    """Of one device, on the host: the state before the first step, and (state, metrics) after each step."""
    mesh = MeshShape(data=1).make(jax.devices()[:1])
    state = training.create_state(learner, OPTIMIZER, tiny_batch(), 0, mesh, REPLICATED)
    before = jax.device_get(state)
    step, _ = compiled_step(learner, boxed, mesh, REPLICATED)
    return before, steps(step, state, batches())


def splits(rules: Rules, mesh) -> tuple:
    """How the rules split arrays on this mesh. Rules with equal splits compile to the same step."""

    def split(rules):
        return tuple(
            tuple(a for a in rules.mesh_axes(axis) if mesh.shape[a] > 1) for axis in sorted(KNOWN_AXES)
        )

    return tuple(mesh.shape.items()), split(rules), split(rules.for_optimizer())


@pytest.fixture(scope="module")
def on_eight(learner, boxed, single):
    """(rules, mesh) -> [(state, metrics) after each step]. Rules with equal splits run once."""
    results = {}

    def run(rules, mesh):
        key = splits(rules, mesh)
        if key not in results:
            step, shardings = compiled_step(learner, boxed, mesh, rules)
            rows = sharding.batch_sharding(mesh, rules)
            placed = [sharding.to_global(batch, rows, 8) for batch in batches()]
            results[key] = steps(step, on_mesh(single[0], shardings), placed)
        return results[key]

    return run


def assert_close(found, expected, scale=0.0):
    """Each leaf within the relative tolerance of the number, or, near zero, of `scale`."""
    rtol = TOLERANCE["sharded"]
    for (path, x), y in zip(jax.tree.leaves_with_path(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(y, x, rtol=rtol, atol=rtol * scale, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize(
    "rules, mesh",
    [  # each mesh on one xdist worker, so that equal programs are compiled once
        pytest.param(
            rules,
            mesh,
            marks=[pytest.mark.xdist_group(f"sharding {mesh}")]
            + [pytest.mark.once] * ((rules, mesh) not in EVERYWHERE),
        )
        for rules, mesh in itertools.product(RULES, MESHES)
    ],
)
def test_steps_are_the_same_on_one_device_and_on_eight(on_eight, single, rules, mesh):
    found = on_eight(RULES[rules], MESHES[mesh].make())
    for number, ((state, metrics), (expected, expected_metrics)) in enumerate(
        zip(found, single[1], strict=True), 1
    ):
        for name, value in expected_metrics.items():
            np.testing.assert_allclose(
                metrics[name], value, rtol=TOLERANCE["sharded"], atol=1e-6, err_msg=name
            )
        # Near zero, relative to the updates so far: the largest update of this optimizer is 1e-2.
        assert_close(state.params, expected.params, scale=number * 1e-2)
    # After one step the first moment is a tenth of the clipped gradient, whose norm is at most 1.
    (first, _), (expected, _) = found[0], single[1][0]
    assert_close(first.opt_state[1].mu, expected.opt_state[1].mu, scale=0.1)
    assert int(found[-1][0].step) == NUM_STEPS


def test_the_reference_step_updates_every_encoder(single):
    before, after = single
    (state, _), (_, metrics) = after[0], after[0]
    change = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before.params, state.params)
    for name in ("encoders_text", "encoders_image", "encoders_audio", "fusion"):
        assert max(jax.tree.leaves(change["model"][name])) > 1e-3, name
    assert {name for name in metrics if name.startswith("loss/")} == {
        f"loss/{name}" for name in ("image_text", "audio_text", "words", "follows", "matches")
    }
    assert all(np.isfinite(value) for value in metrics.values())


def test_rules_split_the_axes_that_they_name(boxed):
    mesh = MeshShape(data=2, fsdp=2, tensor=2).make()

    def query(rules: Rules):
        model = state_shardings(boxed, mesh, rules).params["model"]
        return model["encoders_text"]["trunk"]["layer_0"]["attention"]["query"]["kernel"].spec

    assert tuple(query(REPLICATED)) == (None, None, None)
    assert tuple(query(FSDP)) == ("fsdp", None, None)
    assert tuple(query(TENSOR)) == (None, "tensor", None)
    assert tuple(query(FSDP_TENSOR)) == ("fsdp", "tensor", None)
    assert tuple(query(ZERO1)) == (None, None, None)
    rows = {name: sharding.batch_sharding(mesh, rules).spec for name, rules in RULES.items()}
    assert all(tuple(spec) == (("slices", "data", "fsdp"),) for spec in rows.values())


def test_moments_and_accumulated_gradients_are_sharded_as_their_parameters(learner):
    mesh = MeshShape(data=2, fsdp=2, tensor=2).make()
    optimizer = training.AdamW(peak_learning_rate=1e-2, accumulation_steps=2).make(num_steps=10)
    boxed = jax.eval_shape(lambda: init_state(learner, optimizer, tiny_batch(), seed=0))
    state = state_shardings(boxed, mesh, FSDP_TENSOR)
    adam = state.opt_state.inner_opt_state[1]
    specs = [
        [s.spec for s in jax.tree.leaves(tree)]
        for tree in (state.params, adam.mu, adam.nu, state.opt_state.acc_grads)
    ]
    assert specs[0] == specs[1] == specs[2] == specs[3]
    assert any("fsdp" in spec for spec in specs[0]) and any("tensor" in spec for spec in specs[0])


def test_zero1_splits_moments_only(boxed):
    mesh = MeshShape(data=1, fsdp=8).make()
    state = state_shardings(boxed, mesh, ZERO1)
    fsdp = state_shardings(boxed, mesh, FSDP)
    replicated = state_shardings(boxed, mesh, REPLICATED)
    assert state.params == replicated.params != fsdp.params
    assert state.opt_state == fsdp.opt_state != replicated.opt_state


def test_the_state_is_created_in_shards(learner):
    mesh = MeshShape(data=1, fsdp=8).make()
    abstract = training.abstract_state(learner, OPTIMIZER, tiny_batch(), 0, mesh, FSDP)
    table = abstract.params["model"]["encoders_text"]["table"]
    assert table.sharding.shard_shape(table.shape) == (32, 2)


def test_every_logical_axis_has_a_rule_and_a_description():
    assert {field.name for field in dataclasses.fields(Rules)} == KNOWN_AXES | {"optimizer_embed"}
    assert not PARAMETER_AXES.keys() & ACTIVATION_AXES.keys()


def test_misspelt_axes_raise():
    with pytest.raises(InputError, match="unknown logical axis 'embedd'; known axes: .*'embed'"):
        sharding.param_axes(jnp.zeros, "embedd", None)
    with pytest.raises(InputError, match="unknown logical axis 'batch'"):
        sharding.shard(jnp.zeros((2, 3)), "batch", None)
    with pytest.raises(
        InputError, match=r"shard\(\) got 1 axes \('act_batch',\) for an array of shape \(2, 3\)"
    ):
        sharding.shard(jnp.zeros((2, 3)), "act_batch")
    with pytest.raises(
        InputError,
        match=r"rule embed='fdsp' names the mesh axis 'fdsp'; the mesh has \['slices', 'data', 'fsdp', ",
    ):
        Rules(embed="fdsp")
    with pytest.raises(TypeError, match="embedding"):
        Rules(embedding="fsdp")


def test_rules_that_collide_raise():
    with pytest.raises(
        InputError, match="'embed' and 'heads' are axes of one array and both map to the mesh axis 'fsdp'"
    ):
        Rules(embed="fsdp", heads="fsdp")
    with pytest.raises(InputError, match="'act_batch' and 'act_length'"):
        Rules(act_length=("tensor", "data"))
    with pytest.raises(InputError, match="'embed' and 'heads'"):
        Rules(optimizer_embed="tensor", heads="tensor")


def test_colliding_axes_of_one_parameter_raise():
    """Axes that no layer of this package combines, as in a user's module."""
    box = sharding.param_axes(lambda key, shape: jnp.zeros(shape), "mlp", "vocab")(jax.random.key(0), (8, 8))
    with pytest.raises(InputError, match="'mlp' and 'vocab' are axes of one array"):
        sharding.array_shardings({"kernel": box}, MeshShape(data=-1).make(), TENSOR)


def test_an_indivisible_size_raises():
    box = sharding.param_axes(lambda key, shape: jnp.zeros(shape), "vocab", "embed")(
        jax.random.key(0), (33, 8)
    )
    message = r"text/table has shape \(33, 8\): dimension 0 of size 33 is not divisible by 8, .* \['tensor'\]"
    with pytest.raises(InputError, match=message):
        sharding.array_shardings({"text": {"table": box}}, MeshShape(data=1, tensor=8).make(), TENSOR)


@pytest.mark.parametrize(
    "sizes, message",
    [
        ({"data": 3}, "needs data 3 = 3 devices and JAX sees 8"),
        ({"data": -1, "fsdp": 3}, "needs data 2 x fsdp 3 = 6 devices and JAX sees 8"),
        ({"data": -1, "fsdp": -1}, "for one mesh axis at most"),
        ({"data": 0}, "'MeshShape.data' expects"),
    ],
)
def test_meshes_that_do_not_use_every_device_raise(sizes, message):
    with pytest.raises(InputError, match=message):
        MeshShape(**sizes).make()


def test_one_size_of_a_mesh_may_be_minus_one():
    def sizes(shape):  # outermost first
        return tuple(shape.resolve(8).values())

    assert sizes(MeshShape()) == (1, 8, 1, 1, 1)
    assert sizes(MeshShape(data=2, tensor=-1)) == (1, 2, 1, 1, 4)
    assert sizes(MeshShape(data=1, sequence=-1, slices=2)) == (2, 1, 1, 4, 1)
    assert sizes(MeshShape(fsdp=8)) == (1, 1, 8, 1, 1)


def test_an_indivisible_activation_is_padded_with_one_warning(caplog):
    mesh, x = MeshShape(data=1, sequence=8).make(), jnp.arange(8.0 * 12 * 3).reshape(8, 12, 3)
    warn_padded.cache_clear()
    with sharding.using(mesh, SEQUENCE):
        for _ in range(2):
            y = jax.jit(lambda x: sharding.shard(x + 1, "act_batch", "act_length", "act_embed") * 2)(x)
    np.testing.assert_array_equal(y, (x + 1) * 2)
    assert [record.getMessage() for record in caplog.records] == [
        "activations: the axis act_length of size 12 is not divisible by 8, the size of mesh axes "
        "['sequence']: padded to 16"
    ]


def test_spectrograms_need_no_collectives():
    """XLA of jax 0.10 by itself gathers every example for an FFT."""
    mesh, batch = MeshShape(data=2, fsdp=2, tensor=2).make(), tiny_batch()["audio"]
    mel = encoders.LogMel(sample_rate_hz=8000, num_mels=16)

    def spectrogram(samples, mask):
        return mel(samples, mask)[0]

    expected = jax.jit(spectrogram)(batch.samples, batch.mask)
    with sharding.using(mesh, FSDP):
        rows = sharding.batch_sharding(mesh, FSDP)
        program = jax.jit(spectrogram, in_shardings=rows, out_shardings=rows)
        compiled = program.lower(batch.samples, batch.mask).compile()
        found = compiled(*(jax.device_put(x, rows) for x in (batch.samples, batch.mask)))
        three = jax.jit(spectrogram)(batch.samples[:3], batch.mask[:3])  # not divisible by four devices
    assert find_collectives(compiled.as_text(), mesh.shape) == []
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE["fp32_module"], atol=1e-5)
    np.testing.assert_allclose(three, expected[:3], rtol=TOLERANCE["fp32_module"], atol=1e-5)


@dataclasses.dataclass(frozen=True)
class Device:
    """The attributes of a device that determine its slice."""

    id: int
    process_index: int
    slice_index: int | None = None


def test_slices_follow_the_hardware():
    def ids(parts):
        return [[device.id for device in part] for part in parts]

    one_process = [Device(i, 0, 0) for i in range(4)]
    assert ids(group_by_slice(one_process, 2)) == [[0, 1], [2, 3]]
    # JAX numbers devices by process; the slices of a pod may be numbered differently.
    pods = [Device(i, i // 2, slice_index=(1, 0)[i // 4]) for i in range(8)]
    assert ids(group_by_slice(pods, 2)) == [[4, 5, 6, 7], [0, 1, 2, 3]]
    nodes = [mock.Mock(spec=["id", "process_index"], id=i, process_index=i // 2) for i in range(8)]
    assert ids(group_by_slice(nodes, 4)) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert ids(group_by_slice(nodes, 2)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(InputError, match="slices=3 to divide the 4 slices or processes that JAX sees"):
        group_by_slice(nodes, 3)


def test_slices_are_the_outermost_axis():
    mesh = MeshShape(slices=2, data=1, tensor=4).make()
    ids = np.vectorize(lambda device: device.id)(mesh.devices)
    assert dict(mesh.shape) == {"slices": 2, "data": 1, "fsdp": 1, "sequence": 1, "tensor": 4}
    assert set(ids[0].flat) == {0, 1, 2, 3} and set(ids[1].flat) == {4, 5, 6, 7}


def test_rows_to_load_come_from_the_sharding():
    """Where a model axis spans two processes, both must load the same rows."""
    mesh = MeshShape(data=2, fsdp=2, tensor=2).make()
    rows = sharding.batch_sharding(mesh, REPLICATED)
    np.testing.assert_array_equal(sharding.local_rows(rows, 16), np.arange(16))

    def rows_of(devices) -> list[int]:
        """The rows of a process that has only `devices` (data x fsdp x tensor)."""
        process = mock.Mock(spec=jax.sharding.NamedSharding)
        process.addressable_devices_indices_map = lambda shape: {
            device: rows.devices_indices_map(shape)[device] for device in devices.flat
        }
        return sharding.local_rows(process, 16).tolist()

    devices = mesh.devices[0, :, :, 0]  # data x fsdp x tensor
    for tensor in (0, 1):
        assert rows_of(devices[:, :, tensor]) == list(range(16))
    assert rows_of(devices[1]) == list(range(8, 16))
    assert rows_of(devices[:, 1]) == [4, 5, 6, 7, 12, 13, 14, 15]


def test_batches_become_global_arrays():
    mesh = MeshShape(data=4, tensor=2).make()
    rows = sharding.batch_sharding(mesh, REPLICATED)
    placed = sharding.to_global(tiny_batch(), rows, 8)
    jax.tree.map(np.testing.assert_array_equal, placed, tiny_batch())
    assert placed["image"].pixels.sharding.shard_shape((8, 8, 8, 3)) == (2, 8, 8, 3)
