"""Walks along the class axis of rows [B, C] in blocks of columns [B, K, W].

For many classes, so that what is made of a block stays in the cache of a CPU instead of filling arrays [B, C]. A block
takes its columns from K places far apart: with the classes sharded over up to K devices, each holds its own part of
every block, and nothing is gathered.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

PLACES = 8  # K, where it divides C
BLOCK = 1024  # columns of a block, or the next number that divides C


def sum_over_blocks(function: Callable[[jax.Array, jax.Array], jax.Array], rows: jax.Array) -> jax.Array:
    """Sum of function(block, columns) over all blocks.

    Args:
      function: (block [B, K, W], class index of its columns [1, K, W] int32) -> array of any shape.
      rows: [B, C].

    Example:
      >>> sum_over_blocks(lambda block, columns: jnp.sum(block, axis=(1, 2)), jnp.ones((2, 4096)))
      Array([4096., 4096.], dtype=float32)
    """
    blocks, columns = _cut(rows), _cut(jnp.arange(rows.shape[-1], dtype=jnp.int32)[None])
    number = blocks.shape[2]
    first = function(blocks[:, :, 0], columns[:, :, 0])
    if number == 1:
        return first
    return lax.fori_loop(1, number, lambda at, total: total + function(_at(blocks, at), _at(columns, at)), first)


def edit_blocks(function: Callable[[jax.Array], jax.Array], rows: jax.Array) -> jax.Array:
    """Rows [B, C] with every block replaced by function(block), in place where XLA can.

    Args:
      function: block [B, K, W] -> [B, K, W], same dtype.
      rows: [B, C].

    Example:
      >>> edit_blocks(lambda block: 2 * block, jnp.ones((1, 2)))
      Array([[2., 2.]], dtype=float32)
    """
    blocks = _cut(rows)

    def edit(at: jax.Array, blocks: jax.Array) -> jax.Array:
        return lax.dynamic_update_index_in_dim(blocks, function(_at(blocks, at)), at, 2)

    return lax.fori_loop(0, blocks.shape[2], edit, blocks).reshape(rows.shape)


def _cut(rows: jax.Array) -> jax.Array:
    """[B, C] -> [B, K, number of blocks, W]."""
    batch, num_classes = rows.shape
    places = PLACES if num_classes % PLACES == 0 else 1
    share = num_classes // places
    width = next(width for width in range(min(BLOCK // places, share), share + 1) if share % width == 0)
    return rows.reshape(batch, places, share // width, width)


def _at(blocks: jax.Array, number: jax.Array) -> jax.Array:
    return lax.dynamic_index_in_dim(blocks, number, 2, keepdims=False)
