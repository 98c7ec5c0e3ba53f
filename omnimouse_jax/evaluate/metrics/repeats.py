"""Scores that need a stimulus to be shown more than once, from sums per (stimulus, time in it) and neuron.

A *group* is one sample of a repeated stimulus: its n showings give n responses of a neuron under the same screen. Everything
here is a function of sums over groups, kept per block of groups (a stimulus) so that stimuli can be drawn again. For a group
with responses r_1..r_n: m their mean, v their variance (ddof 1). Formulas: recordings sheet C.3.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from omnimouse_jax.evaluate.metrics.pooled import pearson

#: SENSORIUM 2022 keeps neurons of which at least this share of variance is explainable; there is no other threshold in its code.
FEV_THRESHOLD = 0.15
#: Showings that are told apart; later ones count with earlier ones (of which signal power only uses products of different ones).
MOST_SHOWINGS = 32


class RepeatMoments(NamedTuple):
    """Sums over groups that were seen often enough; fields (blocks, units), or (units,) or (resamples, units) once summed."""

    groups: np.ndarray  # how many
    n: np.ndarray  # responses in them
    r: np.ndarray  # sums over all responses: r, r^2, prediction p, p^2, r p
    rr: np.ndarray
    p: np.ndarray
    pp: np.ndarray
    rp: np.ndarray
    m: np.ndarray  # over groups: mean response, its square, mean prediction, its square, their product
    mm: np.ndarray
    q: np.ndarray
    qq: np.ndarray
    mq: np.ndarray
    v: np.ndarray  # over groups: variance within (ddof 1), the same with ddof 0, variance of the mean v / n
    v0: np.ndarray
    v_n: np.ndarray
    o: np.ndarray  # over responses: mean of the group's other responses, its square, its product with the response
    oo: np.ndarray
    ro: np.ndarray
    pairs: np.ndarray  # groups with both halves; means of the odd and of the even showings, their squares and product
    a: np.ndarray
    b: np.ndarray
    aa: np.ndarray
    bb: np.ndarray
    ab: np.ndarray
    u: np.ndarray  # (..., showings, units): over the responses of a showing, r / n with the block's mean n; and 1 / n
    w: np.ndarray

    def total(self) -> RepeatMoments:
        """Over all blocks."""
        return RepeatMoments._make(field.sum(0) for field in self)

    def weighted(self, weights: Float[np.ndarray, "m blocks"]) -> RepeatMoments:
        """Over blocks that count as often as a row of weights says."""
        return RepeatMoments._make(np.tensordot(weights, field, axes=1) for field in self)


class RepeatSums:
    """Running sums per group and unit, 56 bytes for each, and per block and showing; however often a stimulus is shown, at most
    `MOST_SHOWINGS` of these are told apart. Exact in any order of updates.
    """

    def __init__(self, n_groups: int, n_units: int, block: Int[np.ndarray, " groups"] | None = None, showings: int = 1):
        """`block`: which block (0, 1, ...) a group belongs to; by default one for all. `showings`: most showings of a stimulus."""
        self.block = np.zeros(n_groups, np.int64) if block is None else block
        n_blocks = int(self.block.max()) + 1 if n_groups else 1
        shape = (n_groups, n_units)
        self.n, self.n_odd = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        self.r, self.rr, self.p, self.pp, self.rp, self.odd = (np.zeros(shape) for _ in range(6))
        self.shown = np.zeros((n_blocks, min(max(showings, 1), MOST_SHOWINGS), n_units))
        self.n_shown = np.zeros(self.shown.shape)

    def update(
        self,
        groups: Int[np.ndarray, " samples"],
        showing: int,
        units: np.ndarray,
        predicted: Float[np.ndarray, "samples units"],
        target: Float[np.ndarray, "samples units"],
        mask: Bool[np.ndarray, "samples units"],
    ) -> None:
        """Adds samples of one showing (0, 1, ...) of one stimulus: one of each of some groups, no group twice; those of group -1
        and masked ones do not count. The halves of a stimulus are its odd and its even showings.
        """
        kept = groups >= 0
        groups, mask = groups[kept], mask[kept]
        if not len(groups):
            return
        r, p = (np.where(mask, x[kept].astype(np.float64), 0.0) for x in (target, predicted))
        at = np.ix_(groups, units)
        self.n[at] += mask
        if showing % 2:
            self.n_odd[at] += mask
            self.odd[at] += r
        self.r[at] += r
        self.rr[at] += r * r
        self.p[at] += p
        self.pp[at] += p * p
        self.rp[at] += r * p
        label, block = showing % self.shown.shape[1], self.block[groups]
        for number in np.unique(block):
            of = block == number
            self.shown[number, label, units] += r[of].sum(0)
            self.n_shown[number, label, units] += mask[of].sum(0)

    def merge(self, other: RepeatSums) -> None:
        """Adds what another one has seen of the same groups and units."""
        for name in ("n", "n_odd", "r", "odd", "rr", "p", "pp", "rp", "shown", "n_shown"):
            getattr(self, name).__iadd__(getattr(other, name))

    def repeats(self, at_least: int) -> float:
        """Median number of responses in a group that has at least so many; NaN where none has."""
        found = self.n[self.n >= at_least]
        return float(np.median(found)) if len(found) else float("nan")

    def moments(self, at_least: int = 2) -> RepeatMoments:
        """Sums over the groups of which a unit has at least so many responses."""
        parts = [self._of(block, at_least) for block in range(len(self.shown))]
        return RepeatMoments._make(np.stack(field) for field in zip(*parts, strict=True))

    def _of(self, block: int, at_least: int) -> RepeatMoments:
        rows = np.flatnonzero(self.block == block)
        used = self.n[rows] >= at_least

        def summed(values: np.ndarray, which: np.ndarray = used) -> np.ndarray:
            return np.where(which, values, 0.0).sum(0)

        n = self.n[rows].astype(np.float64)
        r, rr, p = self.r[rows], self.rr[rows], self.p[rows]
        with np.errstate(invalid="ignore", divide="ignore"):
            m, q = r / n, p / n
            square = np.maximum(rr - r * m, 0.0)  # a sum of squares; below 0 only by rounding
            v = square / (n - 1)
            o_o = (n * r * r - 2 * r * r + rr) / (n - 1) ** 2
            r_o = (r * r - rr) / (n - 1)
            n_odd = self.n_odd[rows].astype(np.float64)
            a, b = self.odd[rows] / n_odd, (r - self.odd[rows]) / (n - n_odd)
        alone = used & (n > 1)
        both = used & (n_odd > 0) & (n_odd < n)
        fields = [
            used.sum(0).astype(np.float64),
            *(summed(x) for x in (n, r, rr, p, self.pp[rows], self.rp[rows])),
            *(summed(x) for x in (m, m * m, q, q * q, m * q)),
            *(summed(x, alone) for x in (v, square / n, v / n, r, o_o, r_o)),
            both.sum(0).astype(np.float64),
            *(summed(x, both) for x in (a, b, a * a, b * b, a * b)),
        ]
        groups, responses = fields[0], fields[1]
        per_response = np.where(responses > 0, groups / np.maximum(responses, 1.0), 0.0)
        fields += [self.shown[block] * per_response, self.n_shown[block] * per_response]
        return RepeatMoments._make(fields)


def single_trial_correlation(t: RepeatMoments, eps: float = 0.0) -> np.ndarray:
    """Pearson over all responses of the repeated stimuli."""
    return pearson(t.n, np.stack([t.p, t.r, t.pp, t.rr, t.rp]), eps)


def correlation_to_average(t: RepeatMoments, eps: float = 0.0) -> np.ndarray:
    """Pearson over groups between mean prediction and mean response, each group counted once."""
    return pearson(t.groups, np.stack([t.q, t.m, t.qq, t.mm, t.mq]), eps)


def total_variance(t: RepeatMoments) -> np.ndarray:
    """V: variance of all responses (ddof 1)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return (t.rr - t.r * t.r / t.n) / (t.n - 1)


