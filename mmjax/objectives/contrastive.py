"""Pull the two sides of a pair together and push the others away."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Float, Float32

from mmjax.batch import Array, Batch, is_present
from mmjax.errors import InputError
from mmjax.objectives.base import Outputs, masked_mean
from mmjax.objectives.scalars import learned_scale
from mmjax.objectives.tiles import NEG_INF, Rows, Terms, reduce_pairs
from mmjax.sharding import param_axes
from mmjax.views import Identity, View, row_checksums

TILE = 1024  # 4 MiB a matrix: on CPU shapes larger ones are no faster (docs/contrastive.md)


class InfoNCE(nn.Module):
    """Symmetric softmax over the batch (van den Oord et al. 2018; CLIP) between two embedding heads.

    first, second: names of heads, and of their streams unless `streams` says otherwise.
    match_by: a stream; rows that hold the same input there are positives of each other (Yang et al. 2022, UniCL).
      Use it where a batch repeats captions, or repetitions are pushed apart.
    decoupled: a row's positives are left out of its denominator (Yeh et al. 2022, DCL, section 3).
    beta: the weight of a negative in the denominator grows with exp(beta x logit), 0 is even (Robinson et al.
      2021, eq. 4). tau_plus: the share of negatives that are positives in truth, subtracted (their eq. 5).
    tile: pairs are compared in tiles of at most so many rows and columns, over all devices (`tiles.py`).
    Only pairs of which both sides exist count. The temperature is learned (its logarithm, at most log 100).
    """

    first: str
    second: str
    streams: tuple[str, str] | None = None
    match_by: str | None = None
    weight: float = 1.0
    initial_temperature: float = 0.07
    label_smoothing: float = 0.0
    decoupled: bool = False
    beta: float = 0.0
    tau_plus: float = 0.0
    tile: int = TILE
    view: View = Identity()

    def required_heads(self) -> tuple[str, ...]:
        """The heads that it needs."""
        return (self.first, self.second)

    def target_streams(self) -> tuple[str, ...]:
        """The streams that say which rows count and which are alike."""
        return (*(self.streams or self.required_heads()), *((self.match_by,) if self.match_by else ()))

    @nn.compact
    def __call__(self, outputs: Outputs) -> tuple[jax.Array, dict[str, jax.Array]]:
        scale = learned_scale(self, self.initial_temperature, most=100.0)
        check_equal_widths(outputs, self.required_heads())
        first, second = outputs.predictions[self.first], outputs.predictions[self.second]
        pairs = PairMask.of(outputs.batch, self.streams or (self.first, self.second), self.match_by)
        loss, accuracy = info_nce(
            first,
            second,
            scale,
            pairs,
            label_smoothing=self.label_smoothing,
            decoupled=self.decoupled,
            beta=self.beta,
            tau_plus=self.tau_plus,
            tile=self.tile,
        )
        return loss, {"accuracy": accuracy, "temperature": 1 / scale}


class SigmoidPairs(nn.Module):
    """Every pair of the batch is a yes-or-no question (Zhai et al. 2023, SigLIP). Fields as InfoNCE's.

    Temperature and bias are learned and, as in the paper, not bounded.
    """

    first: str
    second: str
    streams: tuple[str, str] | None = None
    match_by: str | None = None
    weight: float = 1.0
    initial_temperature: float = 0.1
    initial_bias: float = -10.0
    tile: int = TILE
    view: View = Identity()

    def required_heads(self) -> tuple[str, ...]:
        """The heads that it needs."""
        return (self.first, self.second)

    def target_streams(self) -> tuple[str, ...]:
        """The streams that say which rows count and which are alike."""
        return (*(self.streams or self.required_heads()), *((self.match_by,) if self.match_by else ()))

    @nn.compact
    def __call__(self, outputs: Outputs) -> tuple[jax.Array, dict[str, jax.Array]]:
        scale = learned_scale(self, self.initial_temperature)
        bias = self.param("bias", param_axes(nn.initializers.constant(self.initial_bias)), ())
        check_equal_widths(outputs, self.required_heads())
        first, second = outputs.predictions[self.first], outputs.predictions[self.second]
        pairs = PairMask.of(outputs.batch, self.streams or (self.first, self.second), self.match_by)
        loss = sigmoid_pairs(first, second, scale, bias, pairs, tile=self.tile)
        return loss, {"temperature": 1 / scale, "bias": bias}


def check_equal_widths(outputs: Outputs, heads: tuple[str, ...]) -> None:
    """Raises InputError unless the heads' embeddings can be compared."""
    widths = {head: outputs.predictions[head].shape[-1] for head in heads}
    if len(set(widths.values())) > 1:
        raise InputError(
            f"expected embeddings of one width to compare, found {widths}: give the heads one `dim`"
        )


