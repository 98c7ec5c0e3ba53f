"""What a tuning curve says: selectivity, preference, width, contrast law, phase sensitivity - and whether there is one at all.

Statistics are float64 on the host. A neuron that is not tuned gets NaN everywhere, and `tuned` says so.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import optimize

Curves = Float[np.ndarray, "N D"]
Values = Float[np.ndarray, " N"]

#: What every number on the page and in the files means.
DEFINITIONS = {
    "response": "mean predicted response from 0.5 s after the grating's onset on, over phases at onset, nothing subtracted",
    "tuned": "the curve's range is at least `floor` times the neuron's predicted SD over natural stimuli and at least `least` "
    "(of its recorded SD), and direction labels permuted within each phase give as large a variance of the curve in at "
    "most the share alpha of draws",
    "osi_vector": "1 - circular variance of orientation, |sum r exp(2i theta)| / sum r; NaN where a response is negative",
    "dsi_vector": "1 - circular variance of direction, |sum r exp(i theta)| / sum r; NaN where a response is negative",
    "osi_pref_orth": "(pref - orth) / (pref + orth), pref the mean of both directions of the best orientation",
    "dsi_pref_null": "(pref - null) / (pref + null), of the best direction and the opposite one",
    "direction": "preferred direction, degrees: larger peak of two von Mises curves of one width 180 degrees apart, on an offset",
    "orientation": "(direction + 90) mod 180: that of the bars",
    "bandwidth": "half width at half height of the fitted direction peak above the offset, degrees",
    "spatial_frequency": "cycles/degree at the top of a parabola through the best value and its neighbours in log frequency",
    "temporal_frequency": "Hz, in the same way",
    "at_edge": "the best frequency is the first or last one shown: the true one may lie outside",
    "naka_rushton": "r(c) = r0 + rmax c^n / (c^n + c50^n) at the neuron's best grating; c50 and n are told only where the fit "
    "explains 80 % of the curve's variance; c50 above 1 means no saturation within the range",
    "f1_f0": "amplitude of the response at the grating's temporal frequency / (mean - response to grey), least squares, mean over "
    "phases at onset; NaN where the grating excites less than the floor",
}


def vector_selectivity(r: Curves, degrees: Float[np.ndarray, " D"], harmonic: int) -> Values:
    """1 - circular variance: harmonic 2 for orientation, 1 for direction. NaN where a response is negative or all are 0."""
    turn = np.exp(1j * harmonic * np.deg2rad(degrees))
    total = r.sum(axis=1)
    usable = (r >= 0).all(axis=1) & (total > 0)
    return np.where(usable, np.abs(r @ turn) / np.where(usable, total, 1.0), np.nan)


def contrast_index(a: Values, b: Values) -> Values:
    """(a - b) / (a + b); NaN where one is negative or both are 0."""
    usable = (a >= 0) & (b >= 0) & (a + b > 0)
    return np.where(usable, (a - b) / np.where(usable, a + b, 1.0), np.nan)


def pref_orth_null(r: Curves) -> tuple[Values, Values]:
    """osi_pref_orth and dsi_pref_null; directions evenly spaced over the circle, their number a multiple of 4."""
    n = r.shape[1]
    row = np.arange(len(r))
    both = (r + np.roll(r, n // 2, axis=1)) / 2
    best = both.argmax(axis=1)
    osi = contrast_index(both[row, best], both[row, (best + n // 4) % n])
    top = r.argmax(axis=1)
    return osi, contrast_index(r[row, top], r[row, (top + n // 2) % n])


class Peaks(NamedTuple):
    """Two von Mises curves of one width 180 degrees apart, per neuron."""

    direction: Values
    bandwidth: Values
    explained: Values  # share of the curve's variance


def _two_peaks(p: Float[np.ndarray, " 5"], angle: Float[np.ndarray, " D"]) -> Float[np.ndarray, " D"]:
    offset, one, other, centre, log_k = p
    k = np.exp(log_k)
    return (
        offset
        + one * np.exp(k * (np.cos(angle - centre) - 1))
        + other * np.exp(k * (np.cos(angle - centre - np.pi) - 1))
    )


def fit_peaks(r: Curves, degrees: Float[np.ndarray, " D"]) -> Peaks:
    """Least squares from three widths at the best direction. NaN for a constant curve."""
    angle = np.deg2rad(degrees)
    out = np.full((3, len(r)), np.nan)
    for n, curve in enumerate(r.astype(np.float64)):
        size = np.ptp(curve)
        if not size > 0:
            continue
        scaled = (curve - curve.min()) / size
        top = int(scaled.argmax())
        opposite = scaled[(top + len(curve) // 2) % len(curve)]
        fits = [
            optimize.least_squares(
                lambda p, y=scaled: _two_peaks(p, angle) - y,
                [0.0, 1.0, max(opposite, 0.05), angle[top], log_k],
                bounds=([-3, 0, 0, -20, math.log(0.05)], [1, 5, 5, 20, math.log(60.0)]),
            )
            for log_k in (-0.5, 1.0, 2.5)
        ]
        best = min(fits, key=lambda fit: fit.cost)
        _, one, other, centre, log_k = best.x
        out[0, n] = np.rad2deg(centre if one >= other else centre + np.pi) % 360
        half = 1 + math.log(0.5) / math.exp(log_k)
        out[1, n] = np.rad2deg(math.acos(half)) if half >= -1 else np.nan
        out[2, n] = 1 - 2 * best.cost / ((scaled - scaled.mean()) ** 2).sum()
    return Peaks(*out)


def tuned(
    r_phases: Float[np.ndarray, "N D P"],
    least_range: Values,
    alpha: float,
    draws: int,
    seed: int,
) -> tuple[Bool[np.ndarray, " N"], Values]:
    """Which neurons have a curve that ranges over `least_range`, and the permutation's p. See DEFINITIONS["tuned"].

    With one phase nothing can be permuted: p is NaN and the floor alone decides.
    """
    curve = r_phases.mean(axis=2)
    modulated = (np.ptp(curve, axis=1) >= least_range) & (np.ptp(curve, axis=1) > 1e-9)
    n_phases = r_phases.shape[2]
    if n_phases < 2:
        return modulated, np.full(len(curve), np.nan)
    rng = np.random.default_rng([seed, n_phases])
    observed = curve.var(axis=1)
    reached = np.ones(len(curve))
    for _ in range(draws):
        shuffled = np.stack([r_phases[:, rng.permutation(r_phases.shape[1]), k] for k in range(n_phases)], axis=2)
        reached += shuffled.mean(axis=2).var(axis=1) >= observed * (1 - 1e-9)
    p = reached / (draws + 1)
    return modulated & (p <= alpha), p


def best_frequency(r: Float[np.ndarray, "N K"], values: Sequence[float]) -> tuple[Values, Bool[np.ndarray, " N"]]:
    """Top of the parabola in log frequency, and whether the best value is the first or last (then it is that value)."""
    log = np.log(np.asarray(values, np.float64))
    out, edge = np.full(len(r), np.nan), np.zeros(len(r), bool)
    for n, curve in enumerate(r.astype(np.float64)):
        if not np.ptp(curve) > 0:
            continue
        k = int(curve.argmax())
        edge[n] = k in (0, len(log) - 1)
        if edge[n]:
            out[n] = np.exp(log[k])
            continue
        a, b, _ = np.polyfit(log[k - 1 : k + 2] - log[k], curve[k - 1 : k + 2], 2)
        out[n] = np.exp(log[k] - b / (2 * a)) if a < 0 else np.exp(log[k])
    return out, edge


class ContrastLaw(NamedTuple):
    """Naka and Rushton's curve per neuron: r0 + rmax c^n / (c^n + c50^n)."""

    r0: Values
    rmax: Values
    c50: Values
    exponent: Values
    explained: Values


