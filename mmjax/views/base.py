"""The interface of views, the identity, and chains of views."""

import dataclasses
from collections.abc import Mapping

import jax

from mmjax.batch import Array, Batch, Encoded
from mmjax.data import Vocabulary
from mmjax.spec import Spec

Targets = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class View(Spec):
    """A change of the batch for an objective. A hashable value: equal views are computed once per step.

    Subclasses override what they need; the defaults change nothing.
    """

    def changed_streams(self) -> tuple[str, ...]:
        """The streams that `transform_batch` changes, and that must be encoded again."""
        return ()

    def compared_heads(self) -> tuple[str, ...]:
        """The heads whose predictions on the unchanged batch `transform_encoded` needs."""
        return ()

    def required_streams(self) -> tuple[str, ...]:
        """The streams whose encodings `transform_encoded` needs: some head must read them."""
        return ()

    def compared_streams(self) -> tuple[str, ...]:
        """The streams whose contents, before any view, tell it which rows are equal (`row_contents`)."""
        return ()

    def needs_other_rows(self) -> bool:
        """Whether it combines rows, so that in a batch of one row it does nothing."""
        return False

    def made_texts(self) -> dict[str, str]:
        """{a stream that it makes: the stream of the data whose vocabulary the made one has}."""
        return {}

    def check_vocabularies(self, vocabularies: Mapping[str, Vocabulary]) -> str | None:
        """Why its token ids do not fit {stream: opened vocabulary}, or None. Called before training."""
        return None

    def transform_batch(self, batch: Batch, key: jax.Array) -> tuple[Batch, Targets]:
        """Changes streams before they are encoded.

        Returns:
          The changed batch, and targets: arrays "B ..." that an objective compares predictions with.
        """
        return batch, {}

    def transform_encoded(
        self, encoded: dict[str, Encoded], predictions: dict[str, Array], batch: Batch, key: jax.Array
    ) -> tuple[dict[str, Encoded], Targets]:
        """Drops or re-pairs encodings, which needs no further encoder pass.

        Args:
          encoded: {stream: encoding} of the batch that `transform_batch` returned.
          predictions: of `compared_heads` on the unchanged batch, "B ..." each.

        Returns:
          The changed encodings, and further targets "B ...".
        """
        return encoded, {}


@dataclasses.dataclass(frozen=True)
class Identity(View):
    """The unchanged batch."""


@dataclasses.dataclass(frozen=True)
class Chain(View):
    """Applies views in order, e.g. masks words and then drops modalities."""

    views: tuple[View, ...]

    def changed_streams(self):
        return tuple(stream for view in self.views for stream in view.changed_streams())

    def compared_heads(self):
        return tuple(head for view in self.views for head in view.compared_heads())

    def required_streams(self):
        return tuple(stream for view in self.views for stream in view.required_streams())

    def compared_streams(self):
        return tuple(stream for view in self.views for stream in view.compared_streams())

    def needs_other_rows(self):
        return any(view.needs_other_rows() for view in self.views)

    def made_texts(self):
        return {made: source for view in self.views for made, source in view.made_texts().items()}

    def check_vocabularies(self, vocabularies):
        made = self.made_texts()
        known = {**vocabularies, **{m: vocabularies[s] for m, s in made.items() if s in vocabularies}}
        return next((fault for view in self.views if (fault := view.check_vocabularies(known))), None)

    def transform_batch(self, batch, key):
        targets: Targets = {}
        for i, view in enumerate(self.views):
            batch, extra_targets = view.transform_batch(batch, jax.random.fold_in(key, i))
            targets |= extra_targets
        return batch, targets

    def transform_encoded(self, encoded, predictions, batch, key):
        targets: Targets = {}
        for i, view in enumerate(self.views):
            fold_key = jax.random.fold_in(key, i)
            encoded, extra_targets = view.transform_encoded(encoded, predictions, batch, fold_key)
            targets |= extra_targets
        return encoded, targets
