"""Streams missing."""

import dataclasses

import jax
import jax.numpy as jnp

from mmjax.batch import is_present
from mmjax.errors import InputError
from mmjax.views.base import View


@dataclasses.dataclass(frozen=True)
class DropStreams(View):
    """Whole streams missing, each example and stream by itself (Neverova et al. 2016, ModDrop).

    A dropped stream is a mask that is False, as if it had never been. The view's batch says so too, without
    being encoded anew: a pair of which one side is dropped is no pair, and hidden words of a dropped text are
    not asked for, where this view stands before the one that asks.

    rates: ((stream, probability), ...).
    keep_one: an example that would lose every one of the `rates` streams that it has keeps one of them, that
      whose draw came nearest to staying. At equal rates all are kept equally often.
    """

    rates: tuple[tuple[str, float], ...]
    keep_one: bool = False

    def __post_init__(self):
        streams = [stream for stream, _ in self.rates]
        if not streams or len(set(streams)) < len(streams):
            raise InputError(
                f"DropStreams expects each stream once, and at least one, found {streams}: name one rate for each"
            )
        wrong = [(stream, rate) for stream, rate in self.rates if not 0 <= rate <= 1]
        if wrong:
            raise InputError(f"DropStreams expects probabilities from 0 to 1, found {wrong}")

    def required_streams(self):
        return tuple(stream for stream, _ in self.rates)

    def transform_batch(self, batch, key):
        there, spare = [], []
        for i, (stream, rate) in enumerate(self.rates):
            there.append(is_present(batch[stream]))
            spare.append(jax.random.uniform(jax.random.fold_in(key, i), there[-1].shape) - rate)
        has, spared = jnp.stack(there), jnp.stack(spare)  # "streams B"
        kept = spared >= 0
        if self.keep_one:
            nearest = jnp.where(has, spared, -2.0).argmax(axis=0)
            lost_all = ~(kept & has).any(axis=0)
            kept |= lost_all[None, :] & (jnp.arange(len(self.rates))[:, None] == nearest[None, :])
        for stream, stays in zip(self.required_streams(), kept, strict=True):
            mask = batch[stream].mask
            stays = stays.reshape(-1, *(1,) * (mask.ndim - 1))
            batch = batch | {stream: batch[stream].replace(mask=mask & stays)}
        return batch, {}

    def transform_encoded(self, encoded, predictions, batch, key):
        for stream in self.required_streams():
            value, stays = encoded[stream], is_present(batch[stream])
            if value.mask.shape[0] != stays.shape[0]:
                raise InputError(
                    f"DropStreams expects the {stays.shape[0]} rows of the batch in {stream!r}, found "
                    f"{value.mask.shape[0]}: put it before the view that pairs rows anew"
                )
            encoded = encoded | {stream: value.replace(mask=value.mask & stays[:, None])}
        return encoded, {}
