"""Which kind of word is this?"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.objectives.base import Outputs, masked_mean
from mmjax.objectives.masked_language import masked_cross_entropy
from mmjax.views import Identity, View


class TokenClassification(nn.Module):
    """Cross-entropy of each word's tag at its first token (Devlin et al. 2019, section 5.3).

    head: a PositionClasses head of the text. stream: its Tags, made by `data.TagTransform`.
    """

    head: str
    stream: str = "tags"
    weight: float = 1.0
    view: View = Identity()

    def required_heads(self) -> tuple[str, ...]:
        """The heads that it needs."""
        return (self.head,)

    def target_streams(self) -> tuple[str, ...]:
        """The streams that it reads itself, which the data or the view must give."""
        return (self.stream,)

    def check_compatible(self, model: Any, streams: Mapping[str, Any]) -> str | None:
        """Why the head cannot give the tags; None: it can."""
        classes = getattr(streams.get(self.stream), "classes", None)
        found = getattr(model.heads[self.head], "num_classes", None)
        if classes is not None and found != len(classes):
            return (
                f"the stream {self.stream!r} has {len(classes)} classes: expected that number in "
                f"model.heads.{self.head}.num_classes, found {found}"
            )
        return None

    def __call__(self, outputs: Outputs) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits, tags = outputs.predictions[self.head], outputs.batch[self.stream]
        loss = masked_cross_entropy(logits, tags.values, tags.mask)
        right = (logits.argmax(-1) == tags.values).astype(jnp.float32)
        return loss, {"accuracy": masked_mean(right, tags.mask)}