@struct.dataclass
class PairMask:
    """Who is there, and who belongs together: row i and column i, and rows of equal content."""

    valid: Array  # bool "B", both sides exist
    content: Array | None = None  # uint32 "B 2", equal where rows hold the same
    known: Array | None = None  # bool "B", where `content` means anything

    @classmethod
    def of(cls, batch: Batch, streams: tuple[str, ...], match_by: str | None) -> "PairMask":
        """Of rows that have all of `streams`."""
        valid = functools.reduce(jnp.logical_and, [is_present(batch[stream]) for stream in streams])
        if match_by is None:
            return cls(valid)
        return cls(valid, row_checksums(batch[match_by]), is_present(batch[match_by]))

    def rows(self, embeddings: jax.Array) -> Rows:
        """One side of them, as `reduce_pairs` takes it."""
        rows = {"embeddings": embeddings, "valid": self.valid, "row": jnp.arange(self.valid.shape[0])}
        return rows if self.content is None else rows | {"content": self.content, "known": self.known}


def compare(rows: Rows, columns: Rows) -> tuple[Float32[jax.Array, "R C"], jax.Array, jax.Array]:
    """Of each pair the logit, whether both are there, and whether they belong together as well."""
    logits = jnp.einsum(
        "RE,CE->RC", rows["embeddings"], columns["embeddings"], preferred_element_type=jnp.float32
    )
    here = rows["valid"][:, None] & columns["valid"][None, :]
    wanted = rows["row"][:, None] == columns["row"][None, :]
    if "content" in rows:
        alike = (rows["content"][:, None] == columns["content"][None, :]).all(-1)
        wanted |= alike & rows["known"][:, None] & columns["known"][None, :]
    return logits, here, wanted & here


def info_nce(
    first: Float[jax.Array, "B E"],
    second: Float[jax.Array, "B E"],
    scale: Array | float,
    pairs: PairMask,
    *,
    label_smoothing: float = 0.0,
    decoupled: bool = False,
    beta: float = 0.0,
    tau_plus: float = 0.0,
    tile: int = TILE,
) -> tuple[Float32[jax.Array, ""], Float32[jax.Array, ""]]:
    """Mean over valid rows and directions of ``log denominator - mean logit of positives``; top-1 accuracy.

    A tie is a miss. Smoothing gives that share of the target to all valid columns alike.
    A decoupled row without a negative has nothing to be told apart from, and does not count.
    """
    even = not (decoupled or beta or tau_plus)
    terms = functools.partial(softmax_terms, even=even, smooth=label_smoothing > 0, beta=beta)
    reduced = reduce_pairs(terms, pairs.rows(scale * first), pairs.rows(second), tile)
    num_valid = jnp.maximum(pairs.valid.sum(), 1)
    losses, hits = [], []
    for side in reduced:
        target = side.sums["wanted"] / jnp.maximum(side.sums["num_wanted"], 1)
        if label_smoothing:
            everywhere = side.sums["all"] / num_valid
            target = (1 - label_smoothing) * target + label_smoothing * everywhere
        counted = pairs.valid
        if even:
            log_denominator = side.logsumexp["all"]
        else:
            log_denominator = log_negatives(side, scale, beta, tau_plus)
            if decoupled:
                counted &= side.sums["num_others"] > 0
            else:
                log_denominator = jnp.logaddexp(log_denominator, side.logsumexp["wanted"])
        losses.append(masked_mean(jnp.where(counted, log_denominator - target, 0.0), counted))
        best = side.maxima["wanted"] > side.maxima["others"]
        hits.append(masked_mean(best.astype(jnp.float32), pairs.valid))
    return (losses[0] + losses[1]) / 2, (hits[0] + hits[1]) / 2


