"""Transcripts of audio or video, decoded from the predictions for its frames.

exact, word_error_rate, character_error_rate, token_error_rate
                           of the decoded text against the record's own (text_errors.py)
most_common/exact, ...     always the most common training text
nearest/audio/exact, ...   the text of the training example with the nearest audio in raw features
"""

import dataclasses
from functools import partial

import numpy as np

from mmjax.data.vocabulary import PAD_ID
from mmjax.errors import InputError
from mmjax.evals.base import Predictor, Result, check_finite, has_streams
from mmjax.evals.once import once
from mmjax.evals.text_errors import TextEval
from mmjax.ranges import Whole
from mmjax.views import Identity


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transcripts(TextEval):
    """Greedy decoding of a FrameLogits head trained by CTC (Graves et al. 2006, section 3.2, best path).

    source: the stream whose frames are transcribed.
    blank_id: as in the objective.
    """

    source: str = "audio"
    blank_id: Whole = PAD_ID

    def __post_init__(self):
        self.check_streams(self.source, self.stream)

    def __call__(self, predictor: Predictor) -> Result:
        predicted, references = [], []
        for number, batch in enumerate(self.batches()):
            rows = has_streams(batch, self.source, self.stream)
            outputs, _ = predictor(batch, Identity(), (self.head,))
            frames = outputs[self.head]
            tokens = check_finite(self.head, frames.logits[rows]).argmax(axis=-1)
            predicted += decode_best_path(tokens, np.asarray(frames.mask)[rows], self.blank_id)
            references += self.references(number, rows)
        if not references:
            raise InputError(f"transcripts: no example of the data has {self.source!r} and {self.stream!r}")
        errors = self.text_errors(references)
        metrics = errors.of_ids(predicted)
        if self.train is not None:
            metrics |= once(
                self, "baselines", partial(self.baseline_metrics, self.train, (self.source,), errors)
            )
        return Result(metrics | {"num_examples": float(len(references))})


def decode_best_path(tokens: np.ndarray, mask: np.ndarray, blank_id: int) -> list[list[int]]:
    """Merges repeated tokens of the frames, "N T", and removes blanks: a list of token ids per row."""
    texts = []
    for row, valid in zip(tokens, mask, strict=True):
        row = row[valid]
        is_first = np.diff(row, prepend=-1) != 0
        texts.append(row[is_first & (row != blank_id)].tolist())
    return texts
