"""Gradients of several objectives: their values, their cost, sharding and checkpoints."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import balance, encoders, fusion, heads, objectives, sharding, training, views
from mmjax.analysis import hlo
from mmjax.analysis.cost import matmul_flops
from mmjax.balance.conflict import conflict_report, mean_report
from mmjax.balance.shared import split_params
from mmjax.checkpoint.manager import Checkpoints
from mmjax.errors import InputError
from mmjax.learner import Learner
from mmjax.model import MultimodalModel
from mmjax.sharding import FSDP_TENSOR_SEQUENCE, REPLICATED, ZERO1, MeshShape
from mmjax.testing import TOLERANCE, VOCAB, WIDTH, tiny_batch, tiny_trunk
from mmjax.training.conflicts import measure_conflicts
from mmjax.training.gradients import balanced_grads, losses_function, step_key
from mmjax.training.state import TrainState, init_state

pytestmark = [pytest.mark.once, pytest.mark.xdist_group("gradients")]

SHARED = ("model/encoders_text", "model/fusion")
NAMES = ("image_text", "words", "matches")
# A large epsilon, for the reason given in tests/sharding/test_sharding.py.
OPTIMIZER = training.AdamW(peak_learning_rate=1e-2, epsilon=1e-3, weight_decay=0.1)


def learner(chosen: balance.Balance) -> Learner:
    """Two encoders and a fusion; two of the three objectives read the fusion."""
    trunk = functools.partial(tiny_trunk, depth=1, scan=False)
    model = MultimodalModel(
        encoders={
            "text": encoders.TextTransformer(vocab=VOCAB, max_length=32, trunk=trunk()),
            "image": encoders.ViT(stem=encoders.LinearPatches(patch=(4, 4)), trunk=trunk()),
        },
        fusion=fusion.CoAttention(
            streams=("text", "image"),
            updated_streams=("text",),
            depth=1,
            width=WIDTH,
            num_heads=8,
            mlp_width=32,
        ),
        heads={
            "text": heads.PooledEmbedding("text", dim=16),
            "image": heads.PooledEmbedding("image", dim=16),
            "words": heads.TokenLogits("text"),
            "matches": heads.MatchingLogit("text"),
        },
    )
    chosen_objectives = {
        "image_text": objectives.InfoNCE("image", "text", weight=0.5),
        "words": objectives.MaskedLanguage("words", view=views.MaskTokens("text", vocab=VOCAB)),
        "matches": objectives.Matching(
            "matches", view=views.HardNegatives("image", "text", heads=("image", "text")), weight=2.0
        ),
    }
    return Learner(model, chosen_objectives, chosen)


def batch_of(seed: int, missing: tuple[str, ...] = ()) -> dict:
    batch = tiny_batch(seed=seed, missing=missing)
    return {name: jax.tree.map(jnp.asarray, batch[name]) for name in ("text", "image")}


@functools.cache
def start(chosen: balance.Balance) -> TrainState:
    """The state before the first step, on the host: the same parameters for every balance."""
    optimizer, module = OPTIMIZER.make(10), learner(chosen)
    boxed = jax.eval_shape(lambda: init_state(module, optimizer, batch_of(0), 0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: (0.2 * rng.normal(size=x.shape)).astype(x.dtype), sharding.unbox(boxed.params)
    )
    return TrainState(
        step=np.int32(0),
        params=params,
        opt_state=jax.device_get(optimizer.init(params)),
        key=np.asarray(jax.random.key_data(jax.random.key(1))),
        balance=jax.device_get(chosen.init(len(NAMES))),
    )


@functools.cache
def one_device() -> jax.sharding.Mesh:
    return MeshShape(data=1).make(jax.devices()[:1])


@functools.cache
def compiled(chosen: balance.Balance, rules=REPLICATED, mesh=None, **options):
    """(the compiled train step, the shardings of its state)."""
    mesh, module = mesh or one_device(), learner(chosen)
    accumulation_steps = options.pop("accumulation_steps", 1)
    optimizer = dataclasses.replace(OPTIMIZER, accumulation_steps=accumulation_steps).make(10)
    spec = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch_of(0))
    abstract = training.abstract_state(module, optimizer, spec, 0, mesh, rules)
    step = training.jit_step(module, optimizer, abstract, mesh, rules, **options)
    program = step.lower(abstract, spec).compile()
    return program, jax.tree.map(lambda x: x.sharding, abstract)


def steps(chosen, rules=REPLICATED, mesh=None, num=3) -> list:
    """[(state, metrics) on the host]; in the second batch no example has an image."""
    program, shardings = compiled(chosen, rules, mesh)
    state, after = jax.tree.map(jax.device_put, start(chosen), shardings), []
    rows = sharding.batch_sharding(mesh or one_device(), rules)
    for i in range(num):
        batch = batch_of(i, missing=("image",) if i == 1 else ())
        state, metrics = program(state, jax.device_put(batch, rows))
        after.append(jax.device_get((state, metrics)))
    return after


@pytest.fixture(scope="module")
def reference():
    """((loss, metrics), gradient) of the learner's sum, and {objective: gradient}, of the first batch."""
    state, module = start(balance.Fixed()), learner(balance.Fixed())

    def compute(state, batch):
        losses_of = losses_function(module, batch, step_key(state))
        dropout, views_key = jax.random.split(step_key(state))
        rngs = {"dropout": dropout, "views": views_key}

        def summed(params):
            return module.apply({"params": params}, batch, train=True, rngs=rngs)

        total = jax.value_and_grad(summed, has_aux=True)(state.params)
        return total, jax.jacrev(lambda p: losses_of(p)[0])(state.params)

    return jax.device_get(jax.jit(compute)(state, batch_of(0)))


