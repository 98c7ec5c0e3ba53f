"""Ridge regression as a small honest yardstick: lags within segments, blocked cross-validation, one penalty per target.

Everything is float64 numpy on rows = samples. Nothing here knows about mice: `bands` are groups of features (stimulus,
behaviour, other neurons) that start out with equal weight.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from omnimouse_jax.errors import UserError

#: Penalties tried, per row and in units of a band's total variance: from almost none to "predict the mean".
PENALTIES = np.geomspace(1e-5, 1e3, 17)


@dataclass(frozen=True)
class Ridge:
    """A fitted ridge regression and what cross-validation chose for every target."""

    weights: Float[np.ndarray, "features targets"]
    x_mean: Float[np.ndarray, " features"]
    y_mean: Float[np.ndarray, " targets"]
    penalty: Float[np.ndarray, " targets"]
    cv_r2: Float[np.ndarray, " targets"]  # 1 - cross-validated error / variance; below 0: worse than the mean

    def predict(self, x: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, "rows targets"]:
        return (x - self.x_mean) @ self.weights + self.y_mean


def ridge_fit(
    bands: Sequence[Float[np.ndarray, "rows _"]],
    y: Float[np.ndarray, "rows targets"],
    folds: Int[np.ndarray, " rows"],
    penalties: Float[np.ndarray, " penalties"] = PENALTIES,
    scale: bool = True,
) -> Ridge:
    """Ridge regression of every target on all bands, with the penalty that cross-validation likes best for that target.

    Features are centred and scaled to unit variance, then divided by the square root of their band's size, so that a
    band of many lags does not outweigh a small one. `penalty * rows` is added to the Gram matrix. The penalty with the
    smallest squared error over held-out folds wins, and the fit is repeated on all rows. `folds` labels rows; use whole
    blocks of time (see `blocked_folds`). Call `predict` with the same bands, concatenated over features. Without `scale`, features
    are centred only.
    """
    x = np.concatenate(bands, axis=1).astype(np.float64)
    check_rows(x, y, folds)
    x_mean, unit = units(x, [band.shape[1] for band in bands])
    unit = unit if scale else np.ones_like(unit)
    y_mean = y.mean(0)
    x_unit, y_centred = (x - x_mean) * unit, y - y_mean

    labels = np.unique(folds)
    parts = [Moments.of(x_unit[folds == label], y_centred[folds == label]) for label in labels]
    whole = functools.reduce(Moments.__add__, parts)
    error = np.zeros((len(penalties), y.shape[1]))
    for label, part in zip(labels, parts, strict=True):
        rest = whole - part
        values, vectors, cross = rest.diagonalised()
        x_out = (x_unit[folds == label] - rest.x / rest.rows) @ vectors
        y_out = y_centred[folds == label] - rest.y / rest.rows
        for p, penalty in enumerate(penalties):
            error[p] += ((y_out - x_out @ (cross / (values + penalty * rest.rows)[:, None])) ** 2).sum(0)

    penalty = np.asarray(penalties)[error.argmin(0)]
    values, vectors, cross = whole.diagonalised()
    weights = unit[:, None] * (vectors @ (cross / (values[:, None] + penalty * whole.rows)))
    variance = (y_centred**2).sum(0)
    return Ridge(weights, x_mean, y_mean, penalty, 1 - error.min(0) / np.where(variance > 0, variance, 1))


def units(
    x: Float[np.ndarray, "rows features"], sizes: Sequence[int]
) -> tuple[Float[np.ndarray, " features"], Float[np.ndarray, " features"]]:
    """Mean of every feature, and the factor that gives it unit variance, divided by the square root of its band's size; 0 for a
    feature that does not vary.
    """
    x_mean, spread = x.mean(0), x.std(0)
    varies = spread > 1e-9 * np.abs(x_mean)
    return x_mean, np.where(varies, 1 / np.where(varies, spread, 1), 0) / np.sqrt(np.repeat(sizes, sizes))


def blocked_folds(segment: Int[np.ndarray, " rows"], n_folds: int) -> Int[np.ndarray, " rows"]:
    """Fold labels 0..n_folds-1: contiguous blocks of whole segments, as equal as possible.

    Blocks rather than scattered segments: slow drifts make neighbours alike, which would flatter a weak penalty.
    """
    names, position = np.unique(segment, return_inverse=True)
    if not 2 <= n_folds <= len(names):
        raise UserError(
            f"ridge: {n_folds} folds of {len(names)} segments", way_out="use 2 folds to one fold per segment"
        )
    return position * n_folds // len(names)


def lagged(
    x: Float[np.ndarray, "rows channels"],
    segment: Int[np.ndarray, " rows"],
    lags: Sequence[int],
    width: int = 1,
) -> Float[np.ndarray, "rows lagged"]:
    """Every channel at each lag, (lag-major) side by side: column `i * channels + c` at row t is `x[t - lags[i], c]`.

    With `width` > 1 it is the mean over `width` samples around that one (odd widths are symmetric). Rows of one segment
    must be adjacent; beyond a segment's edge its first or last sample is held, so nothing crosses into a neighbour.
    """
    rows = np.arange(len(x))
    change = np.flatnonzero(np.diff(segment)) + 1
    first = np.concatenate([[0], change])
    last = np.concatenate([change, [len(x)]]) - 1
    number = np.concatenate([[0], np.cumsum(np.diff(segment) != 0)])
    low, high = first[number], last[number]
    offsets = np.arange(width) - width // 2
    return np.concatenate(
        [np.mean([x[np.clip(rows - lag + o, low, high)] for o in offsets], axis=0) for lag in lags], axis=1
    )


def onset_basis(
    time: Float[np.ndarray, " rows"], n_bumps: int, last: float, spread: float = 0.25
) -> Float[np.ndarray, "rows {n_bumps}"]:
    """Raised-cosine bumps over time since onset (s), zero before it: narrow right after it, wider later.

    Centres are equally spaced in log(time + spread) from 0 to `last` (Pillow et al. 2008, Nature, use such a basis for
    spike history). Neighbouring bumps overlap by half, so a weighted sum of them is a smooth time course.
    """
    warped = np.log(np.maximum(time, 0) + spread)
    centres = np.linspace(np.log(spread), np.log(last + spread), n_bumps)
    distance = (warped[:, None] - centres) / (centres[1] - centres[0])
    bumps = np.where(np.abs(distance) < 1, 0.5 * (1 + np.cos(np.pi * distance)), 0.0)
    return bumps * (time >= 0)[:, None]


def by_condition(
    basis: Float[np.ndarray, "rows basis"], condition: Shaped[np.ndarray, " rows"]
) -> Float[np.ndarray, "rows condition_basis"]:
    """The basis once per distinct condition, as deviation from what all conditions share.

    Used as a band beside `basis` itself, the shared time course and the tuning are shrunk separately.
    """
    names = np.unique(condition)
    indicator = (condition[:, None] == names) - 1 / len(names)
    return (indicator[:, :, None] * basis[:, None, :]).reshape(len(basis), -1)


@dataclass(frozen=True)
class Moments:
    """Sums over rows, from which the centred Gram matrices of any union of folds follow."""

    rows: int
    xx: np.ndarray
    xy: np.ndarray
    x: np.ndarray
    y: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray) -> Moments:
        return cls(len(x), x.T @ x, x.T @ y, x.sum(0), y.sum(0))

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.rows + other.rows, self.xx + other.xx, self.xy + other.xy, self.x + other.x, self.y + other.y
        )

    def __sub__(self, other: Moments) -> Moments:
        return Moments(
            self.rows - other.rows, self.xx - other.xx, self.xy - other.xy, self.x - other.x, self.y - other.y
        )

    def diagonalised(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Eigenvalues and -vectors of the centred Gram matrix of x, and x'y in that basis: any penalty is then
        cheap."""
        values, vectors = np.linalg.eigh(self.xx - np.outer(self.x, self.x) / self.rows)
        return np.maximum(values, 0), vectors, vectors.T @ (self.xy - np.outer(self.x, self.y) / self.rows)


def check_rows(x: np.ndarray, y: np.ndarray, folds: np.ndarray) -> None:
    """UserError for rows that do not match, that are all in one fold, or that are not finite."""
    if not len(x) == len(y) == len(folds):
        raise UserError(f"ridge: {len(x)} rows of features, {len(y)} of targets, {len(folds)} fold labels")
    if len(np.unique(folds)) < 2:
        raise UserError("ridge: all rows are in one fold", way_out="label at least two blocks")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise UserError(
            "ridge: features or targets have NaN or infinite values", way_out="drop or fill those rows first"
        )
