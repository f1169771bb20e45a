"""Next-token prediction: language modelling, captioning and sequence-to-sequence models."""

import jax.numpy as jnp

from mmjax.objectives.base import (
    Metrics,
    OneHeadObjective,
    Outputs,
    masked_accuracy,
    masked_cross_entropy,
)
from mmjax.objectives.means import Mean, count
from mmjax.views import marks_prefix


class CausalLanguage(OneHeadObjective):
    """Cross-entropy of each token given those before it (Radford et al. 2018, GPT, eq. 1).

    head: a TokenLogits head of `stream`. After a causal encoder this is language modelling. After a fusion in
      which `stream` is causal and reads other streams it is captioning (Yu et al. 2022, CoCa, eq. 4) or any
      sequence-to-sequence model.
    stream: the Text. With a Prefix view, only tokens after the prefix have a loss.

    The logits at position t predict token t + 1, given the true tokens up to t (teacher forcing). So the
    first token is never predicted, and the last, [SEP], is. Metrics: accuracy, and perplexity per token.
    """

    stream: str = "text"

    def target_streams(self):
        return (self.stream,)

    def check_compatible(self, model, transforms):
        head = model.heads[self.head]
        if head.stream != self.stream:
            return f"the head {self.head!r} reads {head.stream!r}: expected one that reads {self.stream!r}"
        encoder = model.encoders[model.encoder_name(self.stream)]
        if not (encoder.is_causal or marks_prefix(self.view, self.stream)):
            return (
                f"the encoder of {self.stream!r} lets position t read t + 1, which leaks the target: "
                "expected a trunk with causal=True, or the view Prefix"
            )
        if head.after == "fusion" and not model.fusion.is_causal_for(self.stream):
            return (
                f"the fusion {type(model.fusion).__name__} lets position t of {self.stream!r} read t + 1, "
                f"which leaks the target: expected one that is_causal_for({self.stream!r}), such as "
                f"CoAttention(updated_streams=({self.stream!r},), causal_streams=({self.stream!r},))"
            )
        return None

    def __call__(self, outputs: Outputs) -> tuple[Mean, Metrics]:
        text, logits = outputs.batch[self.stream], outputs.predictions[self.head][:, :-1]
        labels, mask = text.tokens[:, 1:], text.mask[:, :-1] & text.mask[:, 1:]
        if text.prefix is not None:
            mask &= ~text.prefix[:, 1:]
        loss = masked_cross_entropy(logits, labels, mask)
        # The bound keeps the perplexity finite in float32 while the loss is.
        perplexity = jnp.exp(jnp.minimum(loss, 20.0))
        num = count(mask)
        accuracy = Mean(masked_accuracy(logits, labels, mask), num)
        return Mean(loss, num), {"accuracy": accuracy, "perplexity": Mean(perplexity, num)}
