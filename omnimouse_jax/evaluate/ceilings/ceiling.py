"""A ceiling with its interval, what it bounds and how often stimuli were repeated; or none, and why not."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from omnimouse_jax.evaluate.ceilings.estimators import ESTIMATORS, Estimator
from omnimouse_jax.evaluate.metrics.bootstrap import means_of_resamples, spread_interval
from omnimouse_jax.evaluate.metrics.repeats import RepeatMoments, RepeatSums

#: The rule: a moment of a stimulus counts if a neuron has so many responses to it, and a neuron has a ceiling if so many moments
#: count. Fewer repeats give a number too, but one whose bias is as large as what it is to measure (docs/scores.md).
LEAST_REPEATS = 4
LEAST_GROUPS = 20
#: Share of the neurons that must have one.
LEAST_SHARE = 0.5


@dataclasses.dataclass(frozen=True)
class Ceiling:
    """The mean over neurons, with its interval and every neuron's own. `value` None: there is no ceiling, and `reason` says why."""

    estimator: str
    bounds: str  # which metric it is a ceiling of
    value: float | None
    low: float
    high: float
    interval: str  # what the interval is over
    per_unit: Float[np.ndarray, " units"]  # NaN where there is none
    repeats: float  # median responses in a group; NaN where repeats play no part
    stimuli: int
    groups: int
    reason: str = ""

    def row(self) -> dict[str, Any]:
        """All but the neurons, as plain values."""
        named = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "per_unit"}
        return {name: None if isinstance(v, float) and np.isnan(v) else v for name, v in named.items()}


def interval_over(over: str) -> str:
    """How intervals over repeated stimuli are named; `over` is what a block is."""
    return f"95% t interval, bootstrap over {over} and neurons"


def repeat_ceilings(
    sums: RepeatSums,
    over: str,
    stimuli: int,
    bootstrap: int,
    seed: int,
    at_least: int = LEAST_REPEATS,
    groups: int = LEAST_GROUPS,
) -> dict[str, Ceiling]:
    """Every estimator on the repeats of a session. `over`: what the blocks of `sums` are; `stimuli`: how many there are.

    The interval is a bootstrap over blocks and neurons together. No ceiling where repeats are too few: see `LEAST_REPEATS`.
    """
    moments = sums.moments(at_least)
    return {
        estimator.name: ceiling_of(
            estimator, moments, over, sums.repeats(at_least), stimuli, bootstrap, seed, at_least, groups
        )
        for estimator in ESTIMATORS
    }


def ceiling_of(
    estimator: Estimator,
    moments: RepeatMoments,
    over: str,
    repeats: float | int,
    stimuli: int,
    bootstrap: int,
    seed: int,
    at_least: int = LEAST_REPEATS,
    groups: int = LEAST_GROUPS,
) -> Ceiling:
    """One estimator on moments over the groups with at least `at_least` responses.

    The session's value is the mean over neurons; one that never varied counts as 0, as it does in scores.
    """
    total = moments.total()
    usable: Bool[np.ndarray, " units"] = total.groups >= groups
    per_unit = np.where(usable, np.nan_to_num(estimator.of(total)), np.nan)
    found = int(total.groups.max(initial=0))
    fixed = (float(repeats), stimuli, found)
    asked = max(int((total.n > 0).sum()), 1)  # of a population some are shown and never asked for
    if usable.sum() < LEAST_SHARE * asked or not usable.any():
        reason = (
            f"no ceiling: {found} moments of stimuli were shown {at_least} times or more, at least {groups} are needed"
            if found < groups
            else f"no ceiling: {int(usable.sum())} of {asked} neurons have {groups} moments that were recorded {at_least} times"
        )
        nothing = np.full(len(usable), np.nan)
        nan = float("nan")
        return Ceiling(estimator.name, estimator.bounds, None, nan, nan, "", nothing, *fixed, reason)
    means = means_of_resamples(
        lambda weights: estimator.of(moments.weighted(weights)), len(moments.n), usable, bootstrap, seed, True
    )
    value = float(per_unit[usable].mean())
    low, high = spread_interval(value, means, len(moments.n))
    interval = interval_over(over) if len(means) else ""
    return Ceiling(estimator.name, estimator.bounds, value, low, high, interval, per_unit, *fixed)
