"""evals.Retrieval on batches of a dataset with a fake model, against plain loops."""

import dataclasses

import numpy as np
import pytest
from fakes import NAMES, RandomEmbedder, dataset

from mmjax.errors import InputError, NonFiniteError
from mmjax.evals import Retrieval


class PerfectEmbedder(RandomEmbedder):
    """Every stream of an example has the embedding of the text."""

    def __call__(self, batch, view, heads, seed=0):
        return dict.fromkeys(heads, self.embed(batch["text"])), {}


def test_recall_equals_a_loop():
    names = tuple(
        f"{a} {b}" for a in ("red", "blue", "green", "grey") for b in ("fox", "whale", "frog", "cat")
    )
    predictor = RandomEmbedder()
    examples = dataset(names)
    metrics = Retrieval(data=examples, heads=("image", "text"), batch_size=5)(predictor).metrics
    whole = next(iter(Retrieval(data=examples, heads=("image", "text"), batch_size=16).batches()))
    image, text = predictor.embed(whole["image"]), predictor.embed(whole["text"])
    ranks = [1 + sum(image[i] @ text[j] > image[i] @ text[i] for j in range(16)) for i in range(16)]
    for k in (1, 5, 10):
        assert metrics[f"image->text/R@{k}"] == pytest.approx(np.mean([rank <= k for rank in ranks]))
        assert metrics[f"image->text/R@{k}/chance"] == pytest.approx(k / 16)
        low, high = metrics[f"image->text/R@{k}/low"], metrics[f"image->text/R@{k}/high"]
        assert low <= metrics[f"image->text/R@{k}"] <= high
    assert metrics["image->text/median_rank"] == np.median(ranks)
    assert {name.split("/")[0] for name in metrics} == {"image->text", "text->image"}


def test_missing_streams_and_padding_rows_are_not_counted():
    missing = ((1, "audio"), (2, "text"), (4, "audio"))
    evaluation = Retrieval(data=dataset(missing=missing), heads=("image", "text", "audio"), batch_size=4)
    metrics = evaluation(PerfectEmbedder()).metrics
    # "red fox" occurs twice among the seven names. A perfect model is right about every query.
    assert metrics["image->text/num_queries"] == 6 and metrics["image->text/num_candidates"] == 5
    assert metrics["audio->text/num_queries"] == 4 and metrics["audio->text/num_candidates"] == 3
    assert all(value == 1 for name, value in metrics.items() if name.endswith("text/R@1"))


def test_either_image_of_a_text_that_occurs_twice_is_relevant():
    metrics = Retrieval(data=dataset(), heads=("image", "text"), batch_size=8)(PerfectEmbedder()).metrics
    assert metrics["text->image/R@1"] == 1
    assert metrics["text->image/num_candidates"] == len(NAMES)
    assert metrics["text->image/R@1/chance"] == pytest.approx((5 * 1 + 2 * 2) / 7 / 7)


def test_transfer_finds_training_images_and_not_others():
    examples, others = dataset(seed=0), dataset(seed=9)
    evaluation = Retrieval(data=examples, train=examples, heads=("image", "text"), batch_size=8)
    same = evaluation(RandomEmbedder()).metrics
    other = dataclasses.replace(evaluation, train=others)(RandomEmbedder()).metrics
    assert same["image->text/R@1/transfer"] == 1
    assert other["image->text/R@1/transfer"] < 1
    assert 0 <= other["image->text/R@1/cca"] <= 1


def test_pairs_and_heads_can_be_named():
    evaluation = Retrieval(
        data=dataset(), heads={"image": "image", "text": "text"}, pairs=(("text", "image"),)
    )
    result = evaluation(RandomEmbedder())
    assert evaluation.required_heads() == ("image", "text")
    assert {name.split("/")[0] for name in result.metrics} == {"text->image"}
    assert set(result.pictures) == {"text_to_image", "text_image_similarity"}


def test_missing_streams_heads_and_nan_are_refused():
    with pytest.raises(InputError, match=r"needs the streams \['image', 'video'\].*add \['video'\]"):
        Retrieval(data=dataset(), heads=("image", "video"))
    with pytest.raises(InputError, match=r"pairs that name \['audio'\].*add the missing"):
        Retrieval(data=dataset(), heads=("image", "text"), pairs=(("audio", "text"),))
    no_text = tuple((n, "text") for n in range(7))
    with pytest.raises(InputError, match="no example has two of the streams"):
        Retrieval(data=dataset(missing=no_text), heads=("image", "text"))(RandomEmbedder())

    def predict_nan(batch, view, heads, seed=0):
        return {head: np.full((len(batch["image"].mask), 4), np.nan, np.float32) for head in heads}, {}

    with pytest.raises(NonFiniteError, match="head 'image'"):
        Retrieval(data=dataset(), heads=("image", "text"))(predict_nan)


def test_texts_are_identical_by_the_record_and_not_by_their_tokens():
    """Unknown words and the end of a long text have no tokens, but they tell texts apart."""
    long = "red blue green "
    names = ("red fox", "red Fox", long + "fox", long + "owl")
    metrics = Retrieval(data=dataset(names, length=8), heads=("image", "text"))(RandomEmbedder()).metrics
    assert metrics["image->text/num_candidates"] == 3


def test_a_single_candidate_is_refused():
    with pytest.raises(InputError, match="any ranking of one candidate is right"):
        Retrieval(data=dataset(("red fox",)), heads=("image", "text"))(RandomEmbedder())


def test_the_best_possible_ranking_has_map_and_ndcg_of_1():
    metrics = Retrieval(data=dataset(), heads=("image", "text"))(PerfectEmbedder()).metrics
    assert metrics["image->text/mAP@10"] == metrics["text->image/nDCG@10"] == pytest.approx(1)
