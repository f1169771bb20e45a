"""Zero-shot classification: the class whose prompt has the nearest embedding (Radford et al. 2021, CLIP).

audio/accuracy, /low, /high       of each stream but the text, with a 95 % bootstrap interval
audio/top5_accuracy               with more than five classes
audio/accuracy/majority           always the most common class
audio/accuracy/raw_neighbour      class of the nearest training example in raw features, if `train` is given
"""

import dataclasses
from functools import partial

import numpy as np

from mmjax import data
from mmjax.errors import InputError
from mmjax.evals import base, baseline, class_scores, pictures
from mmjax.evals.base import DrawPicture, EmbeddingEval, Predictor, Result, has_streams
from mmjax.evals.once import is_known, once
from mmjax.ranges import Count
from mmjax.views import Identity


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZeroShot(EmbeddingEval):
    """Classifies every stream of `heads` but `text` by its cosine with the embedded prompts.

    text: the stream, one of `heads`, whose transform and encoder read the prompts.
    labels: a stream of Labels.
    classes: words for class 0, 1, ...; None: the classes of the labels' transform.
    templates: of prompts. The embeddings of a class's prompts are averaged.
    train: training data with the same streams for the neighbour baseline; None: no baseline.
    """

    text: str = "text"
    labels: str = "label"
    classes: tuple[str, ...] | None = None
    templates: tuple[str, ...] = ("{}",)
    train: data.Dataset | None = None
    train_limit: Count | None = 20_000

    def __post_init__(self):
        streams = tuple(self.heads_by_stream())
        self.check_streams(*streams, self.text, self.labels)
        if self.text not in streams or len(streams) < 2:
            raise InputError(
                f"ZeroShot needs heads for the text stream {self.text!r} and for a stream to classify, found "
                f"{list(streams)}: add the missing ones to `heads`"
            )

    def __call__(self, predictor: Predictor) -> Result:
        heads = {stream: head for stream, head in self.heads_by_stream().items() if stream != self.text}
        names = self.class_names()
        prompts = self.prompt_embeddings(predictor, names)
        needs_raw = self.train is not None and not all(is_known(self, stream) for stream in heads)
        parts = {stream: ([], [], []) for stream in heads}  # scores, targets, raw features of each batch
        for batch in self.batches():
            outputs, _ = predictor(batch, Identity(), tuple(heads.values()))
            for stream, head in heads.items():
                rows = has_streams(batch, stream, self.labels)
                embeddings = base.check_finite(head, np.where(rows[:, None], outputs[head], 0))
                scores, targets, raw = parts[stream]
                scores.append((embeddings @ prompts.T)[rows])
                targets.append(np.asarray(batch[self.labels].values)[rows])
                if needs_raw:
                    raw.append(baseline.raw_features(batch[stream], self.data.streams[stream])[rows])
        metrics: dict[str, float] = {}
        drawn: dict[str, DrawPicture] = {}
        for stream, (scores, targets, raw) in parts.items():
            scores, targets = np.concatenate(scores), np.concatenate(targets)
            self._check_targets(stream, targets, names)
            predicted = scores.argmax(axis=1)
            top5 = class_scores.top_k_accuracy(scores, targets)
            metrics |= {} if top5 is None else {f"{stream}/top5_accuracy": top5}
            accuracy = base.interval_metrics(f"{stream}/accuracy", predicted == targets)
            metrics |= accuracy | {f"{stream}/accuracy/majority": baseline.majority_accuracy(targets)}
            if self.train is not None:
                metrics[f"{stream}/accuracy/raw_neighbour"] = once(
                    self, stream, partial(self._raw_neighbour_accuracy, self.train, stream, raw, targets)
                )
            mean, low, high = accuracy.values()
            drawn[f"{stream}_confusion"] = partial(
                pictures.confusion,
                title=f"Zero-shot classes of each {stream}",
                subtitle=f"{len(targets)} examples, {mean:.1%} right [{low:.1%}, {high:.1%}]",
                classes=names,
                counts=class_scores.confusion_counts(targets, predicted, len(names)),
            )
        return Result(metrics, drawn)

    def _check_targets(self, stream: str, targets: np.ndarray, names: tuple[str, ...]) -> None:
        if not len(targets):
            raise InputError(f"zero-shot: no example of the data has both {stream!r} and {self.labels!r}")
        if targets.max() >= len(names):
            raise InputError(
                f"zero-shot: found the class {targets.max()}, but `classes` has only {len(names)}: {names}"
            )

    def class_names(self) -> tuple[str, ...]:
        """The words of class 0, 1, ..."""
        names = self.classes or self.data.streams[self.labels].classes
        if not names:
            raise InputError(f"ZeroShot: the labels {self.labels!r} have no names of classes: give `classes`")
        return tuple(names)

    def prompt_embeddings(self, predictor: Predictor, names: tuple[str, ...]) -> np.ndarray:
        """The mean over the templates for each class, scaled to unit length: float32 "classes E"."""
        embeddings = [
            self._embed_texts(predictor, [template.format(name) for name in names])
            for template in self.templates
        ]
        mean = np.mean(embeddings, axis=0)
        return mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)

    def _embed_texts(self, predictor: Predictor, prompts: list[str]) -> np.ndarray:
        """In batches of `batch_size` with all streams, so that the model is compiled for no new shape."""
        transform, head = self.data.streams[self.text], self.heads_by_stream()[self.text]
        chunks = []
        for start in range(0, len(prompts), self.batch_size):
            chunk = prompts[start : start + self.batch_size]
            rows: list = [{self.text: transform.encode(prompt, key=f"prompt {prompt!r}")} for prompt in chunk]
            batch = data.collate(rows + [{}] * (self.batch_size - len(rows)), self.data.empty())
            chunks.append(predictor(batch, Identity(), (head,))[0][head][: len(chunk)])
        return base.check_finite(head, np.concatenate(chunks))

    def _raw_neighbour_accuracy(
        self, train: data.Dataset, stream: str, raw: list[np.ndarray], targets: np.ndarray
    ) -> float:
        """Accuracy of the class of the training example that is nearest in raw features.

        Args:
          raw: raw features of the examples, "N F" of each batch.
          targets: their classes, int "N".
        """
        labels = []
        for batch in self.batches_of(train, self.train_limit):
            values, mask = batch[self.labels].values, batch[self.labels].mask
            labels.append(np.where(np.asarray(mask), np.asarray(values), -1))
        spaces = baseline.fit_raw_spaces(
            train,
            (stream,),
            batch_size=self.batch_size,
            limit=self.train_limit,
            max_bad_fraction=self.max_bad_fraction,
        )
        found = baseline.nearest_neighbour_labels(spaces[stream], np.concatenate(labels), np.concatenate(raw))
        return float((found == targets).mean())
