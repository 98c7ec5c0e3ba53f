"""Means over units and their percentile bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import stdtrit

#: Fewer units than this say nothing about how much they differ.
LEAST_UNITS = 3
#: Keeps draws of blocks apart from draws of units of the same seed.
BLOCK_STREAM, BOTH_STREAM = 11, 12
#: Numbers held at a time while units are drawn again.
AT_A_TIME = 4_000_000


def mean_over_units(r: Float[np.ndarray, " units"], scored: Bool[np.ndarray, " units"]) -> float:
    """Mean over scored units; a unit without variance counts as 0, as in the reference."""
    return float(np.nan_to_num(r[scored]).mean()) if scored.any() else float("nan")


def bootstrap_interval(
    r: Float[np.ndarray, " units"], scored: Bool[np.ndarray, " units"], n: int, seed: int, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the mean over units when units are drawn again. NaN for fewer than 3 units or n = 0."""
    values = np.nan_to_num(r[scored])
    if len(values) < LEAST_UNITS or n < 1:
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


def spread_interval(
    value: float, resampled: Float[np.ndarray, " n"], n_blocks: int, level: float = 0.95
) -> tuple[float, float]:
    """`value` plus and minus the spread of resamples of few blocks: their deviation, enlarged by sqrt(n / (n - 1)), times the t
    quantile of n - 1 degrees of freedom. For scores that lie lower in resamples because a block drawn twice is like itself, where
    percentiles would miss the value. NaN without resamples.
    """
    if len(resampled) == 0:
        return float("nan"), float("nan")
    t = float(stdtrit(n_blocks - 1, (1 + level) / 2))
    half = t * float(np.std(np.nan_to_num(resampled))) * (n_blocks / (n_blocks - 1)) ** 0.5
    return value - half, value + half


def draw_blocks(n_blocks: int, n: int, seed: int) -> Float[np.ndarray, "n blocks"]:
    """How often each block is in each of `n` resamples. The same for the same arguments, so that two models are resampled
    alike.
    """
    rng = np.random.default_rng([seed, n_blocks, BLOCK_STREAM])
    return rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=n).astype(np.float64)


def means_of_resamples(
    values_of: Callable[[Float[np.ndarray, "m blocks"]], Float[np.ndarray, "m units"]],
    n_blocks: int,
    scored: Bool[np.ndarray, " units"],
    n: int,
    seed: int,
    units_too: bool,
) -> Float[np.ndarray, " n"]:
    """Means over scored units of what `values_of` makes of drawn blocks (trials, stimuli); `units_too`: each over units that are
    drawn again as well. Empty for fewer than 3 blocks, or 3 units where they are drawn.
    """
    n_units = int(scored.sum())
    if n_blocks < LEAST_UNITS or n < 1 or n_units < (LEAST_UNITS if units_too else 1):
        return np.zeros(0)
    weights = draw_blocks(n_blocks, n, seed)
    rng = np.random.default_rng([seed, n_blocks, n_units, BOTH_STREAM])
    step = max(1, AT_A_TIME // (8 * max(n_units, 1)))
    means = []
    for first in range(0, n, step):
        values = np.nan_to_num(values_of(weights[first : first + step])[:, scored])
        if units_too:
            values = np.take_along_axis(values, rng.integers(0, n_units, values.shape), axis=1)
        means.append(values.mean(1))
    return np.concatenate(means)