def noise_variance(t: RepeatMoments) -> np.ndarray:
    """N: mean over groups of the variance within (ddof 1), each group counted once."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return t.v / t.groups


def fev(t: RepeatMoments) -> np.ndarray:
    """Share of the variance of single responses that the stimulus explains, (V - N) / V; may be below 0. NaN without variance."""
    total = total_variance(t)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 1e-14 * t.rr / t.n, (total - noise_variance(t)) / total, np.nan)


def explainable_variance(t: RepeatMoments) -> np.ndarray:
    """(V - N) / (V + 1e-9), as neuralpredictors has it: `fev`, but 0 for a neuron without variance."""
    total = total_variance(t)
    return (total - noise_variance(t)) / (total + 1e-9)


def explained_variance(t: RepeatMoments) -> np.ndarray:
    """Share of the variance of single responses that the predictions explain, 1 - E / V, E the mean squared error: FEVE before it
    is divided by what can be explained (approximately: FEVE = 1 - (E - N) / (V - N)).
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1 - (t.rr - 2 * t.rp + t.pp) / t.n / total_variance(t)


def feve(t: RepeatMoments) -> np.ndarray:
    """Share of explainable variance that is explained, 1 - (E - N) / (V - N). Above 1 or far below 0 where V is hardly above N:
    it is reported for neurons with `fev` of at least `FEV_THRESHOLD`.
    """
    noise = noise_variance(t)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = (t.rr - 2 * t.rp + t.pp) / t.n
        return 1 - (error - noise) / (total_variance(t) - noise)
