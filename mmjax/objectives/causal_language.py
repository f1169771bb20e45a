"""Say the next word."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.objectives.base import Outputs, masked_mean
from mmjax.objectives.masked_language import masked_cross_entropy
from mmjax.views import Identity, View, marks_prefix


class CausalLanguage(nn.Module):
    """Cross-entropy of each token given those before it (Radford et al. 2018, GPT, eq. 1).

    Language modelling where `head` reads a causal tower; captioning (Yu et al. 2022, CoCa, eq. 4) or any
    sequence-to-sequence model where it reads a fusion in which `stream` is causal and reads other streams.
    The true tokens are given at every position (teacher forcing). Position t predicts token t + 1: the first
    token is never asked for, the last, [SEP], is. At a view with a prefix only what follows it counts.

    head: a TokenLogits head of `stream`. Metrics: accuracy, perplexity per token.
    """

    head: str
    stream: str = "text"
    weight: float = 1.0
    view: View = Identity()

    def required_heads(self) -> tuple[str, ...]:
        """The heads that it needs."""
        return (self.head,)

    def target_streams(self) -> tuple[str, ...]:
        """The streams that it reads itself, which the data or the view must give."""
        return (self.stream,)

    def check_compatible(self, model: Any, streams: Mapping[str, Any]) -> str | None:
        """Why a position of the model could know the token that it is asked for; None: it cannot."""
        head = model.heads[self.head]
        if head.stream != self.stream:
            return f"the head {self.head!r} reads {head.stream!r}: expected one that reads {self.stream!r}"
        trunk = getattr(model.encoders[model.encoder_name(self.stream)], "trunk", None)
        one_way = getattr(trunk, "causal", False) or not getattr(trunk, "bidirectional", True)
        if not (one_way or marks_prefix(self.view, self.stream)):
            return (
                f"the tower of {self.stream!r} reads later tokens, and would be told the answer: expected a "
                "trunk with causal=True, or the view Prefix"
            )
        is_causal_for = getattr(model.fusion, "is_causal_for", lambda stream: False)
        if head.after == "fusion" and not is_causal_for(self.stream):
            return (
                f"the fusion {type(model.fusion).__name__} lets {self.stream!r} read its later tokens, and "
                f"tells the answer: expected one that is_causal_for({self.stream!r}), such as "
                f"CoAttention(updated=({self.stream!r},), causal=({self.stream!r},))"
            )
        return None

    def __call__(self, outputs: Outputs) -> tuple[jax.Array, dict[str, jax.Array]]:
        text, logits = outputs.batch[self.stream], outputs.predictions[self.head][:, :-1]
        answers, counted = text.tokens[:, 1:], text.mask[:, :-1] & text.mask[:, 1:]
        if text.prefix is not None:
            counted &= ~text.prefix[:, 1:]
        loss = masked_cross_entropy(logits, answers, counted)
        right = (logits.argmax(-1) == answers).astype(jnp.float32)
        # Capped, so that a metric never overflows where the loss itself does not.
        perplexity = jnp.exp(jnp.minimum(loss, 20.0))
        return loss, {"accuracy": masked_mean(right, counted), "perplexity": perplexity}