def naka_rushton(c: Float[np.ndarray, " C"], r0: float, rmax: float, c50: float, n: float) -> Float[np.ndarray, " C"]:
    """The curve itself (Naka and Rushton 1966); c >= 0."""
    power = np.maximum(c, 0.0) ** n
    return r0 + rmax * power / (power + c50**n)


def fit_contrast(r: Float[np.ndarray, "N C"], contrasts: Sequence[float], least: float = 0.8) -> ContrastLaw:
    """Least squares from several starts; c50 and exponent NaN where less than `least` of the variance is explained."""
    c = np.asarray(contrasts, np.float64)
    out = np.full((5, len(r)), np.nan)
    for n, curve in enumerate(r.astype(np.float64)):
        size = np.ptp(curve)
        if not size > 0:
            continue
        first = curve[np.argmin(c)]
        y = (curve - first) / size
        sign = 1.0 if y[np.argmax(c)] >= 0 else -1.0
        fits = []
        for c50, power in ((0.2, 2.0), (0.5, 1.0), (0.5, 3.0), (1.0, 1.5)):
            fits.append(
                optimize.least_squares(
                    lambda p, y=y: naka_rushton(c, p[0], p[1], np.exp(p[2]), p[3]) - y,
                    [0.0, sign, math.log(c50), power],
                    bounds=([-1, -20, math.log(0.01), 0.3], [1, 20, math.log(10.0), 8.0]),
                )
            )
        best = min(fits, key=lambda fit: fit.cost)
        explained = 1 - 2 * best.cost / ((y - y.mean()) ** 2).sum()
        r0, rmax, log_c50, power = best.x
        out[:2, n] = first + size * r0, size * rmax
        out[4, n] = explained
        if explained >= least:
            out[2:4, n] = np.exp(log_c50), power
    return ContrastLaw(*out)


def phase_sensitivity(
    traces: Float[np.ndarray, "N P S"],
    times: Float[np.ndarray, " S"],
    frequency: Values,
    grey: Values,
    spread: Values,
    floor: float,
) -> Values:
    """F1/F0: amplitude at the neuron's grating's frequency over the mean above grey. NaN below `floor` * spread."""
    out = np.full(len(traces), np.nan)
    for n, trace in enumerate(traces.astype(np.float64)):
        angle = 2 * np.pi * frequency[n] * times
        columns = np.stack([np.ones_like(angle), np.cos(angle), np.sin(angle)], axis=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mean, cosine, sine = np.linalg.lstsq(columns, trace.T, rcond=None)[0]
        f0 = mean.mean() - grey[n]
        if f0 > max(floor * spread[n], 1e-9):
            out[n] = np.hypot(cosine, sine).mean() / f0
    return out
