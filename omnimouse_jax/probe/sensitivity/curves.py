"""From shifts to curves and summary numbers, with bootstraps over stimuli and neurons. numpy, float64.

S(eps): the mean over stimuli of D. eps*: the smallest budget with S >= 1 SD. A: the mean of S over log eps. Q: S over that of
random
directions. (Sheet on brain-side evaluation, 2.2.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

LEVEL = 0.95


class Interval(NamedTuple):
    """A number with its bootstrap interval; infinite ends are beyond the grid."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, draws: Float[np.ndarray, " K"]) -> Interval:
        """Percentiles as order statistics, so that draws beyond the grid (infinite) are counted, never averaged."""
        if np.isnan(draws).any():
            return cls(float(value), math.nan, math.nan)
        low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
        return cls(float(value), float(low), float(high))


class Resamples(NamedTuple):
    """How often each stimulus and each neuron is drawn in every resample; the same for all models, so that differences are
    paired."""

    stimuli: Float[np.ndarray, "K W"]
    neurons: Float[np.ndarray, "K N"]

    @classmethod
    def draw(cls, n: int, n_stimuli: int, included: Bool[np.ndarray, " N"], seed: int) -> Resamples:
        """`n` of stimuli and of the neurons that are included."""
        rng = np.random.default_rng(seed)
        neurons = np.zeros((n, len(included)))
        which = np.flatnonzero(included)
        if len(which):
            neurons[:, which] = rng.multinomial(len(which), np.full(len(which), 1 / len(which)), n)
        stimuli = rng.multinomial(n_stimuli, np.full(n_stimuli, 1 / n_stimuli), n).astype(np.float64)
        return cls(stimuli, neurons)


class Curve(NamedTuple):
    """S by budget, and its resamples."""

    budgets: Float[np.ndarray, " E"]
    of_stimulus: Float[np.ndarray, "E W"]  # D, or its mean over directions
    draws: Float[np.ndarray, "K E"]

    @property
    def mean(self) -> Float[np.ndarray, " E"]:
        return self.of_stimulus.mean(1)

    def intervals(self) -> list[Interval]:
        return [Interval.of(value, self.draws[:, e]) for e, value in enumerate(self.mean)]

    @classmethod
    def of(
        cls,
        budgets: Sequence[float | int] | Float[np.ndarray, " E"],
        squares: Float[np.ndarray, "E W ... N"],
        included: Bool[np.ndarray, " N"],
        by: Resamples,
    ) -> Curve:
        """`squares`: z squared, averaged over samples; directions, if any, lie between stimuli and neurons and are averaged
        over."""
        squares = squares.astype(np.float64)
        whole = np.sqrt((squares * included).sum(-1) / max(int(included.sum()), 1))
        drawn = np.sqrt(squares @ by.neurons.T / max(int(included.sum()), 1))  # E W ... K
        between = tuple(range(2, whole.ndim))
        drawn = drawn.mean(between) if between else drawn
        draws = np.einsum("ewk,kw->ke", drawn, by.stimuli) / squares.shape[1]
        return cls(np.asarray(budgets, np.float64), whole.mean(between) if between else whole, draws)


