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
from numpy.typing import NDArray
from scipy import stats

from omnimouse_jax.scaling.fit import Fit, polish, predict
from omnimouse_jax.scaling.forms import Array, Labels

LEVEL = 0.95
FIRST_STEPS = 12  # of every start of a refit
REFIT_TOLERANCE = 1e-10  # relative, of the objective: far below the spread of resamples
MAX_RIVALS = 4  # optima from which a refit starts


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
    y, box = fit.y, fit.box
    theta = np.empty((len(counts), len(fit.theta)))
    for first in range(0, len(counts), chunk):
        rows = slice(first, first + chunk)
        w = counts[rows] * fit.weights
        start = np.clip(fit.form.starts(fit.logu, y, w, 7), box[:, 0], box[:, 1])
        tries = [np.tile(fit.theta, (len(w), 1)), start]
        tries += [np.tile(rival, (len(w), 1)) for rival in fit.rivals[1:MAX_RIVALS]]
        theta[rows] = _best(fit, tries, w, box)
    return Bootstrap(fit, theta, seed, unit)


def _best(fit: Fit, starts: Sequence[Array], weights: Array, box: Array) -> Array:
    """Refits of weights (R, n) from each of `starts` (R, P), the best parameters (R, P): a few steps from every start,
    then to the end from the one that is ahead."""
    results = [_refit(fit, start, weights, box, FIRST_STEPS) for start in starts]
    pick = np.argmin([cost for _, cost in results], axis=0)
    ahead = np.stack([theta for theta, _ in results])[pick, np.arange(len(weights))]
    return _refit(fit, ahead, weights, box, 60)[0]


def leave_out(fit: Fit, rows: Sequence[NDArray[np.bool_]]) -> Array:
    """Parameters (m, P) of refits that leave out each of `rows`, boolean masks (n,): warm and global starts."""
    weights = np.stack([fit.weights * ~row for row in rows])
    start = np.clip(fit.form.starts(fit.logu, fit.y, weights, 7), fit.box[:, 0], fit.box[:, 1])
    return _best(fit, [np.tile(fit.theta, (len(rows), 1)), start], weights, fit.box)


def _refit(fit: Fit, start: Array, weights: Array, box: Array, iterations: int) -> tuple[Array, Array]:
    return polish(
        fit.form, start, fit.logu, fit.z, weights, fit.delta, box, iterations=iterations, tolerance=REFIT_TOLERANCE
    )


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


def with_run_noise(sessions: Interval | None, runs: Interval | None) -> Interval | None:
    """Sessions share the runs, so their spread does not contain the noise of runs: it is added in quadrature."""
    if sessions is None or runs is None or runs.is_open:
        return None
    half = float(np.hypot((sessions.high - sessions.low) / 2, (runs.high - runs.low) / 2))
    middle = (sessions.high + sessions.low) / 2
    return dataclasses.replace(
        sessions, low=middle - half, high=middle + half, method=f"{sessions.method}, run noise added"
    )


def profile(fit: Fit, parameter: str, points: int = 40) -> Interval:
    """Profile-likelihood interval of a floor, a plateau or a decay; an end that the data do not close is infinite.

    A value belongs to the interval while the best objective with the parameter held there stays below
    (1 + F(1, n - p) / (n - p)) times the minimum. ValueError: a parameter that is not in `form.profiled`.
    """
    if parameter not in fit.form.profiled:
        raise ValueError(f"form {fit.form.name} has no profile of {parameter}")
    index = fit.form.profiled[parameter]
    box, freedom, best = fit.box, fit.n - fit.free, float(fit.theta[index])
    if freedom < 1:
        return Interval(-np.inf, np.inf, "these sessions", "profile likelihood", fit.n)
    _, minimum = _held(fit, index, np.array([best]))
    limit = minimum[0] * (1 + float(stats.f.ppf(LEVEL, 1, freedom)) / freedom)
    span = (float(np.ptp(fit.y)) or 1.0) if parameter not in fit.form.logarithmic else 1.0
    ends = []
    for side in (-1, 1):
        edge = box[index, 0] if side < 0 else box[index, 1]
        reach = abs(edge - best) if np.isfinite(edge) else 1e3 * span
        if reach <= 1e-12 * span:
            ends.append(side * np.inf)
            continue
        distances = np.geomspace(min(1e-5 * span, reach / 2), reach, points)
        _, cost = _held(fit, index, best + side * distances)
        outside = np.flatnonzero(cost > limit)
        if not len(outside):
            ends.append(side * np.inf)
            continue
        # another basin further out may be as good again: the interval reaches to where the last one ends
        inside = np.flatnonzero(cost <= limit)
        if len(inside) and inside[-1] == points - 1:
            ends.append(side * np.inf)
            continue
        k = int(inside[-1]) + 1 if len(inside) else 0
        inner, inner_cost = (distances[k - 1], cost[k - 1]) if k else (0.0, minimum[0])
        share = (limit - inner_cost) / (cost[k] - inner_cost)
        ends.append(best + side * (inner + share * (distances[k] - inner)))
    low, high = (_in_table_units(fit, parameter, index, end) for end in ends)
    return Interval(low, high, "these sessions", "profile likelihood", fit.n)


def _in_table_units(fit: Fit, parameter: str, index: int, value: float) -> float:
    if not np.isfinite(value):
        return value
    theta = fit.theta.copy()
    theta[index] = value
    return float(fit.form.named(theta, fit.centre)[parameter])


def _held(fit: Fit, index: int, values: Array) -> tuple[Array, Array]:
    """Best fits with one parameter held at each of `values` (m,): parameters (m, P) and objectives (m,).

    From the optimum, from its rivals and from a few global starts; then each value once more from its neighbours.
    """
    wide = fit.box.copy()
    wide[index] = -np.inf, np.inf
    weights = np.tile(fit.weights, (len(values), 1))

    def from_start(start: Array) -> tuple[Array, Array]:
        start = np.broadcast_to(start, (len(values), len(fit.theta))).copy()
        start[:, index] = values
        return polish(fit.form, start, fit.logu, fit.z, weights, fit.delta, wide, fixed=[index], iterations=100)

    others = np.clip(fit.form.candidates(fit.logu, fit.y, fit.weights, 7), fit.box[:, 0], fit.box[:, 1])
    pool = [fit.theta, *fit.rivals[1:MAX_RIVALS], *others[1 :: max(1, len(others) // 3)][:3]]
    theta, cost = from_start(fit.theta)
    for start in pool[1:]:
        theta, cost = _better((theta, cost), from_start(start))
    for shift in (1, -1) if len(values) > 1 else ():
        theta, cost = _better((theta, cost), from_start(np.roll(theta, shift, axis=0)))
    return theta, cost


def _better(one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
    wins = other[1] < one[1]
    return np.where(wins[:, None], other[0], one[0]), np.where(wins, other[1], one[1])
