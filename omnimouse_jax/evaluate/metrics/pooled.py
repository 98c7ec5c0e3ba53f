"""Single-trial correlation and R2 from sums per unit, or per unit and block of trials so that blocks can be drawn again."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from omnimouse_jax.evaluate.metrics.bootstrap import draw_blocks

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
        """Adds samples of some units, each named once; masked ones do not count."""
        origin = _with_origin(self.origin, units, target, mask)
        count, sums = _sums(predicted, target, mask, origin)
        self.count[units] += count
        self.sums[:, units] += sums

    def merge(self, other: PooledCorrelation) -> None:
        """Adds what another one has seen of the same units."""
        fresh = np.isnan(self.origin)
        self.origin = np.where(fresh, other.origin, self.origin)
        shift = np.nan_to_num(other.origin - self.origin)
        self.count += other.count
        self.sums += _moved(other.count, other.sums, shift)

    def correlation(self, eps: float = 0.0) -> Float[np.ndarray, " units"]:
        """r per unit; NaN where a unit was never scored or where prediction or target never varied."""
        return pearson(self.count, self.sums, eps)


class TrialSums:
    """The same sums per block of trials, a number that is known before: what a bootstrap over trials needs.

    Memory: 6 numbers for every block and unit, however long a block is.
    """

    def __init__(self, n_blocks: int, n_units: int):
        self.count = np.zeros(n_units, np.float64)  # of all blocks together
        self.origin = np.full(n_units, np.nan)
        self.blocks = np.zeros((n_blocks, 6, n_units), np.float64)  # n, p, t, pp, tt, pt

    def update(
        self,
        units: slice | np.ndarray,
        block: Int[np.ndarray, " samples"],
        predicted: Float[np.ndarray, "samples units"],
        target: Float[np.ndarray, "samples units"],
        mask: Bool[np.ndarray, "samples units"],
    ) -> None:
        """Adds samples of some units, each named once; masked ones, and those of block -1, do not count."""
        mask = mask & (block >= 0)[:, None]
        origin = _with_origin(self.origin, units, target, mask)
        for number in np.unique(block[block >= 0]):
            of = block == number
            count, sums = _sums(predicted[of], target[of], mask[of], origin)
            self.count[units] += count
            self.blocks[number][:, units] += np.concatenate([count[None], sums])

    def merge(self, other: TrialSums) -> None:
        """Adds what another one has seen of the same blocks and units."""
        fresh = np.isnan(self.origin)
        self.origin = np.where(fresh, other.origin, self.origin)
        shift = np.nan_to_num(other.origin - self.origin)
        self.count += other.count
        for mine, theirs in zip(self.blocks, other.blocks, strict=True):
            mine += np.concatenate([theirs[:1], _moved(theirs[0], theirs[1:], shift)])

    @property
    def total(self) -> Float[np.ndarray, "6 units"]:
        return self.blocks.sum(0)

    def correlation(self) -> Float[np.ndarray, " units"]:
        """r per unit over all blocks together."""
        return pearson(self.total[0], self.total[1:])

    def r2(self) -> Float[np.ndarray, " units"]:
        """1 - squared error / variance of the target, per unit over all blocks: 1 is perfect, the mean of what is scored gives 0,
        worse predictions less. NaN where the target never varied.
        """
        return _r2(self.total)

    def resampled(self, weights: Float[np.ndarray, "m blocks"]) -> Float[np.ndarray, "m units"]:
        """Correlations when each block counts as often as its weight says."""
        total = np.tensordot(weights, self.blocks, axes=1)
        return pearson(total[:, 0], np.moveaxis(total[:, 1:], 1, 0))

    def resampled_r2(self, weights: Float[np.ndarray, "m blocks"]) -> Float[np.ndarray, "m units"]:
        """`r2` when each block counts as often as its weight says."""
        return _r2(np.moveaxis(np.tensordot(weights, self.blocks, axes=1), 1, 0))

    def bootstrap(self, n: int, seed: int) -> Float[np.ndarray, "n units"]:
        """Correlations when blocks are drawn again."""
        return self.resampled(draw_blocks(len(self.blocks), n, seed))

    def of_blocks(self) -> Float[np.ndarray, "blocks units"]:
        """Correlations within each block."""
        return pearson(self.blocks[:, 0], np.moveaxis(self.blocks[:, 1:], 1, 0))


class BlockCorrelation:
    """The same correlation for a handful of units, with sums kept for each of any number of blocks (a window)."""

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
        count, sums = _sums(predicted, target, mask, np.zeros(self.n_units))
        self.blocks.append(np.concatenate([count[None], sums]))

    @property
    def count(self) -> Float[np.ndarray, " units"]:
        return np.sum([block[0] for block in self.blocks], axis=0) if self.blocks else np.zeros(self.n_units)

    def correlation(self) -> Float[np.ndarray, " units"]:
        total = np.sum(self.blocks, axis=0) if self.blocks else np.zeros((6, self.n_units))
        return pearson(total[0], total[1:])

    def bootstrap(self, n: int, seed: int) -> Float[np.ndarray, "n units"]:
        """Correlations when blocks are drawn again."""
        rng = np.random.default_rng([seed, len(self.blocks)])
        weights = rng.multinomial(len(self.blocks), np.full(len(self.blocks), 1 / len(self.blocks)), size=n)
        total = np.tensordot(weights.astype(np.float64), np.stack(self.blocks), axes=1)
        return pearson(total[:, 0], np.moveaxis(total[:, 1:], 1, 0))


def pearson(count: np.ndarray, sums: np.ndarray, eps: float = 0.0) -> np.ndarray:
    """r from sums of p, t, pp, tt, pt (first axis) over `count` pairs; NaN where either never varied.

    With `eps` it is what some peers report: deviations plus eps in the denominator, 0 where one never varied.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        p, t, pp, tt, pt = sums / count
        var_p, var_t = pp - p * p, tt - t * t
        # Variances below the rounding of the sums are zeros.
        flat = (var_p <= 1e-14 * pp) | (var_t <= 1e-14 * tt)
        if eps:
            var_p, var_t = (np.where(v <= 1e-14 * m, 0.0, v) for v, m in ((var_p, pp), (var_t, tt)))
            return (pt - p * t) / ((np.sqrt(var_p) + eps) * (np.sqrt(var_t) + eps))
        r = (pt - p * t) / np.sqrt(var_p * var_t)
    return np.where(flat, np.nan, r)


