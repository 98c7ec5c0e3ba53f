"""What the page of a new mouse says, looked up in `finetune`'s result: rows by method, learning curves, and the sentences."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from omnimouse_jax.evaluate.metrics import bootstrap_interval
from omnimouse_jax.pages.marks import Look, number

RESAMPLES = 1000
MAIN = ("", "mean")  # channels of the rows that stand for a task


METHODS = {
    "adapted": Look("adapted", "circle", "fit", "#0b4a86", "#9bd0f7"),
    "scratch": Look("from scratch", "square", "dashed", "#b9541a", "#f2a765"),
    "ridge": Look("ridge regression", "triangle", "dotted", "#6a7178", "#aeb6bf"),
    "before": Look("before adapting", "diamond", "hair", "#8c7aa0", "#b9a8cf"),
}


class Point(NamedTuple):
    """A learning curve at one number of minutes: mean over seeds, and the interval of the only seed where there is one."""

    minutes: float
    score: float
    low: float
    high: float
    n_seeds: int
    steps: float


@dataclasses.dataclass(frozen=True)
class TaskView:
    """One task of one session."""

    session: str
    task: str
    metric: str
    rows: Mapping[str, Mapping[str, Any]]  # method -> row
    curves: Mapping[str, tuple[Point, ...]]
    neurons: Mapping[str, np.ndarray]  # method or "ceiling" -> score of each neuron

    @property
    def ceiling(self) -> float | None:
        return next((c for row in self.rows.values() if (c := finite(row.get("ceiling"))) is not None), None)

    @property
    def noun(self) -> str:
        return "channels of behaviour" if self.metric.startswith("behavior") else "neurons"

    def score(self, method: str) -> float | None:
        return finite(self.rows[method].get("score")) if method in self.rows else None

    def of_ceiling(self, method: str) -> float | None:
        """Share of the ceiling."""
        score = self.score(method)
        return None if score is None or not self.ceiling else score / self.ceiling

    def by_chance(self, method: str) -> bool:
        """Whether the interval of its score reaches down to 0."""
        low = finite(self.rows[method].get("score_low")) if method in self.rows else None
        return low is not None and low <= 0

    @cached_property
    def gain(self) -> tuple[float, float, float] | None:
        """By how much the adapted model is better than the one from scratch: mean over neurons that both have, 95 % interval."""
        if not {"adapted", "scratch"} <= self.neurons.keys():
            return None
        both = np.nan_to_num(self.neurons["adapted"]) - np.nan_to_num(self.neurons["scratch"])
        there = np.isfinite(self.neurons["adapted"]) | np.isfinite(self.neurons["scratch"])
        low, high = bootstrap_interval(both, there, RESAMPLES, 0)
        return (float(both[there].mean()), low, high) if there.any() else None

    @cached_property
    def needed(self) -> tuple[float, float, bool] | None:
        """(minutes that the adapted model needs for what scratch reaches with all minutes, all minutes, whether fewer may do)."""
        adapted, scratch = self.curves.get("adapted", ()), self.curves.get("scratch", ())
        if not adapted or not scratch or self.by_chance("scratch"):
            return None
        target = scratch[-1].score
        if adapted[0].score >= target:
            return adapted[0].minutes, scratch[-1].minutes, True
        for one, two in itertools.pairwise(adapted):
            if two.score >= target:
                share = (target - one.score) / (two.score - one.score)
                return one.minutes * (two.minutes / one.minutes) ** share, scratch[-1].minutes, False
        return None


def views(result: Mapping[str, Any]) -> list[TaskView]:
    """Every task of every session, in the order of the result; those that ask for responses first."""
    rows = [row for row in result.get("scores", []) if row["channel"] in MAIN and finite(row["score"]) is not None]
    found, sessions = [], list(dict.fromkeys(row["session"] for row in rows))
    for session, task, metric in dict.fromkeys((row["session"], row["task"], row["metric"]) for row in rows):
        mine = {
            row["method"]: row
            for row in rows
            if (row["session"], row["task"], row["metric"]) == (session, task, metric)
        }
        neurons = result.get("per_neuron", {}).get(session, {}).get(task, {}) if metric.startswith("response") else {}
        found.append(
            TaskView(
                session,
                task,
                metric,
                {name: mine[name] for name in METHODS if name in mine},
                _curves(result.get("curve", []), session, task, metric),
                {name: _array(values) for name, values in (neurons or {}).items() if values},
            )
        )
    return sorted(found, key=lambda view: (sessions.index(view.session), view.metric.startswith("behavior")))


def channels(result: Mapping[str, Any], view: TaskView) -> dict[str, dict[str, Mapping[str, Any]]]:
    """channel -> method -> row, of a task that decodes behaviour."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in result.get("scores", []):
        same = (row["session"], row["task"], row["metric"]) == (view.session, view.task, view.metric)
        if same and row["channel"] and finite(row["score"]) is not None:
            found.setdefault(row["channel"], {})[row["method"]] = row
    return found


