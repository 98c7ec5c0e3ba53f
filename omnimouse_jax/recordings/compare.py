"""Is what the store holds what the source says? Every value is compared, block by block."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from omnimouse_jax.recordings.lazy import blocks
from omnimouse_jax.recordings.session import Recording, Screen, Signal, Trials


def differences(source: Recording, stored: Recording) -> list[str]:
    """One line for each part of `stored` that is not what `source` says; arrays in the type in which they are stored.

    Scales that the source does not bring are not compared: they are computed when it is written.
    """
    found = _columns("session", {"animal": source.animal}, {"animal": stored.animal})
    found += _signal("responses", source.responses, stored.responses)
    for name in sorted(source.behavior.keys() | stored.behavior.keys()):
        if name not in source.behavior or name not in stored.behavior:
            found.append(f"behavior {name}: only in the {'source' if name in source.behavior else 'store'}")
        else:
            found += _signal(f"behavior {name}", source.behavior[name], stored.behavior[name])
    if (source.screen is None) != (stored.screen is None):
        found.append(f"screen: only in the {'store' if source.screen is None else 'source'}")
    elif source.screen is not None and stored.screen is not None:
        found += _screen(source.screen, stored.screen)
    names = [f.name for f in dataclasses.fields(Trials)]
    found += _columns("trials", *({name: getattr(rec.trials, name) for name in names} for rec in (source, stored)))
    found += _columns("neurons", source.neurons, stored.neurons)
    found += _columns("extras", source.extras, stored.extras)
    if source.response_scale is not None:
        found += _columns("scale", {"responses": source.response_scale}, {"responses": stored.response_scale})
    for label in ("behavior_mean", "behavior_scale"):
        given = getattr(source, label)
        found += _columns(label, given, {name: getattr(stored, label).get(name) for name in given})
    return found


def _signal(name: str, source: Signal, stored: Signal) -> list[str]:
    labels = ("rate", "channels", "segment_start", "segment_first", "phase_shifts", "segment_end", "snap")
    found = _columns(name, *({label: getattr(signal, label) for label in labels} for signal in (source, stored)))
    return found + _values(name, source.values, stored.values)


def _screen(source: Screen, stored: Screen) -> list[str]:
    labels = ("times", "frame", "grey", "end_time")
    found = _columns("screen", *({label: getattr(screen, label) for label in labels} for screen in (source, stored)))
    return found + _values("screen", source.frames, stored.frames)


def _columns(name: str, source: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    out = []
    for label in sorted(source.keys() | stored.keys()):
        a, b = (None if given.get(label) is None else np.asarray(given[label]) for given in (source, stored))
        if a is None and b is None:
            continue
        if a is None or b is None:
            out.append(f"{name} {label}: only in the {'store' if a is None else 'source'}")
        elif a.shape != b.shape:
            out.append(f"{name} {label}: shape {a.shape} in the source, {b.shape} in the store")
        elif not np.array_equal(a, b, equal_nan=a.dtype.kind == "f" and b.dtype.kind == "f"):
            out.append(f"{name} {label}: {int(np.sum(a != b))} of {a.size} values differ")
    return out


def _values(name: str, source: Any, stored: Any) -> list[str]:
    """Compares two large arrays of one shape without holding them."""
    if tuple(source.shape) != tuple(stored.shape):
        return [f"{name}: shape {tuple(source.shape)} in the source, {tuple(stored.shape)} in the store"]
    n, first = 0, ""
    row_bytes = int(np.prod(source.shape[1:], dtype=np.int64)) * 8
    for lo, hi in blocks(int(source.shape[0]), row_bytes):
        wanted = np.asarray(source[lo:hi]).astype(stored.dtype)
        got = np.asarray(stored[lo:hi])
        same = wanted == got
        if wanted.dtype.kind == "f":
            same |= np.isnan(wanted) & np.isnan(got)
        if same.all():
            continue
        at = np.argwhere(~same)
        n += len(at)
        if not first:
            where = tuple(int(i) for i in at[0])
            told = f"{wanted[where]} in the source, {got[where]} in the store"
            first = f"the first at row {lo + where[0]}, column {where[1:]}: {told}"
    return [f"{name}: {n} values differ, {first}"] if n else []