def _r2(total: np.ndarray) -> np.ndarray:
    n, _, t, pp, tt, pt = total
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = tt - t * t / n
        return np.where(variance > 1e-14 * tt, 1 - (pp + tt - 2 * pt) / variance, np.nan)


def _with_origin(
    all_origins: np.ndarray, units: slice | np.ndarray, target: np.ndarray, mask: np.ndarray
) -> np.ndarray:
    """The origin of some units, set to their first target where they had none; 0 where there is still none."""
    origin = all_origins[units]
    fresh = np.isnan(origin) & mask.any(axis=0)
    if fresh.any():
        first = np.take_along_axis(target, mask.argmax(axis=0)[None], axis=0)[0]
        origin = np.where(fresh, first, origin)
        all_origins[units] = origin
    return np.nan_to_num(origin)


def _sums(
    predicted: np.ndarray, target: np.ndarray, mask: np.ndarray, origin: np.ndarray
) -> tuple[Float[np.ndarray, " units"], Float[np.ndarray, "5 units"]]:
    p = np.where(mask, predicted.astype(np.float64) - origin, 0.0)
    t = np.where(mask, target.astype(np.float64) - origin, 0.0)
    sums = np.stack([p.sum(0), t.sum(0), (p * p).sum(0), (t * t).sum(0), (p * t).sum(0)])
    return mask.sum(axis=0).astype(np.float64), sums


def _moved(count: np.ndarray, sums: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Sums about an origin that lies lower by `shift`."""
    p, t, pp, tt, pt = sums
    square = shift * shift * count
    return np.stack(
        [
            p + shift * count,
            t + shift * count,
            pp + 2 * shift * p + square,
            tt + 2 * shift * t + square,
            pt + shift * (p + t) + square,
        ]
    )
