"""All the items of a retrieval: gathered from the data and the model, and drawn as sheets and matrices."""

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mmjax.data import TextTransform
from mmjax.evals import baseline, pictures
from mmjax.evals.base import Eval, Predictor, check_finite, has_streams
from mmjax.evals.cards import Preview, cards, decode_texts
from mmjax.evals.ranking import Relevance, content_ids
from mmjax.views import Identity


@dataclasses.dataclass(frozen=True)
class Gallery:
    """One stream of N examples: what the model makes of it, what it is, what a person sees of it."""

    embeddings: np.ndarray  # float32 "N E", of length one
    present: np.ndarray  # bool "N"
    content_ids: np.ndarray  # str "N": equal for equal raw inputs
    cards: list[Preview]
    raw: np.ndarray | None  # float32 "N F", baseline.py

    def take(self, rows: np.ndarray) -> "Gallery":
        """Only these examples."""
        raw = None if self.raw is None else self.raw[rows]
        kept = [self.cards[row] for row in rows]
        return Gallery(self.embeddings[rows], self.present[rows], self.content_ids[rows], kept, raw)


def build_galleries(
    measure: Eval, predictor: Predictor, heads: Mapping[str, str], *, with_raw: bool
) -> dict[str, Gallery]:
    """{stream: Gallery} of an evaluation's data: one prediction a batch, for all the streams."""
    transforms = measure.data.streams
    # Pictures and sounds are captioned by the example's text, be it among the heads' streams or not.
    written = next(
        (name for name in (*heads, *transforms) if isinstance(transforms[name], TextTransform)), None
    )
    parts: dict[str, list[tuple]] = {stream: [] for stream in heads}
    seen = 0
    for batch in measure.batches():
        outputs, _ = predictor(batch, Identity(), tuple(heads.values()))
        num_rows = len(next(iter(outputs.values())))
        captions = [f"#{seen + row}" for row in range(num_rows)]
        if written:
            words = decode_texts(batch[written], transforms[written])
            captions = [word or number for word, number in zip(words, captions, strict=True)]
        seen += num_rows
        for stream, head in heads.items():
            present = has_streams(batch, stream)
            embeddings = np.where(present[:, None], outputs[head], 0)
            parts[stream].append((
                check_finite(head, embeddings),
                present,
                np.array(content_ids(batch[stream])),
                cards(batch[stream], transforms[stream], captions),
                baseline.raw_features(batch[stream], transforms[stream]) if with_raw else None,
            ))  # fmt: skip
    found = {}
    for stream, batches in parts.items():
        embeddings, present, digests, shown, raw = zip(*batches, strict=True)
        found[stream] = Gallery(
            np.concatenate(embeddings), np.concatenate(present), np.concatenate(digests),
            list(itertools.chain.from_iterable(shown)),
            np.concatenate(raw) if with_raw else None,
        )  # fmt: skip
    return found


def draw_nearest(
    path: Path,
    *,
    queries: Gallery,
    targets: Gallery,
    answers: Relevance,
    ranks: np.ndarray,
    scores: dict[str, float],
    names: tuple[str, str],
    num_shown: int,
    num_nearest: int = 5,
) -> None:
    """A sheet of a few queries, drawn by lot among the distinct ones (nothing is picked by its score)."""
    distinct = np.unique(answers.query_groups, return_index=True)[1]
    chosen = np.random.default_rng(0).permutation(np.sort(distinct))[:num_shown]
    similarities = queries.embeddings[chosen] @ targets.embeddings[answers.candidates].T
    nearest = np.argsort(-similarities, axis=1, kind="stable")[:, :num_nearest]
    rows = []
    for query, cosines, places in zip(chosen, similarities, nearest, strict=True):
        right = set(answers.of_query(query).tolist())
        rows.append(
            [(targets.cards[answers.candidates[p]], p in right, float(cosines[p])) for p in places.tolist()]
        )
    parts = [f"R@{k} {scores[f'R@{k}']:.2f}" for k in (1, 5, 10) if f"R@{k}" in scores]
    baselines = [
        f"{label} {scores[f'R@5/{key}']:.2f}"
        for key, label in (("chance", "chance"), ("transfer", "raw neighbours"), ("cca", "CCA"))
        if f"R@5/{key}" in scores
    ]
    pictures.retrieval_sheet(
        path,
        title=f"{names[0]} → {names[1]}",
        subtitle="   ".join(parts)
        + (f"   (R@5 of {', '.join(baselines)})" if baselines else "")
        + "   ·   queries drawn by lot; numbers are cosines",
        queries=[queries.cards[query] for query in chosen],
        nearest=rows,
        ranks=ranks[chosen].tolist(),
        num_candidates=len(answers.candidates),
    )


def draw_similarity(
    path: Path,
    *,
    queries: Gallery,
    targets: Gallery,
    answers: Relevance,
    names: tuple[str, str],
    num_named: int = 36,
) -> None:
    """A few examples by name, alike ones side by side, and the spread of the cosines of all pairs."""
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.permutation(answers.candidates)[:num_named])
    chosen = chosen[_side_by_side(queries.embeddings[chosen] + targets.embeddings[chosen])]
    some = np.sort(rng.permutation(len(queries.embeddings))[:1000])
    right = answers.mask(some)
    cosines = queries.embeddings[some] @ targets.embeddings[answers.candidates].T
    pictures.similarity_matrix(
        path,
        title=f"{names[0]} and {names[1]}: how alike the model finds them",
        subtitle=f"{len(chosen)} of {len(answers.candidates)} examples, alike ones side by side; "
        "right answers are on the diagonal",
        axes_names=names,
        names=[targets.cards[row].caption for row in chosen],
        similarities=queries.embeddings[chosen] @ targets.embeddings[chosen].T,
        right=cosines[right],
        wrong=rng.permutation(cosines[~right])[:200_000],
    )


def _side_by_side(embeddings: np.ndarray) -> list[int]:
    """An order in which each is followed by the most alike of those that are left."""
    similarities = embeddings @ embeddings.T
    order, left = [0], set(range(1, len(embeddings)))
    while left:
        order.append(max(sorted(left), key=lambda n: similarities[order[-1], n]))
        left.remove(order[-1])
    return order
