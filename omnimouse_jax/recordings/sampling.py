"""What a recording says at given times: previous-sample hold, never a look ahead. All time arithmetic is float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from omnimouse_jax.recordings.lazy import read_runs
from omnimouse_jax.recordings.session import Recording, Screen, Signal

#: A frame counts as shown from this many seconds before its time stamp (experanto's rule).
SCREEN_LEAD = 1e-4
#: Grey level where the screen says nothing (uint8 scale, as all stored frames).
MID_GREY = 128.0


def sample_rows(signal: Signal, times: Float[np.ndarray, " n"]) -> Int[np.ndarray, "n channels_or_1"]:
    """Row of `signal.values` held at each time, -1 where there is none.

    `floor((t - shift - segment_start) / (1 / rate))` within the segment that was running, dividing by the reciprocal as
    experanto does, so that its indices are met exactly. One column per channel with phase shifts, else one in all.
    """
    held = times[:, None] if signal.phase_shifts is None else times[:, None] - signal.phase_shifts[None, :]
    period = 1.0 / signal.rate
    segment = np.searchsorted(signal.segment_start, held + signal.snap * period, side="right") - 1
    known = np.maximum(segment, 0)
    step = np.floor((held - signal.segment_start[known]) / period + signal.snap)
    ok = (segment >= 0) & (step >= 0) & (step < signal.segment_lengths[known])
    if signal.segment_end is not None:
        ok &= held <= signal.segment_end[known]
    return np.where(ok, signal.segment_first[known] + np.where(ok, step, 0.0).astype(np.int64), -1)


def sample_times(signal: Signal, lo: int, hi: int) -> Float[np.ndarray, " rows"]:
    """When rows [lo, hi) were taken, in seconds (phase shifts not added)."""
    row = np.arange(lo, hi, dtype=np.int64)
    segment = np.searchsorted(signal.segment_first, row, side="right") - 1
    return signal.segment_start[segment] + (row - signal.segment_first[segment]) / signal.rate


def read_signal(signal: Signal, times: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n channels"]:
    """float32 values held at `times`; NaN outside the signal and where a sample is missing."""
    rows = sample_rows(signal, times)
    out = np.full((len(times), signal.n_channels), np.nan, np.float32)
    found = rows >= 0
    if not found.any():
        return out
    position, data = read_runs(signal.values, rows[found])
    if rows.shape[1] == 1:
        out[found[:, 0]] = data[position]
    else:
        at, channel = np.nonzero(found)
        out[at, channel] = data[position, channel]
    return out


def read_responses(rec: Recording, times: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n neurons"]:
    """Responses held at `times` in stored units (not divided by `response_scale`); NaN outside or not recorded."""
    return read_signal(rec.responses, times)


def read_behavior(
    rec: Recording, times: Float[np.ndarray, " n"], channels: Sequence[str]
) -> Float[np.ndarray, "n channels"]:
    """Named behaviour channels held at `times` in stored units; NaN where missing or where the recording lacks one."""
    out = np.full((len(times), len(channels)), np.nan, np.float32)
    for stream in rec.behavior.values():
        names = stream.channels or ()
        wanted = [(column, names.index(name)) for column, name in enumerate(channels) if name in names]
        if wanted:
            values = read_signal(stream, times)
            for column, channel in wanted:
                out[:, column] = values[:, channel]
    return out


def screen_events(screen: Screen, times: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Event on screen at each time: the last that began before t + 0.1 ms; -1 before the first and after the end."""
    event = np.searchsorted(screen.times, times + SCREEN_LEAD, side="left") - 1
    return np.where(times <= screen.end_time, event, -1)


def on_screen(screen: Screen, times: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Where the recording knows what was shown."""
    return screen_events(screen, times) >= 0


def read_screen(rec: Recording, times: Float[np.ndarray, " n"]) -> Shaped[np.ndarray, "n height width"]:
    """Frames on screen at `times` in the stored dtype: uniform grey in blanks, mid grey outside the screen's time.

    Raises ValueError for a recording without a screen; ask `rec.screen` first.
    """
    screen = rec.screen
    if screen is None:
        raise ValueError(f"session {rec.key} has no screen")
    event = screen_events(screen, times)
    frame = np.where(event >= 0, screen.frame[event], -1)
    grey = np.where(event >= 0, screen.grey[event], MID_GREY)
    dtype = screen.frames.dtype
    if np.issubdtype(dtype, np.integer):
        grey = np.rint(grey)
    shown = frame >= 0
    if shown.all() and len(frame):
        position, data = read_runs(screen.frames, frame)
        return data[position]
    out = np.empty((len(times), screen.height, screen.width), dtype)
    out[~shown] = grey[~shown].astype(dtype)[:, None, None]
    if shown.any():
        position, data = read_runs(screen.frames, frame[shown])
        out[shown] = data[position]
    return out
