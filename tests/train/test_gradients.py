"""One gradient of several objectives: exact, at the cost that is promised, and the same under every rule."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import balance, encoders, fusion, heads, objectives, sharding, train, views
from mmjax.analysis import hlo
from mmjax.analysis.cost import matmul_flops
from mmjax.balance.conflict import mean, report
from mmjax.balance.shared import split
from mmjax.checkpoint.manager import Checkpoints
from mmjax.errors import InputError
from mmjax.learner import Learner
from mmjax.model import MultimodalModel
from mmjax.sharding import FSDP_TENSOR_SEQUENCE, REPLICATED, ZERO1, MeshShape
from mmjax.testing import TOLERANCE, VOCAB, WIDTH, tiny_batch, tiny_trunk
from mmjax.train.conflicts import conflicts
from mmjax.train.gradients import balanced_grads, losses_function, step_key
from mmjax.train.state import TrainState, init_state

pytestmark = [pytest.mark.once, pytest.mark.xdist_group("gradients")]

SHARED = ("model/encoders_text", "model/fusion")
NAMES = ("image_text", "words", "matches")
# See tests/test_sharding.py: beside zero an update's direction is rounding's.
OPTIMIZER = train.AdamW(peak_learning_rate=1e-2, epsilon=1e-3, weight_decay=0.1)


def learner(chosen: balance.Balance) -> Learner:
    """Two towers and a fusion, which two of the three objectives read."""
    trunk = functools.partial(tiny_trunk, depth=1, scan=False)
    model = MultimodalModel(
        encoders={
            "text": encoders.TextTransformer(vocab=VOCAB, max_length=32, trunk=trunk()),
            "image": encoders.ViT(stem=encoders.LinearPatches(patch=(4, 4)), trunk=trunk()),
        },
        fusion=fusion.CoAttention(
            streams=("text", "image"), updated=("text",), depth=1, width=WIDTH, num_heads=8, mlp_width=32
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
    """On the host: the same parameters under every balance."""
    optimizer, made = OPTIMIZER.make(10), learner(chosen)
    boxed = jax.eval_shape(lambda: init_state(made, optimizer, batch_of(0), 0))
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
    """(program, shardings of its state)."""
    mesh, made, optimizer = mesh or one_device(), learner(chosen), OPTIMIZER.make(10)
    if "accumulate" in options:
        optimizer = dataclasses.replace(OPTIMIZER, accumulate=options.pop("accumulate")).make(10)
    spec = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch_of(0))
    abstract = train.abstract_state(made, optimizer, spec, 0, mesh, rules)
    with sharding.using(mesh, rules):
        step = train.jit_step(made, optimizer, abstract, mesh, rules, **options)
        program = step.lower(abstract, spec).compile()
    return program, jax.tree.map(lambda x: x.sharding, abstract)


def steps(chosen, rules=REPLICATED, mesh=None, num=3) -> list:
    """[(state, metrics) on the host]; in the second batch no example has a picture."""
    program, shardings = compiled(chosen, rules, mesh)
    state, after = jax.tree.map(jax.device_put, start(chosen), shardings), []
    rows = sharding.batch_sharding(mesh or one_device(), rules)
    for i in range(num):
        batch = batch_of(i, missing=("image",) if i == 1 else ())
        state, metrics = program(state, jax.device_put(batch, rows))
        after.append(jax.device_get((state, metrics)))
    return after


@pytest.fixture(scope="module")
def by_hand():
    """Losses, each objective's gradient by itself, and those of the learner's own sum, of the first batch."""
    state, made = start(balance.Fixed()), learner(balance.Fixed())

    def compute(state, batch):
        losses_of = losses_function(made, batch, step_key(state))
        dropout, views_key = jax.random.split(step_key(state))
        rngs = {"dropout": dropout, "views": views_key}

        def summed(params):
            return made.apply({"params": params}, batch, train=True, rngs=rngs)

        total = jax.value_and_grad(summed, has_aux=True)(state.params)
        return total, jax.jacrev(lambda p: losses_of(p)[0])(state.params)

    return jax.device_get(jax.jit(compute)(state, batch_of(0)))


def gradient(chosen: balance.Balance):
    """(gradient, metrics, the balance's next state) of the first batch."""
    state, made = start(chosen), learner(chosen)
    return jax.device_get(jax.jit(lambda s, b: balanced_grads(made, s, b))(state, batch_of(0)))


def flat(tree, prefixes=None) -> dict[str, np.ndarray]:
    shared, rest, _ = split(tree, balance.Fixed(shared=prefixes or SHARED))
    return shared if prefixes else shared | rest


def test_fixed_is_the_learners_own_sum_to_the_bit(by_hand):
    ((loss, metrics), grad), _ = by_hand
    found, found_metrics, state = gradient(balance.Fixed())
    assert jax.tree.all(jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), found, grad))
    assert found_metrics == metrics | {"loss": loss} and state == ()


