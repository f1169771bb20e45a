"""All examples of a retrieval: their embeddings, and sheets and matrices that show them."""

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mmjax.batch import Batch
from mmjax.data import BadExample, Reader, TextTransform
from mmjax.evals import baseline, pictures
from mmjax.evals.base import Eval, Predictor, check_finite, has_streams
from mmjax.evals.previews import Preview, make_previews
from mmjax.evals.ranking import Relevance, content_ids
from mmjax.evals.text_errors import normalise, record_texts
from mmjax.views import Identity


@dataclasses.dataclass(frozen=True)
class Gallery:
    """One stream of N examples."""

    embeddings: np.ndarray  # float32 "N E", of unit length
    present: np.ndarray  # bool "N"
    content_ids: np.ndarray  # str "N": equal for equal raw inputs
    previews: list[Preview]
    raw: np.ndarray | None  # float32 "N F", features for the baselines

    def take(self, rows: np.ndarray) -> "Gallery":
        """Only the examples with these indices, int "M"."""
        raw = None if self.raw is None else self.raw[rows]
        previews = [self.previews[row] for row in rows]
        return Gallery(self.embeddings[rows], self.present[rows], self.content_ids[rows], previews, raw)


def build_galleries(
    evaluation: Eval, predictor: Predictor, heads: Mapping[str, str], *, with_raw: bool
) -> dict[str, Gallery]:
    """{stream: Gallery} of an evaluation's data. One prediction per batch serves all streams."""
    transforms = evaluation.data.streams
    # Images and audio get the example's text as caption, whether or not a head reads it.
    text = next((name for name in (*heads, *transforms) if isinstance(transforms[name], TextTransform)), None)
    parts: dict[str, list[tuple]] = {stream: [] for stream in heads}
    for number, batch in enumerate(evaluation.batches()):
        outputs, _ = predictor(batch, Identity(), tuple(heads.values()))
        keys = _keys(evaluation, number)
        captions = [t or k for t, k in zip(_texts(evaluation, text, batch, number), keys, strict=True)]
        for stream, head in heads.items():
            own = isinstance(transforms[stream], TextTransform)
            shown = _texts(evaluation, stream, batch, number) if own else captions
            present = has_streams(batch, stream)
            parts[stream].append((
                check_finite(head, np.where(present[:, None], outputs[head], 0)),
                present,
                _content_ids(evaluation, stream, batch, number, present),
                make_previews(batch[stream], transforms[stream], shown, keys),
                baseline.raw_features(batch[stream], transforms[stream]) if with_raw else None,
            ))  # fmt: skip
    galleries = {}
    for stream, batches in parts.items():
        embeddings, present, ids, previews, raw = zip(*batches, strict=True)
        galleries[stream] = Gallery(
            np.concatenate(embeddings), np.concatenate(present), np.concatenate(ids),
            list(itertools.chain.from_iterable(previews)), np.concatenate(raw) if with_raw else None,
        )  # fmt: skip
    return galleries


def _keys(evaluation: Eval, number: int) -> list[str]:
    """The key of each record of batch `number`; "" for the rows that fill the last batch."""
    reader, first = evaluation.data.source.open(), number * evaluation.batch_size
    indices = range(first, first + evaluation.batch_size)
    return [_key(reader, index) if index < len(reader) else "" for index in indices]


def _key(reader: Reader, index: int) -> str:
    try:
        return str(reader[index]["__key__"])
    except BadExample as error:  # the row is empty; the loader has counted it
        return error.key


def _texts(evaluation: Eval, stream: str | None, batch: Batch, number: int) -> list[str]:
    """The record's own text in each row of batch `number`; "" where it has none."""
    texts = [""] * evaluation.batch_size
    if stream is not None:
        rows = np.flatnonzero(has_streams(batch, stream))
        found = record_texts(evaluation.data, stream, number * evaluation.batch_size + rows)
        for row, text in zip(rows.tolist(), found, strict=True):
            texts[row] = text
    return texts


