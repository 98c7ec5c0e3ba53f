"""Scores from running sums, in float64 on the host. Nothing is clipped; a score travels with its estimator and interval."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

ESTIMATOR = "pooled single-trial Pearson"


class PooledCorrelation:
    """Pearson correlation per unit over all (window, sample) pairs that were scored, whatever stimulus or trial they came from.

    The convention of OmniMouse: no averaging over repeats, no correlation per trial. Sums are merged exactly in any order of
    updates up to float64 rounding; memory does not grow with the data. To keep variances of large means exact, values are
    taken relative to the first target seen of each unit.
    """

    def __init__(self, n_units: int):
        self.count = np.zeros(n_units, np.float64)
        self.origin = np.full(n_units, np.nan)
        self.sums = np.zeros((5, n_units), np.float64)  # p, t, pp, tt, pt

    def update(
        self,
        units: slice | np.ndarray,
        predicted: Float[np.ndarray, "samples units"],
        target: Float[np.ndarray, "samples units"],
        mask: Bool[np.ndarray, "samples units"],
    ) -> None:
        """Adds samples of some units; masked ones do not count."""
        origin = self.origin[units]
        fresh = np.isnan(origin) & mask.any(axis=0)
        first = np.take_along_axis(target, mask.argmax(axis=0)[None], axis=0)[0]
        origin = np.where(fresh, first, origin)
        self.origin[units] = origin
        shift = np.nan_to_num(origin)
        p = np.where(mask, predicted.astype(np.float64) - shift, 0.0)
        t = np.where(mask, target.astype(np.float64) - shift, 0.0)
        self.count[units] += mask.sum(axis=0)
        self.sums[:, units] += np.stack([p.sum(0), t.sum(0), (p * p).sum(0), (t * t).sum(0), (p * t).sum(0)])

    def correlation(self) -> Float[np.ndarray, " units"]:
        """r per unit; NaN where a unit was never scored or where prediction or target never varied."""
        return _pearson(self.count, self.sums)


class BlockCorrelation:
    """The same correlation for a handful of units, with sums kept per block (a window) so that blocks can be drawn again."""

    def __init__(self, n_units: int):
        self.n_units = n_units
        self.blocks: list[Float[np.ndarray, "6 units"]] = []

    def update(
        self,
        predicted: Float[np.ndarray, "samples units"],
        target: Float[np.ndarray, "samples units"],
        mask: Bool[np.ndarray, "samples units"],
    ) -> None:
        """Adds one block; masked samples do not count. Values should be of order one (z-scores)."""
        p, t = (np.where(mask, x.astype(np.float64), 0.0) for x in (predicted, target))
        self.blocks.append(np.stack([mask.sum(0), p.sum(0), t.sum(0), (p * p).sum(0), (t * t).sum(0), (p * t).sum(0)]))

    @property
    def count(self) -> Float[np.ndarray, " units"]:
        return np.sum([block[0] for block in self.blocks], axis=0) if self.blocks else np.zeros(self.n_units)

    def correlation(self) -> Float[np.ndarray, " units"]:
        total = np.sum(self.blocks, axis=0) if self.blocks else np.zeros((6, self.n_units))
        return _pearson(total[0], total[1:])

    def bootstrap(self, n: int, seed: int) -> Float[np.ndarray, "n units"]:
        """Correlations when blocks are drawn again."""
        rng = np.random.default_rng([seed, len(self.blocks)])
        weights = rng.multinomial(len(self.blocks), np.full(len(self.blocks), 1 / len(self.blocks)), size=n)
        total = np.tensordot(weights.astype(np.float64), np.stack(self.blocks), axes=1)
        return _pearson(total[:, 0], np.moveaxis(total[:, 1:], 1, 0))


def _pearson(count: np.ndarray, sums: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        p, t, pp, tt, pt = sums / count
        var_p, var_t = pp - p * p, tt - t * t
        # Variances below the rounding of the sums are zeros.
        flat = (var_p <= 1e-14 * pp) | (var_t <= 1e-14 * tt)
        r = (pt - p * t) / np.sqrt(var_p * var_t)
    return np.where(flat, np.nan, r)


def mean_over_units(r: Float[np.ndarray, " units"], scored: Bool[np.ndarray, " units"]) -> float:
    """Mean over scored units; a unit without variance counts as 0, as in the reference."""
    return float(np.nan_to_num(r[scored]).mean()) if scored.any() else float("nan")


def bootstrap_interval(
    r: Float[np.ndarray, " units"], scored: Bool[np.ndarray, " units"], n: int, seed: int, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the mean over units when units are drawn again. NaN for fewer than 3 units or n = 0."""
    values = np.nan_to_num(r[scored])
    if len(values) < 3 or n < 1:
        return float("nan"), float("nan")
    rng = np.random.default_rng([seed, len(values)])
    means = np.concatenate(
        [values[rng.integers(0, len(values), (100, len(values)))].mean(1) for _ in range(-(-n // 100))]
    )[:n]
    return percentile_interval(means, level)


def percentile_interval(resampled: Float[np.ndarray, " n"], level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval; a resample without a value counts as 0, as in the score."""
    if len(resampled) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(np.nan_to_num(resampled), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
