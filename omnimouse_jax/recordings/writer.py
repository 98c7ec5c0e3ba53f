"""Writes one session's files: arrays stream through once, and statistics and content hashes are taken on the way."""

from __future__ import annotations

import dataclasses
import io
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings import statistics
from omnimouse_jax.recordings.arrays import Layout, write_array
from omnimouse_jax.recordings.contents import pack
from omnimouse_jax.recordings.kvstore import Place, dump_json
from omnimouse_jax.recordings.session import Recording, Screen, Signal, Trials
from omnimouse_jax.recordings.splits import Spans, intersect
from omnimouse_jax.recordings.summary import summarise

#: Largest relative error of a number rounded to float16, from 6.1e-5 on; smaller ones are off by 3e-8 at most.
HALF_LOSS = 2.0**-11


def write_session(place: Place, rec: Recording, dtype: str = "float32") -> dict[str, Any]:
    """Writes everything of a session below `place` and returns its entry for the manifest.

    `dtype` is that of the stored responses; statistics are those of the source, before it is rounded. Raises UserError for
    values that the stored dtype cannot hold.
    """
    try:
        return _write_session(place, rec, dtype)
    except OverflowError as error:
        way_out = "correct the source or its unit" if "float32" in str(error) else "store float32"
        raise UserError(f"session {rec.key}: {error}", way_out=way_out) from None


def _write_session(place: Place, rec: Recording, dtype: str) -> dict[str, Any]:
    spans = statistics.training_spans(rec.trials)
    notes: list[str] = []
    if len(intersect(spans, rec.responses.spans())) == 0:
        spans = np.array([[-np.inf, np.inf]], np.float64)
        if rec.response_scale is None:
            notes.append("scales computed from all samples")
    nan_fraction: dict[str, float] = {}
    signals: dict[str, Any] = {}
    columns: dict[str, np.ndarray] = {}

    moments, nan_fraction["responses"] = _write_signal(
        place, "responses", rec.responses, spans, signals, columns, dtype=dtype, withheld=_withheld(rec)
    )
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
    sums: dict[str, np.ndarray] = {}
    checks: dict[str, int] = {}
    screen = None if rec.screen is None else _write_screen(place, rec.screen, hashes, sums, checks)
    contents = statistics.trial_contents(rec.trials, rec.screen, hashes)
    stimuli = statistics.stimulus_seconds(rec.trials, contents, rec.responses.spans())
    trials = {f.name: np.asarray(getattr(rec.trials, f.name)) for f in dataclasses.fields(Trials)}
    trials |= {"content": contents, "stimuli": np.array(list(stimuli), str)}
    trials |= {"stimulus_seconds": np.array(list(stimuli.values()), np.float64)}
    checks["trials.npz"] = _write_columns(place, "trials.npz", _indexed(trials))
    clips = pack(statistics.trial_clips(rec.trials, rec.screen, hashes))
    checks["contents.npz"] = _write_columns(place, "contents.npz", clips)
    truth_arrays, truth = flatten(rec.truth or {})
    checks["neurons.npz"] = _write_columns(
        place,
        "neurons.npz",
        {f"neurons.{name}": np.asarray(column) for name, column in rec.neurons.items()}
        | {f"truth.{name}": array for name, array in truth_arrays.items()},
    )
    checks["extras.npz"] = _write_columns(place, "extras.npz", {k: np.asarray(v) for k, v in rec.extras.items()})
    sums |= {name: columns.pop(f"{name}.sums") for name in signals}
    checks["sums.npz"] = _write_columns(place, "sums.npz", sums)
    checks["columns.npz"] = _write_columns(place, "columns.npz", columns)
    details = {
        "key": rec.key,
        "animal": rec.animal,
        "signals": signals,
        "screen": screen,
        "behavior_mean": mean,
        "behavior_scale": deviation,
        "provenance": rec.provenance,
        "neurons": list(rec.neurons),
        "extras": list(rec.extras),
        "truth": None if rec.truth is None else truth,
        "checks": checks,
    }
    packed = dump_json(details)
    place.write("session.json", packed)
    stored = {"response_dtype": dtype, "response_loss": HALF_LOSS if dtype == "float16" else 0.0}
    return summarise(rec, nan_fraction, stimuli, notes) | stored | {"check": zlib.crc32(packed)}


