"""Where windows may lie: tiers, blanks, gaps and missing samples as intervals of time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.lazy import blocks
from omnimouse_jax.recordings.session import Recording, Signal, Trials

Spans = Float[np.ndarray, "_ 2"]
Blanks = Literal["follow", "none", "all"]

#: Seconds by which one trial may end before the next begins and still be joined to it.
TOUCHING = 1e-3


def tier_spans(rec: Recording, tiers: Sequence[str], blanks: Blanks = "follow", max_blank_s: float = 1.0) -> Spans:
    """[start, end) in seconds in which a window of these tiers may lie.

    Valid trials of the tiers; neighbours are joined. A blank without a tier of its own belongs to the trial that it
    follows, for at most `max_blank_s` of unbroken blank ("follow"); "none" leaves all blanks out, "all" takes them all
    whole. A named tier "blank" is such a blank too. Cut to the segments of the responses, so that a window inside a
    span straddles neither a tier nor a gap. No such trial: an empty array.
    """
    trials = rec.trials
    untiered = (trials.modality == "blank") & np.isin(trials.tier, ["", "blank"])
    spans: list[tuple[float, float]] = []
    left, follows, until = 0.0, False, -np.inf  # blank seconds left, after a trial of the tiers, and its end
    asked = np.isin(trials.tier, list(tiers)) & trials.valid & (trials.modality != "invalid")
    for k in range(len(trials)):
        start, end = float(trials.start[k]), float(trials.end[k])
        if untiered[k] and not (asked[k] and trials.tier[k]):
            if blanks == "all":
                spans.append((start, end))
            elif blanks == "follow" and follows and start <= until + TOUCHING and left > 0:
                take = min(end - start, left)
                spans.append((start, start + take))
                left -= take
                until = end
        elif asked[k]:
            spans.append((start, end))
            left, follows, until = max_blank_s, True, end
        else:
            follows = False
    return intersect(merge(np.array(spans, np.float64).reshape(-1, 2)), rec.responses.spans())


def window_starts(spans: Spans, seconds: float, stride_s: float) -> Float[np.ndarray, " windows"]:
    """Starts `lo + k * stride_s` of all windows of `seconds` that fit into their span (1 ns of slack)."""
    if stride_s <= 0 or seconds <= 0:
        raise UserError(f"windows of {seconds:g} s every {stride_s:g} s", way_out="give positive durations")
    parts = [np.zeros(0, np.float64)]
    for lo, hi in spans:
        n = int(np.floor((hi - lo - seconds + 1e-9) / stride_s)) + 1
        if n > 0:
            starts = lo + np.arange(n) * stride_s
            parts.append(starts[starts + seconds <= hi + 1e-9])
    return np.concatenate(parts)


def require_windows(rec: Recording, tiers: Sequence[str], spans: Spans) -> None:
    """Raises a `UserError` that lists the session's tiers when `spans` (of `tiers`) is empty."""
    if len(spans) == 0:
        had = ", ".join(f"{name} ({n})" for name, n in rec.trials.tiers().items()) or "none"
        raise UserError(
            f"session {rec.key}: no recorded trial of tier {' or '.join(tiers)} (its tiers: {had})",
            way_out="ask for one of its tiers, or ingest it with a rule such as hold_out_last",
        )


def hold_out_last(trials: Trials, fraction: float, tier: str = "test") -> Trials:
    """A copy in which the last `fraction` of the trials (rounded, at least one) has `tier`; untiered blanks stay so."""
    if not 0.0 <= fraction < 1.0:
        raise UserError(f"hold_out_last {fraction:g}", way_out="give a fraction of the trials between 0 and 1")
    shown = np.flatnonzero((trials.modality != "blank") | ~np.isin(trials.tier, ["", "blank"]))
    n = 0 if fraction == 0 or len(shown) == 0 else max(1, round(len(shown) * fraction))
    names = trials.tier.astype(object)
    names[shown[len(shown) - n :]] = tier
    return dataclasses.replace(trials, tier=names.astype(str))


def merge(spans: Spans, gap: float = TOUCHING) -> Spans:
    """Sorted and joined where they overlap or lie within `gap` seconds of each other; empty ones dropped."""
    spans = spans[spans[:, 1] > spans[:, 0]]
    if len(spans) == 0:
        return spans.reshape(0, 2)
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    reach = np.maximum.accumulate(spans[:, 1])
    new = np.concatenate([[True], spans[1:, 0] > reach[:-1] + gap])
    first = np.flatnonzero(new)
    return np.stack([spans[first, 0], reach[np.append(first[1:] - 1, len(spans) - 1)]], axis=1)


def intersect(a: Spans, b: Spans) -> Spans:
    """What lies in both of two lists of spans, each sorted and without overlaps. Touching pieces stay apart."""
    parts = []
    i = j = 0
    while i < len(a) and j < len(b):
        lo, hi = max(a[i, 0], b[j, 0]), min(a[i, 1], b[j, 1])
        if lo < hi:
            parts.append((lo, hi))
        if a[i, 1] < b[j, 1]:
            i += 1
        else:
            j += 1
    return np.array(parts, np.float64).reshape(-1, 2)


def inside(times: Float[np.ndarray, " n"], spans: Spans) -> np.ndarray:
    """bool (n,): which times lie in sorted, non-overlapping half-open spans."""
    if len(spans) == 0:
        return np.zeros(len(times), bool)
    k = np.searchsorted(spans[:, 0], times, side="right") - 1
    return (k >= 0) & (times < spans[np.maximum(k, 0), 1])


def overlap_seconds(
    start: Float[np.ndarray, " n"], end: Float[np.ndarray, " n"], spans: Spans
) -> Float[np.ndarray, " n"]:
    """Seconds of each interval [start, end) that lie in sorted, non-overlapping spans."""
    if len(spans) == 0:
        return np.zeros(len(start), np.float64)
    before = np.concatenate([[0.0], np.cumsum(spans[:, 1] - spans[:, 0])])

    def covered(t: np.ndarray) -> np.ndarray:
        k = np.searchsorted(spans[:, 0], t, side="right") - 1
        known = np.maximum(k, 0)
        within = np.clip(t - spans[known, 0], 0.0, spans[known, 1] - spans[known, 0])
        return np.where(k >= 0, before[known] + within, 0.0)

    return np.maximum(covered(end) - covered(start), 0.0)


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
