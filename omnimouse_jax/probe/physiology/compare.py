"""Recovered beside planted tuning: errors with their intervals, beside what chance would give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata

Values = Float[np.ndarray, " N"]

#: Neurons that drift one way hardly more than the other have no direction to find.
LEAST_DIRECTION_SELECTIVITY = 0.3
BOOTSTRAP = 1000
LEAST = 5  # neurons


def circular_error(found: Values, planted: Values, period: float) -> Values:
    """Distance on a circle, 0 to period / 2."""
    away = np.abs(found - planted) % period
    return np.minimum(away, period - away)


def octaves(found: Values, planted: Values) -> Values:
    """Distance in octaves."""
    return np.abs(np.log2(found / planted))


def compared(
    found: Mapping[str, Any], planted: Mapping[str, Any], seed: int = 0, draws: int = BOOTSTRAP
) -> list[dict[str, Any]]:
    """One row per quantity: the number of neurons that have both, the median error or the correlation with a 95 % bootstrap
    interval over neurons, and the same with neurons permuted (chance: its median over draws, and the share of draws that do as
    well, p).

    `found`: arrays by name, of a subject; `planted`: the truth's, with `x`, `y` in degrees.
    """
    rows = []
    selective = np.asarray(planted["direction_selectivity"]) >= LEAST_DIRECTION_SELECTIVITY
    every = np.ones(len(selective), bool)

    def add(name: str, what: str, unit: str, better_low: bool, value: Callable[..., Values | float], keep: Any) -> None:
        rows.append(_row(name, what, unit, better_low, value, found, planted, keep, seed, draws))

    add("orientation", "median error", "degrees", True, _error("orientation", circular=180.0), every)
    add("direction", "median error", "degrees", True, _error("direction", circular=360.0), selective)
    add("spatial_frequency", "median error", "octaves", True, _error("spatial_frequency"), every)
    add("temporal_frequency", "median error", "octaves", True, _error("temporal_frequency"), every)
    for name in ("spatial_frequency", "temporal_frequency"):
        add(name, "rank correlation", "", False, _rank(name, name), every)
    if "rf_x" in found:
        add("rf_position", "median distance", "degrees", True, _distance("rf_x", "rf_y"), every)
    if "sparse_x" in found:
        add("rf_position_sparse_noise", "median distance", "degrees", True, _distance("sparse_x", "sparse_y"), every)
    add(
        "direction_selectivity",
        "rank correlation with dsi_pref_null",
        "",
        False,
        _rank("dsi_pref_null", "direction_selectivity"),
        every,
    )
    add("complexity", "rank correlation with minus F1/F0", "", False, _rank("minus_f1_f0", "complexity"), every)
    if "running_log_gain" in found:
        add(
            "gain_running",
            "rank correlation with log gain",
            "",
            False,
            _rank("running_log_gain", "gain_running"),
            every,
        )
    if "pupil_size_log_gain" in found:
        add(
            "gain_pupil", "rank correlation with log gain", "", False, _rank("pupil_size_log_gain", "gain_pupil"), every
        )
    return rows


def _row(
    name: str,
    what: str,
    unit: str,
    better_low: bool,
    value: Any,
    found: Mapping[str, Any],
    planted: Mapping[str, Any],
    keep: Bool[np.ndarray, " N"],
    seed: int,
    draws: int,
) -> dict[str, Any]:
    """`value(found, planted, rows_found, rows_planted)` is a number of paired neurons."""
    names_found, names_planted = value.needs
    there = keep.copy()
    for source, names in ((found, names_found), (planted, names_planted)):
        for one in names:
            there &= np.isfinite(np.asarray(source[one], np.float64))
    rows = np.flatnonzero(there)
    row: dict[str, Any] = {"quantity": name, "measure": what, "unit": unit, "better": "low" if better_low else "high"}
    row |= {
        "neurons": len(rows),
        "of": int(keep.sum()),
        "value": None,
        "low": None,
        "high": None,
        "chance": None,
        "p": None,
    }
    if len(rows) < LEAST:
        return row
    rng = np.random.default_rng([seed, len(rows)])
    mine = value(found, planted, rows, rows)
    again = [value(found, planted, some, some) for some in rows[rng.integers(0, len(rows), (draws, len(rows)))]]
    chance = np.array([value(found, planted, rng.permutation(rows), rows) for _ in range(draws)])
    low, high = np.nanquantile(again, [0.025, 0.975])
    as_good = chance <= mine if better_low else chance >= mine
    row |= {"value": float(mine), "low": float(low), "high": float(high)}
    return row | {"chance": float(np.nanmedian(chance)), "p": float((1 + as_good.sum()) / (1 + draws))}


class _Measure:
    """A number of paired neurons, and which arrays it takes from either side."""

    def __init__(self, found: tuple[str, ...], planted: tuple[str, ...], of: Callable[..., float]):
        self.needs, self._of = (found, planted), of

    def __call__(self, found: Mapping[str, Any], planted: Mapping[str, Any], i: np.ndarray, j: np.ndarray) -> float:
        mine = [np.asarray(found[name], np.float64)[i] for name in self.needs[0]]
        true = [np.asarray(planted[name], np.float64)[j] for name in self.needs[1]]
        return self._of(mine, true)


def _error(name: str, circular: float = 0.0) -> _Measure:
    def of(mine: list[Values], true: list[Values]) -> float:
        away = circular_error(mine[0], true[0], circular) if circular else octaves(mine[0], true[0])
        return float(np.median(away))

    return _Measure((name,), (name,), of)


def _distance(x: str, y: str) -> _Measure:
    return _Measure(
        (x, y), ("x", "y"), lambda mine, true: float(np.median(np.hypot(mine[0] - true[0], mine[1] - true[1])))
    )


def _rank(found: str, planted: str) -> _Measure:
    return _Measure((found,), (planted,), lambda mine, true: rank_correlation(mine[0], true[0]))


def rank_correlation(a: Values, b: Values) -> float:
    """Spearman's; 0 where either does not vary."""
    a, b = rankdata(a), rankdata(b)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
