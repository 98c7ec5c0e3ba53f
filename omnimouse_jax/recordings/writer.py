"""Writes one session's files: arrays stream through once, and statistics and content hashes are taken on the way."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from omnimouse_jax.recordings import statistics
from omnimouse_jax.recordings.kvstore import Place, dump_json, write_array
from omnimouse_jax.recordings.session import Recording, Signal, Trials
from omnimouse_jax.recordings.splits import Spans, intersect
from omnimouse_jax.recordings.summary import summarise


def write_session(place: Place, rec: Recording) -> dict[str, Any]:
    """Writes everything of a session below `place` and returns its entry for the manifest."""
    spans = statistics.training_spans(rec.trials)
    notes: list[str] = []
    if len(intersect(spans, rec.responses.spans())) == 0:
        spans = np.array([[-np.inf, np.inf]], np.float64)
        notes.append("scales computed from all samples")
    nan_fraction: dict[str, float] = {}
    signals: dict[str, Any] = {}
    columns: dict[str, np.ndarray] = {}

    moments, nan_fraction["responses"] = _write_signal(place, "responses", rec.responses, spans, signals, columns)
    scale, flat = statistics.usable_scale(moments.std())
    if rec.response_scale is None:
        if flat:
            notes.append(f"{flat} neurons without variance in the training tier (scale 1)")
    else:
        scale = np.asarray(rec.response_scale, np.float64)
    columns["response_scale"] = scale

    mean, deviation = dict(rec.behavior_mean), dict(rec.behavior_scale)
    for name, stream in rec.behavior.items():
        moments, _ = _write_signal(place, f"behavior.{name}", stream, spans, signals, columns, nan_fraction)
        scale, _ = statistics.usable_scale(moments.std())
        for c, channel in enumerate(stream.channels or ()):
            mean.setdefault(channel, float(moments.mean[c]))
            deviation.setdefault(channel, float(scale[c]))

    hashes: list[bytes] = []
    if rec.screen is not None:
        dtype = "uint8" if np.dtype(rec.screen.frames.dtype) == np.uint8 else "float32"

        def observe(first: int, block: np.ndarray) -> None:
            hashes.extend(statistics.frame_hashes(block))

        if rec.screen.frames.shape[0]:
            write_array(place, "screen", rec.screen.frames, dtype, compress=True, observe=observe)
        columns["screen.times"] = np.asarray(rec.screen.times, np.float64)
        columns["screen.frame"] = np.asarray(rec.screen.frame, np.int64)
        columns["screen.grey"] = np.asarray(rec.screen.grey, np.float64)
        columns["screen.end_time"] = np.array(rec.screen.end_time, np.float64)
    contents = statistics.trial_contents(rec.trials, rec.screen, hashes)
    stimuli = statistics.stimulus_seconds(rec.trials, contents, rec.responses.spans())
    for f in dataclasses.fields(Trials):
        columns[f"trials.{f.name}"] = np.asarray(getattr(rec.trials, f.name))
    columns["trials.content"] = contents
    for name, column in rec.neurons.items():
        columns[f"neurons.{name}"] = np.asarray(column)
    truth_arrays, truth = flatten(rec.truth or {})
    columns.update({f"truth.{name}": array for name, array in truth_arrays.items()})

    details = {
        "key": rec.key,
        "animal": rec.animal,
        "signals": signals,
        "screen": None if rec.screen is None else {"shape": rec.screen.frames.shape, "dtype": dtype},
        "behavior_mean": mean,
        "behavior_scale": deviation,
        "provenance": rec.provenance,
        "truth": None if rec.truth is None else truth,
        "stimuli": stimuli,
    }
    packed = io.BytesIO()
    np.savez_compressed(packed, **columns)  # type: ignore[arg-type]
    place.write("columns.npz", packed.getvalue())
    place.write("session.json", dump_json(details))
    return summarise(rec, nan_fraction, stimuli, notes)


def _write_signal(
    place: Place,
    name: str,
    signal: Signal,
    spans: Spans,
    signals: dict[str, Any],
    columns: dict[str, np.ndarray],
    nan_fraction: dict[str, float] | None = None,
) -> tuple[statistics.Moments, float]:
    """Streams one signal out; returns the moments of its training rows and the share of missing samples."""
    moments = statistics.Moments(signal.n_channels)
    missing = np.zeros(signal.n_channels, np.int64)

    def observe(first: int, block: np.ndarray) -> None:
        step = max(1, 2**20 // signal.n_channels)
        for lo in range(0, len(block), step):
            part = block[lo : lo + step]
            rows = statistics.training_rows(signal, spans, first + lo, first + lo + len(part))
            moments.update(part if rows.all() else part[rows])
            if np.isnan(part.sum()):
                missing[:] += np.isnan(part).sum(axis=0)

    write_array(place, name, signal.values, "float32", compress=name != "responses", observe=observe)
    signals[name] = {
        "shape": [signal.n_samples, signal.n_channels],
        "dtype": "float32",
        "rate": signal.rate,
        "snap": signal.snap,
        "channels": signal.channels,
    }
    columns[f"{name}.segment_start"] = np.asarray(signal.segment_start, np.float64)
    columns[f"{name}.segment_first"] = np.asarray(signal.segment_first, np.int64)
    for label in ("phase_shifts", "segment_end"):
        if getattr(signal, label) is not None:
            columns[f"{name}.{label}"] = np.asarray(getattr(signal, label), np.float64)
    if nan_fraction is not None:
        for c, channel in enumerate(signal.channels or ()):
            nan_fraction[channel] = float(missing[c] / signal.n_samples)
    return moments, float(missing.sum() / (signal.n_samples * signal.n_channels))


def flatten(truth: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and the rest of a nested mapping, by dotted name."""
    arrays: dict[str, np.ndarray] = {}
    rest: dict[str, Any] = {}
    for name, value in truth.items():
        if isinstance(value, Mapping):
            inner = flatten(value, f"{prefix}{name}.")
            arrays.update(inner[0])
            rest.update(inner[1])
        elif isinstance(value, np.ndarray):
            arrays[prefix + name] = value
        else:
            rest[prefix + name] = value
    return arrays, rest
