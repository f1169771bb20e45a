"""What every view can do, and views one after the other."""

import dataclasses

import jax

from mmjax.batch import Array, Batch, Encoded

Targets = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Clean:
    """The batch as it is. Every view has these methods."""

    def changes(self) -> tuple[str, ...]:
        """The streams that `inputs` remakes, and that must be encoded again."""
        return ()

    def compares(self) -> tuple[str, ...]:
        """The heads of the clean view whose predictions `encodings` needs."""
        return ()

    def encodes(self) -> tuple[str, ...]:
        """The streams whose encodings `encodings` needs, so that some head must read them."""
        return ()

    def inputs(self, batch: Batch, key: jax.Array) -> tuple[Batch, Targets]:
        """The remade batch, and what a model that looks at it should answer."""
        return batch, {}

    def encodings(
        self, encoded: dict[str, Encoded], predictions: dict[str, Array], batch: Batch, key: jax.Array
    ) -> tuple[dict[str, Encoded], Targets]:
        """Encodings and the clean view's predictions -> encodings anew, and targets."""
        return encoded, {}


@dataclasses.dataclass(frozen=True)
class Chain(Clean):
    """Views one after the other, e.g. words masked and then modalities dropped."""

    views: tuple[Clean, ...]

    def changes(self):
        return tuple(stream for view in self.views for stream in view.changes())

    def compares(self):
        return tuple(head for view in self.views for head in view.compares())

    def encodes(self):
        return tuple(stream for view in self.views for stream in view.encodes())

    def inputs(self, batch, key):
        targets: Targets = {}
        for i, view in enumerate(self.views):
            batch, more = view.inputs(batch, jax.random.fold_in(key, i))
            targets |= more
        return batch, targets

    def encodings(self, encoded, predictions, batch, key):
        targets: Targets = {}
        for i, view in enumerate(self.views):
            encoded, more = view.encodings(encoded, predictions, batch, jax.random.fold_in(key, i))
            targets |= more
        return encoded, targets
