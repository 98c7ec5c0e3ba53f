"""Predictions of one session in memory, beside what was recorded, with what is needed to plot and to score them."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from omnimouse_jax.evaluate.metrics import PooledCorrelation, mean_over_units


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Everything in the recording's own units; NaN where nothing was predicted or recorded. Times: seconds on the session's axis.

    `responses` and `recorded` have a row per `time`; behaviour, which is sampled at another rate, one per `behavior_time` and a
    column per channel of `channels`. What the regime does not ask for has no columns or no rows. `trial` is the row of the
    session's trials at each `time` (-1: between them) and `tier` their tier.
    """

    session: str
    regime: str
    time: Float[np.ndarray, " n"]
    responses: Float[np.ndarray, "n neurons"]
    recorded: Float[np.ndarray, "n neurons"]
    neuron_ids: Shaped[np.ndarray, " neurons"]
    tier: Shaped[np.ndarray, " n"]
    trial: Int[np.ndarray, " n"]
    behavior_time: Float[np.ndarray, " m"]
    behavior: Float[np.ndarray, "m channels"]
    recorded_behavior: Float[np.ndarray, "m channels"]
    behavior_tier: Shaped[np.ndarray, " m"]
    channels: tuple[str, ...]

    def __repr__(self) -> str:
        told = [
            f"{len(values)} samples of {values.shape[1]} {what}"
            for values, what in ((self.responses, "neurons"), (self.behavior, "channels"))
            if len(values)
        ]
        return f"Prediction(session {self.session!r}, regime {self.regime!r}: {', '.join(told)})"

    def correlation(self, tier: str = "") -> Float[np.ndarray, " neurons"]:
        """Pearson correlation of each neuron with what was recorded, single trials pooled, as `evaluate` has it; of one tier if
        it is named. NaN for a neuron that was not predicted or not recorded.
        """
        return _correlation(self.responses, self.recorded, _rows(self.tier, tier))

    def behavior_correlation(self, tier: str = "") -> Float[np.ndarray, " channels"]:
        """The same of each channel of behaviour."""
        return _correlation(self.behavior, self.recorded_behavior, _rows(self.behavior_tier, tier))

    def score(self, tier: str = "") -> float:
        """Mean of `correlation` over the neurons that were predicted; one without variance counts as 0."""
        rows = _rows(self.tier, tier)
        scored = (np.isfinite(self.responses) & np.isfinite(self.recorded))[rows].any(axis=0)
        return mean_over_units(self.correlation(tier), scored)


def _rows(tiers: Shaped[np.ndarray, " n"], tier: str) -> Bool[np.ndarray, " n"]:
    return tiers == tier if tier else np.ones(len(tiers), bool)


def _correlation(
    predicted: Float[np.ndarray, "n units"], recorded: Float[np.ndarray, "n units"], rows: Bool[np.ndarray, " n"]
) -> Float[np.ndarray, " units"]:
    sums = PooledCorrelation(predicted.shape[1])
    predicted, recorded = predicted[rows], recorded[rows]
    if len(predicted):
        sums.update(slice(None), predicted, recorded, np.isfinite(predicted) & np.isfinite(recorded))
    return sums.correlation()
