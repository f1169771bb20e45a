"""Reductions over all pairs of rows, in tiles: no device ever holds a B x B matrix."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from mmjax.batch import Array
from mmjax.sharding import ring_exchange

NEG_INF = -1e9  # a logit outside a log-sum-exp; finite, so that a row of such logits gives no NaN

Rows = dict[str, Array]  # the arrays "B ..." that describe the rows of one side


@struct.dataclass
class Terms:
    """The terms of each pair, "R C" for a tile; or their reductions, "B" for all rows or columns."""

    logsumexp: dict[str, Array] = struct.field(default_factory=dict)
    sums: dict[str, Array] = struct.field(default_factory=dict)
    maxima: dict[str, Array] = struct.field(default_factory=dict)  # these have no gradient


def reduce_pairs(
    terms: Callable[[Rows, Rows], Terms], rows: Rows, columns: Rows, tile_size: int
) -> tuple[Terms, Terms]:
    """Reduces the terms of all pairs over the columns of each row, and over the rows of each column.

    Memory is linear in B: log-sum-exps are accumulated tile by tile (Milakov & Gimelshein 2018), and the
    backward pass recomputes each tile. Given the row and column log-sums, the gradient of a tile depends on
    that tile only. On a mesh the columns move round the ring of devices with their sums, as keys do in ring
    attention (Liu et al. 2023).

    Args:
      terms: (rows "R ...", columns "C ...") -> terms "R C". It must not close over arrays. The rows that pad
        the last tile are 0, so a mask among their arrays is False.
      rows, columns: arrays "B ...". The floating ones get gradients. Pass a learned scalar in them.
      tile_size: the maximal number of rows and of columns of a tile.

    Returns:
      (reductions of each row, reductions of each column).
    """
    return _reduce(terms, tile_size, *_split(rows), *_split(columns))


def _split(rows: Rows) -> tuple[Rows, Rows]:
    """(arrays that have a gradient, the others)."""
    floats = {name: x for name, x in rows.items() if jnp.issubdtype(x.dtype, jnp.floating)}
    return floats, {name: x for name, x in rows.items() if name not in floats}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _reduce(terms, tile_size, rows, row_constants, columns, column_constants):
    def add_tile(row_tile, column_tile):
        (rows, row_sums), (columns, column_sums) = row_tile, column_tile
        values = terms(rows, columns)
        return (rows, _accumulate(row_sums, values, 1)), (columns, _accumulate(column_sums, values, 0))

    def visit(local, circulating):
        return _over_tiles(add_tile, local, circulating, tile_size)

    rows, columns = rows | row_constants, columns | column_constants
    like = jax.eval_shape(
        terms, {name: x[:1] for name, x in rows.items()}, {name: x[:1] for name, x in columns.items()}
    )
    local, circulating = ring_exchange(visit, (rows, _start(like, rows)), (columns, _start(like, columns)))
    return _finish(local[1]), _finish(circulating[1])


def _forward(terms, tile_size, *sides):
    reduced: tuple[Terms, Terms] = _reduce(terms, tile_size, *sides)
    return reduced, (sides, [side.logsumexp for side in reduced])


def _backward(terms, tile_size, residuals, cotangents):
    (rows, row_constants, columns, column_constants), log_sums = residuals

    def side(floats, constants, log_sums, cotangents):
        grads = jax.tree.map(jnp.zeros_like, floats)
        return {
            "floats": floats,
            "constants": constants,
            "log_sums": log_sums,
            "cotangents": cotangents,
            "grads": grads,
        }

    def add_tile(row_tile, column_tile):
        def weighted_sum(rows, columns):
            values = terms(rows | row_tile["constants"], columns | column_tile["constants"])
            by_row = _weighted_sum(values, row_tile["log_sums"], row_tile["cotangents"], 1)
            return by_row + _weighted_sum(values, column_tile["log_sums"], column_tile["cotangents"], 0)

        tile_grads = jax.grad(weighted_sum, argnums=(0, 1))(row_tile["floats"], column_tile["floats"])
        grads = jax.tree.map(jnp.add, (row_tile["grads"], column_tile["grads"]), tile_grads)
        return row_tile | {"grads": grads[0]}, column_tile | {"grads": grads[1]}

    def visit(local, circulating):
        return _over_tiles(add_tile, local, circulating, tile_size)

    local, circulating = ring_exchange(
        visit,
        side(rows, row_constants, log_sums[0], cotangents[0]),
        side(columns, column_constants, log_sums[1], cotangents[1]),
    )
    return local["grads"], None, circulating["grads"], None


_reduce.defvjp(_forward, _backward)


def _over_tiles(update: Callable, rows, columns, tile_size: int):
    """Calls `update(row tile, column tile) -> (row tile, column tile)` for all pairs of tiles."""

    def for_column_tile(row_tiles, column_tile):
        def for_row_tile(column_tile, row_tile):
            row_tile, column_tile = update(row_tile, column_tile)
            return column_tile, row_tile

        column_tile, row_tiles = jax.lax.scan(for_row_tile, column_tile, row_tiles)
        return row_tiles, column_tile

    def join(tiles, like):
        num = len(jax.tree.leaves(like)[0])
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:num], tiles)

    row_tiles, column_tiles = jax.lax.scan(for_column_tile, _cut(rows, tile_size), _cut(columns, tile_size))
    return join(row_tiles, rows), join(column_tiles, columns)


def _cut(side, tile_size: int):
    """ "B ..." -> "tiles rows ...", with tiles of equal size, padded with zeros."""

    def cut(x):
        num = -(-len(x) // tile_size)
        size = -(-len(x) // num)
        x = jnp.pad(x, ((0, num * size - len(x)), *((0, 0),) * (x.ndim - 1))) if num * size > len(x) else x
        return x.reshape(num, size, *x.shape[1:])

    return jax.tree.map(cut, side)


def _start(like: Terms, rows: Rows) -> Terms:
    """Reductions over no pair; a log-sum-exp is stored as (peak, sum of exp(x - peak))."""
    num = len(jax.tree.leaves(rows)[0])

    def full(value: float) -> Array:
        return jnp.full((num,), value, jnp.float32)

    return Terms(
        {name: (full(NEG_INF), full(0.0)) for name in like.logsumexp},
        {name: full(0.0) for name in like.sums},
        {name: full(-jnp.inf) for name in like.maxima},
    )


def _accumulate(reduced: Terms, values: Terms, axis: int) -> Terms:
    """Adds the terms of one tile, reduced over `axis`."""

    def add_log_sum(running, x):
        peak = jnp.maximum(running[0], x.max(axis))
        tile_sum = jnp.exp(x - jnp.expand_dims(peak, axis)).sum(axis)
        return peak, running[1] * jnp.exp(running[0] - peak) + tile_sum

    return Terms(
        {name: add_log_sum(reduced.logsumexp[name], x) for name, x in values.logsumexp.items()},
        {name: reduced.sums[name] + x.sum(axis) for name, x in values.sums.items()},
        {name: jnp.maximum(reduced.maxima[name], x.max(axis)) for name, x in values.maxima.items()},
    )


def _finish(reduced: Terms) -> Terms:
    done = {name: peak + jnp.log(total) for name, (peak, total) in reduced.logsumexp.items()}
    return reduced.replace(logsumexp=done)


def _weighted_sum(values: Terms, log_sums: dict[str, Array], cotangents: Terms, axis: int) -> Array:
    """A scalar whose gradient is this tile's part of the gradient of the reductions over `axis`."""
    total = jnp.zeros(())
    for name, x in values.logsumexp.items():
        # exp(x - log_sum) has the gradient softmax times dx, which is that of the log-sum-exp.
        softmax = jnp.exp(x - jnp.expand_dims(log_sums[name], axis))
        total += (jnp.expand_dims(cotangents.logsumexp[name], axis) * softmax).sum()
    for name, x in values.sums.items():
        total += (jnp.expand_dims(cotangents.sums[name], axis) * x).sum()
    return total
