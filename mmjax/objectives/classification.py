"""Classification of whole examples, with one label or several."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float, Float32, Int

from mmjax.batch import Labels, MultiLabels, is_present
from mmjax.data import LabelTransform
from mmjax.heads import Classes
from mmjax.objectives.base import Metrics, OneHeadObjective, Outputs, mean_where
from mmjax.objectives.means import Mean
from mmjax.ranges import Decay


class LabelObjective(OneHeadObjective):
    """The common part of Classification and MultiLabel.

    head: a Classes head.
    labels: the stream of labels. Rows without one are ignored, so in a mixture of datasets each task learns
      from its own rows.
    streams: rows that have none of these streams are ignored as well. None: no further condition.
    label_smoothing: the fraction of the target that is spread evenly over the classes.
    """

    labels: str = "label"
    streams: tuple[str, ...] | None = None
    label_smoothing: Decay = 0.0

    def target_streams(self):
        return (self.labels, *(self.streams or ()))

    def has_streams(self, outputs: Outputs) -> Bool[jax.Array, " B"]:
        """True at rows that have any of `streams`; a single True if `streams` is None."""
        if self.streams is None:
            return jnp.asarray(True)[None]
        return jnp.stack([is_present(outputs.batch[stream]) for stream in self.streams]).any(0)


class Classification(LabelObjective):
    """Softmax cross-entropy with label smoothing (Szegedy et al. 2016, section 7).

    Under a Mixup or CutMix view each row has two labels, weighted as its inputs are (Zhang et al. 2018,
    eq. 1), in the loss and in the accuracy.
    """

    def num_classes(self, model):
        head = model.heads.get(self.head)
        return {self.labels: head.num_classes} if isinstance(head, Classes) else {}

    def check_compatible(self, model, transforms):
        transform, number = transforms.get(self.labels), self.num_classes(model).get(self.labels)
        if number is None or not isinstance(transform, LabelTransform) or transform.classes is None:
            return None
        if len(transform.classes) > number:
            return (
                f"the stream {self.labels!r} has {len(transform.classes)} classes: expected at least as "
                f"many in model.heads.{self.head}.num_classes, found {number}"
            )
        return None

    def __call__(self, outputs: Outputs) -> tuple[Mean, Metrics]:
        logits, labels = outputs.predictions[self.head], outputs.batch[self.labels]
        if not isinstance(labels, Labels):
            raise ValueError(f"Classification reads Labels, and {self.labels!r} is {type(labels).__name__}")
        valid = labels.mask & self.has_streams(outputs)
        loss = smoothed_cross_entropy(logits, labels.values, self.label_smoothing)
        predicted = logits.argmax(-1)
        correct = (predicted == labels.values).astype(jnp.float32)
        if "partner" in outputs.targets:
            partner, weight = outputs.targets["partner"], outputs.targets["mix_weight"]
            partner_loss = smoothed_cross_entropy(logits, labels.values[partner], self.label_smoothing)
            loss, valid = weight * loss + (1 - weight) * partner_loss, valid & labels.mask[partner]
            correct = weight * correct + (1 - weight) * (predicted == labels.values[partner])
        return mean_where(loss, valid), {"accuracy": mean_where(correct, valid)}


class MultiLabel(LabelObjective):
    """Sigmoid cross-entropy: an independent binary decision per class. Fields as Classification's.

    labels: the stream of MultiLabels; classes with an unknown label are ignored.
    label_smoothing: moves the targets 1 and 0 to `1 - label_smoothing / 2` and `label_smoothing / 2`.

    Metric f1: the micro-averaged F1 score of positive labels, over all classes.
    """

    labels: str = "labels"

    def __call__(self, outputs: Outputs) -> tuple[Mean, Metrics]:
        logits, labels = outputs.predictions[self.head], outputs.batch[self.labels]
        if not isinstance(labels, MultiLabels) or logits.shape != labels.values.shape:
            raise ValueError(
                f"MultiLabel compares logits of shape {logits.shape} of head {self.head!r} with MultiLabels "
                f"of that shape, and {self.labels!r} is {type(labels).__name__} {labels.values.shape}"
            )
        valid = labels.mask & self.has_streams(outputs)[:, None]
        targets = labels.values.astype(jnp.float32)
        if "partner" in outputs.targets:
            partner, weight = outputs.targets["partner"], outputs.targets["mix_weight"][:, None]
            targets = weight * targets + (1 - weight) * targets[partner]
            valid = valid & labels.mask[partner]
        targets = (1 - self.label_smoothing) * targets + self.label_smoothing / 2
        losses = optax.losses.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), targets)
        predicted = (logits > 0) & valid
        num_correct = (predicted & labels.values).sum()
        num = predicted.sum() + (labels.values & valid).sum()
        f1 = (2 * num_correct / jnp.maximum(num, 1)).astype(jnp.float32)
        # With this weight the mean over batches is the F1 score of all their labels.
        return mean_where(losses, valid), {"f1": Mean(f1, num.astype(jnp.float32))}


def smoothed_cross_entropy(
    logits: Float[jax.Array, "B classes"], labels: Int[jax.Array, " B"], label_smoothing: float
) -> Float32[jax.Array, " B"]:
    """`-(1 - smoothing) log p(label) - smoothing * mean over classes of log p`."""
    log_probability = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    picked = jnp.take_along_axis(log_probability, labels[:, None], axis=-1)[:, 0]
    return -(1 - label_smoothing) * picked - label_smoothing * log_probability.mean(-1)