def headline(view: TaskView) -> str:
    """How good the adapted model is, in a few words."""
    score, share = view.score("adapted"), view.of_ceiling("adapted")
    if score is None:
        return "Not adapted"
    if view.by_chance("adapted"):
        return "No better than chance"
    return f"Correlation {number(score)}" if share is None else f"{_percent(share)} of the ceiling"


def sentences(view: TaskView) -> Iterator[str]:
    """How good that is, against what else there is."""
    adapted = view.rows.get("adapted")
    if adapted is None:
        return
    share = view.of_ceiling("adapted")
    of = "" if share is None else f", {_percent(share)} of the ceiling of {number(view.ceiling or 0.0)}"
    no = " No ceiling is known for this recording and task." if share is None else ""
    yield f"After adapting, predictions correlate with the recording at {told(adapted)}{of} (mean over {view.noun}).{no}"
    others = []
    for method in ("scratch", "ridge", "before"):
        if method in view.rows:
            share = view.of_ceiling(method)
            of = "" if share is None else f" ({_percent(share)})"
            others.append(f"{METHODS[method].words} {told(view.rows[method])}{of}")
    if others:
        yield f"With the same minutes: {'; '.join(others)}."
    yield from _gain(view)
    yield from _needed(view)


def _gain(view: TaskView) -> Iterator[str]:
    if view.gain is None:
        return
    mean, low, high = view.gain
    certain = math.isfinite(low) and (low > 0 or high < 0)
    how = "better than" if mean > 0 else "worse than"
    words = f"{how} the model from scratch" if certain else "not measurably different from the model from scratch"
    interval = f" {bracket(low, high)}" if math.isfinite(low) else ""
    yield f"Neuron by neuron the adapted model is {words}: {number(mean, signed=True)}{interval}."


def _needed(view: TaskView) -> Iterator[str]:
    curve, other = view.curves.get("adapted", ()), view.curves.get("scratch", ())
    if len(curve) < 2 or not other:
        return
    if view.by_chance("scratch"):
        yield "The model from scratch is no better than chance with all minutes, so minutes are not compared."
        return
    whole = minutes_told(other[-1].minutes)
    scratch = f"the model from scratch with {whole} ({number(other[-1].score)})"
    if view.needed is None:
        yield f"With up to {minutes_told(curve[-1].minutes)} the adapted model is not as good as {scratch}."
        return
    needed, all_of, fewer = view.needed
    share = f"{100 * needed / all_of:.0f} %" if needed >= 0.01 * all_of else "less than 1 %"
    yield f"With {'at most ' if fewer else ''}{minutes_told(needed)}, {share} of {whole}, it is as good as {scratch}."


def _percent(share: float) -> str:
    return f"{number(100 * share, 0)} %"


def told(row: Mapping[str, Any]) -> str:
    """Score and interval."""
    low, high = finite(row.get("score_low")), finite(row.get("score_high"))
    return number(row["score"]) + ("" if low is None or high is None else f" {bracket(low, high)}")


def bracket(low: float, high: float) -> str:
    return f"[{number(low)}, {number(high)}]"


def minutes_told(minutes: float) -> str:
    """2.34 -> "2.3 min"; 0.5 -> "30 s"."""
    if minutes < 0.95:
        return f"{60 * minutes:.0f} s"
    return f"{minutes:.0f} min" if minutes >= 10 or abs(minutes - round(minutes)) < 0.05 else f"{minutes:.1f} min"


def finite(value: Any) -> float | None:
    """A number, or None for what JSON has in its place."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _array(values: Sequence[Any]) -> np.ndarray:
    return np.array([math.nan if (v := finite(value)) is None else v for value in values], np.float64)


def _curves(rows: Sequence[Mapping[str, Any]], session: str, task: str, metric: str) -> dict[str, tuple[Point, ...]]:
    """method -> points by minutes."""
    found: dict[str, tuple[Point, ...]] = {}
    for method in METHODS:
        at: dict[float, list[Mapping[str, Any]]] = {}
        for row in rows:
            same = (row["session"], row["task"], row["metric"], row["method"]) == (session, task, metric, method)
            if same and row["channel"] in MAIN and finite(row["score"]) is not None:
                at.setdefault(float(row["minutes"]), []).append(row)
        if at:
            found[method] = tuple(_point(minutes, at[minutes]) for minutes in sorted(at))
    return found


def _point(minutes: float, rows: Sequence[Mapping[str, Any]]) -> Point:
    scores = [float(row["score"]) for row in rows]
    low, high = finite(rows[0].get("score_low")), finite(rows[0].get("score_high"))
    if len(rows) > 1 or low is None or high is None:
        low = high = math.nan
    steps = float(np.mean([row.get("steps") or 0 for row in rows]))
    return Point(minutes, float(np.mean(scores)), low, high, len(rows), steps)
