"""What every view can do, and views one after the other."""

import dataclasses

import jax

from mmjax.batch import Array, Batch, Encoded

Targets = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Identity:
    """The batch as it is. Every view has these methods."""

    def changed_streams(self) -> tuple[str, ...]:
        """The streams that `inputs` remakes, and that must be encoded again."""
        return ()

    def compared_heads(self) -> tuple[str, ...]:
        """The heads of the clean view whose predictions `encodings` needs."""
        return ()

    def required_streams(self) -> tuple[str, ...]:
        """The streams whose encodings `encodings` needs, so that some head must read them."""
        return ()

    def transform_batch(self, batch: Batch, key: jax.Array) -> tuple[Batch, Targets]:
        """The remade batch, and what a model that looks at it should answer."""
        return batch, {}

    def transform_encoded(
        self, encoded: dict[str, Encoded], predictions: dict[str, Array], batch: Batch, key: jax.Array
    ) -> tuple[dict[str, Encoded], Targets]:
        """Encodings and the clean view's predictions -> encodings anew, and targets."""
        return encoded, {}


@dataclasses.dataclass(frozen=True)
class Chain(Identity):
    """Views one after the other, e.g. words masked and then modalities dropped."""

    views: tuple[Identity, ...]

    def changed_streams(self):
        return tuple(stream for view in self.views for stream in view.changed_streams())

    def compared_heads(self):
        return tuple(head for view in self.views for head in view.compared_heads())

    def required_streams(self):
        return tuple(stream for view in self.views for stream in view.required_streams())

    def transform_batch(self, batch, key):
        targets: Targets = {}
        for i, view in enumerate(self.views):
            batch, more = view.transform_batch(batch, jax.random.fold_in(key, i))
            targets |= more
        return batch, targets

    def transform_encoded(self, encoded, predictions, batch, key):
        targets: Targets = {}
        for i, view in enumerate(self.views):
            encoded, more = view.transform_encoded(encoded, predictions, batch, jax.random.fold_in(key, i))
            targets |= more
        return encoded, targets
