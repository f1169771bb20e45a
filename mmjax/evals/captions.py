"""Texts that a causal stream says, given pictures, sounds or nothing.

audio+image/next_token          next tokens said right when all before them are given (teacher forcing)
audio+image/exact               texts that are right from beginning to end, each said token by token
audio+image/word_error_rate     insertions, deletions and substitutions by the words that are true
audio+image/token_error_rate    the same by tokens
most_common/exact, ...          the most common training text
nearest/image/exact, ...        the text of the training example with the nearest picture in raw features
"""

import collections
import dataclasses

import numpy as np

from mmjax import data
from mmjax.batch import Batch, Text
from mmjax.errors import InputError
from mmjax.evals.base import Eval, Predictor, Result, check_finite, has_streams
from mmjax.evals.edits import baselines, rates, token_ids_by_row
from mmjax.evals.subsets import missing, named, subsets
from mmjax.views import Identity


@dataclasses.dataclass(frozen=True, kw_only=True)
class Captions(Eval):
    """Greedy decoding from the first token on, for a head trained by `objectives.CausalLanguage`.

    Slow: nothing is cached, so every token costs a pass through the whole model, the sources' encoders
    included. `limit` bounds the examples. Only examples with the text and every context stream count.
    """

    head: str
    stream: str = "text"
    context: tuple[str, ...] = ()  # other streams that the head can see
    subsets: bool = False  # measure also with context streams missing, all ways
    train: data.Dataset | None = None  # for the baselines; None: none
    train_limit: int | None = 20_000

    def __post_init__(self):
        self.check_streams(self.stream, *self.context)
        self.check_no_subsets_of("Set `subsets=True`: it takes those of `context`")

    def required_heads(self) -> tuple[str, ...]:
        return (self.head,)

    def __call__(self, predictor: Predictor) -> Result:
        tokenizer = self.data.streams[self.stream].tokenizer.open()
        said: dict[str, list[list[int]]] = collections.defaultdict(list)
        hits: dict[str, list[np.ndarray]] = collections.defaultdict(list)
        true: list[list[int]] = []
        for batch in self.batches():
            there = has_streams(batch, self.stream, *self.context)
            if not there.any():
                continue
            true += _kept(token_ids_by_row(batch[self.stream]), there)
            for given in self.givens():
                name = named(given)
                seen = batch | {s: missing(batch[s]) for s in self.context if s not in given}
                hits[name].append(self._next_tokens(predictor, seen, there))
                said[name] += _kept(self._decode(predictor, seen, there, tokenizer.sep_id), there)
        if not true:
            raise InputError(f"captions: no example of the data has {[self.stream, *self.context]}")
        metrics: dict[str, float] = {}
        for name, texts in said.items():
            metrics[f"{name}/next_token"] = float(np.concatenate(hits[name]).mean())
            metrics |= {f"{name}/{rate}": x for rate, x in rates(texts, true, tokenizer).items()}
        if self.train is not None:
            others = baselines(
                self.train, self.data, self.stream, self.context,
                batch_size=self.batch_size, limit=self.limit, train_limit=self.train_limit,
            )  # fmt: skip
            for name, texts in others.items():
                metrics |= {f"{name}/{rate}": x for rate, x in rates(texts, true, tokenizer).items()}
        return Result(metrics | {"num_examples": float(len(true))})

    def givens(self) -> list[tuple[str, ...]]:
        """The subsets of the context that are measured; all of it last."""
        return subsets(self.context) if self.subsets else [self.context]

    def _logits(self, predictor: Predictor, batch: Batch, text: Text, there: np.ndarray) -> np.ndarray:
        outputs, _ = predictor(batch | {self.stream: text}, Identity(), (self.head,))
        return check_finite(self.head, outputs[self.head][there])

    def _next_tokens(self, predictor: Predictor, batch: Batch, there: np.ndarray) -> np.ndarray:
        """Which next tokens are said right: bool, all rows' end to end."""
        text: Text = batch[self.stream]  # type: ignore[assignment]  # streams are named by the user
        tokens, mask = np.asarray(text.tokens)[there], np.asarray(text.mask)[there]
        right = self._logits(predictor, batch, text, there)[:, :-1].argmax(axis=-1) == tokens[:, 1:]
        return right[mask[:, :-1] & mask[:, 1:]]

    def _decode(self, predictor: Predictor, batch: Batch, there: np.ndarray, sep_id: int) -> list[list[int]]:
        """Each row's tokens after the first, up to [SEP] or the row's end; rows not `there` say nothing."""
        text: Text = batch[self.stream]  # type: ignore[assignment]
        tokens = np.zeros_like(np.asarray(text.tokens))
        tokens[:, 0] = np.asarray(text.tokens)[:, 0]
        ended = ~there
        for place in range(tokens.shape[1] - 1):
            if ended.all():
                break
            # What is not yet said is not there, even for a model that could look ahead.
            mask = there[:, None] & (np.arange(tokens.shape[1]) <= place)[None]
            logits = self._logits(predictor, batch, text.replace(tokens=tokens.copy(), mask=mask), there)
            tokens[there, place + 1] = logits[:, place].argmax(axis=-1)
            ended |= tokens[:, place + 1] == sep_id
        return [_before(row[1:].tolist(), sep_id) for row in tokens]


def _before(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids


def _kept(rows: list, there: np.ndarray) -> list:
    return [row for row, kept in zip(rows, there, strict=True) if kept]
