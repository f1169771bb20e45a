"""Classification losses against plain loops in NumPy, float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalog.of_objectives import class_outputs, multi_label_outputs, values

from mmjax import objectives
from mmjax.objectives import Outputs
from mmjax.testing import TOLERANCE

RTOL = TOLERANCE["fp32_module"]
PARTNER, WEIGHT = np.array([1, 0, 3, 2], np.int32), np.array([0.75, 0.5, 0.25, 0.125], np.float32)
MIXED = {"partner": PARTNER, "mix_weight": WEIGHT}


def apply(module, outputs):
    return jax.jit(values(module.apply))({}, jax.tree.map(jnp.asarray, outputs))


def softmax_loss(scores, label: int, smoothing: float) -> float:
    """The sum over classes of the smoothed target times -log p."""
    log_p = scores - np.log(np.exp(scores).sum())
    target = [smoothing / len(scores) + (1 - smoothing) * (n == label) for n in range(len(scores))]
    return -sum(q * p for q, p in zip(target, log_p, strict=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("streams", [None, ("image",), ("image", "audio")])
def test_classification(smoothing, streams):
    """Of four rows the third has no label, and the last no image."""
    (outputs,) = class_outputs()
    labels, logits = outputs.batch["label"], np.float64(outputs.predictions["classes"])
    audio = np.asarray(outputs.batch["audio"].mask).any(1)
    losses, correct = [], []
    for row in (0, 1, 3):
        if streams == ("image",) and row == 3 or streams == ("image", "audio") and row == 3 and not audio[3]:
            continue
        losses.append(softmax_loss(logits[row], labels.values[row], smoothing))
        correct.append(logits[row].argmax() == labels.values[row])
    module = objectives.Classification("classes", streams=streams, label_smoothing=smoothing)
    loss, metrics = apply(module, outputs)
    np.testing.assert_allclose((loss, metrics["accuracy"]), (np.mean(losses), np.mean(correct)), rtol=RTOL)


def test_classification_under_mixup():
    """Rows 0 and 1 are partners; so are 2, whose label is unknown, and 3. Rows 2 and 3 are ignored."""
    (outputs,) = class_outputs()
    logits, labels = np.float64(outputs.predictions["classes"]), outputs.batch["label"].values
    losses = [
        WEIGHT[row] * softmax_loss(logits[row], labels[row], 0.1)
        + (1 - WEIGHT[row]) * softmax_loss(logits[row], labels[PARTNER[row]], 0.1)
        for row in (0, 1)
    ]
    correct = [
        WEIGHT[row] * (logits[row].argmax() == labels[row])
        + (1 - WEIGHT[row]) * (logits[row].argmax() == labels[PARTNER[row]])
        for row in (0, 1)
    ]
    module = objectives.Classification("classes", label_smoothing=0.1)
    loss, metrics = apply(module, outputs.replace(targets=MIXED))
    np.testing.assert_allclose((loss, metrics["accuracy"]), (np.mean(losses), np.mean(correct)), rtol=RTOL)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_multi_label(mixed, smoothing):
    (outputs,) = multi_label_outputs()
    labels, logits = outputs.batch["labels"], np.float64(outputs.predictions["classes"])
    losses, num_correct, num_predicted, num_true = [], 0, 0, 0
    for row, name in np.ndindex(*logits.shape):
        known = labels.mask[row, name] and row != 3  # the last row has no image
        target = float(labels.values[row, name])
        if mixed:
            known = known and labels.mask[PARTNER[row], name]
            target = WEIGHT[row] * target + (1 - WEIGHT[row]) * labels.values[PARTNER[row], name]
        if not known:
            continue
        target = target * (1 - smoothing) + smoothing / 2
        p = 1 / (1 + np.exp(-logits[row, name]))
        losses.append(-target * np.log(p) - (1 - target) * np.log(1 - p))
        predicted = logits[row, name] > 0
        num_correct += predicted and labels.values[row, name]
        num_predicted, num_true = num_predicted + predicted, num_true + labels.values[row, name]
    module = objectives.MultiLabel("classes", streams=("image",), label_smoothing=smoothing)
    loss, metrics = apply(module, outputs.replace(targets=MIXED if mixed else {}))
    np.testing.assert_allclose(loss, np.mean(losses), rtol=RTOL)
    np.testing.assert_allclose(metrics["f1"], 2 * num_correct / max(num_predicted + num_true, 1), rtol=RTOL)


def test_batches_without_labels_give_zero_loss_and_gradient():
    (outputs,) = class_outputs()
    (multi_label,) = multi_label_outputs()

    def without_labels(outputs: Outputs, stream: str) -> Outputs:
        labels = jax.tree.map(jnp.asarray, outputs.batch[stream])
        return outputs.replace(
            batch=outputs.batch | {stream: labels.replace(mask=jnp.zeros_like(labels.mask))}
        )

    for module, empty in (
        (objectives.Classification("classes"), without_labels(outputs, "label")),
        (objectives.MultiLabel("classes"), without_labels(multi_label, "labels")),
    ):

        def loss(logits, module=module, empty=empty):
            return values(module.apply)({}, empty.replace(predictions={"classes": logits}))[0]

        value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.full((4, 3), 1e4))
        assert value == 0
        np.testing.assert_array_equal(gradient, 0)


def test_labels_of_the_wrong_kind_are_refused():
    (outputs,), (multi_label,) = class_outputs(), multi_label_outputs()
    with pytest.raises(ValueError, match="Classification reads Labels, and 'labels' is MultiLabels"):
        apply(objectives.Classification("classes", labels="labels"), multi_label)
    with pytest.raises(ValueError, match=r"MultiLabels of that shape, and 'label' is Labels \(4,\)"):
        apply(objectives.MultiLabel("classes", labels="label"), outputs)
