"""Missing streams, in whole batches and in single rows, through whole train steps."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalog import ROWS
from catalog.of_objectives import values
from random_parameters import random_parameters

from mmjax import objectives, views
from mmjax.learner import Learner
from mmjax.testing import TOLERANCE, VOCAB, tiny_batch, tiny_model, tiny_objectives
from mmjax.training import TrainState, train_step

# One xdist worker compiles for all of these tests.
pytestmark = [pytest.mark.once, pytest.mark.xdist_group("missing")]

STREAMS = ("text", "image", "audio")
ALL_WORDS = views.MaskTokens(
    "text", vocab=VOCAB, unit="all", mask_token_probability=1.0, random_token_probability=0.0
)
OBJECTIVES = tiny_objectives() | {
    "every_word": objectives.MaskedLanguage("words", view=ALL_WORDS),
    "some_streams": objectives.MaskedLanguage(
        "words",
        view=views.Chain((ALL_WORDS, views.DropStreams((("image", 0.5), ("audio", 0.5)), keep_one=True))),
    ),
    # The view removes one stream of every pair, so no pair is valid.
    "dropped": objectives.InfoNCE("image", "text", view=views.DropStreams((("image", 1.0),))),
}
READS = {
    "image_text": {"image", "text"}, "audio_text": {"audio", "text"}, "words": {"text"},
    "follows": {"text", "keywords"}, "matches": {"image", "text"}, "every_word": {"text"},
    "some_streams": {"text"},
}  # fmt: skip


@pytest.fixture(scope="module")
def step():
    """missing streams -> (parameters before and after a step of gradient descent, its metrics)."""
    learner = Learner(model=tiny_model(depth=1, scan=False), objectives=OBJECTIVES)
    params, optimizer = random_parameters(learner, tiny_batch()), optax.sgd(1.0)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        key=jax.random.key_data(jax.random.key(1)),
    )
    compiled = jax.jit(functools.partial(train_step, learner=learner, optimizer=optimizer))

    def run(missing):
        after, metrics = compiled(state, tiny_batch(missing=missing))
        return params, after.params, metrics

    return run


@pytest.mark.parametrize(
    "missing",
    [(), ("text",), ("image",), ("audio",), ("image", "audio"), ("text", "keywords"), (*STREAMS, "keywords")],
    ids="+".join,
)
def test_a_step_on_a_batch_without_a_stream(step, missing):
    before, after, metrics = step(missing)
    assert all(np.isfinite(value) for value in metrics.values()), metrics
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
    for name, reads in READS.items():
        assert (metrics[f"loss/{name}"] == 0) == bool(reads & set(missing)), name
    assert metrics["loss/dropped"] == 0

    def has_changed(module: str) -> bool:
        old, new = (jax.tree.leaves(params["model"][module]) for params in (before, after))
        return any((np.asarray(a) != np.asarray(b)).any() for a, b in zip(old, new, strict=True))

    for stream in STREAMS:
        # Every objective reads the text: without it no parameter changes.
        assert has_changed(f"encoders_{stream}") == (not {stream, "text"} & set(missing)), stream


@dataclasses.dataclass(frozen=True)
class Case:
    """Rows without `stream`, and the objectives whose loss is a mean over the other rows."""

    stream: str
    rows: tuple[int, int]
    objectives: tuple[str, ...]


CASES = [
    Case("image", (3, 6), ("image_text",)),
    Case("audio", (2, 5), ("audio_text",)),
    Case("text", (0, 7), ("image_text", "audio_text", "every_word")),
]


@pytest.fixture(scope="module")
def learn():
    """(batch, objectives) -> (sum of their losses, gradients); no view is random."""
    chosen = {name: OBJECTIVES[name] for name in ("image_text", "audio_text", "every_word")}
    learner = Learner(model=tiny_model(depth=1, scan=False), objectives=chosen)
    params = random_parameters(learner, tiny_batch())

    @jax.jit
    @jax.value_and_grad
    def loss(params, batch, weights):
        _, metrics = learner.apply({"params": params}, batch, train=True, rngs={"views": jax.random.key(0)})
        return sum(weights[name] * metrics[f"loss/{name}"] for name in chosen)

    return lambda batch, names: loss(params, batch, {name: np.float32(name in names) for name in chosen})


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stream)
def test_rows_without_a_stream_are_equal_to_removed_rows(learn, case):
    whole = tiny_batch(seed=3)
    whole["audio"] = whole["audio"].replace(mask=whole["audio"].mask | (np.arange(800) < 500)[None])
    present = ~np.isin(np.arange(8), case.rows)
    mask = whole[case.stream].mask
    masked = whole | {
        case.stream: whole[case.stream].replace(mask=mask & present.reshape(-1, *(1,) * (mask.ndim - 1)))
    }
    removed = jax.tree.map(lambda x: x[present], whole)
    loss, grads = learn(masked, case.objectives)
    expected, expected_grads = learn(removed, case.objectives)
    np.testing.assert_allclose(loss, expected, rtol=TOLERANCE["fp32_module"])
    assert abs(loss - learn(whole, case.objectives)[0]) > 1e-3, "the masked rows have no influence"
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=TOLERANCE["fp32_stack"]),
        grads,
        expected_grads,
    )


OBJECTIVE_ROWS = [row for row in ROWS if row.name.startswith("objectives.")]


@pytest.mark.parametrize("row", OBJECTIVE_ROWS, ids=lambda row: row.name)
def test_an_objective_without_valid_rows_gives_zero_loss_and_gradient(row):
    """All streams are missing, and all masks among targets and predictions are False."""
    (outputs,) = jax.tree.map(jnp.asarray, row.inputs())

    def clear_masks(tree):
        return jax.tree.map(lambda x: jnp.zeros_like(x) if x.dtype == bool else x, tree)

    empty = outputs.replace(
        targets=clear_masks(outputs.targets),
        predictions=clear_masks(outputs.predictions),
        batch={n: stream.replace(mask=jnp.zeros_like(stream.mask)) for n, stream in outputs.batch.items()},
    )
    module = row.make("float32")
    params = nn.meta.unbox(module.init(jax.random.key(0), empty))

    def loss(params, predictions):
        return values(module.apply)(params, empty.replace(predictions=predictions))[0]

    # Codes and masks among the predictions are not differentiable.
    value, grads = jax.value_and_grad(loss, argnums=(0, 1), allow_int=True)(params, empty.predictions)
    assert value == 0
    floats = [grad for grad in jax.tree.leaves(grads) if grad.dtype != jax.dtypes.float0]
    assert floats and all((np.asarray(grad) == 0).all() for grad in floats)
