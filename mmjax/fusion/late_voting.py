"""Decision-level fusion: combines the predictions of the single modalities."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32

from mmjax.batch import Encoded, is_present
from mmjax.fusion import ops
from mmjax.fusion.base import Fusion
from mmjax.layers import Block, Einsum, LayerNorm
from mmjax.ranges import Decay, Depth, Dtype, Size
from mmjax.sharding import param_axes


class LateVoting(Fusion):
    """Log-probabilities of `num_classes` from each modality alone, and from all present ones together.

    The queries read each stream separately, in `depth` layers of cross-attention and a block. Adds the
    streams `new_stream`, the combined log-probabilities, and `new_stream`_<stream>, those of one stream, as
    float32 "B L classes" (`heads.Votes` reads any of them). Rows without any modality get equal
    probabilities, or with vote="product" the learned prior.

    vote: "mean", the mean of the probabilities (Kittler et al. 1998, sum rule); "confidence", their mean
      weighted by a softmax of one confidence logit per modality; "product", the product of the probabilities
      over prior^(number of modalities - 1), normalised, with a learned prior of the classes (ibid., product
      rule; without the prior, Hinton 2002's product of experts, eq. 1).
    query_stream: the stream whose positions are the queries. Its own prediction uses a block without
      cross-attention. None: one learned query.
    """

    num_classes: Size
    width: Size
    num_heads: Size
    mlp_width: Size
    depth: Depth = 1
    vote: Literal["mean", "confidence", "product"] = "mean"
    query_stream: str | None = None
    new_stream: str = "votes"
    dropout: Decay = 0.0
    dtype: Dtype = "float32"

    def made_streams(self) -> tuple[str, ...]:
        return (self.new_stream, *(f"{self.new_stream}_{stream}" for stream in self.streams))

    @nn.compact
    def __call__(self, encoded: dict[str, Encoded], train: bool = False) -> dict[str, Encoded]:
        streams = ops.select_streams(
            self, encoded, new_stream=self.new_stream, query_stream=(self.query_stream,)
        )
        streams = ops.add_modality_embedding(self, streams, self.width, self.dtype)
        if self.query_stream:
            query = streams[self.query_stream]
        else:
            query = ops.learned_tokens(self, "question", 1, streams[self.streams[0]])
            query = query.replace(mask=ops.any_present(streams))
        votes, confidences = {}, []
        for stream, value in streams.items():
            x = self.read_stream(stream, query, value, train)
            logits = Einsum(
                "B L D, D C -> B L C", shape=(self.width, self.num_classes), axes=("embed", "classes"),
                name=f"{stream}_classes",
            )(x)  # fmt: skip
            mask = query.mask & is_present(value)[:, None]
            votes[stream] = Encoded(jax.nn.log_softmax(logits), mask)
            if self.vote == "confidence":
                linear = Einsum(
                    "B L D, D M -> B L M", (self.width, 1), ("embed", None), name=f"{stream}_sure"
                )
                confidences.append(linear(x)[..., 0])
        log_probs = jnp.stack([vote.embeddings for vote in votes.values()], axis=2)
        mask = jnp.stack([vote.mask for vote in votes.values()], axis=-1)
        if self.vote == "product":
            init = param_axes(nn.initializers.zeros, "classes")
            log_prior = jax.nn.log_softmax(self.param("prior", init, (self.num_classes,)))
            combined = log_product(log_probs, mask, log_prior)
        else:
            confidence = jnp.stack(confidences, axis=-1) if confidences else jnp.zeros(mask.shape)
            combined = log_mixture(log_probs, mask, confidence)
        single = {f"{self.new_stream}_{stream}": vote for stream, vote in votes.items()}
        return encoded | single | {self.new_stream: Encoded(combined, query.mask)}

    def read_stream(
        self, stream: str, query: Encoded, value: Encoded, train: bool
    ) -> Float[jax.Array, "B L D"]:
        """The features from which one stream's prediction is computed."""
        options: dict[str, Any] = {"dropout": self.dropout, "dtype": self.dtype}
        x = query.embeddings
        for layer in range(self.depth):
            name = f"{stream}_{layer}"
            if stream != self.query_stream:
                x = ops.cross_attend(name, x, value, train, num_heads=self.num_heads, **options)
            if self.query_stream is None:  # a single query needs no self-attention
                x = ops.mlp_residual(name, x, train, mlp_width=self.mlp_width, **options)
            else:
                block = Block(
                    num_heads=self.num_heads, mlp_width=self.mlp_width, name=f"{name}_block", **options
                )
                x = block(x, query.mask, train)
        return LayerNorm(name=f"{stream}_norm")(x)


def log_mixture(
    log_probs: Float[jax.Array, "B L S C"],
    mask: Bool[jax.Array, "B L S"],
    confidence: Float[jax.Array, "B L S"],
) -> Float32[jax.Array, "B L C"]:
    """Log of the mean of the unmasked probabilities, weighted by the softmax of `confidence`."""
    log_weights = ops.masked_log_softmax(confidence, mask)
    # Zero the log-probabilities of missing modalities, so that no gradient reaches them through logsumexp.
    log_probs = jnp.where(mask[..., None], log_probs, 0.0)
    mixed = jax.nn.logsumexp(log_probs + log_weights[..., None], axis=2)
    return jnp.where(mask.any(-1)[..., None], mixed, -jnp.log(log_probs.shape[-1]))


def log_product(
    log_probs: Float[jax.Array, "B L S C"], mask: Bool[jax.Array, "B L S"], log_prior: Float[jax.Array, " C"]
) -> Float32[jax.Array, "B L C"]:
    """Log of the product of the unmasked probabilities over prior^(their number - 1), normalised."""
    num = mask.sum(-1).astype(jnp.float32)[..., None]
    product = jnp.where(mask[..., None], log_probs, 0.0).sum(2) - (num - 1) * log_prior[None, None]
    return jax.nn.log_softmax(product)
