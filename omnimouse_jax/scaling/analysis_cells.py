"""From rows of the ledger to the grid of one task: one score per point and session, levels of the axes, ceilings, names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from omnimouse_jax.scaling.exclude import Point, point
from omnimouse_jax.scaling.forms import Array
from omnimouse_jax.scaling.grid import Grid
from omnimouse_jax.scaling.ledger import Row

Scores = dict[tuple[Point, str], float]
#: Subsets of one size (several orders) whose amounts lie within this factor are one level of the data axis.
ONE_LEVEL = 1.5


def scores(rows: Sequence[Row], notes: list[str]) -> Scores:
    """One score per point and session: the channel 'mean' or empty where given, else the mean over channels."""
    by_channel: dict[tuple[Point, str], dict[str, float]] = {}
    invalid = 0
    for row in rows:
        if not np.isfinite(row["score"]):
            invalid += 1
            continue
        by_channel.setdefault((point(row), row["session"]), {})[row["channel"]] = row["score"]
    if invalid:
        notes.append(f"{invalid} scores are not finite numbers and were left out.")
    channels = sorted({c for found in by_channel.values() for c in found})
    for whole in ("mean", ""):
        if whole in channels:
            return {key: found[whole] for key, found in by_channel.items() if whole in found}
    notes.append(f"The score is the plain mean over the channels {', '.join(channels)}.")
    return {
        key: float(np.mean([found[c] for c in channels]))
        for key, found in by_channel.items()
        if len(found) == len(channels)
    }


def common_sessions(values: Scores, points: Sequence[Point], notes: list[str]) -> list[str]:
    """The sessions on which every point was scored."""
    chosen = set(points)
    everywhere = sorted({s for p, s in values if p in chosen})
    kept = [s for s in everywhere if all((p, s) in values for p in points)]
    dropped = [s for s in everywhere if s not in kept]
    if dropped and kept:
        notes.append(f"Left out, because not every run was scored on it: session {', '.join(dropped)}.")
    return kept


def amounts(runs: Sequence[Row], data_axis: str, notes: list[str]) -> Array:
    """The data axis of every run (runs,). Orders of sessions draw subsets of one size that differ a little in neurons or hours:
    they are one level, at their geometric mean, so that cells stay cells."""
    values = np.array([row[data_axis] for row in runs], dtype=np.float64)
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for i, row in enumerate(runs):
        groups[(row["n_sessions"], row.get("minutes"))].append(i)
    if data_axis == "n_sessions" or len({row["data_order"] for row in runs}) < 2:
        return values
    merged = 0
    for found in groups.values():
        low, high = values[found].min(), values[found].max()
        if low < high <= ONE_LEVEL * low:
            values[found] = np.exp(np.log(np.unique(values[found])).mean())
            merged += 1
    if merged:
        notes.append(
            f"Orders of sessions differ a little on the data axis; each of {merged} levels stands at its geometric mean."
        )
    return values


def ceiling_of(rows: Sequence[Row], sessions: Sequence[str], grid: Grid, notes: list[str]) -> tuple[float | None, str]:
    """Mean ceiling over the sessions, if all have one. A score above it shows that it is no bound for this task."""
    found = {r["session"]: r for r in rows if r["ceiling"] is not None and np.isfinite(r["ceiling"])}
    if not all(s in found for s in sessions):
        return None, ""
    value = float(np.mean([found[s]["ceiling"] for s in sessions]))
    estimator = found[sessions[0]]["ceiling_estimator"]
    if not 0 < value <= 1 or np.nanmax(grid.mean) >= value:
        notes.append(
            f"Scores reach past the stated ceiling {value:.3f}: it does not bound this task and no fit uses it."
        )
        return None, estimator
    return value, estimator


def size_names(sizes: Array, runs: Sequence[Row]) -> tuple[str, ...]:
    """The ledger's names of the sizes where they tell them apart, else their parameters."""
    names = []
    for size in sizes:
        given = {r["size"] for r in runs if r["n_params_core"] == size and r["size"]}
        names.append(given.pop() if len(given) == 1 else human(float(size)))
    return tuple(names) if len(set(names)) == len(names) else tuple(human(float(s)) for s in sizes)


def share_above(rows: Sequence[Row], points: Sequence[Point], sessions: Sequence[str]) -> Mapping[Point, float]:
    """Share of neurons with a correlation above .1, mean over sessions, of points that have it everywhere."""
    found: dict[Point, dict[str, float]] = defaultdict(dict)
    for row in rows:
        value = row.get("share_above_0.1")
        if value is not None and np.isfinite(value):
            found[point(row)][row["session"]] = float(value)
    return {p: float(np.mean([found[p][s] for s in sessions])) for p in points if all(s in found[p] for s in sessions)}


def human(value: float | int) -> str:
    """1234567 -> 1.23M; numbers below ten thousand as they are."""
    if value < 1e4:
        return f"{value:.4g}"
    for scale, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= scale * 0.9995:
            return f"{value / scale:.3g}{letter}" if value < 1e15 else f"{value:.2g}"
    return f"{value:.3g}"
