"""Retrieval over real batches with a fake model, against plain loops; missing rows do not count."""

import numpy as np
import pytest
from fakes import NAMES, Embedder, dataset

from mmjax.errors import InputError, NonFiniteError
from mmjax.evals import Retrieval


class Perfect(Embedder):
    """Every stream of an example is embedded like its text."""

    def __call__(self, batch, view, heads, seed=0):
        return dict.fromkeys(heads, self.embed(batch["text"])), {}


def test_recall_equals_a_loop():
    names = tuple(
        f"{a} {b}" for a in ("red", "blue", "green", "grey") for b in ("fox", "whale", "frog", "cat")
    )
    predictor = Embedder()
    examples = dataset(names)
    metrics = Retrieval(data=examples, heads=("image", "text"), batch_size=5)(predictor).metrics
    whole = next(iter(Retrieval(data=examples, heads=("image", "text"), batch_size=16).batches()))
    image, text = predictor.embed(whole["image"]), predictor.embed(whole["text"])
    found = [1 + sum(image[i] @ text[j] > image[i] @ text[i] for j in range(16)) for i in range(16)]
    for k in (1, 5, 10):
        assert metrics[f"image->text/R@{k}"] == pytest.approx(np.mean([rank <= k for rank in found]))
        assert metrics[f"image->text/R@{k}/chance"] == pytest.approx(k / 16)
        assert (
            metrics[f"image->text/R@{k}/low"]
            <= metrics[f"image->text/R@{k}"]
            <= metrics[f"image->text/R@{k}/high"]
        )
    assert metrics["image->text/median_rank"] == np.median(found)
    assert {name.split("/")[0] for name in metrics} == {"image->text", "text->image"}


def test_missing_examples_and_padding_are_left_out():
    missing = ((1, "audio"), (2, "text"), (4, "audio"))
    evaluation = Retrieval(data=dataset(missing=missing), heads=("image", "text", "audio"), batch_size=4)
    metrics = evaluation(Perfect()).metrics
    # 7 names, of which "red fox" twice; a perfect model is right about every query that is there
    assert metrics["image->text/num_queries"] == 6 and metrics["image->text/num_candidates"] == 5
    assert metrics["audio->text/num_queries"] == 4 and metrics["audio->text/num_candidates"] == 3
    assert all(value == 1 for name, value in metrics.items() if name.endswith("text/R@1"))


def test_a_text_that_occurs_twice_is_answered_by_either_picture():
    metrics = Retrieval(data=dataset(), heads=("image", "text"), batch_size=8)(Perfect()).metrics
    assert metrics["text->image/R@1"] == 1
    assert metrics["text->image/num_candidates"] == len(NAMES)
    assert metrics["text->image/R@1/chance"] == pytest.approx((5 * 1 + 2 * 2) / 7 / 7)


def test_transfer_finds_the_known_pictures_and_says_nothing_new():
    twins, others = dataset(seed=0), dataset(seed=9)
    same = Retrieval(data=twins, train=twins, heads=("image", "text"), batch_size=8)(Embedder()).metrics
    other = Retrieval(data=twins, train=others, heads=("image", "text"), batch_size=8)(Embedder()).metrics
    assert same["image->text/R@1/transfer"] == 1
    assert other["image->text/R@1/transfer"] < 1
    assert 0 <= other["image->text/R@1/cca"] <= 1


def test_only_the_named_pairs_and_heads_by_stream():
    evaluation = Retrieval(
        data=dataset(), heads={"image": "image", "text": "text"}, pairs=(("text", "image"),)
    )
    result = evaluation(Embedder())
    assert evaluation.required_heads() == ("image", "text")
    assert {name.split("/")[0] for name in result.metrics} == {"text->image"}
    assert set(result.pictures) == {"text_to_image", "text_image_similarity"}


def test_refusals_say_what_is_wrong():
    with pytest.raises(InputError, match=r"needs the streams \['image', 'video'\].*add \['video'\]"):
        Retrieval(data=dataset(), heads=("image", "video"))
    with pytest.raises(InputError, match=r"pairs that name \['audio'\].*add the missing"):
        Retrieval(data=dataset(), heads=("image", "text"), pairs=(("audio", "text"),))
    nothing = tuple((n, "text") for n in range(7))
    with pytest.raises(InputError, match="no example has two of the streams"):
        Retrieval(data=dataset(missing=nothing), heads=("image", "text"))(Embedder())

    def broken(batch, view, heads, seed=0):
        return {head: np.full((len(batch["image"].mask), 4), np.nan, np.float32) for head in heads}, {}

    with pytest.raises(NonFiniteError, match="head 'image'"):
        Retrieval(data=dataset(), heads=("image", "text"))(broken)
