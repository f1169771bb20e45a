"""Examples paired anew: sentences, and streams of different examples."""

import dataclasses

import jax
import jax.numpy as jnp

from mmjax.batch import Text, is_present
from mmjax.views.base import View
from mmjax.views.same import same_content


@dataclasses.dataclass(frozen=True)
class SentencePairs(View):
    """Two texts as one, ``[CLS] first [SEP] second [SEP]``; half of the seconds are other rows' (BERT's NSP).

    Makes the stream `stream`. A row whose second happens to equal its own is no example of a mismatch, and is
    left out. Targets: is_next bool ``"B"``, valid bool ``"B"``.
    """

    first: str
    second: str
    stream: str = "pair"
    mismatched: float = 0.5

    def changed_streams(self):
        return (self.stream,)

    def transform_batch(self, batch, key):
        first, second = batch[self.first], batch[self.second]
        rows = first.tokens.shape[0]
        shift_key, choose_key = jax.random.split(key)
        # One random rotation: every row keeps a partner of its own, and no partner is used twice.
        other = (jnp.arange(rows) + jax.random.randint(shift_key, (), 1, max(rows, 2))) % rows
        swap = jax.random.uniform(choose_key, (rows,)) < self.mismatched
        partner = jax.tree.map(lambda x: x[jnp.where(swap, other, jnp.arange(rows))], second)
        same_tokens = (partner.tokens == second.tokens) | ~second.mask
        same = (same_tokens & (partner.mask == second.mask)).all(axis=1)
        valid = is_present(first) & is_present(second) & is_present(partner) & ~(swap & same)
        # The second's [CLS] goes; its words are numbered after the first's.
        tail = jax.tree.map(lambda x: x[:, 1:], partner)
        words = jnp.where(tail.words >= 0, tail.words + first.tokens.shape[1], -1)
        pair = Text(
            tokens=jnp.concatenate([first.tokens, tail.tokens], axis=1),
            mask=jnp.concatenate([first.mask, tail.mask], axis=1) & valid[:, None],
            token_types=jnp.concatenate([jnp.zeros_like(first.tokens), jnp.ones_like(tail.tokens)], axis=1),
            words=jnp.concatenate([first.words, words], axis=1),
        )
        return batch | {self.stream: pair}, {"is_next": ~swap, "valid": valid}


@dataclasses.dataclass(frozen=True)
class HardNegatives(View):
    """True pairs, then each `first` with a wrong `second`, then each `second` with a wrong `first`: 3 B rows.

    Wrong partners are drawn from the batch in proportion to exp(similarity / temperature) of two embedding
    heads (Li et al. 2021, ALBEF, section 3.2). A row whose `second` or `first` is identical is never a
    negative. Other streams are missing in these rows: they would tell which half is the wrong one.
    Targets: matches bool ``"3B"``, valid bool ``"3B"``.
    """

    first: str
    second: str
    heads: tuple[str, str]
    temperature: float = 0.1

    def compared_heads(self):
        return self.heads

    def required_streams(self):
        return (self.first, self.second)

    def transform_encoded(self, encoded, predictions, batch, key):
        similarity = (
            jax.lax.stop_gradient(predictions[self.heads[0]] @ predictions[self.heads[1]].T)
            / self.temperature
        )
        here = is_present(batch[self.first]) & is_present(batch[self.second])
        identical = same_content(batch[self.first]) | same_content(batch[self.second])
        allowed = ~identical & here[:, None] & here[None, :]
        logits = jnp.where(allowed, similarity, -1e9)
        first_key, second_key = jax.random.split(key)
        wrong_second = jax.random.categorical(second_key, logits, axis=1)
        wrong_first = jax.random.categorical(first_key, logits.T, axis=1)
        own = jnp.arange(here.shape[0])
        firsts = jnp.concatenate([own, own, wrong_first])
        seconds = jnp.concatenate([own, wrong_second, own])
        valid = jnp.concatenate([here, here & allowed.any(1), here & allowed.any(0)])
        paired = {}
        for stream, value in encoded.items():
            rows = firsts if stream == self.first else seconds
            kept = valid if stream in (self.first, self.second) else jnp.zeros_like(valid)
            value = jax.tree.map(lambda x, rows=rows: x[rows], value)
            paired[stream] = value.replace(mask=value.mask & kept[:, None])
        return paired, {"matches": jnp.arange(3 * here.shape[0]) < here.shape[0], "valid": valid}
