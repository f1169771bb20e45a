"""What was said, by the frames of a sound or a clip.

exact                      share of texts that are right from beginning to end
word_error_rate            insertions, deletions and substitutions by the words that were said
token_error_rate           the same by tokens: letters, where the vocabulary is of letters
most_common/exact, ...     the same of the most common training text
nearest/audio/exact, ...   the same of the text of the nearest training recording in raw features
"""

import dataclasses

import numpy as np

from mmjax import data
from mmjax.data.vocabulary import PAD_ID
from mmjax.errors import InputError
from mmjax.evals.base import Eval, Predictor, Result, check_finite, has_streams
from mmjax.evals.edits import baselines, rates, token_ids_by_row
from mmjax.views import Identity


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transcripts(Eval):
    """Greedy decoding of a FrameLogits head trained by CTC (Graves et al. 2006, section 3.2, best path)."""

    head: str
    source: str = "audio"  # the stream whose frames speak
    stream: str = "text"
    blank_id: int = PAD_ID  # the objective's
    train: data.Dataset | None = None  # for the baselines; None: none
    train_limit: int | None = 20_000

    def __post_init__(self):
        self.check_streams(self.source, self.stream)

    def required_heads(self) -> tuple[str, ...]:
        return (self.head,)

    def __call__(self, predictor: Predictor) -> Result:
        said, true = [], []
        for batch in self.batches():
            there = has_streams(batch, self.source, self.stream)
            outputs, _ = predictor(batch, Identity(), (self.head,))
            frames = outputs[self.head]
            tokens = check_finite(self.head, frames.logits[there]).argmax(axis=-1)
            said += decode_best_path(tokens, np.asarray(frames.mask)[there], self.blank_id)
            true += [
                ids for ids, kept in zip(token_ids_by_row(batch[self.stream]), there, strict=True) if kept
            ]
        if not true:
            raise InputError(f"transcripts: no example of the data has {self.source!r} and {self.stream!r}")
        tokenizer = self.data.streams[self.stream].tokenizer.open()
        metrics = rates(said, true, tokenizer)
        if self.train is not None:
            others = baselines(
                self.train, self.data, self.stream, (self.source,),
                batch_size=self.batch_size, limit=self.limit, train_limit=self.train_limit,
            )  # fmt: skip
            for name, guess in others.items():
                metrics |= {f"{name}/{rate}": x for rate, x in rates(guess, true, tokenizer).items()}
        return Result(metrics | {"num_examples": float(len(true))})


def decode_best_path(tokens: np.ndarray, mask: np.ndarray, blank_id: int) -> list[list[int]]:
    """Frames' tokens "N T" -> what they say: repetitions are one, then blanks go."""
    said = []
    for row, kept in zip(tokens, mask, strict=True):
        row = row[kept]
        first = np.diff(row, prepend=-1) != 0
        said.append(row[first & (row != blank_id)].tolist())
    return said
