"""Texts that a causal text stream generates given images, audio or nothing.

audio+image/next_token          accuracy of the next token given the true tokens before it (teacher forcing);
                                a true [UNK] counts as wrong
audio+image/exact, /word_error_rate, /character_error_rate, /token_error_rate
                                of the decoded text against the record's own (text_errors.py)
most_common/exact, ...          always the most common training text
nearest/image/exact, ...        the text of the training example with the nearest image in raw features
"""

import collections
import dataclasses
import itertools
from functools import partial

import numpy as np

from mmjax.batch import Batch, Text
from mmjax.errors import InputError
from mmjax.evals.base import Predictor, Result, check_finite, has_streams
from mmjax.evals.once import once
from mmjax.evals.subsets import keep_only, subset_name, subsets
from mmjax.evals.text_errors import TextEval
from mmjax.views import Identity


@dataclasses.dataclass(frozen=True, kw_only=True)
class Captions(TextEval):
    """Greedy decoding by a head that `objectives.CausalLanguage` trains.

    It is slow, because nothing is cached: each token runs the whole model, encoders included. `limit` bounds
    the examples. Only examples with the text and every context stream are counted.

    context: other streams that the head can read.
    subsets: evaluate with each subset of `context`, the others missing.
    """

    context: tuple[str, ...] = ()
    subsets: bool = False

    def __post_init__(self):
        self.check_streams(self.stream, *self.context)
        self.check_no_subsets_of("Set `subsets=True`: it takes those of `context`")

    def __call__(self, predictor: Predictor) -> Result:
        tokenizer = self.data.streams[self.stream].tokenizer.open()
        measured = subsets(self.context) if self.subsets else [self.context]
        predicted: dict[str, list[list[int]]] = collections.defaultdict(list)
        hits: dict[str, list[np.ndarray]] = collections.defaultdict(list)
        references: list[str] = []
        for number, batch in enumerate(self.batches()):
            rows = has_streams(batch, self.stream, *self.context)
            if not rows.any():
                continue
            references += self.references(number, rows)
            for subset in measured:
                name, inputs = subset_name(subset), keep_only(batch, self.context, subset)
                unknown = tokenizer.special_ids.get("unk", -1)
                hits[name].append(self._next_token_hits(predictor, inputs, rows, unknown))
                predicted[name] += self._decode(predictor, inputs, rows, tokenizer.sep_id)
        if not references:
            raise InputError(f"captions: no example of the data has {[self.stream, *self.context]}")
        errors = self.text_errors(references)
        metrics: dict[str, float] = {}
        for name, texts in predicted.items():
            metrics[f"{name}/next_token"] = float(np.concatenate(hits[name]).mean())
            metrics |= {f"{name}/{metric}": value for metric, value in errors.of_ids(texts).items()}
        if self.train is not None:
            metrics |= once(
                self, "baselines", partial(self.baseline_metrics, self.train, self.context, errors)
            )
        return Result(metrics | {"num_examples": float(len(references))})

    def _logits(self, predictor: Predictor, batch: Batch, text: Text, rows: np.ndarray) -> np.ndarray:
        outputs, _ = predictor(batch | {self.stream: text}, Identity(), (self.head,))
        return check_finite(self.head, outputs[self.head][rows])

    def _next_token_hits(
        self, predictor: Predictor, batch: Batch, rows: np.ndarray, unknown: int
    ) -> np.ndarray:
        """Whether each next token is predicted right: bool, the rows concatenated. [UNK] is never right."""
        text: Text = batch[self.stream]  # type: ignore[assignment]  # streams are named by the user
        tokens, mask = np.asarray(text.tokens)[rows], np.asarray(text.mask)[rows]
        hits = self._logits(predictor, batch, text, rows)[:, :-1].argmax(axis=-1) == tokens[:, 1:]
        hits &= tokens[:, 1:] != unknown
        return hits[mask[:, :-1] & mask[:, 1:]]

    def _decode(self, predictor: Predictor, batch: Batch, rows: np.ndarray, sep_id: int) -> list[list[int]]:
        """The tokens of each of `rows` after the first, up to [SEP] or the row's end."""
        text: Text = batch[self.stream]  # type: ignore[assignment]
        tokens = np.zeros_like(np.asarray(text.tokens))
        tokens[:, 0] = np.asarray(text.tokens)[:, 0]
        has_ended = ~rows
        for t in range(tokens.shape[1] - 1):
            if has_ended.all():
                break
            # Later positions are masked, so that even a model that is not causal cannot read the target.
            mask = rows[:, None] & (np.arange(tokens.shape[1]) <= t)[None]
            logits = self._logits(predictor, batch, text.replace(tokens=tokens.copy(), mask=mask), rows)
            tokens[rows, t + 1] = logits[:, t].argmax(axis=-1)
            has_ended |= tokens[:, t + 1] == sep_id
        texts = tokens[rows, 1:].tolist()
        return [list(itertools.takewhile(lambda token: token != sep_id, text)) for text in texts]
