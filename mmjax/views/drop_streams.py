"""Modality dropout."""

import dataclasses

import jax
import jax.numpy as jnp

from mmjax.batch import is_present
from mmjax.errors import InputError
from mmjax.ranges import Fraction
from mmjax.views.base import View


@dataclasses.dataclass(frozen=True)
class DropStreams(View):
    """Drops whole streams, independently for each example and stream (Neverova et al. 2016, ModDrop).

    The mask of a dropped stream becomes False in the batch and in its encoding; nothing is encoded again.
    Losses
    skip what a dropped stream takes part in: pairs, and masked tokens if this view precedes the masking view
        in a Chain.

    rates: ((stream, probability of dropping it), ...).
    keep_one: if all the streams in `rates` that an example has would be dropped, keep the one whose random
      number was closest to keeping it. At equal rates, all streams are kept equally often.
    """

    rates: tuple[tuple[str, Fraction], ...]
    keep_one: bool = False

    def __post_init__(self):
        streams = [stream for stream, _ in self.rates]
        if not streams or len(set(streams)) < len(streams):
            raise InputError(
                f"DropStreams expects at least one stream, and each only once, found {streams}: "
                "give one rate per stream"
            )

    def required_streams(self):
        return tuple(stream for stream, _ in self.rates)

    def transform_batch(self, batch, key):
        presence, margins = [], []
        for i, (stream, rate) in enumerate(self.rates):
            presence.append(is_present(batch[stream]))
            margins.append(jax.random.uniform(jax.random.fold_in(key, i), presence[-1].shape) - rate)
        present, margin = jnp.stack(presence), jnp.stack(margins)  # "streams B"
        keep = margin >= 0
        if self.keep_one:
            closest = jnp.where(present, margin, -2.0).argmax(axis=0)
            loses_all = ~(keep & present).any(axis=0)
            keep |= loses_all[None, :] & (jnp.arange(len(self.rates))[:, None] == closest[None, :])
        for stream, keep_rows in zip(self.required_streams(), keep, strict=True):
            mask = batch[stream].mask
            keep_rows = keep_rows.reshape(-1, *(1,) * (mask.ndim - 1))
            batch = batch | {stream: batch[stream].replace(mask=mask & keep_rows)}
        return batch, {}

    def transform_encoded(self, encoded, predictions, batch, key):
        for stream in self.required_streams():
            value, present = encoded[stream], is_present(batch[stream])
            if value.mask.shape[0] != present.shape[0]:
                raise InputError(
                    f"DropStreams expects the batch's {present.shape[0]} rows in the encoding of {stream!r}, "
                    f"found {value.mask.shape[0]}: place DropStreams before the view that re-pairs rows"
                )
            encoded = encoded | {stream: value.replace(mask=value.mask & present[:, None])}
        return encoded, {}
