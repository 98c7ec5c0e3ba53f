"""Arrays that are read when sliced: many small pieces seen as one, and the few reads that a set of rows needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

#: Bytes between rows beyond which two reads are cheaper than one that also fetches what lies between.
READ_GAP = 64 * 2**10


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


Runs = tuple[Int[np.ndarray, "..."], np.ndarray]


def start_runs(values: Any, rows: Int[np.ndarray, "..."]) -> Callable[[], Runs]:
    """Begins one contiguous read per run of neighbours among `rows`, and returns a function that waits for them.

    It gives `position`, shaped like `rows`, and `data`: `data[position]` is `values[rows]`. Handles that can read ahead
    (`.start`) have all their reads in flight at once; others are read when they are waited for.
    """
    row_bytes = int(np.prod(values.shape[1:], dtype=np.int64)) * np.dtype(values.dtype).itemsize
    runs = _runs(rows, row_bytes)
    if not runs:
        return lambda: (np.zeros(rows.shape, np.int64), np.zeros((0, *values.shape[1:]), values.dtype))
    start = getattr(values, "start", None)
    begun = None if start is None else [start(lo, hi) for lo, hi in runs]

    def finish() -> Runs:
        parts = [np.asarray(values[lo:hi]) for lo, hi in runs] if begun is None else [part() for part in begun]
        if len(runs) == 1:
            return rows - runs[0][0], parts[0]
        lows = np.array([lo for lo, _ in runs], np.int64)
        offsets = np.concatenate([[0], np.cumsum([hi - lo for lo, hi in runs])[:-1]]).astype(np.int64)
        run = np.searchsorted(lows, rows, side="right") - 1
        return rows - lows[run] + offsets[run], np.concatenate(parts)

    return finish


def _runs(rows: Int[np.ndarray, "..."], row_bytes: int) -> list[tuple[int, int]]:
    """[lo, hi) of each stretch of rows without a gap of more than READ_GAP."""
    if rows.size == 0:
        return []
    low, span = int(rows.min()), int(rows.max()) - int(rows.min()) + 1
    if span <= 2**20:  # without sorting: each channel may ask for rows of its own
        asked = np.zeros(span, bool)
        asked[rows - low] = True
        wanted = np.flatnonzero(asked) + low
    else:
        wanted = np.unique(rows)
    cuts = np.flatnonzero((np.diff(wanted) - 1) * row_bytes > READ_GAP) + 1
    return [(int(run[0]), int(run[-1]) + 1) for run in np.split(wanted, cuts)]
