"""Poisson deviance explained and bits per spike: how good predicted rates are as rates, not only up to scale."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float


class PoissonSums:
    """Sums per unit for the likelihood of targets as Poisson counts whose expectation was predicted.

    Deviance explained = 1 - deviance of the predictions / deviance of the unit's mean over what is scored; bits per spike =
    log2 likelihood gained over that mean, per unit of response (Pei et al. 2021, section 3.2, there with spike counts). Both
    are the same for responses in any unit (x -> c x for targets and predictions alike), so they are defined for counts and as
    quasi-likelihood for non-negative deconvolved activity; not for dF/F or z-scores, which go below 0.
    """

    def __init__(self, n_units: int):
        self.count = np.zeros(n_units, np.float64)
        self.target, self.predicted = np.zeros(n_units), np.zeros(n_units)
        self.t_log_t, self.t_log_p = np.zeros(n_units), np.zeros(n_units)
        self.negative_targets = self.negative_predictions = self.impossible = 0

    def update(
        self,
        units: slice | np.ndarray,
        predicted: Float[np.ndarray, "samples units"],
        target: Float[np.ndarray, "samples units"],
        mask: Bool[np.ndarray, "samples units"],
    ) -> None:
        """Adds samples of some units, each named once; masked ones do not count."""
        p, t = (np.where(mask, x.astype(np.float64), 0.0) for x in (predicted, target))
        self.negative_targets += int((t < 0).sum())
        self.negative_predictions += int((p < 0).sum())
        self.impossible += int(((t > 0) & (p == 0)).sum())
        self.count[units] += mask.sum(0)
        self.target[units] += t.sum(0)
        self.predicted[units] += p.sum(0)
        seen = (t > 0) & (p > 0)
        self.t_log_t[units] += (t * np.log(np.where(t > 0, t, 1.0))).sum(0)
        self.t_log_p[units] += (t * np.log(np.where(seen, p, 1.0))).sum(0)

    def merge(self, other: PoissonSums) -> None:
        """Adds what another one has seen of the same units."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    @property
    def not_applicable(self) -> str:
        """Why there is no Poisson likelihood of these targets and predictions; "" where there is."""
        if self.negative_targets:
            return f"{self.negative_targets} recorded values are below 0: not a signal that counts events"
        if self.negative_predictions:
            return f"{self.negative_predictions} predictions are below 0: not rates"
        if self.impossible:
            return f"{self.impossible} responses above 0 where exactly 0 was predicted: infinitely unlikely"
        return ""

    def deviance_explained(self) -> Float[np.ndarray, " units"]:
        """NaN where not applicable, and for units that never responded or never varied."""
        if self.not_applicable:
            return np.full(len(self.count), np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            null = self.t_log_t - self.target * np.log(self.target / self.count)
            mine = self.t_log_t - self.t_log_p - self.target + self.predicted
            return np.where(null > 1e-12 * np.abs(self.t_log_t), 1 - mine / null, np.nan)

    def bits_per_spike(self) -> Float[np.ndarray, " units"]:
        """NaN where not applicable, and for units that never responded."""
        if self.not_applicable:
            return np.full(len(self.count), np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            mine = self.t_log_p - self.predicted
            null = self.target * np.log(self.target / self.count) - self.target
            return np.where(self.target > 0, (mine - null) / (self.target * np.log(2)), np.nan)
