"""What a perfect model of the stimulus could score, estimated from repeats: each estimator by name, with what it bounds.

Signal power is the variance over groups (stimulus x time) of a neuron's true mean response, noise power the variance of single
responses about it. Where an estimate of signal power falls below 0, its root is taken of the absolute value and keeps the sign:
clipping at 0 would make neurons without any signal look as if they had some. How far each estimator is off: docs/scores.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from omnimouse_jax.evaluate.metrics.pooled import pearson
from omnimouse_jax.evaluate.metrics.repeats import RepeatMoments, fev, total_variance

SINGLE, AVERAGE, SHARE = "single-trial correlation", "correlation to average", "share of single-trial variance"


@dataclasses.dataclass(frozen=True)
class Estimator:
    """`of` takes summed moments and gives a number per unit, NaN where there is none."""

    name: str
    bounds: str  # SINGLE, AVERAGE or SHARE
    of: Callable[[RepeatMoments], np.ndarray]
    meaning: str


def oracle_jackknife(t: RepeatMoments) -> np.ndarray:
    """Correlation of each response with the mean of the other responses to the same stimulus. In expectation, with n repeats:
    S / sqrt((S + N) (S + N / (n - 1))) for signal power S and noise power N: below the ceiling sqrt(S / (S + N)).
    """
    return pearson(t.n, np.stack([t.o, t.r, t.oo, t.rr, t.ro]))


def oracle_conservative(t: RepeatMoments) -> np.ndarray:
    """sqrt(A / (A + B)): A the variance of the groups' means, B the mean variance within (both ddof 0), as neuralpredictors has it.
    A holds N / n of noise, so this is sqrt((S + N / n) / (S + N)): above the ceiling, and sqrt(1 / n) without any signal.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        between = np.maximum(t.mm / t.groups - (t.m / t.groups) ** 2, 0.0)
        within = t.v0 / t.groups
        return np.where(between + within > 1e-14 * t.mm / t.groups, np.sqrt(between / (between + within)), np.nan)


def signal_power(t: RepeatMoments) -> np.ndarray:
    """Mean over groups of the products of different responses to the same moment, less the square of the mean response, that too
    from products of different showings only.

    With equal n this is the mean covariance of two showings: the signal power of Sahani & Linden (2003) and of Schoppe et al.
    (2016, eq. 3). Unbiased also where noise is shared by all samples of a showing (a state of the animal), which the variance of
    averages less their noise is not when stimuli are few.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = t.m / t.groups  # all responses are taken relative to it: unequal n then matter in second order only
        products = (t.mm - t.v_n) / t.groups - mean**2  # m^2 - v / n is the mean product of different responses
        squares = [x.sum(-2) ** 2 - (x**2).sum(-2) for x in (t.u - mean[..., None, :] * t.w, t.w)]
        return products - squares[0] / squares[1]


def cc_max_single(t: RepeatMoments) -> np.ndarray:
    """sqrt(signal power / variance of single responses)."""
    return _root(signal_power(t), total_variance(t))


def cc_max_average(t: RepeatMoments) -> np.ndarray:
    """sqrt(signal power / variance of the averages): CC_max of Schoppe et al. (2016), eq. 5, after Hsu et al. (2004)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        between = (t.mm - t.m * t.m / t.groups) / t.groups
    return _root(signal_power(t), between)


def half_correlation(t: RepeatMoments) -> np.ndarray:
    """Correlation over groups between the averages of odd and of even showings."""
    return pearson(t.pairs, np.stack([t.a, t.b, t.aa, t.bb, t.ab]))


def spearman_brown_average(t: RepeatMoments) -> np.ndarray:
    """Root of the reliability of averages over all showings, 2 h / (1 + h) for a correlation h of halves."""
    half = half_correlation(t)
    return _root(2 * half, 1 + half)


def spearman_brown_single(t: RepeatMoments) -> np.ndarray:
    """Root of the reliability of one showing, foretold from that of halves of n / 2 showings: k h / (1 + (k - 1) h), k = 2 / n."""
    half = half_correlation(t)
    with np.errstate(invalid="ignore", divide="ignore"):
        k = 2 * t.groups / t.n
    return _root(k * half, 1 + (k - 1) * half)


#: Those that `evaluate` computes; the first of each kind is what scores are divided by.
ESTIMATORS: tuple[Estimator, ...] = (
    Estimator("CC_max, single trial", SINGLE, cc_max_single, "sqrt(signal power / total variance)"),
    Estimator("CC_max", AVERAGE, cc_max_average, "sqrt(signal power / variance of averages), Schoppe et al. 2016"),
    Estimator("FEV", SHARE, fev, "(V - N) / V, as SENSORIUM 2022"),
    Estimator("Spearman-Brown, single trial", SINGLE, spearman_brown_single, "root of one showing's reliability"),
    Estimator(
        "Spearman-Brown", AVERAGE, spearman_brown_average, "root of the averages' reliability, odd and even halves"
    ),
    Estimator("oracle jackknife", SINGLE, oracle_jackknife, "correlation with the mean of the other repeats"),
    Estimator("oracle conservative", SINGLE, oracle_conservative, "sqrt(A / (A + B)), as neuralpredictors"),
)
BY_NAME = {estimator.name: estimator for estimator in ESTIMATORS}


def _root(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """sqrt(part / whole) with the sign of the share; NaN where the whole is nothing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(whole > 0, part / whole, np.nan)
        return np.sign(share) * np.sqrt(np.abs(share))
