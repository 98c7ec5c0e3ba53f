"""What a recording says at given times: previous-sample hold, never a look ahead. All time arithmetic is float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from omnimouse_jax.recordings.lazy import start_runs
from omnimouse_jax.recordings.session import Recording, Screen, Signal

#: A frame counts as shown from this many seconds before its time stamp (experanto's rule).
SCREEN_LEAD = 1e-4
Columns = Int[np.ndarray, " channels"] | None

#: Grey level where the screen says nothing (uint8 scale, as all stored frames).
MID_GREY = 128.0


def sample_rows(
    signal: Signal, times: Float[np.ndarray, " n"], columns: Columns = None
) -> Int[np.ndarray, "n channels_or_1"]:
    """Row of `signal.values` held at each time, -1 where there is none.

    `floor((t - shift - segment_start) / (1 / rate))` within the segment that was running, dividing by the reciprocal as
    experanto does, so that its indices are met exactly. One column per channel (of `columns`) with phase shifts, else one
    in all.
    """
    held = times[:, None]
    if signal.phase_shifts is not None:
        held = held - (signal.phase_shifts if columns is None else signal.phase_shifts[columns])[None, :]
    period = 1.0 / signal.rate
    if len(signal.segment_start) == 1:
        return _rows_of_one_segment(signal, held, period)
    segment = np.searchsorted(signal.segment_start, held + signal.snap * period, side="right") - 1
    known = np.maximum(segment, 0)
    step = np.floor((held - signal.segment_start[known]) / period + signal.snap)
    ok = (segment >= 0) & (step >= 0) & (step < signal.segment_lengths[known])
    if signal.segment_end is not None:
        ok &= held <= signal.segment_end[known]
    return np.where(ok, signal.segment_first[known] + np.where(ok, step, 0.0).astype(np.int64), -1)


def _rows_of_one_segment(
    signal: Signal, held: Float[np.ndarray, "n channels_or_1"], period: float
) -> Int[np.ndarray, "n channels_or_1"]:
    """The same arithmetic in place: with a phase shift for each of 8,000 neurons this is where a window's time went."""
    start = float(signal.segment_start[0])
    step = held - start
    step /= period
    step += signal.snap
    np.floor(step, out=step)
    ok = (held + signal.snap * period >= start) & (step >= 0) & (step < signal.n_samples - signal.segment_first[0])
    if signal.segment_end is not None:
        ok &= held <= signal.segment_end[0]
    step += float(signal.segment_first[0])
    if not ok.all():
        step[~ok] = -1.0
    return step.astype(np.int64)


def sample_times(signal: Signal, lo: int, hi: int) -> Float[np.ndarray, " rows"]:
    """When rows [lo, hi) were taken, in seconds (phase shifts not added)."""
    row = np.arange(lo, hi, dtype=np.int64)
    segment = np.searchsorted(signal.segment_first, row, side="right") - 1
    return signal.segment_start[segment] + (row - signal.segment_first[segment]) / signal.rate


def start_signal(
    signal: Signal, times: Float[np.ndarray, " n"], columns: Columns = None
) -> Callable[[], Float[np.ndarray, "n channels"]]:
    """Begins to read float32 values held at `times`, of some channels in the order given or of all, and returns a function
    that waits for them: NaN outside the signal and where a sample is missing.
    """
    rows = sample_rows(signal, times, columns)
    found = rows >= 0
    whole = bool(found.all())
    finish = start_runs(signal.values, rows if whole else rows[found])

    def wait() -> Float[np.ndarray, "n channels"]:
        position, data = finish()
        channels = np.arange(signal.n_channels) if columns is None else columns
        if rows.shape[1] == 1:
            picked = data if columns is None else np.take(data, columns, axis=1)
            if whole:
                return picked[position[:, 0]].astype(np.float32, copy=False)
            out = np.full((len(times), len(channels)), np.nan, np.float32)
            out[found[:, 0]] = picked[position]
            return out
        if whole:
            return data.reshape(-1).take(position * data.shape[1] + channels).astype(np.float32, copy=False)
        out = np.full((len(times), len(channels)), np.nan, np.float32)
        at, column = np.nonzero(found)
        out[at, column] = data[position, channels[column]]
        return out

    return wait


def read_signal(
    signal: Signal, times: Float[np.ndarray, " n"], columns: Columns = None
) -> Float[np.ndarray, "n channels"]:
    """`start_signal`, waited for."""
    return start_signal(signal, times, columns)()


def read_responses(rec: Recording, times: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n neurons"]:
    """Responses held at `times` in stored units (not divided by `response_scale`); NaN outside or not recorded."""
    return read_signal(rec.responses, times)


def start_behavior(
    rec: Recording, times: Float[np.ndarray, " n"], channels: Sequence[str]
) -> Callable[[], Float[np.ndarray, "n channels"]]:
    """Begins to read named behaviour channels held at `times`, in stored units, and returns a function that waits for them:
    NaN where missing or where the recording lacks one.
    """
    begun = []
    for stream in rec.behavior.values():
        names = stream.channels or ()
        wanted = [(column, names.index(name)) for column, name in enumerate(channels) if name in names]
        if wanted:
            begun.append((wanted, start_signal(stream, times)))

    def wait() -> Float[np.ndarray, "n channels"]:
        out = np.full((len(times), len(channels)), np.nan, np.float32)
        for wanted, finish in begun:
            values = finish()
            for column, channel in wanted:
                out[:, column] = values[:, channel]
        return out

    return wait


def read_behavior(
    rec: Recording, times: Float[np.ndarray, " n"], channels: Sequence[str]
) -> Float[np.ndarray, "n channels"]:
    """`start_behavior`, waited for."""
    return start_behavior(rec, times, channels)()


def screen_events(screen: Screen, times: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Event on screen at each time: the last that began before t + 0.1 ms; -1 before the first and after the end."""
    event = np.searchsorted(screen.times, times + SCREEN_LEAD, side="left") - 1
    return np.where(times <= screen.end_time, event, -1)


def on_screen(screen: Screen, times: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Where the recording knows what was shown."""
    return screen_events(screen, times) >= 0


def start_screen(rec: Recording, times: Float[np.ndarray, " n"]) -> Callable[[], Shaped[np.ndarray, "n height width"]]:
    """Begins to read the frames on screen at `times`, in the stored dtype, and returns a function that waits for them:
    uniform grey in blanks, mid grey outside the screen's time.

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
    whole = bool(shown.all()) and len(frame) > 0
    finish = start_runs(screen.frames, frame if whole else frame[shown])
    height, width = screen.height, screen.width

    def wait() -> Shaped[np.ndarray, "n height width"]:
        position, data = finish()
        if whole:
            return data[position]
        out = np.empty((len(times), height, width), dtype)
        out[~shown] = grey[~shown].astype(dtype)[:, None, None]
        out[shown] = data[position]
        return out

    return wait


def read_screen(rec: Recording, times: Float[np.ndarray, " n"]) -> Shaped[np.ndarray, "n height width"]:
    """`start_screen`, waited for."""
    return start_screen(rec, times)()
