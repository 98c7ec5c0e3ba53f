"""What a design can tell before anything is trained: levels and decades of its axes, and its power, by simulation."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import optimize, stats

from omnimouse_jax.scaling.forms import Array
from omnimouse_jax.scaling.grid import Grid
from omnimouse_jax.scaling.uncertainty import LEVEL

#: Exponents of the assumed law S = S_inf - A N^-alpha - B D^-beta, near those of language models (Besiroglu et al. 2024: .35, .37).
ALPHA, BETA = 0.35, 0.30
MORE = 1.1  # the difference in slope that a study should see
#: Independent orders of the smaller subsets that make their choice a random effect.
ORDERS = 3


@dataclasses.dataclass(frozen=True)
class Power:
    """Of one axis ("data" or "parameters"): shares of simulated studies in which a slope that is 10 % larger is told apart.

    `slope` is the gain per doubling without any curve, `exponent` that of the joint curve (None: the range carries none).
    `smallest_gain` per doubling is seen, as not zero, in 80 % of studies; None where nothing tells the noise.
    """

    axis: str
    levels: int
    decades: float
    slope: float | None
    exponent: float | None
    smallest_gain: float | None


@dataclasses.dataclass(frozen=True)
class Design:
    """`assumed` in words; `can` and `cannot` are sentences for people."""

    axes: tuple[Power, Power]
    assumed: str
    can: tuple[str, ...]
    cannot: tuple[str, ...]


def examine(
    parameters: Array,
    data: Array,
    *,
    unit: str,
    noise: float,
    gain: float,
    orders: Sequence[int],
    rates: Sequence[tuple[float, float]],
    animals: int,
    studies: int = 1000,
    seed: int = 0,
) -> Design:
    """What runs at these core parameters (n,) and amounts of data (n,) will be able to tell, all but those at other learning rates.

    noise: standard deviation between seeds of a score; gain: score per doubling of either axis. Both are assumptions. orders: of
    each run; rates: (parameters, multiple of the rate) of all runs; animals: of the evaluation sessions.
    """
    grid = Grid(parameters, data, np.zeros((len(data), 1)), ("",))
    repeats = Counter(zip(parameters, data, orders, strict=True))
    narrow = {axis: grid.too_narrow(axis) for axis in ("data", "parameters")}
    exponents = {} if any(narrow.values()) else _exponents(grid, noise, gain, studies, seed)
    axes = []
    for axis in ("data", "parameters"):
        levels, decades = grid.span(axis)
        slope, smallest = _slope(grid, len(data) - len(repeats), axis, noise, gain, studies, seed)
        axes.append(Power(axis, levels, decades, slope, exponents.get(axis), smallest))
    assumed = (
        f"{studies} simulated studies each, with noise of {noise:g} between seeds (study.assumed_noise) and a gain of {gain:g} per "
        f"doubling of either axis at the middle of the grid (study.assumed_gain); exponents {ALPHA} and {BETA}"
    )
    can, cannot = _sentences(grid, repeats, tuple(axes), narrow, unit, orders, rates, animals)
    return Design((axes[0], axes[1]), assumed, tuple(can), tuple(cannot))


def _run_weights(grid: Grid, axis: str) -> Array | None:
    """What each run adds to the gain per doubling along an axis."""
    weights = grid.slope(axis)
    if weights is None:
        return None
    at = tuple(grid.cell.T)
    return np.asarray(weights[at] / grid.count[at])


def _slope(
    grid: Grid, freedom: int, axis: str, noise: float, gain: float, studies: int, seed: int
) -> tuple[float | None, float | None]:
    weights = _run_weights(grid, axis)
    if weights is None or not freedom:
        return None, None
    rng = np.random.default_rng([seed, 1, axis == "data"])
    draws = noise * rng.standard_normal((4 * studies, len(weights)))
    off = draws @ weights
    spread = noise * np.sqrt(rng.chisquare(freedom, 4 * studies) / freedom) * np.sqrt(weights @ weights)
    critical = stats.t.ppf((1 + LEVEL) / 2, freedom) * spread
    seen = float(np.mean(np.abs(off + (MORE - 1) * gain) > critical))
    # the quantile by which the gain must exceed its critical value in 80 % of studies
    return seen, float(np.quantile(critical - off, 0.8))


def _exponents(grid: Grid, noise: float, gain: float, studies: int, seed: int) -> dict[str, float]:
    """Per axis: how often an exponent that is 10 % larger lies outside the range of estimates that the first one gives.

    Estimates are least squares from the truth on: that of a fit that has found its optimum.
    """
    logs = np.stack([np.log(v) - np.log(np.unique(v)).mean() for v in (grid.parameters, grid.data)])

    def curve(theta: Array) -> Array:
        return np.asarray(theta[0] - theta[1:3] @ np.exp(-theta[3:5, None] * logs))

    def slopes(theta: Array) -> Array:
        terms = np.exp(-theta[3:5, None] * logs)
        return np.concatenate([np.ones((1, logs.shape[1])), -terms, theta[1:3, None] * terms * logs]).T

    def estimates(exponents: Array, stream: int) -> Array:
        # each term falls by `gain` from the middle of the grid to its double
        truth = np.array([1.0, *(gain / (1 - 2**-exponents)), *exponents])
        rng = np.random.default_rng([seed, 2, stream])
        scores = curve(truth) + noise * rng.standard_normal((studies, logs.shape[1]))
        found = [
            optimize.least_squares(lambda theta, y=y: curve(theta) - y, truth, jac=slopes, method="lm", max_nfev=200).x
            for y in scores
        ]
        return np.array(found)[:, 3:]

    tail = (1 - LEVEL) / 2
    low, high = np.quantile(estimates(np.array([ALPHA, BETA]), 0), [tail, 1 - tail], axis=0)
    out = {}
    for i, axis in enumerate(("parameters", "data")):
        larger = np.array([ALPHA, BETA])
        larger[i] *= MORE
        other = estimates(larger, 1 + i)[:, i]
        out[axis] = float(np.mean((other < low[i]) | (other > high[i])))
    return out


def _sentences(
    grid: Grid,
    repeats: Mapping[tuple[float, float, int], int],
    axes: tuple[Power, ...],
    narrow: dict[str, str],
    unit: str,
    orders: Sequence[int],
    rates: Sequence[tuple[float, float]],
    animals: int,
) -> tuple[list[str], list[str]]:
    can, cannot = [], []
    for axis in axes:
        what = unit if axis.axis == "data" else "parameters"
        if axis.smallest_gain is not None:
            can.append(f"see a gain of {axis.smallest_gain:.4f} or more per doubling of {what}, 8 times of 10")
        if narrow[axis.axis]:
            cannot.append(f"give an exponent for {what}: {narrow[axis.axis]}")
    if len(axes) and not any(narrow.values()):
        can.append("fit the joint curve of parameters and data, and say which of them limits")
    else:
        cannot.append("say by a curve whether data or parameters limit: both axes need their range")
    top = [count for (n, d, _), count in repeats.items() if (n, d) == (grid.sizes[-1], grid.amounts[-1])]
    if max(repeats.values()) == 1:
        cannot.append("tell the noise between seeds: one run per cell (study.seeds)")
    elif max(top, default=0) <= 1:
        cannot.append(
            "tell the noise at the largest size and amount, where it matters most: seeds are repeated elsewhere only"
        )
    small = {order for order, amount in zip(orders, grid.data, strict=True) if amount < grid.amounts[-1]}
    if len(grid.amounts) > 1 and len(small) < ORDERS:
        cannot.append(
            f"tell how much it matters which {unit} come first: {len(small)} nested order{'s' * (len(small) > 1)}, {ORDERS} would "
            "(study.orders, or study.also for the small amounts)"
        )
    tuned = Counter(n for n, _ in set(rates))
    if sum(count > 1 for count in tuned.values()) < 2:
        cannot.append("tell whether the learning rate suits every size: it is varied at fewer than two (study.rates)")
    if animals < 2:
        cannot.append("speak of new animals: the evaluation sessions are of one")
    return can, cannot
