"""Arrays that are read when sliced: many small pieces seen as one, and the few reads that a set of rows needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

#: Rows apart beyond which two reads are cheaper than one that also fetches what lies between.
READ_GAP = 512


class Pieces:
    """Arrays joined along their first axis, each opened only while one of its rows is read.

    `pieces` are (number of rows, function that returns the rows). Slicing with a contiguous slice gives a numpy array
    of `dtype` and shape (rows, *shape).
    """

    def __init__(self, pieces: Sequence[tuple[int, Callable[[], Any]]], shape: tuple[int, ...], dtype: np.dtype):
        self._opens = [opener for _, opener in pieces]
        self._first = np.concatenate([[0], np.cumsum([n for n, _ in pieces], dtype=np.int64)]).astype(np.int64)
        self.shape = (int(self._first[-1]), *shape)
        self.dtype = dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, step = rows.indices(self.shape[0])
        if step != 1:
            raise IndexError("pieces are read in contiguous slices")
        out = np.empty((max(0, stop - start), *self.shape[1:]), self.dtype)
        piece = int(np.searchsorted(self._first, start, side="right")) - 1
        at = start
        while at < stop:
            first, last = int(self._first[piece]), int(self._first[piece + 1])
            take = min(stop, last)
            if take > at:
                out[at - start : take - start] = np.asarray(self._opens[piece]()[at - first : take - first])
                at = take
            piece += 1
        return out


def blocks(n_rows: int, row_bytes: int, limit: int = 32 * 2**20) -> Iterator[tuple[int, int]]:
    """[lo, hi) ranges over `n_rows` of at most `limit` bytes each (at least one row)."""
    step = max(1, limit // max(1, row_bytes))
    for lo in range(0, n_rows, step):
        yield lo, min(n_rows, lo + step)


def read_runs(values: Any, rows: Int[np.ndarray, " n"]) -> tuple[Int[np.ndarray, " n"], np.ndarray]:
    """Reads the rows named in `rows` with one contiguous read per run of neighbours.

    Returns `position` (n,) and `data`: `data[position[i]]` is `values[rows[i]]`. Handles that can read ahead (`.start`)
    have all their reads in flight at once.
    """
    wanted = np.unique(rows)
    cuts = np.flatnonzero(np.diff(wanted) > READ_GAP) + 1
    runs = [(int(run[0]), int(run[-1]) + 1) for run in np.split(wanted, cuts) if len(run)]
    if not runs:
        return np.zeros(0, np.int64), np.zeros((0, *values.shape[1:]), values.dtype)
    start = getattr(values, "start", None)
    if start is None:
        parts = [np.asarray(values[lo:hi]) for lo, hi in runs]
    else:
        parts = [finish() for finish in [start(lo, hi) for lo, hi in runs]]
    lows = np.array([lo for lo, _ in runs], np.int64)
    offsets = np.concatenate([[0], np.cumsum([hi - lo for lo, hi in runs])[:-1]]).astype(np.int64)
    run = np.searchsorted(lows, rows, side="right") - 1
    return rows - lows[run] + offsets[run], parts[0] if len(parts) == 1 else np.concatenate(parts)
