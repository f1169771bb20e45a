"""Zero-shot classes against a plain loop over prompts."""

import numpy as np
import pytest
from fakes import Embedder, dataset

from mmjax.errors import InputError
from mmjax.evals import ZeroShot


def test_accuracy_equals_a_loop_and_prompts_are_averaged():
    predictor, examples = Embedder(), dataset(missing=((2, "image"), (5, "label")))
    evaluation = ZeroShot(data=examples, heads=("image", "text"), templates=("{}", "red {}"), batch_size=4)
    metrics = evaluation(predictor).metrics
    transform = examples.streams["text"]
    classes = []
    for name in ("zero", "one", "two"):
        rows = [transform.encode(name), transform.encode(f"red {name}")]
        tokens = np.stack([row.tokens for row in rows])
        classes.append(predictor.embed(rows[0].replace(tokens=tokens, mask=np.ones(2))).mean(axis=0))
    classes = [mean / np.linalg.norm(mean) for mean in classes]
    hits = []
    for batch in evaluation.batches():
        for row, embedding in enumerate(predictor.embed(batch["image"])):
            if batch["image"].mask[row] and batch["label"].mask[row]:
                hits.append(np.argmax([embedding @ one for one in classes]) == batch["label"].values[row])
    assert len(hits) == 5
    assert metrics["image/accuracy"] == pytest.approx(np.mean(hits))
    assert metrics["image/accuracy/majority"] == pytest.approx(3 / 5)  # labels 0 1 _ 0 1 _ 0


def test_the_raw_neighbour_of_a_known_picture_has_its_class():
    evaluation = ZeroShot(data=dataset(), train=dataset(), heads=("image", "audio", "text"), batch_size=4)
    metrics = evaluation(Embedder()).metrics
    assert metrics["image/accuracy/raw_neighbour"] == metrics["audio/accuracy/raw_neighbour"] == 1


def test_refusals_say_what_is_wrong():
    with pytest.raises(InputError, match="heads for the text stream 'text'"):
        ZeroShot(data=dataset(), heads=("image", "audio"))
    with pytest.raises(InputError, match="found the class 2, but `classes` has only 2"):
        ZeroShot(data=dataset(), heads=("image", "text"), classes=("zero", "one"))(Embedder())
