"""Transcripts of audio or video, decoded from the predictions for its frames.

exact                      fraction of texts without an error
word_error_rate            insertions, deletions and substitutions by the number of true words
token_error_rate           the same by tokens: letters, if the vocabulary consists of letters
most_common/exact, ...     always the most common training text
nearest/audio/exact, ...   the text of the training example with the nearest audio in raw features
"""

import dataclasses
import itertools

import numpy as np

from mmjax import data
from mmjax.data.vocabulary import PAD_ID
from mmjax.errors import InputError
from mmjax.evals.base import HeadEval, Predictor, Result, check_finite, has_streams
from mmjax.evals.text_errors import baseline_metrics, text_metrics, token_ids_by_row
from mmjax.views import Identity


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transcripts(HeadEval):
    """Greedy decoding of a FrameLogits head trained by CTC (Graves et al. 2006, section 3.2, best path).

    source: the stream whose frames are transcribed.
    blank_id: as in the objective.
    train: training data for the baselines; None: no baselines.
    """

    source: str = "audio"
    stream: str = "text"
    blank_id: int = PAD_ID
    train: data.Dataset | None = None
    train_limit: int | None = 20_000

    def __post_init__(self):
        self.check_streams(self.source, self.stream)

    def __call__(self, predictor: Predictor) -> Result:
        predicted, targets = [], []
        for batch in self.batches():
            rows = has_streams(batch, self.source, self.stream)
            outputs, _ = predictor(batch, Identity(), (self.head,))
            frames = outputs[self.head]
            tokens = check_finite(self.head, frames.logits[rows]).argmax(axis=-1)
            predicted += decode_best_path(tokens, np.asarray(frames.mask)[rows], self.blank_id)
            targets += itertools.compress(token_ids_by_row(batch[self.stream]), rows)
        if not targets:
            raise InputError(f"transcripts: no example of the data has {self.source!r} and {self.stream!r}")
        tokenizer = self.data.streams[self.stream].tokenizer.open()
        metrics = text_metrics(predicted, targets, tokenizer)
        if self.train is not None:
            metrics |= baseline_metrics(
                self, self.train, self.train_limit, self.stream, (self.source,), targets, tokenizer
            )
        return Result(metrics | {"num_examples": float(len(targets))})


def decode_best_path(tokens: np.ndarray, mask: np.ndarray, blank_id: int) -> list[list[int]]:
    """Merges repeated tokens of the frames, "N T", and removes blanks: a list of token ids per row."""
    texts = []
    for row, valid in zip(tokens, mask, strict=True):
        row = row[valid]
        is_first = np.diff(row, prepend=-1) != 0
        texts.append(row[is_first & (row != blank_id)].tolist())
    return texts