def _withheld(rec: Recording) -> Spans:
    """[start, end) of the trials whose responses are withheld, a little less, so that rounding touches no neighbour."""
    kept = rec.trials.withheld
    return np.stack([rec.trials.start[kept] + 1e-6, rec.trials.end[kept] - 1e-6], axis=1).astype(np.float64)


def _write_screen(
    place: Place, screen: Screen, hashes: list[bytes], sums: dict[str, np.ndarray], checks: dict[str, int]
) -> dict[str, Any]:
    """Streams the frames out, appends their hashes, and returns what session.json says of them."""
    dtype = "uint8" if np.dtype(screen.frames.dtype) == np.uint8 else "float32"
    layout = Layout(1, 1, 0, plain=False)  # of no frames at all

    def observe(first: int, block: np.ndarray) -> None:
        hashes.extend(statistics.frame_hashes(block))

    if screen.frames.shape[0]:
        shown = np.diff(np.append(screen.times, screen.end_time))[np.asarray(screen.frame) >= 0]
        rate = 1.0 / max(float(np.median(shown)), 1e-3) if len(shown) else 1.0
        layout, sums["screen"] = write_array(
            place, "screen", screen.frames, dtype, rate, compress=True, observe=observe
        )
    events: dict[str, np.ndarray] = {
        "times": np.asarray(screen.times, np.float64),
        "frame": np.asarray(screen.frame, np.int32),
        "grey": np.asarray(screen.grey, np.float64),
    }
    checks["screen_events.npz"] = _write_columns(place, "screen_events.npz", events)
    shape = list(screen.frames.shape)
    return {"shape": shape, "dtype": dtype, "layout": layout._asdict(), "end_time": float(screen.end_time)}


def _write_columns(place: Place, name: str, columns: Mapping[str, np.ndarray]) -> int:
    """Writes an archive and returns its crc32."""
    packed = io.BytesIO()
    np.savez_compressed(packed, **columns)  # type: ignore[arg-type]
    place.write(name, packed.getvalue())
    return zlib.crc32(packed.getvalue())


def _indexed(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns of text as their distinct values and a number for each row: as wide as a number, however long the text."""
    out: dict[str, np.ndarray] = {}
    for name, column in columns.items():
        if column.dtype.kind == "U" and name != "stimuli":
            out[f"{name}.values"], codes = np.unique(column, return_inverse=True)
            out[f"{name}.codes"] = codes.astype(np.int32)
        else:
            out[name] = column
    return out


def _write_signal(
    place: Place,
    name: str,
    signal: Signal,
    spans: Spans,
    signals: dict[str, Any],
    columns: dict[str, np.ndarray],
    nan_fraction: dict[str, float] | None = None,
    dtype: str = "float32",
    withheld: Spans | None = None,
) -> tuple[statistics.Moments, float]:
    """Streams one signal out; returns the moments of its training rows and the share of missing samples.

    A value within `withheld` spans is an error: it could become a target or a score.
    """
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
            if withheld is not None and len(withheld):
                kept = statistics.training_rows(signal, withheld, first + lo, first + lo + len(part))
                if not np.isnan(part[kept]).all():
                    raise UserError(
                        f"{name}: values in trials that are marked as withheld",
                        way_out="write NaN where nothing is known",
                    )

    compress = name != "responses"
    layout, sums = write_array(place, name, signal.values, dtype, signal.rate, compress=compress, observe=observe)
    signals[name] = {
        "shape": [signal.n_samples, signal.n_channels],
        "dtype": dtype,
        "layout": layout._asdict(),
        "rate": signal.rate,
        "snap": signal.snap,
        "channels": signal.channels,
    }
    columns[f"{name}.sums"] = sums
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
