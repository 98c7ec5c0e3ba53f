"""Is this recording consistent? Each check is one line that names the session, the field and the way out."""

from __future__ import annotations

from typing import Any

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.lazy import blocks
from omnimouse_jax.recordings.session import MODALITIES, Recording, Screen, Signal, Trials, require
from omnimouse_jax.recordings.splits import overlap_seconds


def check_recording(rec: Recording) -> None:
    """Raises a `UserError` at the first inconsistency. Reads times, shapes and small columns, never the large
    arrays.
    """
    key = rec.key
    require(bool(key.strip()), "(unnamed)", "the session has no key", "give every session a name")
    require(bool(rec.animal.strip()), key, "the animal has no name", "say which animal was recorded")
    shape = tuple(rec.responses.values.shape)
    require(len(shape) == 2, key, f"responses: shape {shape}", "give (time, neurons)")
    require(shape[1] > 0, key, "responses: no neurons (0 columns)", "leave this session out")
    check_signal(key, "responses", rec.responses)
    for name, stream in rec.behavior.items():
        check_signal(key, f"behavior {name}", stream)
        n = 0 if stream.channels is None else len(stream.channels)
        require(
            n == stream.n_channels,
            key,
            f"behavior {name}: {stream.n_channels} columns but {n} channel names",
            "name every column",
        )
    repeated = sorted({name for name in rec.channels if rec.channels.count(name) > 1})
    require(not repeated, key, f"behavior: channel {', '.join(repeated)} given twice", "name each channel once")
    check_trials(key, rec.trials)
    if rec.screen is not None:
        check_screen(key, rec.screen)
    for column, values in rec.neurons.items():
        require(
            len(values) == rec.n_neurons,
            key,
            f"neurons: column {column} has {len(values)} rows for {rec.n_neurons} neurons",
            "give one row per neuron, in the order of the responses",
        )
    if rec.response_scale is not None:
        scale = np.asarray(rec.response_scale)
        require(
            scale.shape == (rec.n_neurons,) and bool(np.all(np.isfinite(scale)) and np.all(scale > 0)),
            key,
            "response_scale: not one positive number per neuron",
            "leave it out to have it computed from the training tier",
        )
    recorded = overlap_seconds(rec.trials.start, rec.trials.end, rec.responses.spans())
    require(
        bool(np.any(recorded > 0)),
        key,
        "no trial lies within the responses' time",
        "put trials and responses on one clock (seconds)",
    )


def check_signal(key: str, name: str, signal: Signal) -> None:
    """Shape, rate and segments of one signal."""
    shape = tuple(signal.values.shape)
    require(
        len(shape) == 2 and shape[0] > 0, key, f"{name}: shape {shape}", "give at least one sample, (time, channels)"
    )
    require(np.isfinite(signal.rate) and signal.rate > 0, key, f"{name}: rate {signal.rate}", "give samples per second")
    start, first = signal.segment_start, signal.segment_first
    require(len(start) == len(first) > 0, key, f"{name}: {len(start)} segment starts, {len(first)} first rows")
    require(bool(np.all(np.isfinite(start))), key, f"{name}: a segment start is not a number", "give seconds")
    lengths = signal.segment_lengths
    require(
        int(first[0]) == 0 and bool(np.all(lengths > 0)),
        key,
        f"{name}: {int(lengths.sum())} samples do not fill its {len(first)} segments",
        "give the number of samples of each segment",
    )
    late = np.flatnonzero(start[1:] < start[:-1] + (lengths[:-1] - 0.5) / signal.rate)
    require(
        len(late) == 0,
        key,
        f"{name}: segment {int(late[0]) + 1 if len(late) else 0} starts before the one before it has ended",
        "sort the segments by time and check rate and starts",
    )
    for label, values, n in [
        ("phase shifts", signal.phase_shifts, signal.n_channels),
        ("segment ends", signal.segment_end, len(start)),
    ]:
        require(values is None or len(values) == n, key, f"{name}: {label} are not {n} numbers")


