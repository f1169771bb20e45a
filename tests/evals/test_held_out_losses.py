"""evals.Losses: weights of batches, seeds, refusals, and equality with the learner's losses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from fakes import dataset

from mmjax import data
from mmjax.errors import InputError, NonFiniteError
from mmjax.evals import Losses, Retrieval
from mmjax.experiment import load
from mmjax.experiment.validation import validate
from mmjax.objectives import without_weights
from mmjax.run.session import Session


class ScriptedPredictor:
    """Predicts a loss of `value` times the number of rows with an image, and the seed as accuracy."""

    def __init__(self, value: float = 1.0):
        self.value, self.seeds = value, []

    def losses(self, batch, seed=0):
        self.seeds.append(seed)
        rows = np.asarray(batch["image"].mask).reshape(len(batch["image"].mask), -1).any(1).sum()
        return {"loss/x": np.float32(self.value * rows), "x/accuracy": np.float32(seed)}


def test_batches_are_weighted_by_their_examples_and_have_fixed_seeds():
    """Seven examples make batches of four and of three."""
    predictor = ScriptedPredictor()
    metrics = Losses(data=dataset(), batch_size=4, seed=10)(predictor).metrics
    assert predictor.seeds == [10, 11]
    assert metrics == {
        "loss/x": pytest.approx((4 * 4 + 3 * 3) / 7),
        "x/accuracy": pytest.approx((4 * 10 + 3 * 11) / 7),
        "num_examples": 7.0,
    }


def test_empty_data_and_nan_are_refused():
    empty = dataclasses.replace(dataset(), source=dataclasses.replace(dataset().source, records=()))
    with pytest.raises(InputError, match="expected examples in its data, found none"):
        Losses(data=empty)(ScriptedPredictor())
    with pytest.raises(NonFiniteError, match="loss/x"):
        Losses(data=dataset())(ScriptedPredictor(float("nan")))


def test_they_equal_the_learners_losses(tmp_path):
    """The model has no dropout, so that training would log the same losses for these rows."""
    experiment = load(str(tiny.write(tmp_path, tiny.RANDOM_MASKING)))
    session = Session.of(experiment, jax.devices()[:1])
    state = session.new_state()
    held_out = experiment.evals["retrieval"].data
    metrics = Losses(data=held_out, batch_size=8, seed=3)(session.predictor(state)).metrics
    batch = jax.tree.map(jnp.asarray, next(data.epoch(held_out, 8)))
    rngs = {"views": jax.random.key(3)}
    _, expected = session.learner.apply({"params": state.params}, batch, rngs=rngs, method="weighted_losses")
    assert metrics.pop("num_examples") == 8
    assert metrics.keys() == {*without_weights(expected)} >= {"loss/pairs", "loss/words", "words/accuracy"}
    for name, value in metrics.items():
        assert value == pytest.approx(float(expected[name]), rel=1e-4), name


def test_data_that_lack_a_stream_of_an_objective_are_refused(tmp_path):
    experiment = load(str(tiny.write(tmp_path)))
    assert isinstance(experiment.evals["retrieval"], Retrieval)
    complete = experiment.evals["retrieval"].data
    images_only = dataclasses.replace(complete, streams={"image": complete.streams["image"]})
    validate(dataclasses.replace(experiment, evals={"held_out": Losses(data=complete)}))
    with pytest.raises(InputError, match=r"needs the stream 'text', but the data of eval 'held_out' give"):
        validate(dataclasses.replace(experiment, evals={"held_out": Losses(data=images_only)}))
