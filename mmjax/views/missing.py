"""Streams missing."""

import dataclasses

import jax

from mmjax.views.base import Clean


@dataclasses.dataclass(frozen=True)
class Drop(Clean):
    """Whole streams missing, each example and stream by itself with the given probability.

    rates: ((stream, probability), ...). A dropped stream is a mask that is False, as if it had never been.
    """

    rates: tuple[tuple[str, float], ...]

    def encodes(self):
        return tuple(stream for stream, _ in self.rates)

    def encodings(self, encoded, predictions, batch, key):
        for i, (stream, rate) in enumerate(self.rates):
            value = encoded[stream]
            kept = jax.random.uniform(jax.random.fold_in(key, i), (value.mask.shape[0], 1)) >= rate
            encoded = encoded | {stream: value.replace(mask=value.mask & kept)}
        return encoded, {}
