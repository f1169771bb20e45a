"""Each modality predicts by itself, and the predictions are one."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32

from mmjax.batch import Encoded, is_present
from mmjax.fusion.base import Fusion
from mmjax.fusion.join import (
    add_modality_embedding,
    any_present,
    check_names,
    cross_attend,
    learned_tokens,
    mlp_residual,
    over_present,
    select_streams,
)
from mmjax.layers import Block, Einsum, LayerNorm
from mmjax.sharding import param_axes


class LateVoting(Fusion):
    """Votes: log-probabilities of `num_classes`, from each modality alone and from all that are there.

    Every stream is read by positions that read nothing else, in `depth` layers of cross-attention and a
    block: those of `reader`, which also vote by what they know themselves, or one learned position.

    vote: "mean", the mean of the probabilities (Kittler et al. 1998, sum rule); "confidence", their mean
      weighted by a softmax of what each modality says of itself; "product", the product of the probabilities
      over that of the classes, learned, to the power of the number of votes less one, normalised (ibid.,
      product rule; without the classes' own, Hinton 2002's product of experts, eq. 1).

    Makes the stream `into` of what all say and `into`_<stream> of what each says, float32 ``"B L classes"``
    (`heads.Votes` reads either). Where nothing is there, "mean" and "confidence" say that all classes are
    alike, and "product" what it has learned of them.
    """

    num_classes: int
    width: int
    num_heads: int
    mlp_width: int
    depth: int = 1
    vote: Literal["mean", "confidence", "product"] = "mean"
    reader: str | None = None
    into: str = "votes"
    dropout: float = 0.0
    dtype: str = "float32"

    def made_streams(self) -> tuple[str, ...]:
        return (self.into, *(f"{self.into}_{stream}" for stream in self.streams))

    @nn.compact
    def __call__(self, encoded: dict[str, Encoded], train: bool = False) -> dict[str, Encoded]:
        check_names(self, self.streams, {"reader": (self.reader,)}, self.into)
        streams = add_modality_embedding(
            self, select_streams(self, self.streams, encoded), self.width, self.dtype
        )
        if self.reader:
            query = streams[self.reader]
        else:
            query = learned_tokens(self, "question", 1, streams[self.streams[0]])
            query = query.replace(mask=any_present(streams))
        votes, there, confidence = {}, [], []
        for stream, value in streams.items():
            x = self.read_stream(stream, query, value, train)
            logits = Einsum(
                "B L D, D C -> B L C", shape=(self.width, self.num_classes), axes=("embed", "classes"),
                name=f"{stream}_classes",
            )(x)  # fmt: skip
            here = query.mask & is_present(value)[:, None]
            votes[stream] = Encoded(jax.nn.log_softmax(logits), here)
            there.append(here)
            if self.vote == "confidence":
                said = Einsum("B L D, D M -> B L M", (self.width, 1), ("embed", None), name=f"{stream}_sure")
                confidence.append(said(x)[..., 0])
        logits = jnp.stack([vote.embeddings for vote in votes.values()], axis=2)
        valid = jnp.stack(there, axis=-1)
        if self.vote == "product":
            init = param_axes(nn.initializers.zeros, "classes")
            prior = jax.nn.log_softmax(self.param("prior", init, (self.num_classes,)))
            agreed = product_of(logits, valid, prior)
        else:
            confidence = jnp.stack(confidence, axis=-1) if confidence else jnp.zeros(valid.shape)
            agreed = mixture_of(logits, valid, confidence)
        made = {f"{self.into}_{stream}": vote for stream, vote in votes.items()}
        return encoded | made | {self.into: Encoded(agreed, query.mask)}

    def read_stream(self, stream: str, query: Encoded, value: Encoded, train: bool) -> jax.Array:
        """What is asked of one modality: ``"B L D"``."""
        options: dict[str, Any] = {"dropout": self.dropout, "dtype": self.dtype}
        x = query.embeddings
        for layer in range(self.depth):
            name = f"{stream}_{layer}"
            if stream != self.reader:
                x = cross_attend(name, x, value, train, num_heads=self.num_heads, **options)
            if self.reader is None:  # one position has nothing to say to itself
                x = mlp_residual(name, x, train, mlp_width=self.mlp_width, **options)
            else:
                block = Block(
                    num_heads=self.num_heads, mlp_width=self.mlp_width, name=f"{name}_block", **options
                )
                x = block(x, query.mask, train)
        return LayerNorm(name=f"{stream}_norm")(x)


def mixture_of(
    logits: Float[jax.Array, "B L S C"],
    there: Bool[jax.Array, "B L S"],
    confidence: Float[jax.Array, "B L S"],
) -> Float32[jax.Array, "B L C"]:
    """Log of the mean of the probabilities of those who are there, by the softmax of how sure they are."""
    log_weights = over_present(confidence, there)
    # A vote that is not there must not reach the logarithm: where none is, its gradient would be its own.
    logits = jnp.where(there[..., None], logits, 0.0)
    mixed = jax.nn.logsumexp(logits + log_weights[..., None], axis=2)
    return jnp.where(there.any(-1)[..., None], mixed, -jnp.log(logits.shape[-1]))


def product_of(
    logits: Float[jax.Array, "B L S C"], there: Bool[jax.Array, "B L S"], prior: Float[jax.Array, " C"]
) -> Float32[jax.Array, "B L C"]:
    """Log of the product of the probabilities of those who are there, over prior^(number - 1), normalised."""
    num = there.sum(-1).astype(jnp.float32)[..., None]
    product = jnp.where(there[..., None], logits, 0.0).sum(2) - (num - 1) * prior[None, None]
    return jax.nn.log_softmax(product)
