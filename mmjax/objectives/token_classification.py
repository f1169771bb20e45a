"""Classification of words, such as named-entity recognition."""

from mmjax.data import TagTransform
from mmjax.heads import PositionClasses
from mmjax.objectives.base import (
    Metrics,
    OneHeadObjective,
    Outputs,
    masked_accuracy,
    masked_cross_entropy,
)
from mmjax.objectives.means import Mean, count


class TokenClassification(OneHeadObjective):
    """Cross-entropy of each word's tag at its first token (Devlin et al. 2019, section 5.3).

    head: a PositionClasses head of the text. stream: the Tags, made by a TagTransform.
    """

    stream: str = "tags"

    def target_streams(self):
        return (self.stream,)

    def check_compatible(self, model, transforms):
        head, transform = model.heads[self.head], transforms.get(self.stream)
        num_classes = head.num_classes if isinstance(head, PositionClasses) else None
        if isinstance(transform, TagTransform) and num_classes != len(transform.classes):
            return (
                f"the stream {self.stream!r} has {len(transform.classes)} classes: expected that number in "
                f"model.heads.{self.head}.num_classes, found {num_classes}"
            )
        return None

    def __call__(self, outputs: Outputs) -> tuple[Mean, Metrics]:
        logits, tags = outputs.predictions[self.head], outputs.batch[self.stream]
        loss = masked_cross_entropy(logits, tags.values, tags.mask)
        return Mean(loss, count(tags.mask)), {
            "accuracy": Mean(masked_accuracy(logits, tags.values, tags.mask), count(tags.mask))
        }
