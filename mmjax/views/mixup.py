"""Two examples in one."""

import dataclasses

import jax
import jax.numpy as jnp

from mmjax.batch import Audio, Image, is_present
from mmjax.errors import InputError
from mmjax.views.base import View


@dataclasses.dataclass(frozen=True)
class Mixup(View):
    """Each row a weighted sum with another row, ``share x + (1 - share) partner`` (Zhang et al. 2018, eq. 1).

    The share of each row is drawn from Beta(alpha, alpha); all `streams`, pictures and recordings, are mixed
    alike. A row is left as it is where it or its partner lacks one of them. A mixed recording is as long as
    the longer one. Other streams stay the row's own: what reads them does not belong in this view.

    Targets: partner int32 ``"B"``, share float32 ``"B"``, read by Classification and MultiLabel.
    """

    streams: tuple[str, ...]
    alpha: float = 0.2

    def __post_init__(self):
        if not self.alpha > 0 or not self.streams:
            raise InputError(
                f"Mixup expects alpha > 0 and at least one stream, found {self.alpha} and {self.streams}"
            )

    def changed_streams(self):
        return self.streams

    def transform_batch(self, batch, key):
        there = jnp.stack([is_present(batch[stream]) for stream in self.streams]).all(0)
        rows = there.shape[0]
        shift_key, share_key = jax.random.split(key)
        # One random rotation: every row keeps a partner of its own, and no partner is used twice.
        partner = (jnp.arange(rows) + jax.random.randint(shift_key, (), 1, max(rows, 2))) % rows
        both = there & there[partner]
        partner = jnp.where(both, partner, jnp.arange(rows)).astype(jnp.int32)
        share = jnp.where(both, jax.random.beta(share_key, self.alpha, self.alpha, (rows,)), 1.0)
        mixed = {stream: mix(stream, batch[stream], partner, share) for stream in self.streams}
        return batch | mixed, {"partner": partner, "share": share}


def mix(stream: str, value, partner: jax.Array, share: jax.Array):
    """The rows and their partners' rows by their shares."""
    match value:
        case Image(pixels=pixels):
            share = share[:, None, None, None]
            return value.replace(pixels=share * pixels + (1 - share) * pixels[partner])
        case Audio(samples=samples, mask=mask):
            samples, share = jnp.where(mask, samples, 0), share[:, None]
            mixed = share * samples + (1 - share) * samples[partner]
            return value.replace(samples=mixed, mask=mask | mask[partner])
    raise InputError(
        f"Mixup mixes pictures and recordings, and the stream {stream!r} is a {type(value).__name__}: "
        "leave it out of `streams`"
    )
