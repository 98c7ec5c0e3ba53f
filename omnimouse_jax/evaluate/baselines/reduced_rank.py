"""Reduced-rank regression: all targets from a few linear combinations of the features.

With a ridge penalty: the minimiser of |Y - X B|^2 + penalty |B|^2 over matrices B of rank r is the ridge solution projected onto
the leading eigenvectors of Y'X (X'X + penalty)^-1 X'Y (Izenman 1975, J. Multivariate Anal. 5, for penalty 0; Mukherjee and Zhu
2011, Statistical Analysis and Data Mining 4, for the ridge). Float64 on the host.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from omnimouse_jax.evaluate.baselines.ridge import PENALTIES, Moments, check_rows, units


@dataclass(frozen=True)
class ReducedRank:
    """A fitted regression; rank and penalty as cross-validation chose them, the same for all targets."""

    weights: Float[np.ndarray, "features targets"]
    x_mean: Float[np.ndarray, " features"]
    y_mean: Float[np.ndarray, " targets"]
    rank: int
    penalty: float

    def predict(self, x: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, "rows targets"]:
        return (x - self.x_mean) @ self.weights + self.y_mean


def reduced_rank_fit(
    bands: Sequence[Float[np.ndarray, "rows _"]],
    y: Float[np.ndarray, "rows targets"],
    folds: Int[np.ndarray, " rows"],
    penalties: Float[np.ndarray, " penalties"] = PENALTIES,
    ranks: Sequence[int] | None = None,
    scale: bool = True,
) -> ReducedRank:
    """Features are scaled (or not) as in `ridge_fit`; targets to unit variance, so that each counts alike. Rank (among `ranks`,
    default: all) and penalty are those with the smallest summed squared error over held-out folds.
    """
    x = np.concatenate(bands, axis=1).astype(np.float64)
    check_rows(x, y, folds)
    x_mean, unit = units(x, [band.shape[1] for band in bands])
    unit = unit if scale else np.ones_like(unit)
    y_mean, spread = y.mean(0), y.std(0)
    y_unit = np.where(spread > 0, 1 / np.where(spread > 0, spread, 1), 0)
    x_unit, y_scaled = (x - x_mean) * unit, (y - y_mean) * y_unit
    labels = np.unique(folds)
    parts = [Moments.of(x_unit[folds == label], y_scaled[folds == label]) for label in labels]
    whole = functools.reduce(Moments.__add__, parts)
    most = min(x.shape[1], y.shape[1])
    tried = np.array(sorted({min(rank, most) for rank in (ranks or range(1, most + 1))}))
    error = np.zeros((len(penalties), len(tried)))
    for label, part in zip(labels, parts, strict=True):
        rest = whole - part
        values, vectors, cross = rest.diagonalised()
        x_out = (x_unit[folds == label] - rest.x / rest.rows) @ vectors
        y_out = y_scaled[folds == label] - rest.y / rest.rows
        for p, penalty in enumerate(penalties):
            solution, directions = _solved(values, cross, float(penalty) * rest.rows)
            predicted, target = x_out @ (solution @ directions), y_out @ directions
            gained = np.cumsum((2 * target * predicted - predicted**2).sum(0))  # by each further direction
            error[p] += (y_out**2).sum() - gained[tried - 1]
    best_penalty, best_rank = np.unravel_index(error.argmin(), error.shape)
    rank, penalty = int(tried[best_rank]), float(np.asarray(penalties)[best_penalty])
    values, vectors, cross = whole.diagonalised()
    solution, directions = _solved(values, cross, penalty * whole.rows)
    kept = directions[:, :rank]
    weights = unit[:, None] * (vectors @ (solution @ kept) @ kept.T) / np.where(y_unit > 0, y_unit, 1)
    return ReducedRank(weights, x_mean, y_mean, rank, penalty)


def _solved(
    values: Float[np.ndarray, " f"], cross: Float[np.ndarray, "f targets"], penalty: float
) -> tuple[Float[np.ndarray, "f targets"], Float[np.ndarray, "targets directions"]]:
    """The ridge solution in the basis of the features' eigenvectors, and orthonormal directions of the targets, best first."""
    weight = 1 / np.maximum(values + penalty, 1e-12 * max(values.max(), 1e-300))
    root = np.sqrt(weight)[:, None] * cross
    f, targets = root.shape
    if targets <= f:
        _, directions = np.linalg.eigh(root.T @ root)
        return weight[:, None] * cross, directions[:, ::-1]
    _, _, directions_t = np.linalg.svd(root, full_matrices=False)
    return weight[:, None] * cross, directions_t.T
