"""The interface of views, the identity, and chains of views."""

import dataclasses

import jax

from mmjax.batch import Array, Batch, Encoded

Targets = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class View:
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
