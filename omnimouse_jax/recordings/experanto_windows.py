"""Where experanto lets windows start: its grid, its blanks, its NaN filter. For comparisons; our own rule is in `splits`.

The rules are those of experanto's branch `foundation_model`, which OmniMouse pins, under OmniMouse's configuration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from omnimouse_jax.recordings.lazy import blocks
from omnimouse_jax.recordings.session import Recording, Signal, Trials
from omnimouse_jax.recordings.splits import Spans, inside, intersect, merge

#: Seconds that windows keep away from the first and the last time that every device knows.
MARGIN_S = 0.5
#: Seconds around a missing sample of behaviour that no window may touch, before the widening by the sample period.
VICINITY_S = 0.05


class Starts(NamedTuple):
    """Times `origin + step * k` for the whole numbers k in the half-open `runs` (sorted): windows may start there."""

    origin: float
    step: float
    runs: Int[np.ndarray, "runs 2"]

    def times(self) -> Float[np.ndarray, " n"]:
        """All of them, in order."""
        k = np.concatenate([np.zeros(0, np.int64), *(np.arange(lo, hi) for lo, hi in self.runs)])
        return self.origin + self.step * k


def window_starts(rec: Recording, tiers: Sequence[str], include_blanks: bool, n_points: int, rate: float) -> Starts:
    """Every start at which `n_points` grid points in a row (`rate` per second) lie in trials of the tiers.

    The grid is `numpy.arange` from the first to the last time that all devices know, less a margin, on absolute time: its
    step is rounded at the clock's magnitude, and that is kept. A trial counts by its tier alone; one without a tier is
    a blank, and with `include_blanks` all of those count, however long. No point may be near a missing behaviour sample.
    """
    known = [_valid_range(signal) for signal in (rec.responses, *rec.behavior.values())]
    if rec.screen is not None:
        known.append((float(rec.screen.times[0]), float(rec.screen.end_time)))
    lo = max(start for start, _ in known) + MARGIN_S
    hi = min(end for _, end in known) - MARGIN_S
    grid = np.arange(lo, hi, 1.0 / rate)
    if len(grid) < max(2, n_points):
        return Starts(lo, 1.0 / rate, np.zeros((0, 2), np.int64))
    trials = rec.trials
    asked = np.isin(np.where(trials.tier == "", "blank", trials.tier), [*tiers, *(["blank"] if include_blanks else [])])
    end = np.append(trials.end[:-1], np.inf)  # the last trial never ends
    trial = np.searchsorted(trials.start, grid, side="right") - 1
    allowed = (trial >= 0) & asked[np.maximum(trial, 0)] & (grid < end[np.maximum(trial, 0)])
    clean = filter_spans(rec)
    if len(clean):  # an empty intersection of filters is ignored by experanto
        allowed &= inside(grid, clean)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], allowed, [False]]).astype(np.int8))).reshape(-1, 2)
    edges[:, 1] -= n_points - 1
    return Starts(lo, float(grid[1] - grid[0]), edges[edges[:, 1] > edges[:, 0]])


def filter_spans(rec: Recording, vicinity: float = VICINITY_S) -> Spans:
    """Where no behaviour stream misses a sample: the intersection of their NaN filters."""
    spans = np.array([[-np.inf, np.inf]], np.float64)
    for stream in rec.behavior.values():
        spans = intersect(spans, nan_free_spans(stream, vicinity))
    return spans


def nan_free_spans(signal: Signal, vicinity: float = 0.05) -> Spans:
    """Spans away from missing samples, by experanto's NaN filter. One segment only; values are streamed.

    Each row with a NaN in any channel blocks `w = vicinity + max(2 * period, 0.1 * vicinity)` seconds on both sides. An
    option for exact comparisons: by default windows keep such samples and mask them.
    """
    if len(signal.segment_start) != 1:
        raise ValueError("the NaN filter is defined for a signal of one segment")
    period = 1.0 / signal.rate
    lo = float(signal.segment_start[0])
    hi = lo + signal.n_samples * period if signal.segment_end is None else float(signal.segment_end[0])
    rows = [
        first + np.flatnonzero(np.isnan(np.asarray(signal.values[first:last])).any(axis=1))
        for first, last in blocks(signal.n_samples, signal.n_channels * 8)
    ]
    times = lo + np.concatenate([np.zeros(0, np.int64), *rows]) * period
    if len(times) == 0:
        return np.array([[lo, hi]], np.float64)
    w = vicinity + max(2 * period, 0.1 * vicinity)
    blocked = np.stack([np.maximum(times - w, lo), np.minimum(times + w, hi)], axis=1)
    edges = []
    if times[0] - lo < w:
        edges.append((lo, times[0] + w))
    if hi - times[-1] < w:
        edges.append((times[-1] - w, hi))
    blocked = merge(np.concatenate([blocked, np.array(edges, np.float64).reshape(-1, 2)]), gap=0.0)
    bounds = np.concatenate([[lo], blocked.ravel(), [hi]]).reshape(-1, 2)
    return bounds[bounds[:, 1] > bounds[:, 0]]


def redraw_validation(trials: Trials, fraction: float, seed: int) -> Trials:
    """The trials of tiers train and validation dealt out anew: a share of them is "validation", drawn by RandomState.

    experanto's `shuffle_train_val_split`; the legacy generator is part of the rule.
    """
    drawn = np.flatnonzero(np.isin(trials.tier, ["train", "validation"]))
    n = round(len(drawn) * fraction)
    names = ["validation"] * n + ["train"] * (len(drawn) - n)
    np.random.RandomState(seed).shuffle(names)
    tier = trials.tier.astype(object)
    tier[drawn] = names
    return dataclasses.replace(trials, tier=tier.astype(str))


def _valid_range(signal: Signal) -> tuple[float, float]:
    """First and last time at which every neuron has a value: as the source states them, not as the file is long."""
    if signal.segment_end is None:
        spans = signal.spans()
        return float(spans[0, 0]), float(spans[-1, 1])
    shifts = np.zeros(1) if signal.phase_shifts is None else signal.phase_shifts
    return float(signal.segment_start[0] + shifts.max()), float(signal.segment_end[-1] + shifts.min())