def test_surgery_mends_the_shared_parameters_and_only_those(by_hand):
    _, each = by_hand
    found, metrics, _ = gradient(balance.PCGrad(shared=SHARED))
    coefficients = {name: metrics[f"balance/{name}"] for name in NAMES}
    shared = flat(each["words"], SHARED)
    assert max(abs(c - 1) for c in coefficients.values()) > 1e-3, "nothing conflicts: take another seed"
    largest = max(np.abs(x).max() for x in jax.tree.leaves(each))
    for path, value in flat(found).items():
        factors = coefficients if path in shared else dict.fromkeys(NAMES, 1.0)
        expected = sum(factors[name] * flat(each[name])[path] for name in NAMES)
        size = max(np.abs(flat(each[name])[path]).max() for name in NAMES)
        # The gradient of a key's bias is zero on paper, and rounding's in fact.
        atol = 1e-5 * size + 1e-8 * largest
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=atol, err_msg=path)


def test_the_report_is_of_these_gradients(by_hand):
    _, each = by_hand
    made = learner(balance.Fixed(shared=SHARED))
    found = jax.device_get(
        jax.jit(lambda s, b: conflicts(s, b, learner=made))(start(balance.Fixed()), batch_of(0))
    )
    g = {name: np.concatenate([x.ravel() for x in flat(each[name], SHARED).values()]) for name in NAMES}
    for name in NAMES:
        assert found[f"conflict/norm/{name}"] == pytest.approx(np.linalg.norm(g[name]), rel=1e-4)
    pairs = [("image_text", "words"), ("image_text", "matches"), ("words", "matches")]
    cosines = {f"{a}|{b}": g[a] @ g[b] / np.linalg.norm(g[a]) / np.linalg.norm(g[b]) for a, b in pairs}
    for pair, cosine in cosines.items():
        assert found[f"conflict/{pair}"] == pytest.approx(cosine, abs=1e-4)
        assert found[f"conflict/share/{pair}"] == (cosine < 0)
    assert found["conflict/share"] == any(cosine < 0 for cosine in cosines.values())


