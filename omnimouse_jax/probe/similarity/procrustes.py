"""Generalised Procrustes: representations rotated onto their common mean, and which stimuli they then still disagree on.

Probe sheet, section 4: zero-pad or reduce by PCA to k dimensions, centre, scale to unit norm; rotations Q_m, the argmin of
||X_m Q - mean||, by SVD, again and again.
 Dispersion of stimulus i: mean over m of ||x_i^m Q_m - mean_i||^2 / ||mean_i||^2. All that is fitted (PCA,
centre, norm, rotations) is fitted on other stimuli, or the dispersion would shrink with fewer conditions than dimensions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from omnimouse_jax.errors import UserError

Points = Float[np.ndarray, "K _"]  # neurons may differ in number


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What brings one representation into the common space."""

    centre: Float[np.ndarray, " N"]
    basis: Float[np.ndarray, "N k"]  # orthonormal columns, zero columns where N < k
    norm: float
    rotation: Float[np.ndarray, "k k"]

    def __call__(self, x: Points) -> Float[np.ndarray, "K k"]:
        return (x - self.centre) @ self.basis @ self.rotation / self.norm


def generalised_procrustes(
    xs: Sequence[Points], k: int, sweeps: int = 100, tolerance: float = 1e-10
) -> tuple[list[Fitted], Float[np.ndarray, "K k"]]:
    """(a map for each representation, their common mean). The conditions are the same and in the same order; N may differ.

    Starts from the first representation and stops when the residual changes by less than `tolerance` of itself.
    """
    if len({len(x) for x in xs}) != 1 or len(xs) < 2:
        raise UserError("Procrustes: needs two or more representations of the same conditions")
    fitted = [_prepared(x, k) for x in xs]
    points = [f(x) for f, x in zip(fitted, xs, strict=True)]
    rotations = [np.eye(k)] * len(xs)
    mean, before = points[0], np.inf
    for _ in range(sweeps):
        rotations = [_rotation(p, mean) for p in points]
        turned = [p @ q for p, q in zip(points, rotations, strict=True)]
        mean = np.mean(turned, axis=0)
        residual = float(sum(((p - mean) ** 2).sum() for p in turned))
        if before - residual <= tolerance * max(residual, 1e-300):
            break
        before = residual
    return [dataclasses.replace(f, rotation=q) for f, q in zip(fitted, rotations, strict=True)], mean


@dataclasses.dataclass(frozen=True)
class Dispersion:
    """Per stimulus. `chance`: mean over shuffles, in which every representation has its stimuli in an order of its own."""

    values: Float[np.ndarray, " K"]
    chance: Float[np.ndarray, " K"]
    k: int
    folds: int


def dispersion(
    xs: Sequence[Points], folds: Int[np.ndarray, " K"], k: int = 0, shuffles: int = 20, seed: int = 0
) -> Dispersion:
    """Cross-validated dispersion; `folds[i]` is the fold of stimulus i, k the common dimensions (0: as many as the smaller of the
    conditions that are fitted, less 1, and the neurons of the largest representation, at most 10).
    """
    names = np.unique(folds)
    if len(names) < 2:
        raise UserError("Procrustes: one fold of stimuli", way_out="take two clips or more, or shorter blocks")
    least = min(int((folds != name).sum()) for name in names) - 1
    k = k or max(1, min(least, max(x.shape[1] for x in xs), 10))
    rng = np.random.default_rng([seed, len(folds)])
    values = _held_out(xs, folds, k)
    chance = [_held_out([x[rng.permutation(len(x))] for x in xs], folds, k) for _ in range(shuffles)]
    return Dispersion(values, np.mean(chance, axis=0) if chance else np.full(len(folds), np.nan), k, len(names))


def terciles(dispersed: Float[np.ndarray, " K"], score: Float[np.ndarray, " K"]) -> list[float]:
    """Mean score of the stimuli with the least, the middle and the most dispersion. NaN where a third has none."""
    order = np.argsort(dispersed, kind="stable")
    with np.errstate(invalid="ignore"):
        thirds = [score[part][np.isfinite(score[part])] for part in np.array_split(order, 3)]
    return [float(part.mean()) if len(part) else float("nan") for part in thirds]


def _held_out(xs: Sequence[Points], folds: Int[np.ndarray, " K"], k: int) -> Float[np.ndarray, " K"]:
    out = np.full(len(folds), np.nan)
    for name in np.unique(folds):
        test = folds == name
        fitted, _ = generalised_procrustes([x[~test] for x in xs], k)
        points_MxKxk = np.stack([f(x[test]) for f, x in zip(fitted, xs, strict=True)])
        mean = points_MxKxk.mean(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            out[test] = ((points_MxKxk - mean) ** 2).sum(2).mean(0) / (mean**2).sum(1)
    return out


def _prepared(x: Points, k: int) -> Fitted:
    """Centre, principal axes and norm; no rotation yet."""
    centre = x.mean(0)
    _, _, axes = np.linalg.svd(x - centre, full_matrices=False)
    basis = np.zeros((x.shape[1], k))
    basis[:, : min(k, len(axes))] = axes[:k].T
    norm = float(np.linalg.norm((x - centre) @ basis))
    return Fitted(centre, basis, norm if norm > 0 else 1.0, np.eye(k))


def _rotation(points: Float[np.ndarray, "K k"], mean: Float[np.ndarray, "K k"]) -> Float[np.ndarray, "k k"]:
    """Orthogonal Q that minimises ||points Q - mean||."""
    u, _, v = np.linalg.svd(points.T @ mean)
    return u @ v