def check_trials(key: str, trials: Trials) -> None:
    """Columns of one length, sorted times, known modalities."""
    n = len(trials)
    require(n > 0, key, "trials: none", "give at least one trial with a tier")
    for column in ("end", "tier", "modality", "stimulus", "valid", "withheld"):
        found = len(getattr(trials, column))
        require(found == n, key, f"trials: {n} starts but {found} of {column}", "give one value per trial")
    require(bool(np.all(np.isfinite(trials.start))), key, "trials: a start is not a number", "give seconds")
    check_increasing(key, "trials: start", trials.start)
    bad = np.flatnonzero(~(trials.end > trials.start))
    require(len(bad) == 0, key, f"trials: {_nth(bad)} ends before it starts", "give end > start, in seconds")
    bad = np.flatnonzero(trials.end[:-1] > trials.start[1:] + 1e-3)
    require(
        len(bad) == 0, key, f"trials: {_nth(bad)} is still on when the next starts", "give trials that do not overlap"
    )
    unknown = sorted({str(m) for m in trials.modality} - set(MODALITIES))
    require(not unknown, key, f"trials: modality {', '.join(unknown)}", f"use one of {', '.join(MODALITIES)}")


def check_screen(key: str, screen: Screen) -> None:
    """Frames, events and their times."""
    shape, dtype = tuple(screen.frames.shape), np.dtype(screen.frames.dtype)
    require(len(shape) == 3, key, f"screen: frames of shape {shape}", "give (frames, height, width), grey levels")
    require(
        dtype == np.uint8 or dtype.kind == "f",
        key,
        f"screen: frames of type {dtype}",
        "give uint8 or float grey levels",
    )
    n = len(screen.times)
    require(n > 0, key, "screen: no events", "leave the screen out of a recording without stimuli")
    require(
        len(screen.frame) == len(screen.grey) == n,
        key,
        f"screen: {n} times, {len(screen.frame)} frame numbers, {len(screen.grey)} grey levels",
        "give one of each per event",
    )
    check_increasing(key, "screen: times", screen.times)
    require(
        int(screen.frame.min()) >= -1 and int(screen.frame.max()) < shape[0],
        key,
        f"screen: frame numbers {int(screen.frame.min())}..{int(screen.frame.max())} for {shape[0]} frames",
        "number frames from 0, with -1 for grey",
    )
    grey = screen.grey[screen.frame < 0]
    require(bool(np.all(np.isfinite(grey))), key, "screen: a blank has no grey level", "give a level of 0..255")
    require(screen.end_time >= screen.times[-1], key, "screen: ends before its last event", "give the end in seconds")


def check_increasing(key: str, what: str, times: np.ndarray) -> None:
    """Raises unless times are finite and strictly increasing; names the first that is not."""
    bad = np.flatnonzero(~(np.diff(times) > 0))
    require(
        len(bad) == 0 and bool(np.all(np.isfinite(times))),
        key,
        f"{what}: not increasing at entry {int(bad[0]) + 1 if len(bad) else 0}",
        "sort by time and remove repeats",
    )


def check_responses(key: str, file: str, values: Any, nan_responses: str) -> float:
    """Share of NaN among the responses, streamed. Raises on NaN unless `nan_responses` is "mask", and on infinite
    values.
    """
    if nan_responses not in ("error", "mask"):
        raise UserError(f"nan_responses {nan_responses}", way_out="choose error or mask")
    n_rows, n_columns = (int(n) for n in values.shape)
    missing, first = 0, None
    for lo, hi in blocks(n_rows, n_columns * 8):
        block = np.asarray(values[lo:hi])
        if np.isfinite(block).all():
            continue
        infinite = np.argwhere(np.isinf(block))
        if len(infinite):
            row, neuron = infinite[0]
            raise UserError(
                f"session {key}: file {file}: infinite response at sample {lo + row}, neuron {neuron}",
                way_out="write NaN where nothing was recorded",
            )
        bad = np.argwhere(np.isnan(block))
        missing += len(bad)
        if first is None:
            first = (lo + int(bad[0, 0]), int(bad[0, 1]))
    if first is not None and nan_responses == "error":
        raise UserError(
            f"session {key}: file {file}: {missing} NaN responses, the first at sample {first[0]}, neuron {first[1]}",
            way_out="pass --nan-responses mask to treat them as not recorded",
        )
    return missing / max(1, n_rows * n_columns)


def _nth(bad: np.ndarray) -> str:
    return f"trial {int(bad[0])}" if len(bad) else "a trial"