def test_a_report_leaves_out_who_has_no_gradient():
    gram = jnp.array([[4.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    one, other = (
        report(gram, NAMES),
        report(gram * jnp.array([[1.0, -1.0, 1.0]]).T * jnp.array([[1.0, -1, 1]]), NAMES),
    )
    assert one["conflict/image_text|words"] == -0.5 and np.isnan(one["conflict/words|matches"])
    over = mean(jax.device_get([one, other]))
    assert over["conflict/image_text|words"] == 0 and over["conflict/share/image_text|words"] == 0.5
    assert over["conflict/share"] == 0.5 and over["conflict/norm/image_text"] == 2
    assert not {"conflict/words|matches", "conflict/share/words|matches"} & over.keys()


def test_surgery_costs_less_than_a_backward_pass_an_objective():
    """Of the compiled programs: what only reaches other parameters is not pulled back once more."""

    def flops(chosen) -> float:
        return matmul_flops(hlo.parse(compiled(chosen)[0].as_text()))

    fixed, trunk = flops(balance.Fixed()), flops(balance.PCGrad())
    backward = fixed * 2 / 3
    assert fixed < trunk < fixed + 0.5 * backward
    # Two towers and the fusion are most of the model, and still each objective is pulled back but once more.
    assert flops(balance.PCGrad(shared=SHARED)) < fixed + (len(NAMES) - 1) * backward


# Everything split at once, and moments alone; the other rules split a part of the former.
@pytest.mark.parametrize(
    "chosen, rules",
    [
        pytest.param(balance.PCGrad(shared=SHARED), FSDP_TENSOR_SEQUENCE, id="PCGrad-FSDP_TENSOR_SEQUENCE"),
        pytest.param(balance.PCGrad(shared=SHARED), ZERO1, id="PCGrad-ZERO1"),
        pytest.param(
            balance.GradNorm(shared=SHARED), FSDP_TENSOR_SEQUENCE, id="GradNorm-FSDP_TENSOR_SEQUENCE"
        ),
    ],
)
def test_steps_are_the_same_on_one_device_and_on_eight(chosen, rules):
    found = steps(chosen, rules, MeshShape(data=1, fsdp=2, sequence=2, tensor=2).make())
    for number, ((state, metrics), (expected, wanted)) in enumerate(
        zip(found, steps(chosen), strict=True), 1
    ):
        for name, value in wanted.items():
            np.testing.assert_allclose(
                metrics[name], value, rtol=TOLERANCE["sharded"], atol=1e-6, err_msg=name
            )
        for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(expected.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=TOLERANCE["sharded"], atol=number * 1e-2 * 1e-4)
        for a, b in zip(jax.tree.leaves(state.balance), jax.tree.leaves(expected.balance), strict=True):
            np.testing.assert_allclose(a, b, rtol=TOLERANCE["sharded"])


def test_a_batch_without_pictures_leaves_the_others_weights_alone():
    before, after = (steps(balance.GradNorm(shared=SHARED))[i][0].balance for i in (0, 1))
    for i in (sorted(NAMES).index(name) for name in ("image_text", "matches")):
        assert before["weights"][i] == after["weights"][i] != 1
    assert np.isfinite(after["weights"]).all() and (after["first_losses"] > 0).all()


def test_a_skipped_step_keeps_the_balance():
    chosen = balance.GradNorm(shared=SHARED)
    program, _ = compiled(chosen, skip_nonfinite=True, accumulate=2)
    optimizer = dataclasses.replace(OPTIMIZER, accumulate=2).make(10)
    params = start(chosen).params
    state = start(chosen).replace(opt_state=optimizer.init(params))
    state = jax.device_put(state, jax.devices()[0])
    state, metrics = program(state, batch_of(0))
    before = jax.device_get(state)
    assert metrics["skipped"] == 0 and (before.balance["weights"] != 1).all()
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), before.params, params)), "accumulates"
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
    assert np.mean(jax.tree.leaves(moved)) > 0.8, "two finite steps make an update"


@pytest.mark.parametrize("chosen", [balance.Fixed(), balance.GradNorm(), balance.Uncertainty()], ids=repr)
def test_checkpoints_hold_the_balance(tmp_path, chosen):
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


def test_checkpoints_from_before_there_were_balances_restore(tmp_path):
    state = jax.device_put(start(balance.Fixed()), jax.devices()[0])
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    fields = ("step", "params", "opt_state", "key")
    Old = dataclasses.make_dataclass("TrainState", fields)
    jax.tree_util.register_dataclass(Old, data_fields=fields, meta_fields=())
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, Old(*(getattr(state, name) for name in fields)))
    checkpoints.wait()
    restored = checkpoints.restore(abstract)
    assert restored.balance == ()
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), restored, state))
    checkpoints.close()


def test_prefixes_that_name_no_parameter_are_refused():
    params = start(balance.Fixed()).params
    message = (
        "none under 'model/encoders_txt'. Name what the objectives share in balance.shared, among "
        r"\['model/encoders_image', 'model/encoders_text', 'model/fusion', 'model/heads_image'"
    )
    with pytest.raises(InputError, match=message):
        split(params, balance.PCGrad(shared=("model/encoders_txt",)))
    late = {"model": {name: value for name, value in params["model"].items() if name != "fusion"}}
    with pytest.raises(InputError, match="none under 'model/fusion': this fusion has no parameters"):
        split(late, balance.PCGrad())
