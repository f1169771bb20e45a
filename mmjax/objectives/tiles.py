"""What each row of one side sees of all rows of the other, and vice versa, without a B x B matrix."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from mmjax.batch import Array
from mmjax.sharding import ring_exchange

NEG_INF = -1e9  # finite, for what a log-sum-exp leaves out: a row with nothing to sum gives no NaN

Rows = dict[str, Array]  # what is known of the rows of one side: arrays "B ..."


@struct.dataclass
class Terms:
    """Of each pair what is to be summed: "R C" in a tile. Of each row or column its reduction: "B"."""

    logsumexp: dict[str, Array] = struct.field(default_factory=dict)
    sums: dict[str, Array] = struct.field(default_factory=dict)
    maxima: dict[str, Array] = struct.field(default_factory=dict)  # has no gradient


def reduce_pairs(
    terms: Callable[[Rows, Rows], Terms], rows: Rows, columns: Rows, tile: int
) -> tuple[Terms, Terms]:
    """The terms of all pairs, reduced over the columns of each row, and over the rows of each column.

    terms: of "R ..." rows and "C ..." columns; closes over no array. It is asked for `tile` x `tile` pairs at
      a time; rows that fill up the last tile are zero everywhere, so that a mask among them is False.
    tile: at most as many rows and columns; a device holds no larger matrix, forwards or backwards.

    Log-sum-exps are summed as they come (Milakov & Gimelshein 2018), and the gradient computes every tile a
    second time: with the sums known, each tile's is its own. Memory is linear in B. Over a mesh the columns,
    with what has been summed of them, go round the devices (as keys do in ring attention, Liu et al. 2023).
    Floating arrays among rows and columns have gradients; a learned scalar goes in with them, or as an array
    "B".
    """
    return _reduce(terms, tile, *_split(rows), *_split(columns))


def _split(rows: Rows) -> tuple[Rows, Rows]:
    """What has a gradient, and what has none."""
    floats = {name: x for name, x in rows.items() if jnp.issubdtype(x.dtype, jnp.floating)}
    return floats, {name: x for name, x in rows.items() if name not in floats}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _reduce(terms, tile, rows, row_facts, columns, column_facts):
    def meet(home, guests):
        def pair(home, guest):
            (rows, by_row), (columns, by_column) = home, guest
            values = terms(rows, columns)
            return (rows, _include(by_row, values, 1)), (columns, _include(by_column, values, 0))

        return _over_tiles(pair, home, guests, tile)

    rows, columns = rows | row_facts, columns | column_facts
    like = jax.eval_shape(
        terms, {name: x[:1] for name, x in rows.items()}, {name: x[:1] for name, x in columns.items()}
    )
    home, guests = ring_exchange(meet, (rows, _start(like, rows)), (columns, _start(like, columns)))
    return _finish(home[1]), _finish(guests[1])


def _forward(terms, tile, *sides):
    reduced: tuple[Terms, Terms] = _reduce(terms, tile, *sides)
    return reduced, (sides, [side.logsumexp for side in reduced])


def _backward(terms, tile, kept, cotangents):
    (rows, row_facts, columns, column_facts), totals = kept

    def side(rows, facts, totals, weights):
        grads = jax.tree.map(jnp.zeros_like, rows)
        return {"rows": rows, "facts": facts, "totals": totals, "weights": weights, "grads": grads}

    def meet(home, guests):
        def pair(home, guest):
            def weighed(rows, columns):
                values = terms(rows | home["facts"], columns | guest["facts"])
                of_rows = _weigh(values, home["totals"], home["weights"], 1)
                return of_rows + _weigh(values, guest["totals"], guest["weights"], 0)

            more = jax.grad(weighed, argnums=(0, 1))(home["rows"], guest["rows"])
            row_grads, column_grads = jax.tree.map(jnp.add, (home["grads"], guest["grads"]), more)
            return home | {"grads": row_grads}, guest | {"grads": column_grads}

        return _over_tiles(pair, home, guests, tile)

    home, guests = ring_exchange(
        meet,
        side(rows, row_facts, totals[0], cotangents[0]),
        side(columns, column_facts, totals[1], cotangents[1]),
    )
    return home["grads"], None, guests["grads"], None


_reduce.defvjp(_forward, _backward)


def _over_tiles(pair: Callable, home, guests, tile: int):
    """``pair(home, guest) -> (home, guest)`` for each tile of `home` and each of `guests`."""

    def of_guest(home, guest):
        def of_home(guest, home):
            home, guest = pair(home, guest)
            return guest, home

        guest, home = jax.lax.scan(of_home, guest, home)
        return home, guest

    def whole(side, like):
        num = len(jax.tree.leaves(like)[0])
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:num], side)

    met = jax.lax.scan(of_guest, _cut(home, tile), _cut(guests, tile))
    return whole(met[0], home), whole(met[1], guests)


def _cut(side, tile: int):
    """ "B ..." -> "tiles rows ...", of even size and filled up with zeros."""

    def cut(x):
        num = -(-len(x) // tile)
        size = -(-len(x) // num)
        x = jnp.pad(x, ((0, num * size - len(x)), *((0, 0),) * (x.ndim - 1))) if num * size > len(x) else x
        return x.reshape(num, size, *x.shape[1:])

    return jax.tree.map(cut, side)


def _start(like: Terms, rows: Rows) -> Terms:
    """Nothing summed yet; a log-sum-exp is (peak, sum of exp(x - peak))."""
    num = len(jax.tree.leaves(rows)[0])

    def full(value: float) -> Array:
        return jnp.full((num,), value, jnp.float32)

    return Terms(
        {name: (full(NEG_INF), full(0.0)) for name in like.logsumexp},
        {name: full(0.0) for name in like.sums},
        {name: full(-jnp.inf) for name in like.maxima},
    )


def _include(reduced: Terms, values: Terms, axis: int) -> Terms:
    """One more tile, reduced over `axis`."""

    def log_sum(running, x):
        peak = jnp.maximum(running[0], x.max(axis))
        mass = jnp.exp(x - jnp.expand_dims(peak, axis)).sum(axis)
        return peak, running[1] * jnp.exp(running[0] - peak) + mass

    return Terms(
        {name: log_sum(reduced.logsumexp[name], x) for name, x in values.logsumexp.items()},
        {name: reduced.sums[name] + x.sum(axis) for name, x in values.sums.items()},
        {name: jnp.maximum(reduced.maxima[name], x.max(axis)) for name, x in values.maxima.items()},
    )


def _finish(reduced: Terms) -> Terms:
    done = {name: peak + jnp.log(mass) for name, (peak, mass) in reduced.logsumexp.items()}
    return reduced.replace(logsumexp=done)


def _weigh(values: Terms, totals: dict[str, Array], weight: Terms, axis: int) -> Array:
    """A number whose gradient is that of the reductions times `weight`, as far as this tile goes."""
    total = jnp.zeros(())
    for name, x in values.logsumexp.items():
        softmax = jnp.exp(x - jnp.expand_dims(totals[name], axis))  # its gradient is its own times that of x
        total += (jnp.expand_dims(weight.logsumexp[name], axis) * softmax).sum()
    for name, x in values.sums.items():
        total += (jnp.expand_dims(weight.sums[name], axis) * x).sum()
    return total
