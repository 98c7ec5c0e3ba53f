"""A number per tree that says whether its arrays are bit for bit what they were, whatever mesh they lie on.

Storage checks its own index but not every array's content: a flipped bit would be trained on without a word. A bit-exact number
also says whether two runs ended alike without reading either's arrays.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import UInt32

from omnimouse_jax.training.parallel import path_of

Tree = Any


def fingerprints(trees: Mapping[str, Tree]) -> dict[str, int]:
    """Name -> the sum of all bits of a tree's leaves, read as numbers of 32 bits, each times odd numbers of its leaf and its place.

    Wraps at 2^32. A change of one element always changes it, other damage with probability 1 - 2^-32. Arrays are read on the host,
    each piece by one of the processes that have it; 0.2 ns an element. Every process gets the same numbers.
    """
    sums = np.array([_of_tree(tree) for tree in trees.values()], np.uint32)
    if jax.process_count() > 1:
        sums = np.sum(multihost_utils.process_allgather(sums), axis=0, dtype=np.uint32)
    return dict(zip(trees, sums.tolist(), strict=True))


def _of_tree(tree: Tree) -> int:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return sum(_of_leaf(leaf) * (zlib.crc32(path_of(keys).encode()) | 1) for keys, leaf in leaves) % 2**32


def _of_leaf(x: Any) -> int:
    """What this process has of an array: of every piece one copy in all processes together."""
    if not isinstance(x, jax.Array):
        return _of_block(np.asarray(x), ())
    pieces = [shard for shard in x.addressable_shards if shard.replica_id == 0]
    return sum(_of_block(np.asarray(piece.data), piece.index) for piece in pieces)


def _of_block(block: np.ndarray, index: tuple[slice, ...]) -> int:
    """Sum of a block that lies at `index` of its array."""
    total = _bits(block)
    for axis in reversed(range(total.ndim)):
        start = (index[axis].start or 0) if axis < len(index) else 0
        weights = _weights(start + total.shape[axis])[start:]
        total = np.einsum("...i,i->...", total, weights)
    return int(total)


def _bits(block: np.ndarray) -> UInt32[np.ndarray, "..."]:
    width = block.dtype.itemsize
    if width > 4:
        return np.ascontiguousarray(block)[..., None].view(np.uint32)
    return block.view(f"uint{8 * width}").astype(np.uint32, copy=False)


@lru_cache(maxsize=64)
def _weights(n: int) -> UInt32[np.ndarray, " n"]:
    """Odd numbers that look random, one for each place."""
    place = np.arange(n, dtype=np.uint32) * np.uint32(0x9E3779B1)
    return (place ^ (place >> np.uint32(15))) * np.uint32(0x85EBCA6B) | np.uint32(1)
