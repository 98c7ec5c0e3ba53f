"""Which queries may see which keys, and how a score matrix falls into blocks: known before anything is traced."""

from __future__ import annotations

import dataclasses
import itertools
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int

from omnimouse_jax.tokens.layout import visible_pairs

#: Neighbouring groups of queries share a block until it holds so many: smaller matrix products are not worth their call.
FEWEST_QUERIES = 256


@dataclasses.dataclass(frozen=True)
class Block:
    """Queries [first, last) and the stretches of keys that at least one of them sees. No stretch: they see nothing.

    `runs` are the lengths of the groups of queries in the block, in order; `pairs` (runs, keys of the stretches) says which
    group sees which key, or is None where all see all.
    """

    first: int
    last: int
    keys: tuple[tuple[int, int], ...]
    runs: tuple[int, ...]
    pairs: Bool[np.ndarray, "runs K"] | None

    @property
    def n_queries(self) -> int:
        return self.last - self.first

    @classmethod
    def whole(cls, n_queries: int, n_keys: int) -> Block:
        """Every query sees every key."""
        return cls(0, n_queries, ((0, n_keys),), (n_queries,), None)

    @property
    def run_of_query(self) -> Int[np.ndarray, " Q"]:
        """The row of `pairs` of each query."""
        return np.repeat(np.arange(len(self.runs)), self.runs)

    @property
    def n_keys(self) -> int:
        return sum(last - first for first, last in self.keys)


class Windows:
    """The window rule between queries and keys given by their intervals. Tokens of equal interval are one group."""

    def __init__(self, queries: Int[np.ndarray, "Q 2"], keys: Int[np.ndarray, "K 2"], touching: str = "out"):
        query_groups, self.query_group = np.unique(queries, axis=0, return_inverse=True)
        key_groups, key_group = np.unique(keys, axis=0, return_inverse=True)
        self.query_group, key_group = self.query_group.reshape(-1), key_group.reshape(-1)  # numpy 2.0 keeps an axis
        self.pairs = visible_pairs(query_groups, key_groups, touching)[:, key_group]  # (query groups, K)

    @property
    def everything(self) -> bool:
        """Every query sees every key."""
        return bool(self.pairs.all())

    @property
    def somebody(self) -> bool:
        """Every query sees some key."""
        return bool(self.pairs.any(axis=1).all())

    @property
    def n_pairs(self) -> int:
        """How many (query, key) pairs see each other."""
        sees = self.pairs.sum(axis=1, dtype=np.int64)
        return int(sees[self.query_group].sum())

    def mask(self) -> Bool[np.ndarray, "Q K"]:
        """Query by query: for tests and check data."""
        return self.pairs[self.query_group]

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The queries in order, cut where the keys that they see change."""
        blocks: list[Block] = []
        held: list[tuple[int, int]] = []  # (group, how many) of the block being filled
        first = 0
        for group, run in itertools.groupby(self.query_group.tolist()):
            length = len(list(run))
            n_held = sum(n for _, n in held)
            same = bool(held) and np.array_equal(self.pairs[held[-1][0]], self.pairs[group])
            if held and n_held >= FEWEST_QUERIES and not same:
                blocks.append(self._block(first, held))
                first, held = first + n_held, []
            held.append((group, length))
        if held:
            blocks.append(self._block(first, held))
        return tuple(blocks)

    def _block(self, first: int, held: list[tuple[int, int]]) -> Block:
        pairs = self.pairs[[group for group, _ in held]]
        seen = pairs.any(axis=0)
        edges = np.flatnonzero(np.diff(seen.astype(np.int8), prepend=0, append=0))
        stretches = tuple((int(a), int(b)) for a, b in edges.reshape(-1, 2))
        runs = tuple(n for _, n in held)
        among = pairs[:, seen]
        return Block(first, first + sum(runs), stretches, runs, None if among.all() else among)