def _content_ids(evaluation: Eval, stream: str, batch: Batch, number: int, present: np.ndarray) -> np.ndarray:
    """Content ids "B"; of a text, the record's, since [UNK] and truncation make different texts equal."""
    ids = np.array(content_ids(batch[stream]), object)
    if isinstance(evaluation.data.streams[stream], TextTransform):
        texts = np.array(_texts(evaluation, stream, batch, number), object)
        ids[present] = [normalise(text, ignore_punctuation=False) for text in texts[present]]
    return ids.astype(str)


def draw_nearest(
    path: Path,
    *,
    queries: Gallery,
    targets: Gallery,
    relevance: Relevance,
    ranks: np.ndarray,
    scores: dict[str, float],
    names: tuple[str, str],
    num_shown: int,
    num_nearest: int = 5,
) -> None:
    """Draws a few random distinct queries, whatever their ranks "N", with their nearest candidates."""
    distinct = np.unique(relevance.query_groups, return_index=True)[1]
    chosen = np.random.default_rng(0).permutation(np.sort(distinct))[:num_shown]
    similarities = queries.embeddings[chosen] @ targets.embeddings[relevance.candidates].T
    nearest = np.argsort(-similarities, axis=1, kind="stable")[:, :num_nearest]
    rows = []
    for query, cosines, indices in zip(chosen, similarities, nearest, strict=True):
        relevant = set(relevance.relevant_to(query).tolist())
        rows.append([
            (targets.previews[relevance.candidates[n]], n in relevant, float(cosines[n]))
            for n in indices.tolist()
        ])  # fmt: skip
    recalls = [f"R@{k} {scores[f'R@{k}']:.2f}" for k in (1, 5, 10) if f"R@{k}" in scores]
    baselines = [
        f"{label} {scores[f'R@5/{key}']:.2f}"
        for key, label in (("chance", "chance"), ("transfer", "raw neighbours"), ("cca", "CCA"))
        if f"R@5/{key}" in scores
    ]
    pictures.retrieval_sheet(
        path,
        title=f"{names[0]} → {names[1]}",
        subtitle="   ".join(recalls)
        + (f"   (R@5 of {', '.join(baselines)})" if baselines else "")
        + "   ·   random queries; numbers are cosines",
        queries=[queries.previews[query] for query in chosen],
        nearest=rows,
        ranks=ranks[chosen].tolist(),
        num_candidates=len(relevance.candidates),
    )


def draw_similarity(
    path: Path,
    *,
    queries: Gallery,
    targets: Gallery,
    relevance: Relevance,
    names: tuple[str, str],
    num_named: int = 36,
) -> None:
    """Draws the cosines of a few examples, similar ones side by side, and a histogram over all pairs."""
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.permutation(relevance.candidates)[:num_named])
    chosen = chosen[_order_by_similarity(queries.embeddings[chosen] + targets.embeddings[chosen])]
    sampled = np.sort(rng.permutation(len(queries.embeddings))[:1000])
    relevant = relevance.mask(sampled)
    cosines = queries.embeddings[sampled] @ targets.embeddings[relevance.candidates].T
    pictures.similarity_matrix(
        path,
        title=f"Cosine similarities of {names[0]} and {names[1]}",
        subtitle=f"{len(chosen)} of {len(relevance.candidates)} examples, similar ones side by side; "
        "true pairs are on the diagonal",
        axes_names=names,
        names=[targets.previews[row].caption for row in chosen],
        similarities=queries.embeddings[chosen] @ targets.embeddings[chosen].T,
        matching=cosines[relevant],
        mismatched=rng.permutation(cosines[~relevant])[:200_000],
    )


def _order_by_similarity(embeddings: np.ndarray) -> list[int]:
    """A greedy order: each example is followed by the most similar one of the rest."""
    similarities = embeddings @ embeddings.T
    order, rest = [0], set(range(1, len(embeddings)))
    while rest:
        order.append(max(sorted(rest), key=lambda n: similarities[order[-1], n]))
        rest.remove(order[-1])
    return order