def gradient(chosen: balance.Balance):
    """(gradient, metrics, the balance's next state) of the first batch."""
    state, module = start(chosen), learner(chosen)
    return jax.device_get(jax.jit(lambda s, b: balanced_grads(module, s, b))(state, batch_of(0)))


def flat(tree, prefixes=None) -> dict[str, np.ndarray]:
    shared, rest, _ = split_params(tree, balance.Fixed(shared_params=prefixes or SHARED))
    return shared if prefixes else shared | rest


def test_fixed_equals_the_learners_weighted_sum_bit_for_bit(reference):
    ((loss, metrics), grad), _ = reference
    found, found_metrics, state = gradient(balance.Fixed())
    assert jax.tree.all(jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), found, grad))
    assert found_metrics == metrics | {"loss": loss} and state == ()


def test_surgery_changes_the_gradients_of_shared_parameters_only(reference):
    _, grads_of = reference
    found, metrics, _ = gradient(balance.PCGrad(shared_params=SHARED))
    coefficients = {name: metrics[f"balance/{name}"] for name in NAMES}
    shared = flat(grads_of["words"], SHARED)
    assert max(abs(c - 1) for c in coefficients.values()) > 1e-3, "no gradients conflict: choose another seed"
    largest = max(np.abs(x).max() for x in jax.tree.leaves(grads_of))
    for path, value in flat(found).items():
        factors = coefficients if path in shared else dict.fromkeys(NAMES, 1.0)
        expected = sum(factors[name] * flat(grads_of[name])[path] for name in NAMES)
        size = max(np.abs(flat(grads_of[name])[path]).max() for name in NAMES)
        # The gradient of a key's bias is zero in theory; its computed value is rounding error.
        atol = 1e-5 * size + 1e-8 * largest
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=atol, err_msg=path)


def test_the_conflict_report_is_of_these_gradients(reference):
    _, grads_of = reference
    module = learner(balance.Fixed(shared_params=SHARED))
    found = jax.device_get(
        jax.jit(lambda s, b: measure_conflicts(s, b, learner=module))(start(balance.Fixed()), batch_of(0))
    )
    g = {name: np.concatenate([x.ravel() for x in flat(grads_of[name], SHARED).values()]) for name in NAMES}
    for name in NAMES:
        assert found[f"conflict/norm/{name}"] == pytest.approx(np.linalg.norm(g[name]), rel=1e-4)
    pairs = [("image_text", "words"), ("image_text", "matches"), ("words", "matches")]
    cosines = {f"{a}|{b}": g[a] @ g[b] / np.linalg.norm(g[a]) / np.linalg.norm(g[b]) for a, b in pairs}
    for pair, cosine in cosines.items():
        assert found[f"conflict/{pair}"] == pytest.approx(cosine, abs=1e-4)
        assert found[f"conflict/share/{pair}"] == (cosine < 0)
    assert found["conflict/share"] == any(cosine < 0 for cosine in cosines.values())