def threshold(budgets: Float[np.ndarray, " E"], shifts: Float[np.ndarray, "... E"], at: float | int = 1.0) -> Any:
    """eps*: where S first reaches `at`, log-log interpolated. inf: beyond the largest budget; the smallest budget: there or
    below."""
    shifts = np.asarray(shifts, np.float64)
    reached = shifts >= at
    place = reached.argmax(-1)
    before = np.maximum(place - 1, 0)
    high = np.take_along_axis(shifts, place[..., None], -1)[..., 0]
    low = np.take_along_axis(shifts, before[..., None], -1)[..., 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (math.log(at) - np.log(low)) / (np.log(high) - np.log(low))
    share = np.where((low > 0) & (high > low), share, 1.0)
    logs = np.log(budgets)
    between = np.exp(logs[before] + share * (logs[place] - logs[before]))
    found = np.where(place == 0, budgets[0], between)
    return np.where(reached.any(-1), found, np.inf)


def area(budgets: Float[np.ndarray, " E"], shifts: Float[np.ndarray, "... E"]) -> Any:
    """A: the integral of S over log eps by its range; with one budget, S itself."""
    logs = np.log(np.asarray(budgets, np.float64))
    if len(logs) == 1:
        return np.asarray(shifts)[..., 0]
    return np.trapezoid(shifts, logs, axis=-1) / (logs[-1] - logs[0])


def threshold_of(curve: Curve) -> Interval:
    """eps* with its interval."""
    value = float(threshold(curve.budgets, curve.mean))
    return Interval.of(value, threshold(curve.budgets, curve.draws))


def area_of(curve: Curve) -> Interval:
    """A with its interval."""
    return Interval.of(float(area(curve.budgets, curve.mean)), area(curve.budgets, curve.draws))


def ratio_of(attacked: Curve, random: Curve) -> list[Interval]:
    """Q at each budget; NaN where random directions move nothing."""
    out = []
    for e in range(len(attacked.budgets)):
        top, bottom = attacked.draws[:, e], random.draws[:, e]
        value = attacked.mean[e] / random.mean[e] if random.mean[e] > 0 else math.nan
        draws = np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1.0), np.nan)
        out.append(Interval.of(value, draws))
    return out


def mean_of(of_stimulus: Float[np.ndarray, " W"], by: Resamples) -> Interval:
    """A mean over stimuli."""
    of_stimulus = np.asarray(of_stimulus, np.float64)
    return Interval.of(float(of_stimulus.mean()), by.stimuli @ of_stimulus / len(of_stimulus))


def median_of(values: Float[np.ndarray, "W M"], seed: int, n: int) -> Interval:
    """A median over stimuli and neurons, both resampled."""
    rng = np.random.default_rng(seed)
    values = np.asarray(values, np.float64)
    rows = rng.integers(0, values.shape[0], (n, values.shape[0]))
    columns = rng.integers(0, values.shape[1], (n, values.shape[1]))
    draws = np.array([np.median(values[np.ix_(r, c)]) for r, c in zip(rows, columns, strict=True)])
    return Interval.of(float(np.median(values)), draws)


class Apart(NamedTuple):
    """Two models, or two architectures with several seeds: the difference of a measure, and whether its interval leaves 0 out."""

    first: str
    second: str
    difference: Interval

    @property
    def separated(self) -> bool:
        return bool(self.difference.low > 0 or self.difference.high < 0)


def pairs_apart(
    values: Float[np.ndarray, "M W"],
    names: Sequence[str],
    stimuli: Float[np.ndarray, "K W"],
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> list[Apart]:
    """Paired bootstrap over stimuli x seeds of per-stimulus values whose mean is the measure. `groups`: the architecture of each
    model; its models are its seeds, which are drawn anew in every resample (default: each model by itself).
    """
    of_model = stimuli @ np.asarray(values, np.float64).T / values.shape[1]  # K M
    return apart(of_model, values.mean(1), names, groups, seed)


def apart(
    draws: Float[np.ndarray, "K M"],
    means: Float[np.ndarray, " M"],
    names: Sequence[str],
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> list[Apart]:
    """As `pairs_apart`, from resamples of each model's measure under the same stimuli."""
    groups = list(names if groups is None else groups)
    labels = list(dict.fromkeys(groups))
    rng = np.random.default_rng(seed)
    of_group, value = [], []
    for label in labels:
        members = np.array([m for m, group in enumerate(groups) if group == label])
        chosen: Int[np.ndarray, "K S"] = members[rng.integers(0, len(members), (len(draws), len(members)))]
        of_group.append(np.take_along_axis(np.asarray(draws), chosen, 1).mean(1))
        value.append(float(np.mean(np.asarray(means)[members])))
    return [
        Apart(labels[a], labels[b], Interval.of(value[a] - value[b], of_group[a] - of_group[b]))
        for a in range(len(labels))
        for b in range(a + 1, len(labels))
    ]
