"""Intervals, each labelled with what it is over.

"these sessions": run and seed noise, by resampling cells with all their seeds (cluster bootstrap). "new sessions":
differences between recorded sessions, by a t interval on per-session estimates (per animal where animals repeat),
because a bootstrap over runs cannot see noise that all runs share. Profile likelihood for floors and plateaus, whose
intervals may be open and are then reported as open.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import stats

from omnimouse_jax.scaling.fit import Fit, polish, predict
from omnimouse_jax.scaling.forms import Array, Labels

LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Interval:
    """A 95 % interval; an infinite end is open. `over`: what would vary; `method`: how made; `n`: from how many."""

    low: float
    high: float
    over: str
    method: str
    n: int

    @property
    def is_open(self) -> bool:
        return not (np.isfinite(self.low) and np.isfinite(self.high))

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclasses.dataclass(frozen=True)
class Bootstrap:
    """Parameter vectors of resampled fits, (R, P) internal, and the fit they belong to."""

    fit: Fit
    theta: Array = dataclasses.field(repr=False)
    seed: int
    unit: str = "cells"  # what was resampled

    def named(self) -> dict[str, Array]:
        """Resampled parameters by name, table units, (R,) each."""
        return self.fit.form.named(self.theta, self.fit.centre)

    def interval(self, values: Array) -> Interval:
        """Percentile interval of one number per resample; infinite values make open ends."""
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(values, [tail, 1 - tail], method="inverted_cdf")
        return Interval(float(low), float(high), "these sessions", f"bootstrap over {self.unit}", len(values))

    def band(self, x: Array) -> tuple[Array, Array]:
        """Percentile band of the curves at x (m, k)."""
        curves = predict(self.fit.form, self.theta, self.fit.centre, x)
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(curves, [tail, 1 - tail], axis=0)
        return low, high


def bootstrap(
    fit: Fit,
    clusters: Sequence[int] | Labels | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
    counts: Array | None = None,
    unit: str = "",
    chunk: int = 125,
) -> Bootstrap:
    """Refit on resampled clusters (all rows of a cluster together): warm start at the fit plus one global start.

    `clusters` (n,) labels rows, each row its own by default. `counts` (R, n): resampling counts made elsewhere, in
    place of drawing them. `unit` says what a cluster is.
    """
    n = fit.n
    unit = unit or ("rows" if clusters is None else "cells")
    if counts is None:
        labels = np.arange(n) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
        groups = int(labels.max()) + 1
        draws = np.random.default_rng([seed, groups]).multinomial(groups, np.full(groups, 1 / groups), size=resamples)
        counts = draws[:, labels].astype(np.float64)
    y = np.exp(fit.z) if fit.form.response == "log" else fit.z
    box = fit.form.bounds(y)
    theta = np.empty((len(counts), len(fit.theta)))
    for first in range(0, len(counts), chunk):
        rows = slice(first, first + chunk)
        w = counts[rows] * fit.weights
        warm, warm_cost = _refit(fit, np.tile(fit.theta, (len(w), 1)), w, box)
        start = np.clip(fit.form.starts(fit.logu, y, w, 7), box[:, 0], box[:, 1])
        cold, cold_cost = _refit(fit, start, w, box)
        theta[rows] = np.where((cold_cost < warm_cost)[:, None], cold, warm)
    return Bootstrap(fit, theta, seed, unit)


def _refit(fit: Fit, start: Array, weights: Array, box: Array) -> tuple[Array, Array]:
    return polish(fit.form, start, fit.logu, fit.z, weights, fit.delta, box, iterations=60)


def t_interval(values: Array, over: str, method: str) -> Interval | None:
    """Student t interval of the mean of independent values (n,); None for fewer than two."""
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        return None
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    mean = float(values.mean())
    return Interval(mean - half, mean + half, over, method, len(values))


def across_sessions(values: Array, animals: Sequence[str]) -> Interval | None:
    """Interval over new sessions from per-session numbers; where animals repeat, over animals' means."""
    values = np.asarray(values, dtype=np.float64)
    names = sorted(set(animals))
    if len(names) == len(animals):
        return t_interval(values, "new sessions", "t over sessions")
    means = np.array([values[[a == name for a in animals]].mean() for name in names])
    return t_interval(means, "new animals", "t over animals")


def profile(fit: Fit, parameter: str, points: int = 40) -> Interval:
    """Profile-likelihood interval of an offset (E, S_inf, c); an end that the data do not close is infinite.

    A value belongs to the interval while the best objective with the parameter held there stays below
    (1 + F(1, n - p) / (n - p)) times the minimum.
    """
    index = fit.form.parameters.index(parameter)
    y = np.exp(fit.z) if fit.form.response == "log" else fit.z
    box = fit.form.bounds(y)
    freedom = fit.n - len(fit.theta)
    best = float(fit.theta[index])
    if freedom < 1:
        return Interval(-np.inf, np.inf, "these sessions", "profile likelihood", fit.n)
    _, minimum = _held(fit, index, np.array([best]), box)
    limit = minimum[0] * (1 + float(stats.f.ppf(LEVEL, 1, freedom)) / freedom)
    span = float(np.ptp(y)) or 1.0
    ends = []
    for side in (-1, 1):
        edge = box[index, 0] if side < 0 else box[index, 1]
        reach = abs(edge - best) if np.isfinite(edge) else 1e3 * span
        if reach <= 1e-12:
            ends.append(side * np.inf)
            continue
        distances = np.geomspace(min(1e-5 * span, reach / 2), reach, points)
        _, cost = _held(fit, index, best + side * distances, box)
        outside = np.flatnonzero(cost > limit)
        if not len(outside):
            ends.append(side * np.inf)
            continue
        k = int(outside[0])
        inner, inner_cost = (distances[k - 1], cost[k - 1]) if k else (0.0, minimum[0])
        share = (limit - inner_cost) / (cost[k] - inner_cost)
        ends.append(best + side * (inner + share * (distances[k] - inner)))
    return Interval(float(ends[0]), float(ends[1]), "these sessions", "profile likelihood", fit.n)


def _held(fit: Fit, index: int, values: Array, box: Array) -> tuple[Array, Array]:
    """Best fits with one parameter held at each of `values` (m,): parameters (m, P) and objectives (m,)."""
    theta = np.tile(fit.theta, (len(values), 1))
    theta[:, index] = values
    wide = box.copy()
    wide[index] = -np.inf, np.inf
    weights = np.tile(fit.weights, (len(values), 1))
    starts = [theta]
    for alpha in (0.05, 0.3):  # far from the optimum the exponent is another one: more starts
        other = theta.copy()
        other[:, index + 2 :: 2] = alpha
        starts.append(other)
    results = [
        polish(fit.form, s, fit.logu, fit.z, weights, fit.delta, wide, fixed=[index], iterations=100) for s in starts
    ]
    costs = np.stack([cost for _, cost in results])
    pick = np.argmin(costs, axis=0)
    return np.stack([t for t, _ in results])[pick, np.arange(len(values))], costs.min(axis=0)
