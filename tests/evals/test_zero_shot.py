"""Zero-shot classes against a plain loop over prompts."""

import numpy as np
import pytest
from fakes import RandomEmbedder, dataset

from mmjax.errors import InputError
from mmjax.evals import ZeroShot


def test_accuracy_equals_a_loop_and_prompts_are_averaged():
    predictor, examples = RandomEmbedder(), dataset(missing=((2, "image"), (5, "label")))
    evaluation = ZeroShot(data=examples, heads=("image", "text"), templates=("{}", "red {}"), batch_size=4)
    metrics = evaluation(predictor).metrics
    transform = examples.streams["text"]
    prompts = []
    for name in ("zero", "one", "two"):
        rows = [transform.encode(name), transform.encode(f"red {name}")]
        tokens = np.stack([row.tokens for row in rows])
        prompts.append(predictor.embed(rows[0].replace(tokens=tokens, mask=np.ones(2))).mean(axis=0))
    prompts = [mean / np.linalg.norm(mean) for mean in prompts]
    hits = []
    for batch in evaluation.batches():
        for row, embedding in enumerate(predictor.embed(batch["image"])):
            if batch["image"].mask[row] and batch["label"].mask[row]:
                predicted = np.argmax([embedding @ prompt for prompt in prompts])
                hits.append(predicted == batch["label"].values[row])
    assert len(hits) == 5
    assert metrics["image/accuracy"] == pytest.approx(np.mean(hits))
    assert metrics["image/accuracy/majority"] == pytest.approx(3 / 5)  # labels 0 1 _ 0 1 _ 0


def test_the_raw_neighbour_of_a_training_example_has_its_class():
    evaluation = ZeroShot(data=dataset(), train=dataset(), heads=("image", "audio", "text"), batch_size=4)
    metrics = evaluation(RandomEmbedder()).metrics
    assert metrics["image/accuracy/raw_neighbour"] == metrics["audio/accuracy/raw_neighbour"] == 1


def test_missing_heads_and_too_few_classes_are_refused():
    with pytest.raises(InputError, match="heads for the text stream 'text'"):
        ZeroShot(data=dataset(), heads=("image", "audio"))
    with pytest.raises(InputError, match="found the class 2, but `classes` has only 2"):
        ZeroShot(data=dataset(), heads=("image", "text"), classes=("zero", "one"))(RandomEmbedder())