def softmax_terms(rows: Rows, columns: Rows, *, even: bool, smooth: bool, beta: float) -> Terms:
    """What InfoNCE and its variants sum."""
    logits, here, wanted = compare(rows, columns)
    others = here & ~wanted
    sums = {"wanted": jnp.where(wanted, logits, 0.0), "num_wanted": wanted.astype(jnp.float32)}
    if smooth:
        sums["all"] = jnp.where(here, logits, 0.0)
    if even:
        logs = {"all": jnp.where(here, logits, NEG_INF)}
    else:
        logs = {"wanted": jnp.where(wanted, logits, NEG_INF)}
        logs["others"] = jnp.where(others, (1 + beta) * logits, NEG_INF)
        if beta:
            logs["weights"] = jnp.where(others, beta * logits, NEG_INF)
        sums["num_others"] = others.astype(jnp.float32)
    maxima = {
        "wanted": jnp.where(wanted, logits, -jnp.inf),
        "others": jnp.where(others, logits, -jnp.inf),
    }
    return Terms(logs, sums, maxima)


def log_negatives(
    side: Terms, scale: jax.Array | float, beta: float, tau_plus: float
) -> Float32[jax.Array, " B"]:
    """Log of what the negatives add to a row's denominator (Robinson et al. 2021, eq. 4 and 5).

    ``N max((sum w exp(x) / sum w - tau_plus mean of exp(positive)) / (1 - tau_plus), exp(-scale))`` with
    ``w = exp(beta x)`` over N negatives: exp(-scale) is the least that a logit of unit vectors can give.
    """
    num = side.sums["num_others"]
    log_sum = side.logsumexp["others"]
    if beta:
        log_sum += jnp.log(jnp.maximum(num, 1)) - side.logsumexp["weights"]
    if tau_plus:
        num_wanted = jnp.maximum(side.sums["num_wanted"], 1)
        log_mean = side.logsumexp["wanted"] - jnp.log(num_wanted)
        share = tau_plus * jnp.maximum(num, 1) * jnp.exp(jnp.minimum(log_mean - log_sum, 50.0))
        left = (1 - share) / (1 - tau_plus)
        floor = jnp.log(jnp.maximum(num, 1)) - scale
        log_sum = jnp.where(left > 0, log_sum + jnp.log(jnp.where(left > 0, left, 1.0)), floor)
        log_sum = jnp.maximum(log_sum, floor)
    return jnp.where(num > 0, log_sum, NEG_INF)


def sigmoid_pairs(
    first: Float[jax.Array, "B E"],
    second: Float[jax.Array, "B E"],
    scale: Array | float,
    bias: Array | float,
    pairs: PairMask,
    *,
    tile: int = TILE,
) -> Float32[jax.Array, ""]:
    """``-sum over valid pairs of log sigmoid(+-logit) / number of valid rows``."""
    rows = pairs.rows(scale * first) | {"bias": jnp.broadcast_to(bias, pairs.valid.shape)}
    by_row, _ = reduce_pairs(sigmoid_terms, rows, pairs.rows(second), tile)
    return masked_mean(by_row.sums["loss"], pairs.valid)


def sigmoid_terms(rows: Rows, columns: Rows) -> Terms:
    """What SigmoidPairs sums."""
    logits, here, wanted = compare(rows, columns)
    logits += rows["bias"][:, None]
    loss = -jax.nn.log_sigmoid(jnp.where(wanted, logits, -logits))
    return Terms(sums={"loss": jnp.where(here, loss, 0.0)})
