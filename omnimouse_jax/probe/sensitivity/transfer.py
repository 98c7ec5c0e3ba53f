"""Whether what moves one model moves another: transfer, with random perturbations taken off, and overlap of subspaces.

High transfer can come without any learnt common axis; it is read beside other seeds and an untrained model. (Sheet, 2.2 and 2.3.)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from omnimouse_jax.probe.sensitivity.curves import Interval


class Transfer(NamedTuple):
    """Rows: whose perturbations; columns: which model they are shown to. The diagonal is 1."""

    ratio: Float[np.ndarray, "M M"]
    low: Float[np.ndarray, "M M"]
    high: Float[np.ndarray, "M M"]
    shift: Float[np.ndarray, "M M"]  # mean D of the column's model under the row's perturbations
    random: Float[np.ndarray, " M"]  # R, of random directions


def transfer(
    shifts: Float[np.ndarray, "M M W"], random: Float[np.ndarray, "M W"], stimuli: Float[np.ndarray, "K W"]
) -> Transfer:
    """T[A -> B] = (mean D_B(d_A) - R_B) / (mean D_B(d_B) - R_B). `shifts` [A, B]: D_B(d_A) per stimulus; `random`: D_B per
    stimulus,
    averaged over directions of equal norm. Intervals resample stimuli. NaN where the attack itself is not above random.
    """
    above = shifts.astype(np.float64) - random[None]
    n = len(random)
    drawn = np.einsum("abw,kw->kab", above, stimuli) / shifts.shape[-1]

    def ratio(means: Float[np.ndarray, "... M M"]) -> Float[np.ndarray, "... M M"]:
        own = np.diagonal(means, axis1=-2, axis2=-1)[..., None, :]
        return np.where(own > 0, means / np.where(own > 0, own, 1.0), np.nan)

    value, draws = ratio(above.mean(-1)), ratio(drawn)
    ends = [[Interval.of(value[a, b], draws[:, a, b]) for b in range(n)] for a in range(n)]
    return Transfer(
        value,
        np.array([[end.low for end in row] for row in ends]),
        np.array([[end.high for end in row] for row in ends]),
        shifts.mean(-1),
        random.mean(-1),
    )


def signed(own: Float[np.ndarray, " B"], other: Float[np.ndarray, " B"]) -> tuple[float, float]:
    """(median of z_B(d_A) / z_B(d_B), share of the same sign) over single-neuron attacks of A and B on the same neuron, stimulus
    and
    sign, for attacks that move B at all. NaN where none does."""
    some = np.abs(own) > 1e-9
    if not some.any():
        return math.nan, math.nan
    ratio = other[some] / own[some]
    return float(np.median(ratio)), float((ratio > 0).mean())


class Overlap(NamedTuple):
    """||Ua' Ub||_F^2 / k of the leading k directions of two models' perturbations; by chance k / dim."""

    share: Float[np.ndarray, "M M"]
    k: int
    chance: float


def overlap(d: Float[np.ndarray, "M W ..."], k: int) -> Overlap:
    """Top right singular vectors of the perturbations (stimuli x pixels) of each model; a perturbation's sign does not matter."""
    flat = d.reshape(len(d), d.shape[1], -1).astype(np.float64)
    k = min(k, d.shape[1])
    bases = [np.linalg.svd(of_model, full_matrices=False)[2][:k] for of_model in flat]
    share = np.array([[np.square(a @ b.T).sum() / k for b in bases] for a in bases])
    return Overlap(share, k, k / flat.shape[-1])
