"""What numbers of a session are legal but usually a slip. A finding is (level, field, what, way out)."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from omnimouse_jax.recordings.lazy import blocks
from omnimouse_jax.recordings.session import BEHAVIOR_CHANNELS, Recording, Signal
from omnimouse_jax.recordings.splits import overlap_seconds, tier_spans
from omnimouse_jax.recordings.statistics import Moments

Found = tuple[str, str, str, str]

#: Seconds of a window that a model sees.
WINDOW_S = 2.0
#: Less training data than this (minutes) is little for a session of its own.
FEW_MINUTES = 10.0
#: Share of missing samples of a channel above which something may be wrong with it.
MUCH_NAN = 0.3
#: Activity beyond this is raw fluorescence or a unit.
LARGE = 1e4
#: Share of the responses' time by which a stream's may differ.
LONGER = 0.1
#: A stimulus file is judged by so many of its frames.
FRAMES_SEEN = 100


def response_findings(values: Any, nan_responses: str = "error") -> Iterator[Found]:
    """Streams (time, neurons) once: missing and infinite samples, swapped axes, silent neurons, sign and size."""
    n, neurons = (int(k) for k in values.shape)
    if n < neurons:
        yield (
            "warning", "responses", f"{n} samples of {neurons} neurons: more neurons than samples",
            "is the array (neurons, time)? Give (time, neurons)",
        )  # fmt: skip
    moments = Moments(neurons)
    missing = infinite = negative = 0
    largest = 0.0
    for lo, hi in blocks(n, neurons * 8):
        block = np.asarray(values[lo:hi], np.float64)
        missing += int(np.isnan(block).sum())
        infinite += int(np.isinf(block).sum())
        block = np.where(np.isfinite(block), block, np.nan)
        negative += int((block < 0).sum())
        if np.isfinite(block).any():
            largest = max(largest, float(np.nanmax(np.abs(block))))
        moments.update(block)
    told = f"{missing} NaN ({100 * missing / (n * neurons):.2g} %)" if missing else ""
    if missing and nan_responses == "mask":
        share = missing / (n * neurons)
        yield (
            "warning" if share > MUCH_NAN else "fine", "responses", f"{told}, taken as not recorded",
            "neither shown to a model nor scored",
        )  # fmt: skip
    elif missing:
        yield (
            "error", "responses", told,
            "pass --nan-responses mask to ingest to treat them as not recorded, or repair them",
        )  # fmt: skip
    if infinite:
        yield "error", "responses", f"{infinite} infinite samples", "write NaN where nothing was recorded"
    std = moments.std()
    zero, flat = (std == 0) & (moments.mean == 0), (std == 0) & (moments.mean != 0)
    for which, what in ((zero, "are 0 throughout"), (flat, "never change")):
        if which.any():
            some = ", ".join(str(k) for k in np.flatnonzero(which)[:5])
            yield (
                "warning", "responses", f"{int(which.sum())} of {neurons} neurons {what} (first: {some})",
                "leave them out, or check how they were extracted",
            )  # fmt: skip
    if largest > LARGE:
        yield (
            "warning",
            "responses",
            f"values up to {largest:.3g}",
            "raw fluorescence? Give dF/F or deconvolved activity",
        )
    if negative:
        yield (
            "warning", "responses", f"{100 * negative / (n * neurons):.2g} % of the values are negative",
            "fine for dF/F, but then train with model.response_loss=gaussian (poisson wants values >= 0)",
        )  # fmt: skip


def name_findings(where: str, channels: Sequence[str]) -> Iterator[Found]:
    """Channel names that are nearly, but not quite, those that mean the same in every lab."""
    for name in channels:
        if name in BEHAVIOR_CHANNELS:
            continue
        near = difflib.get_close_matches(name.lower().replace("-", "_").replace(" ", "_"), BEHAVIOR_CHANNELS, 1, 0.75)
        if near:
            yield (
                "warning", where, f"channel {name} is no common name",
                f"did you mean {near[0]}? Only that name is shared with other recordings",
            )  # fmt: skip


def behavior_findings(where: str, signal: Signal) -> Iterator[Found]:
    """Names, missing samples, constants and units of one stream, streamed."""
    channels = signal.channels or ()
    yield from name_findings(where, channels)
    moments = Moments(signal.n_channels)
    low, high = np.full(signal.n_channels, np.inf), np.full(signal.n_channels, -np.inf)
    for lo, hi in blocks(signal.n_samples, signal.n_channels * 8):
        block = np.asarray(signal.values[lo:hi], np.float64)
        block = np.where(np.isfinite(block), block, np.nan)
        moments.update(block)
        low, high = np.fmin(low, np.fmin.reduce(block)), np.fmax(high, np.fmax.reduce(block))
    std = moments.std()
    for c, name in enumerate(channels):
        share = 1 - moments.count[c] / signal.n_samples
        if share == 1:
            yield "warning", where, f"channel {name} is missing throughout", "leave it out"
            continue
        if share > MUCH_NAN:
            yield (
                "warning", where, f"channel {name} is missing in {100 * share:.0f} % of the samples",
                "it is masked there; is the tracking good enough to keep it?",
            )  # fmt: skip
        if std[c] == 0:
            yield (
                "warning",
                where,
                f"channel {name} is {moments.mean[c]:g} throughout",
                "write NaN where it was not measured",
            )
        elif name == "pupil_size" and low[c] < 0:
            yield (
                "warning",
                where,
                f"channel {name} goes down to {low[c]:.3g}",
                "give a size, with NaN where it is unknown",
            )
        elif name in ("pupil_x", "pupil_y") and low[c] >= 0 and high[c] <= 1:
            yield (
                "warning", where, f"channel {name} stays within 0..1",
                "a share of the camera picture? It is z-scored anyway, but keep one unit for all sessions of a lab",
            )  # fmt: skip
        elif max(abs(low[c]), abs(high[c])) > 1e4 * std[c] or max(abs(low[c]), abs(high[c])) > 1e6:
            yield (
                "warning", where, f"channel {name} ranges from {low[c]:.3g} to {high[c]:.3g}",
                "a mark for missing samples (-1e9, 9999)? Write NaN instead",
            )  # fmt: skip


def level_findings(where: str, frames: Any) -> Iterator[Found]:
    """Grey levels of 0..1, or beyond 0..255, from some of the frames."""
    if frames.dtype.kind not in "fiub":
        yield "error", where, f"holds {frames.dtype}", "give grey levels"
        return
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(FRAMES_SEEN, len(frames))).astype(int))
    seen = [np.asarray(frames[int(k)], np.float64) for k in chosen]
    if not seen:
        yield "warning", where, "no frames", "give at least one, or leave it out"
        return
    low, high = min(float(s.min()) for s in seen), max(float(s.max()) for s in seen)
    if low >= 0 and 0 < high <= 1 and frames.dtype.kind == "f":
        yield "warning", where, "grey levels of 0..1", "give 0 (black) .. 255 (white): multiply by 255"
    elif low < 0 or high > 255:
        yield "warning", where, f"grey levels of {low:g}..{high:g}", "give 0 (black) .. 255 (white)"


def duration_findings(responses: Signal, streams: Mapping[str, Signal]) -> Iterator[Found]:
    """Streams that last much longer or shorter than the responses: mostly a wrong rate."""
    if responses.n_samples < responses.n_channels:
        return  # swapped axes: their duration says nothing
    lo, hi = float(responses.spans()[0, 0]), float(responses.spans()[-1, 1])
    for name, stream in streams.items():
        first, last = float(stream.spans()[0, 0]), float(stream.spans()[-1, 1])
        off = (last - first) - (hi - lo)
        if abs(off) > max(LONGER * (hi - lo), 5.0):
            fits = stream.n_samples / (hi - lo)
            yield (
                "warning", f"behavior {name}",
                f"{stream.n_samples} samples at {stream.rate:g} Hz last {last - first:.1f} s, the responses {hi - lo:.1f} s",
                f"check both rates ({fits:.4g} Hz would make them equally long)",
            )  # fmt: skip
        elif last < lo or first > hi:
            yield (
                "warning",
                f"behavior {name}",
                f"{first:g}..{last:g} s, responses {lo:g}..{hi:g} s",
                "check the starts",
            )


def session_findings(rec: Recording) -> Iterator[Found]:
    """What can be said once the session can be read."""
    yield from duration_findings(rec.responses, rec.behavior)
    spans = rec.responses.spans()
    trials = rec.trials
    shown = trials.modality != "blank"
    if shown.any():
        recorded = overlap_seconds(trials.start[shown], trials.end[shown], spans)
        outside = float((trials.end[shown] - trials.start[shown]).sum() - recorded.sum())
        if outside > 1.0:
            n = int((recorded < 0.5 * (trials.end[shown] - trials.start[shown])).sum())
            yield (
                "warning", "trials", f"{outside:.1f} s of trials ({n} of {int(shown.sum())} mostly) lie outside the responses",
                "check start and rate of the responses",
            )  # fmt: skip
        end, last = float(spans[-1, 1]), float(trials.end[shown][-1])
        if end - float(spans[0, 0]) > 3 * (last - float(trials.start[shown][0])) and end > last + 600:
            yield (
                "warning", "responses", f"they last until {end:.0f} s, the last trial ends at {last:.0f} s",
                "is the rate right, and are the trials' times in seconds?",
            )  # fmt: skip
    tiers = {str(t) for t in trials.tier[trials.tier != ""]}
    if "train" not in tiers:
        yield "warning", "tiers", "no train trials", "this session can be scored, but not trained on"
    if not tiers - {"train", "blank"}:
        yield "warning", "tiers", "all trials are train", "give a column tier, or tiers: {hold_out_last: 0.2}"
    minutes = _minutes(rec, "train")
    if "train" in tiers and minutes < FEW_MINUTES:
        yield "warning", "tiers", f"{minutes:.1f} min of train", "little to train on; several sessions help"
    for tier in sorted(tiers - {"blank"}):
        if _windows(rec, tier) == 0:
            yield (
                "warning", "tiers", f"{tier} has no window of {WINDOW_S:g} s",
                "trials of one tier must touch for that long: hold out blocks, not single short trials",
            )  # fmt: skip
    of: dict[str, set[str]] = {}
    for name, tier in zip(trials.stimulus[shown], trials.tier[shown], strict=True):
        if name and tier:
            of.setdefault(str(name), set()).add(str(tier))
    split = [name for name, found in of.items() if len(found) > 1]
    if split:
        yield (
            "warning", "tiers", f"{len(split)} of {len(of)} stimuli are shown in more than one tier",
            "a model is tested on what it was trained on: keep repeats in one tier (a column tier) if that matters",
        )  # fmt: skip
    if rec.screen is None:
        yield "warning", "stimulus", "none", "without frames a model only sees behaviour and other neurons"


def summary(rec: Recording) -> list[str]:
    """What a model will see of the session."""
    spans = rec.responses.spans()
    tiers = sorted({str(t) for t in rec.trials.tier if t})
    counts = rec.trials.tiers()
    lines = [
        f"neurons   {rec.n_neurons} at {rec.responses.rate:g} Hz, {float((spans[:, 1] - spans[:, 0]).sum()) / 60:.1f} min"
        f" in {len(spans)} stretch{'es' * (len(spans) != 1)}"
    ]
    lines += [
        f"tier      {tier}: {counts[tier]} trials, {_minutes(rec, tier):.1f} min, {_windows(rec, tier)} windows of {WINDOW_S:g} s"
        for tier in tiers
        if tier in counts
    ]
    lines += [
        f"behavior  {name}: {', '.join(stream.channels or ())} at {stream.rate:g} Hz"
        for name, stream in rec.behavior.items()
    ]
    if rec.screen is None:
        return [*lines, "screen    none"]
    stimuli = len({str(s) for s in rec.trials.stimulus if s})
    size = f"{rec.screen.height} x {rec.screen.width}"
    return [*lines, f"screen    {size} pixels, {stimuli} different stimuli, {rec.screen.frames.shape[0]} frames"]


def _minutes(rec: Recording, tier: str) -> float:
    """Recorded minutes of a tier's trials."""
    which = rec.trials.tier == tier
    return float(overlap_seconds(rec.trials.start[which], rec.trials.end[which], rec.responses.spans()).sum()) / 60


def _windows(rec: Recording, tier: str) -> int:
    """Windows that do not overlap."""
    return int(sum((hi - lo + 1e-9) // WINDOW_S for lo, hi in tier_spans(rec, [tier])))
