"""Dissimilarity of every pair of conditions (RDMs), from averages or, without the bias of noise, across repeats.

An RDM is kept condensed: K (K - 1) / 2 numbers in the order of `numpy.triu_indices(K, 1)`. Responses are float64, conditions first;
repeats, where there are any, before them (R x K x N). Nothing is clipped: a crossnobis distance may be negative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int, Shaped

from omnimouse_jax.errors import UserError

Distance = Literal["crossnobis", "correlation", "euclidean"]
Noise = Literal["none", "diagonal", "shrinkage"]
Rdm = Float[np.ndarray, " pairs"]
Compare = Callable[[Rdm, Rdm], float]


def condensed(square: Shaped[np.ndarray, "K K"]) -> Shaped[np.ndarray, " pairs"]:
    """Upper triangle, row by row."""
    return square[np.triu_indices(len(square), 1)]


def square(rdm: Rdm) -> Float[np.ndarray, "K K"]:
    """Symmetric, with zeros on the diagonal."""
    n = n_conditions(rdm)
    out = np.zeros((n, n))
    out[np.triu_indices(n, 1)] = rdm
    return out + out.T


def n_conditions(rdm: Rdm) -> int:
    return round((1 + np.sqrt(1 + 8 * len(rdm))) / 2)


def reordered(rdm: Rdm, order: Int[np.ndarray, " K"]) -> Rdm:
    """The RDM of other conditions: number k is what was `order[k]`. A condition drawn twice has distance 0 to itself."""
    return condensed(square(rdm)[np.ix_(order, order)])


def z_scored(x: Float[np.ndarray, "*R K N"]) -> Float[np.ndarray, "*R K N"]:
    """Each neuron less its mean and divided by its standard deviation, of all that was seen of it; silent neurons become 0."""
    axes = tuple(range(x.ndim - 1))
    centred = x - x.mean(axes)
    spread = centred.std(axes)
    return centred / np.where(spread > 0, spread, 1.0)


def correlation_rdm(x_KxN: Float[np.ndarray, "K N"]) -> Rdm:
    """1 - Pearson correlation of two conditions' patterns. NaN for a pattern without variance over neurons."""
    centred = x_KxN - x_KxN.mean(1, keepdims=True)
    length = np.linalg.norm(centred, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = centred / length[:, None]
    return condensed(1 - unit @ unit.T)


def euclidean_rdm(x_KxN: Float[np.ndarray, "K N"], precision: Float[np.ndarray, "N N"] | None = None) -> Rdm:
    """Squared distance divided by the number of neurons (Mahalanobis with a precision). Noise makes it larger: for responses with
    repeats use `crossnobis_rdm`, whose expectation this is without noise.
    """
    gram = _gram(x_KxN, precision)
    return condensed(_distances(gram)) / x_KxN.shape[1]


def crossnobis_rdm(x_RxKxN: Float[np.ndarray, "R K N"], precision: Float[np.ndarray, "N N"] | None = None) -> Rdm:
    """Mean over pairs of different repeats of (x_i - x_j)' P (x_i - x_j)', divided by the number of neurons.

    Unbiased by noise that is independent between repeats, hence negative half of the time where two conditions do not differ.
    Walther et al. 2016 (doi 10.1016/j.neuroimage.2015.12.012), eq. 7, each repeat a partition. UserError for a single repeat.
    """
    repeats, _, n_neurons = x_RxKxN.shape
    if repeats < 2:
        raise UserError(
            "crossnobis: one repeat", way_out="take stimuli that were shown twice, or --distance correlation"
        )
    within = sum(_distances(_gram(x_KxN, precision)) for x_KxN in x_RxKxN)
    across = _distances(_gram(x_RxKxN.sum(0), precision))  # sum over all pairs of repeats, also of one with itself
    return condensed(across - within) / (repeats * (repeats - 1) * n_neurons)


def noise_precision(x_RxKxN: Float[np.ndarray, "R K N"], kind: Noise) -> Float[np.ndarray, "N N"] | None:
    """Inverse covariance of what repeats of a condition leave about their mean, K (R - 1) degrees of freedom; None for `none`.

    `diagonal`: variances alone; `shrinkage`: correlations shrunk to 0 by the analytic amount of Schaefer & Strimmer 2005
    (doi 10.2202/1544-6115.1175), target D. A silent neuron gets variance 1: it adds nothing to a distance.
    """
    if kind == "none":
        return None
    repeats, n_conditions_, n = x_RxKxN.shape
    residuals = (x_RxKxN - x_RxKxN.mean(0)).reshape(-1, n)
    dof = n_conditions_ * (repeats - 1)
    covariance = residuals.T @ residuals / dof
    variance = np.diag(covariance).copy()
    variance[variance <= 0] = 1.0
    if kind == "diagonal":
        return np.diag(1 / variance)
    spread = np.sqrt(variance)
    correlation = covariance / np.outer(spread, spread)
    standard = residuals / spread
    rows = len(residuals)
    off = ~np.eye(n, dtype=bool)
    mean = standard.T @ standard / rows
    spread_of = (standard**2).T @ (standard**2) - rows * mean**2  # sum over rows of (s_i s_j - mean)^2
    total = float((correlation[off] ** 2).sum())
    amount = min(1.0, float(spread_of[off].sum()) * rows / dof**3 / total) if total > 0 else 1.0
    shrunk = np.where(off, (1 - amount) * correlation, 1.0)
    return np.linalg.inv(shrunk * np.outer(spread, spread))


def rdm_of(
    x_RxKxN: Float[np.ndarray, "R K N"], distance: str, precision: Float[np.ndarray, "N N"] | None = None
) -> Rdm:
    """By name: crossnobis over repeats; correlation (neurons z-scored over conditions) and euclidean of their average.

    A model's responses without noise have one repeat: their crossnobis is the euclidean RDM, which has no bias there.
    """
    if distance not in get_args(Distance):
        raise UserError(f"distance {distance!r}", way_out=f"use one of {', '.join(get_args(Distance))}")
    if distance == "correlation":
        return correlation_rdm(z_scored(x_RxKxN.mean(0)))
    if distance == "euclidean" or len(x_RxKxN) == 1:
        return euclidean_rdm(x_RxKxN.mean(0), precision)
    return crossnobis_rdm(x_RxKxN, precision)


def half_rdms(
    x_RxKxN: Float[np.ndarray, "R K N"],
    distance: str,
    n_splits: int,
    seed: int,
    precision: Float[np.ndarray, "N N"] | None = None,
) -> list[tuple[Rdm, Rdm]]:
    """RDMs of two halves of the repeats, split at random `n_splits` times. Empty for fewer than 2 repeats (4 for crossnobis, whose
    halves need pairs). An odd repeat too many is left out of each split.
    """
    half = len(x_RxKxN) // 2
    if half < (2 if distance == "crossnobis" else 1):
        return []
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(x_RxKxN)) for _ in range(n_splits)]
    return [
        (
            rdm_of(x_RxKxN[order[:half]], distance, precision),
            rdm_of(x_RxKxN[order[half : 2 * half]], distance, precision),
        )
        for order in orders
    ]


def split_half_reliability(halves: Sequence[tuple[Rdm, Rdm]], compare: Compare) -> tuple[float, float]:
    """(mean similarity h of the RDMs of two halves, what Spearman-Brown foretells for all repeats, 2 h / (1 + h)).

    The second is exact only where an RDM's noise falls as 1 / repeats. That of crossnobis falls faster where noise is large, as
    1 / (repeats (repeats - 1)): it is then too low. NaN for no halves.
    """
    if not halves:
        return float("nan"), float("nan")
    mean = float(np.mean([compare(a, b) for a, b in halves]))
    return mean, (2 * mean / (1 + mean) if mean > -1 else float("nan"))


def _gram(x_KxN: Float[np.ndarray, "K N"], precision: Float[np.ndarray, "N N"] | None) -> Float[np.ndarray, "K K"]:
    x_KxN = x_KxN - x_KxN.mean(0)  # distances do not change, rounding does
    return x_KxN @ (x_KxN if precision is None else x_KxN @ precision).T


def _distances(gram: Float[np.ndarray, "K K"]) -> Float[np.ndarray, "K K"]:
    power = np.diag(gram)
    return power[:, None] + power[None] - gram - gram.T
