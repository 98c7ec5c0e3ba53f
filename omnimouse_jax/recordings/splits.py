"""Where windows may lie: tiers, blanks, gaps and missing samples as intervals of time."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.session import Recording, Signal, Trials

Spans = Float[np.ndarray, "_ 2"]
Blanks = Literal["follow", "none", "all"]

#: Seconds by which one trial may end before the next begins and still be joined to it.
TOUCHING = 1e-3
#: Length of the trials that a recording without any is cut into, seconds.
TRIAL_SECONDS = 10.0
#: More of those are a wrong rate (a million are four months).
MOST_TRIALS = 1_000_000


def tier_spans(
    rec: Recording,
    tiers: Sequence[str],
    blanks: Blanks = "follow",
    max_blank_s: float = 1.0,
    leave_out: Bool[np.ndarray, " trials"] | None = None,
) -> Spans:
    """[start, end) in seconds in which a window of these tiers may lie.

    Valid trials of the tiers; neighbours are joined. A blank without a tier of its own belongs to the trial that it
    follows, for at most `max_blank_s` of unbroken blank ("follow"); "none" leaves all blanks out, "all" takes them all
    whole. A named tier "blank" is such a blank too. Trials marked in `leave_out` are as if of another tier. Cut to the
    segments of the responses, so that a window inside a span straddles neither a tier nor a gap. No such trial: an
    empty array.
    """
    trials = rec.trials
    start, end = trials.start.astype(np.float64), trials.end.astype(np.float64)
    asked = np.isin(trials.tier, list(tiers)) & trials.valid & (trials.modality != "invalid")
    if leave_out is not None:
        asked &= ~leave_out
    free = (trials.modality == "blank") & np.isin(trials.tier, ["", "blank"]) & ~(asked & (trials.tier != ""))
    asked &= ~free
    until = np.where(asked, end, start)
    if blanks == "all":
        until[free] = end[free]
    elif blanks == "follow":
        until[free] = start[free] + _followed(start, end, asked, free, max_blank_s)[free]
    return intersect(merge(np.stack([start, until], axis=1)), rec.responses.spans())


def _followed(
    start: Float[np.ndarray, " n"],
    end: Float[np.ndarray, " n"],
    asked: Bool[np.ndarray, " n"],
    free: Bool[np.ndarray, " n"],
    max_blank_s: float,
) -> Float[np.ndarray, " n"]:
    """Seconds of each free blank that belong to an asked trial: the first `max_blank_s` of the unbroken blanks after it."""
    owner = np.maximum.accumulate(np.where(free, -1, np.arange(len(start))))
    known = np.maximum(owner, 0)
    apart = np.cumsum(np.append(False, start[1:] > end[:-1] + TOUCHING))
    follows = (owner >= 0) & asked[known] & (apart == apart[known])
    blank = np.cumsum(np.where(free, end - start, 0.0))
    before = blank - (end - start) - blank[known]
    return np.where(follows & free, np.clip(max_blank_s - before, 0.0, end - start), 0.0)


def hold_out_last(trials: Trials, fraction: float, tier: str = "test", validation: float = 0.0) -> Trials:
    """A copy in which the last `fraction` of the trials of tier "train" has `tier`, and a share of `validation` before them
    "validation" (each rounded, at least one trial). Trials of all other tiers, and blanks without one, keep theirs.
    """
    if not (min(fraction, validation) >= 0 and fraction + validation < 1):
        told = f"hold_out_last {fraction:g}" + (f", validation_last {validation:g}" if validation else "")
        raise UserError(told, way_out="give fractions of the trials between 0 and 1, less than 1 together")
    free = np.flatnonzero(trials.tier == "train")
    n, end = len(free), len(free)
    names = trials.tier.astype(object)
    for name, share in ((tier, fraction), ("validation", validation)):
        begin = max(0, end - max(1, round(n * share))) if share else end
        names[free[begin:end]] = name
        end = begin
    return dataclasses.replace(trials, tier=names.astype(str))


def cut_into_trials(responses: Signal) -> Trials:
    """Trials for a recording that came with none: its segments, cut every 10 s, all of tier train and without a stimulus.

    UserError for a rate so low that a trial would have no sample, or that makes more than a million trials.
    """
    long = float(np.sum(responses.segment_lengths)) / responses.rate
    if responses.rate < 1 / TRIAL_SECONDS or long > MOST_TRIALS * TRIAL_SECONDS:
        raise UserError(
            f"responses at {responses.rate:g} samples per second last {long:.3g} s",
            way_out="correct the rate (samples per second) or the time stamps (seconds)",
        )
    bounds: list[tuple[float, float]] = []
    for lo, hi in responses.spans():
        cuts = np.arange(lo + TRIAL_SECONDS, hi - TRIAL_SECONDS / 2, TRIAL_SECONDS)
        bounds += itertools.pairwise([lo, *cuts, hi])
    n = len(bounds)
    both = np.array(bounds, np.float64).reshape(n, 2)
    text = {"tier": np.full(n, "train"), "modality": np.full(n, "blank"), "stimulus": np.full(n, "", dtype="<U1")}
    return Trials(both[:, 0], both[:, 1], valid=np.ones(n, bool), **text)


def hold_out_stimuli(trials: Trials, fraction: float, tier: str = "test", validation: float = 0.0) -> Trials:
    """A copy in which a share of the distinct stimuli, with all their repeats, has `tier`; another one "validation".

    Only trials of tier "train" are held out: trials of other tiers keep theirs, whatever they show. A stimulus is drawn by a
    hash of its name (its content), so the same clip lands in the same tier in every session and every animal. The shares
    are of many stimuli: UserError if none of them falls into a tier that was asked for.
    """
    if not (min(fraction, validation) >= 0 and fraction + validation < 1):
        raise UserError(
            f"hold_out_stimuli {fraction:g}, validation {validation:g}", way_out="give fractions, less than 1 together"
        )
    free = (trials.tier == "train") & (trials.stimulus != "")
    names = np.unique(trials.stimulus[free])
    digests = [hashlib.blake2b(str(name).encode(), digest_size=8).digest() for name in names]
    drawn = dict(zip(names.tolist(), [int.from_bytes(d, "big") / 2**64 for d in digests], strict=True))
    place = np.where(free, np.array([drawn.get(str(name), 1.0) for name in trials.stimulus], np.float64), 1.0)
    chosen = {tier: place < fraction, "validation": (place >= fraction) & (place < fraction + validation)}
    for name, share in ((tier, fraction), ("validation", validation)):
        if share and not chosen[name].any():
            raise UserError(
                f"hold_out_stimuli {fraction:g}: none of {len(names)} stimuli falls into tier {name}",
                way_out="raise the fraction, or hold out the last trials (hold_out_last)",
            )
    tiers = trials.tier.astype(object)
    for name, which in chosen.items():
        tiers[which] = name
    return dataclasses.replace(trials, tier=tiers.astype(str))


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
    if len(a) == 0 or len(b) == 0:
        return np.zeros((0, 2), np.float64)
    first = np.searchsorted(b[:, 1], a[:, 0], side="right")
    n = np.maximum(np.searchsorted(b[:, 0], a[:, 1], side="left") - first, 0)
    i = np.repeat(np.arange(len(a)), n)
    j = np.arange(int(n.sum())) - np.repeat(np.cumsum(n) - n, n) + first[i]
    both = np.stack([np.maximum(a[i, 0], b[j, 0]), np.minimum(a[i, 1], b[j, 1])], axis=1)
    return both[both[:, 1] > both[:, 0]]


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
