"""evals.measure: evaluations given each subset of some streams."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import NAMES, RandomEmbedder, dataset
from PIL import Image

from mmjax import evals
from mmjax.batch import is_present
from mmjax.errors import InputError
from mmjax.evals.subsets import subsets
from mmjax.learner import Learner
from mmjax.objectives import InfoNCE
from mmjax.testing import tiny_batch, tiny_model
from mmjax.training import Predictor
from mmjax.views import Identity


@dataclasses.dataclass(frozen=True, kw_only=True)
class CountLabels(evals.Eval):
    """Counts the rows with a label, and calls the predictor."""

    def required_heads(self):
        return ("label",)

    def __call__(self, predictor):
        num = 0
        for batch in self.batches():
            predictor(batch, Identity(), self.required_heads())
            num += int(is_present(batch["label"]).sum())
        return evals.Result({"num": float(num)})


def test_subsets_are_listed_from_the_empty_one_to_all_streams():
    assert subsets(("a", "b", "c")) == [
        (), ("a",), ("b",), ("c",), ("a", "b"), ("a", "c"), ("b", "c"), ("a", "b", "c"),
    ]  # fmt: skip


def test_each_subset_is_measured_on_the_same_rows():
    calls = []

    def predictor(batch, view, heads, seed=0):
        calls.append({name: np.asarray(is_present(stream)) for name, stream in batch.items()})
        return {}, {}

    # Row 1 has no audio and row 4 no image: no subset counts them.
    data = dataset(missing=((1, "audio"), (4, "image")))
    evaluation = CountLabels(data=data, batch_size=8, subsets_of=("image", "audio"))
    metrics = evals.measure(evaluation, predictor).metrics
    rows = ~np.isin(np.arange(8), (1, 4, 7))
    given = [(call["image"].any(), call["audio"].any()) for call in calls]
    assert sorted(given) == [(False, True), (True, False), (True, True)]
    for call in calls:
        np.testing.assert_array_equal(call["text"], rows)
        for stream in ("image", "audio"):
            np.testing.assert_array_equal(call[stream], rows & call[stream].any())
    assert metrics == {"image/num": 5, "audio/num": 5, "image+audio/num": 5}


def test_a_subset_without_anything_to_measure_is_left_out():
    """Without images no pair of streams can be ranked."""
    evaluation = evals.Retrieval(
        data=dataset(), heads=("image", "text"), batch_size=8, subsets_of=("image", "audio")
    )
    metrics = evals.measure(evaluation, RandomEmbedder()).metrics
    assert {name.split("/")[0] for name in metrics} == {"image", "image+audio"}


def test_without_subsets_it_runs_the_evaluation_once():
    evaluation = evals.Retrieval(data=dataset(), heads=("image", "text"), batch_size=8)
    assert evals.measure(evaluation, RandomEmbedder()).metrics == evaluation(RandomEmbedder()).metrics


def test_an_error_with_all_streams_is_raised():
    no_images = dataset(missing=tuple((n, "image") for n in range(len(NAMES))))
    evaluation = evals.Retrieval(
        data=no_images, heads=("audio", "text"), batch_size=8, subsets_of=("image", "audio")
    )
    with pytest.raises(InputError, match="no example has two of the streams"):
        evals.measure(evaluation, RandomEmbedder())


def test_streams_that_the_data_lack_are_refused():
    with pytest.raises(InputError) as caught:
        evals.Retrieval(data=dataset(), heads=("image", "text"), subsets_of=("image", "video"))
    assert "needs the streams ['image', 'text', 'video'], but its data have" in str(caught.value)
    assert "add ['video'] to the dataset" in str(caught.value)


def test_masked_words_refuse_subsets_of():
    with pytest.raises(InputError, match="expected subsets_of=.., found .'image',.. Name these streams in"):
        evals.MaskedWords(data=dataset(), subsets_of=("image",))


@pytest.mark.parametrize(
    ("evaluation", "fields", "field"),
    [
        (evals.Classification, {"labels": "text", "streams": ("image", "audio")}, "streams"),
        (evals.Captions, {"context": ("image", "audio")}, "context"),
    ],
)
def test_evaluations_with_subsets_of_their_own_refuse_subsets_of(evaluation, fields, field):
    message = f"expected subsets_of=.., found .'image',.. Set `subsets=True`: it takes those of `{field}`"
    with pytest.raises(InputError, match=message):
        evaluation(data=dataset(), head="x", subsets_of=("image",), **fields)


def test_the_picture_has_a_bar_for_each_subset(tmp_path):
    evaluation = evals.ZeroShot(
        data=dataset(), heads=("image", "audio", "text"), batch_size=8, subsets_of=("image", "text"),
    )  # fmt: skip
    result = evals.measure(evaluation, RandomEmbedder())
    assert {"image_confusion", "audio_confusion", "subsets"} <= result.pictures.keys()
    result.pictures["subsets"](tmp_path / "subsets.png")
    with Image.open(tmp_path / "subsets.png") as image:
        assert image.width > 600 and np.asarray(image.convert("L")).std() > 20


def test_one_compilation_serves_every_subset():
    learner = Learner(model=tiny_model(depth=1, scan=False), objectives={"pairs": InfoNCE("image", "text")})
    key, batch = jax.random.key(0), jax.tree.map(jnp.asarray, tiny_batch())
    params = learner.init({"params": key, "views": key}, batch)["params"]
    predictor = Predictor(learner, params)
    evaluation = evals.Retrieval(
        data=dataset(("red fox", "blue fox", "red cat")),
        heads=("image", "text"),
        batch_size=8,
        subsets_of=("image", "text", "audio"),
    )
    metrics = evals.measure(evaluation, predictor).metrics
    assert "image+text/image->text/R@1" in metrics and "image+text+audio/image->text/R@1" in metrics
    compiled = predictor._compiled(Identity(), ("image", "text"))
    assert predictor._compiled.cache_info().currsize == 1 and compiled.jitted._cache_size() == 1
