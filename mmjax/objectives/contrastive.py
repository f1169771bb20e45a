"""Contrastive losses between two heads: InfoNCE and its variants, and the sigmoid loss."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Bool, Float, Float32

from mmjax.batch import RECORDS, Array, Batch, Records, is_present
from mmjax.errors import InputError
from mmjax.objectives.base import Metrics, Objective, Outputs, masked_mean
from mmjax.objectives.means import Mean, count
from mmjax.objectives.scalars import learned_scale
from mmjax.objectives.tiles import NEG_INF, Rows, Terms, reduce_pairs
from mmjax.ranges import Decay, Finite, NonNegative, Positive, Size
from mmjax.sharding import param_axes
from mmjax.views import row_contents

TILE_SIZE = 1024  # 4 MiB of logits: on CPU shapes larger tiles are no faster (docs/contrastive.md)


class ContrastiveObjective(Objective):
    """The common part of objectives that compare embeddings "B E" of heads over the batch.

    streams: the streams of the heads, in their order; a pair is ignored if one of its streams is missing.
      None: the streams named as the heads.
    match_by: a stream; rows in which it is equal are positives of each other (Yang et al. 2022, UniCL). Use
      it if a batch repeats captions: else examples with equal captions are pushed apart. Texts are compared
      as they are before any view masks them.
    tile_size: the maximal number of rows and columns of the logits that a device holds (see `tiles.py`).

    Rows of one record, as at the end of an epoch or in a batch larger than its data, are positives of each
    other as well. A batch in which no row has a negative has weight 0 in logs and evaluations.
    """

    _: dataclasses.KW_ONLY
    streams: tuple[str, ...] | None = None
    match_by: str | None = None
    tile_size: Size = TILE_SIZE

    def target_streams(self):
        return (*(self.streams or self.required_heads()), *self.compared_streams())

    def needs_other_rows(self):
        return True

    def paired_streams(self):
        return tuple(self.streams or self.required_heads())

    def compared_streams(self):
        return (self.match_by,) if self.match_by else ()

    def embeddings(self, outputs: Outputs) -> dict[str, Array]:
        """{head: embeddings "B E"}. Raises InputError if their widths differ."""
        embeddings = {head: outputs.predictions[head] for head in self.required_heads()}
        widths = {head: x.shape[-1] for head, x in embeddings.items()}
        if len(set(widths.values())) > 1:
            raise InputError(
                f"expected embeddings of one width to compare, found {widths}: give the heads one `dim`"
            )
        return embeddings

    def pair_mask(self, batch: Batch) -> "PairMask":
        """The pairs of rows in which all streams are present."""
        return PairMask.from_batch(batch, self.streams or self.required_heads(), self.match_by)


class InfoNCE(ContrastiveObjective):
    """Symmetric softmax cross-entropy over the batch (van den Oord et al. 2018; CLIP).

    first, second: names of heads, and of their streams unless `streams` names them.
    initial_temperature: of the learned temperature, which is at least 0.01 (CLIP).
    label_smoothing: the fraction of the target that is spread evenly over the valid columns.
    decoupled: leave a row's positives out of its denominator (Yeh et al. 2022, DCL, section 3).
    beta: weight negatives in the denominator by exp(beta x logit); 0: evenly (Robinson et al. 2021, eq. 4).
    tau_plus: the fraction of negatives that are assumed to be positives, and subtracted (their eq. 5).
    """

    first: str
    second: str
    initial_temperature: Positive = 0.07
    label_smoothing: Decay = 0.0
    decoupled: bool = False
    beta: NonNegative = 0.0
    tau_plus: Decay = 0.0

    def required_heads(self):
        return (self.first, self.second)

    @nn.compact
    def __call__(self, outputs: Outputs) -> tuple[Mean, Metrics]:
        scale = learned_scale(self, self.initial_temperature, max_scale=100.0)
        embeddings = self.embeddings(outputs)
        loss, accuracy, num = info_nce(
            embeddings[self.first],
            embeddings[self.second],
            scale,
            self.pair_mask(outputs.batch),
            label_smoothing=self.label_smoothing,
            decoupled=self.decoupled,
            beta=self.beta,
            tau_plus=self.tau_plus,
            tile_size=self.tile_size,
        )
        return Mean(loss, num), {"accuracy": Mean(accuracy, num), "temperature": 1 / scale}


class SigmoidPairs(ContrastiveObjective):
    """Binary cross-entropy of every pair of the batch (Zhai et al. 2023, SigLIP).

    first, second: names of heads, and of their streams unless `streams` names them.
    initial_temperature, initial_bias: of the learned scalars, which are not bounded, as in the paper.
    """

    first: str
    second: str
    initial_temperature: Positive = 0.1
    initial_bias: Finite = -10.0

    def required_heads(self):
        return (self.first, self.second)

    @nn.compact
    def __call__(self, outputs: Outputs) -> tuple[Mean, Metrics]:
        scale = learned_scale(self, self.initial_temperature)
        bias = self.param("bias", param_axes(nn.initializers.constant(self.initial_bias)), ())
        embeddings, pairs = self.embeddings(outputs), self.pair_mask(outputs.batch)
        first, second = embeddings[self.first], embeddings[self.second]
        loss = sigmoid_pairs(first, second, scale, bias, pairs, tile_size=self.tile_size)
        return Mean(loss, count(pairs.valid)), {"temperature": 1 / scale, "bias": bias}


@struct.dataclass
class PairMask:
    """The valid rows, which pair with each other, and the pairs of them that are positives.

    Row i and column i are a positive pair, and so are rows of one record and rows with equal checksums.
    """

    valid: Array  # bool "B", False where one side is missing
    checksums: Array | None = None  # uint32 "B 2"
    has_checksum: Array | None = None  # bool "B", False where the stream of the checksums is missing
    record: Array | None = None  # int32 "B", equal in rows of one record; None: each row has its own

    @classmethod
    def from_batch(cls, batch: Batch, streams: tuple[str, ...], match_by: str | None) -> "PairMask":
        """Rows with all of `streams` are valid; the checksums are those of the stream `match_by`."""
        valid = functools.reduce(jnp.logical_and, [is_present(batch[stream]) for stream in streams])
        records = batch.get(RECORDS)
        record = records.index if isinstance(records, Records) else None
        checksums, has_checksum = row_contents(batch, match_by) if match_by else (None, None)
        return cls(valid, checksums, has_checksum, record)

    def side(self, embeddings: Float[jax.Array, "B E"]) -> Rows:
        """One of the two sides, as `reduce_pairs` expects it."""
        record = jnp.arange(self.valid.shape[0]) if self.record is None else self.record
        rows = {"embeddings": embeddings, "valid": self.valid, "record": record}
        if self.checksums is None:
            return rows
        return rows | {"checksums": self.checksums, "has_checksum": self.has_checksum}


def compare(
    rows: Rows, columns: Rows
) -> tuple[Float32[jax.Array, "R C"], Bool[jax.Array, "R C"], Bool[jax.Array, "R C"]]:
    """(logits, which pairs are valid, which of them are positives)."""
    logits = jnp.einsum(
        "RE,CE->RC", rows["embeddings"], columns["embeddings"], preferred_element_type=jnp.float32
    )
    valid = rows["valid"][:, None] & columns["valid"][None, :]
    positive = rows["record"][:, None] == columns["record"][None, :]
    if "checksums" in rows:
        is_equal = (rows["checksums"][:, None] == columns["checksums"][None, :]).all(-1)
        positive |= is_equal & rows["has_checksum"][:, None] & columns["has_checksum"][None, :]
    return logits, valid, positive & valid


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
    tile_size: int = TILE_SIZE,
) -> tuple[Float32[jax.Array, ""], Float32[jax.Array, ""], Float32[jax.Array, ""]]:
    """(loss, top-1 accuracy, weight): means over valid rows and both directions. Arguments: InfoNCE's fields.

    The weight is the number of valid rows, and 0 if none of them has a negative: the accuracy of a single
    pair is always 1.

    The loss of a row is `log denominator - mean logit of its positives`. If `decoupled`, rows without a
    negative have an empty denominator and are ignored. A tie of the largest logits counts as an error.
    """
    is_plain = not (decoupled or beta or tau_plus)
    terms = functools.partial(softmax_terms, is_plain=is_plain, smooth=label_smoothing > 0, beta=beta)
    reduced = reduce_pairs(terms, pairs.side(scale * first), pairs.side(second), tile_size)
    num_valid = jnp.maximum(pairs.valid.sum(), 1)
    losses, accuracies, weights = [], [], []
    for side in reduced:
        target = side.sums["positives"] / jnp.maximum(side.sums["num_positives"], 1)
        if label_smoothing:
            mean_logit = side.sums["all"] / num_valid
            target = (1 - label_smoothing) * target + label_smoothing * mean_logit
        valid = pairs.valid
        has_negative = valid & (side.sums["num_positives"] < num_valid)
        weights.append(jnp.where(has_negative.any(), count(valid), 0.0))
        if is_plain:
            log_denominator = side.logsumexp["all"]
        else:
            log_denominator = log_negatives(side, scale, beta, tau_plus)
            if decoupled:
                valid = has_negative
            else:
                log_denominator = jnp.logaddexp(log_denominator, side.logsumexp["positives"])
        losses.append(masked_mean(jnp.where(valid, log_denominator - target, 0.0), valid))
        is_correct = side.maxima["positives"] > side.maxima["negatives"]
        accuracies.append(masked_mean(is_correct.astype(jnp.float32), pairs.valid))
    return tuple((rows + columns) / 2 for rows, columns in (losses, accuracies, weights))


def softmax_terms(rows: Rows, columns: Rows, *, is_plain: bool, smooth: bool, beta: float) -> Terms:
    """The terms "R C" of InfoNCE. `is_plain`: the denominator is the sum over all valid columns."""
    logits, valid, positive = compare(rows, columns)
    negative = valid & ~positive
    sums = {"positives": jnp.where(positive, logits, 0.0), "num_positives": positive.astype(jnp.float32)}
    if smooth:
        sums["all"] = jnp.where(valid, logits, 0.0)
    if is_plain:
        logs = {"all": jnp.where(valid, logits, NEG_INF)}
    else:
        logs = {"positives": jnp.where(positive, logits, NEG_INF)}
        logs["negatives"] = jnp.where(negative, (1 + beta) * logits, NEG_INF)
        if beta:
            logs["weights"] = jnp.where(negative, beta * logits, NEG_INF)
        sums["num_negatives"] = negative.astype(jnp.float32)
    maxima = {
        "positives": jnp.where(positive, logits, -jnp.inf),
        "negatives": jnp.where(negative, logits, -jnp.inf),
    }
    return Terms(logs, sums, maxima)


def log_negatives(
    side: Terms, scale: jax.Array | float, beta: float, tau_plus: float
) -> Float32[jax.Array, " B"]:
    """Log of the negatives' part of each row's denominator (Robinson et al. 2021, eq. 4 and 5).

    `N max((sum w exp(x) / sum w - tau_plus mean of exp(positive)) / (1 - tau_plus), exp(-scale))` with
    `w = exp(beta x)`, over N negatives. exp(-scale), a scalar, is the lower bound for unit vectors.
    """
    num = side.sums["num_negatives"]
    log_sum = side.logsumexp["negatives"]
    if beta:
        log_sum += jnp.log(jnp.maximum(num, 1)) - side.logsumexp["weights"]
    if tau_plus:
        num_positives = jnp.maximum(side.sums["num_positives"], 1)
        log_mean = side.logsumexp["positives"] - jnp.log(num_positives)
        subtracted = tau_plus * jnp.maximum(num, 1) * jnp.exp(jnp.minimum(log_mean - log_sum, 50.0))
        factor = (1 - subtracted) / (1 - tau_plus)
        lower_bound = jnp.log(jnp.maximum(num, 1)) - scale
        log_factor = jnp.log(jnp.where(factor > 0, factor, 1.0))
        log_sum = jnp.where(factor > 0, log_sum + log_factor, lower_bound)
        log_sum = jnp.maximum(log_sum, lower_bound)
    return jnp.where(num > 0, log_sum, NEG_INF)


def sigmoid_pairs(
    first: Float[jax.Array, "B E"],
    second: Float[jax.Array, "B E"],
    scale: Array | float,
    bias: Array | float,
    pairs: PairMask,
    *,
    tile_size: int = TILE_SIZE,
) -> Float32[jax.Array, ""]:
    """`-sum over valid pairs of log sigmoid(+-logit) / number of valid rows`."""
    rows = pairs.side(scale * first) | {"bias": jnp.broadcast_to(bias, pairs.valid.shape)}
    by_row, _ = reduce_pairs(sigmoid_terms, rows, pairs.side(second), tile_size)
    return masked_mean(by_row.sums["loss"], pairs.valid)


def sigmoid_terms(rows: Rows, columns: Rows) -> Terms:
    """The terms "R C" of SigmoidPairs."""
    logits, valid, positive = compare(rows, columns)
    logits += rows["bias"][:, None]
    loss = -jax.nn.log_sigmoid(jnp.where(positive, logits, -logits))
    return Terms(sums={"loss": jnp.where(valid, loss, 0.0)})
