"""Classification without a classifier: the class with the nearest prompt (Radford et al. 2021, CLIP).

audio/accuracy, /low, /high       of each stream but the text, with a 95 % bootstrap interval
audio/accuracy/majority           always the most common class
audio/accuracy/raw_neighbour      class of the nearest training example in raw features, when `train` is given
"""

import dataclasses
from functools import partial

import numpy as np

from mmjax import data
from mmjax.errors import InputError
from mmjax.evals import baseline, pictures
from mmjax.evals.base import (
    DrawPicture,
    Eval,
    Predictor,
    Result,
    accuracy_with_interval,
    check_finite,
    has_streams,
    heads_by_stream,
)
from mmjax.views import Identity


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZeroShot(Eval):
    """Every stream of ``heads`` but ``text`` is classified by its cosine with the encoded prompts."""

    # {stream: its PooledEmbedding head}, the text's too; a tuple of streams: the heads are named like them.
    heads: dict[str, str] | tuple[str, ...]
    text: str = "text"  # the stream whose transform and tower read the prompts
    labels: str = "label"  # the stream of Labels; value n means class n
    # Words for class 0, 1, ...; None: the classes of the labels' transform.
    classes: tuple[str, ...] | None = None
    templates: tuple[str, ...] = ("{}",)  # embeddings of a class's several prompts are averaged
    # With the same streams, for the neighbour baseline; None: no such baseline.
    train: data.Dataset | None = None
    train_limit: int | None = 20_000

    def __post_init__(self):
        streams = tuple(heads_by_stream(self.heads))
        self.check_streams(*streams, self.text, self.labels)
        if self.text not in streams or len(streams) < 2:
            raise InputError(
                f"ZeroShot needs heads for the text stream {self.text!r} and for a stream to classify, found "
                f"{list(streams)}: add the missing ones to `heads`"
            )

    def required_heads(self) -> tuple[str, ...]:
        return tuple(heads_by_stream(self.heads).values())

    def __call__(self, predictor: Predictor) -> Result:
        heads = {stream: head for stream, head in heads_by_stream(self.heads).items() if stream != self.text}
        names = self.class_names()
        prompts = self.prompt_embeddings(predictor, names)
        parts = {stream: ([], [], []) for stream in heads}  # predicted, true, raw features; a part per batch
        for batch in self.batches():
            outputs, _ = predictor(batch, Identity(), tuple(heads.values()))
            for stream, head in heads.items():
                there = has_streams(batch, stream, self.labels)
                embeddings = check_finite(head, np.where(there[:, None], outputs[head], 0))
                said, true, raw = parts[stream]
                said.append((embeddings @ prompts.T).argmax(axis=1)[there])
                true.append(np.asarray(batch[self.labels].values)[there])
                if self.train is not None:
                    raw.append(baseline.raw_features(batch[stream], self.data.streams[stream])[there])
        metrics: dict[str, float] = {}
        drawn: dict[str, DrawPicture] = {}
        for stream, batches in parts.items():
            said, true = np.concatenate(batches[0]), np.concatenate(batches[1])
            if not len(true):
                raise InputError(f"zero-shot: no example of the data has both {stream!r} and {self.labels!r}")
            if true.max() >= len(names):
                raise InputError(
                    f"zero-shot: found the class {true.max()}, but `classes` has only {len(names)}: {names}"
                )
            mean, low, high = accuracy_with_interval(said == true)
            name = f"{stream}/accuracy"
            metrics |= {
                name: mean,
                f"{name}/low": low,
                f"{name}/high": high,
                f"{name}/majority": baseline.majority(true),
            }
            if self.train is not None:
                guesses = self._by_raw_neighbour(self.train, stream, np.concatenate(batches[2]))
                metrics[f"{name}/raw_neighbour"] = float((guesses == true).mean())
            counts = np.zeros((len(names), len(names)), np.int64)
            np.add.at(counts, (true, said), 1)
            drawn[f"{stream}_confusion"] = partial(
                pictures.confusion,
                title=f"What the model calls each {stream}",
                subtitle=f"zero-shot, {len(true)} examples, {mean:.1%} right [{low:.1%}, {high:.1%}]",
                classes=names,
                counts=counts,
            )
        return Result(metrics, drawn)

    def class_names(self) -> tuple[str, ...]:
        """The words of class 0, 1, ..."""
        names = self.classes or self.data.streams[self.labels].classes
        if not names:
            raise InputError(f"ZeroShot: the labels {self.labels!r} have no names of classes: give `classes`")
        return tuple(names)

    def prompt_embeddings(self, predictor: Predictor, names: tuple[str, ...]) -> np.ndarray:
        """float32 "num_classes E", of length one: the mean over the templates."""
        embeddings = [
            self._embed_texts(predictor, [template.format(name) for name in names])
            for template in self.templates
        ]
        mean = np.mean(embeddings, axis=0)
        return mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)

    def _embed_texts(self, predictor: Predictor, prompts: list[str]) -> np.ndarray:
        """In batches of the usual size: the compiled shapes stay the same, and other streams are missing."""
        transform, head = self.data.streams[self.text], heads_by_stream(self.heads)[self.text]
        chunks = []
        for start in range(0, len(prompts), self.batch_size):
            some = prompts[start : start + self.batch_size]
            rows: list = [{self.text: transform.encode(prompt, key=f"prompt {prompt!r}")} for prompt in some]
            batch = data.collate(rows + [{}] * (self.batch_size - len(rows)), self.data.empty())
            chunks.append(predictor(batch, Identity(), (head,))[0][head][: len(some)])
        return check_finite(head, np.concatenate(chunks))

    def _by_raw_neighbour(self, train: data.Dataset, stream: str, rows: np.ndarray) -> np.ndarray:
        labels = []
        for batch in data.epoch(train, self.batch_size, self.train_limit):
            given = batch[self.labels]
            labels.append(np.where(np.asarray(given.mask), np.asarray(given.values), -1))
        spaces = baseline.fit_raw_spaces(train, (stream,), batch_size=self.batch_size, limit=self.train_limit)
        return baseline.nearest_neighbour_labels(spaces[stream], np.concatenate(labels), rows)