def test_the_mean_report_leaves_out_objectives_without_a_gradient():
    gram = jnp.array([[4.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    signs = jnp.array([1.0, -1.0, 1.0])
    first, second = conflict_report(gram, NAMES), conflict_report(gram * jnp.outer(signs, signs), NAMES)
    assert first["conflict/image_text|words"] == -0.5 and np.isnan(first["conflict/words|matches"])
    over = mean_report(jax.device_get([first, second]))
    assert over["conflict/image_text|words"] == 0 and over["conflict/share/image_text|words"] == 0.5
    assert over["conflict/share"] == 0.5 and over["conflict/norm/image_text"] == 2
    assert not {"conflict/words|matches", "conflict/share/words|matches"} & over.keys()


def test_surgery_costs_less_than_a_backward_pass_for_each_objective():
    """In the compiled programs: only the backward passes to the shared parameters are repeated."""

    def flops(chosen) -> float:
        return matmul_flops(hlo.parse(compiled(chosen)[0].as_text()))

    fixed, fusion_only = flops(balance.Fixed()), flops(balance.PCGrad())
    backward = fixed * 2 / 3
    assert fixed < fusion_only < fixed + 0.5 * backward
    # SHARED is most of the model, which needs at most one more backward pass for each objective.
    assert flops(balance.PCGrad(shared_params=SHARED)) < fixed + (len(NAMES) - 1) * backward


# One rule that splits everything, and one that splits moments only; the other rules split part of the first.
@pytest.mark.parametrize(
    "chosen, rules",
    [
        pytest.param(
            balance.PCGrad(shared_params=SHARED), FSDP_TENSOR_SEQUENCE, id="PCGrad-FSDP_TENSOR_SEQUENCE"
        ),
        pytest.param(balance.PCGrad(shared_params=SHARED), ZERO1, id="PCGrad-ZERO1"),
        pytest.param(
            balance.GradNorm(shared_params=SHARED), FSDP_TENSOR_SEQUENCE, id="GradNorm-FSDP_TENSOR_SEQUENCE"
        ),
    ],
)
def test_steps_are_the_same_on_one_device_and_on_eight(chosen, rules):
    found = steps(chosen, rules, MeshShape(data=1, fsdp=2, sequence=2, tensor=2).make())
    for number, ((state, metrics), (expected, expected_metrics)) in enumerate(
        zip(found, steps(chosen), strict=True), 1
    ):
        for name, value in expected_metrics.items():
            np.testing.assert_allclose(
                metrics[name], value, rtol=TOLERANCE["sharded"], atol=1e-6, err_msg=name
            )
        for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(expected.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=TOLERANCE["sharded"], atol=number * 1e-2 * 1e-4)
        for a, b in zip(jax.tree.leaves(state.balance), jax.tree.leaves(expected.balance), strict=True):
            np.testing.assert_allclose(a, b, rtol=TOLERANCE["sharded"])


def test_a_batch_without_images_keeps_the_weights_of_image_objectives():
    before, after = (steps(balance.GradNorm(shared_params=SHARED))[i][0].balance for i in (0, 1))
    for i in (sorted(NAMES).index(name) for name in ("image_text", "matches")):
        assert before["weights"][i] == after["weights"][i] != 1
    assert np.isfinite(after["weights"]).all() and (after["first_losses"] > 0).all()


def test_a_skipped_step_keeps_the_balance():
    chosen = balance.GradNorm(shared_params=SHARED)
    program, _ = compiled(chosen, skip_nonfinite=True, accumulation_steps=2)
    optimizer = dataclasses.replace(OPTIMIZER, accumulation_steps=2).make(10)
    params = start(chosen).params
    state = start(chosen).replace(opt_state=optimizer.init(params))
    state = jax.device_put(state, jax.devices()[0])
    state, metrics = program(state, batch_of(0))
    before = jax.device_get(state)
    assert metrics["skipped"] == 0 and (before.balance["weights"] != 1).all()
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), before.params, params)), (
        "the first of two accumulated steps does not update"
    )
    bad = batch_of(1)
    bad["image"] = bad["image"].replace(pixels=bad["image"].pixels * jnp.nan)
    state, metrics = program(state, bad)
    after = jax.device_get(state)
    assert metrics["skipped"] == 1 and after.step == 2
    for name in ("params", "balance", "opt_state"):
        same = jax.tree.map(lambda a, b: np.array_equal(a, b), getattr(before, name), getattr(after, name))
        assert jax.tree.all(same), name
    state, metrics = program(state, batch_of(2))
    assert metrics["skipped"] == 0
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), jax.device_get(state).params, before.params)
    assert np.mean(jax.tree.leaves(moved)) > 0.8, "the second finite step updates"


@pytest.mark.parametrize("chosen", [balance.Fixed(), balance.GradNorm(), balance.Uncertainty()], ids=repr)
def test_checkpoints_hold_the_balances_state(tmp_path, chosen):
    state = jax.device_put(start(chosen), jax.devices()[0])
    state = state.replace(balance=jax.tree.map(lambda x: x + 1, state.balance))
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, state)
    checkpoints.wait()
    restored = checkpoints.restore(abstract)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), restored, state))
    checkpoints.close()


def test_checkpoints_without_a_balance_restore(tmp_path):
    state = jax.device_put(start(balance.Fixed()), jax.devices()[0])
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    fields = ("step", "params", "opt_state", "key")
    OldState = dataclasses.make_dataclass("TrainState", fields)
    jax.tree_util.register_dataclass(OldState, data_fields=fields, meta_fields=())
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, OldState(*(getattr(state, name) for name in fields)))
    checkpoints.wait()
    restored = checkpoints.restore(abstract)
    assert restored.balance == ()
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), restored, state))
    checkpoints.close()


def test_prefixes_without_parameters_raise():
    params = start(balance.Fixed()).params
    message = (
        "balance.shared_params expects prefixes .* none under 'model/encoders_txt'. Choose among "
        r"\['model/encoders_image', 'model/encoders_text', 'model/fusion', 'model/heads_image'"
    )
    with pytest.raises(InputError, match=message):
        split_params(params, balance.PCGrad(shared_params=("model/encoders_txt",)))
    without_fusion = {"model": {name: value for name, value in params["model"].items() if name != "fusion"}}
    with pytest.raises(InputError, match="none under 'model/fusion': this fusion has no parameters"):
        split_params(without_fusion, balance.PCGrad())
