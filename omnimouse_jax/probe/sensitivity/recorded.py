"""The recorded side: how much of each neuron's response repeats, which is the second unit of a shift, and who is reliable."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from omnimouse_jax.probe.predictor import Predictor
from omnimouse_jax.tokens.windows import Window

#: Windows of repeated stimuli that are read at most, and at a time.
MOST, AT_ONCE = 256, 32
#: Fewer moments of stimuli than these say nothing.
LEAST = 8


class Signal(NamedTuple):
    """Of windows that were shown again at the same moment of the same stimulus: `sd` (N,) of the repeating part of the response, in
    the unit of predictions; `reliability` its share of the variance of a single showing. NaN where there are too few repeats, and
    where the estimate of the variance is not positive. `groups` moments in `windows` windows."""

    sd: Float[np.ndarray, " N"]
    reliability: Float[np.ndarray, " N"]
    groups: int
    windows: int

    @property
    def known(self) -> bool:
        return self.groups >= LEAST


def signal_of(predictor: Predictor, readout: str, seed: int) -> Signal:
    """Variance over moments of the mean over showings, less what the showings' own variance adds to it (unbiased)."""
    groups = [group for group in _repeated(predictor, seed) if len(group) > 1]
    kept: list[list[Window]] = []
    for group in groups:
        if sum(map(len, kept)) + len(group) <= MOST:
            kept.append(group)
    nothing = np.full(predictor.n_neurons, np.nan)
    windows = [window for group in kept for window in group]
    if len(kept) < LEAST:
        return Signal(nothing, nothing, len(kept), len(windows))
    recorded = np.concatenate(
        [predictor.load(windows[at : at + AT_ONCE]).recorded for at in range(0, len(windows), AT_ONCE)]
    ).astype(np.float64)
    values = recorded.mean(1, keepdims=True) if readout == "mean" else recorded
    ends = np.cumsum([len(group) for group in kept])[:-1]
    blocks = np.split(values, ends)
    means = np.stack([block.mean(0) for block in blocks])  # G R N
    noise = np.stack([block.var(0, ddof=1) for block in blocks])
    of_mean = np.stack([block.var(0, ddof=1) / len(block) for block in blocks])
    flat = means.reshape(-1, means.shape[-1])
    variance = flat.var(0, ddof=1) - of_mean.mean((0, 1))
    some = np.isfinite(variance) & (variance > 0)
    variance = np.where(some, variance, np.nan)
    return Signal(np.sqrt(variance), variance / (variance + noise.mean((0, 1))), len(kept), len(windows))


def _repeated(predictor: Predictor, seed: int) -> list[list[Window]]:
    """All windows of the scored tiers by stimulus and moment in it, in an order drawn by `seed`. None reaches beyond its trial."""
    session, grid = predictor.session, predictor.layout.grid
    trials = predictor.run.recording(session).trials
    contents = np.asarray(predictor.run.store.trial_contents(session))
    groups: dict[tuple[str, int], list[Window]] = {}
    for window in sorted(predictor.windows(10**9, seed), key=lambda window: window.start):
        trial = int(np.searchsorted(trials.start, window.start + 1e-6, side="right")) - 1
        if trial < 0 or window.start + grid.seconds > trials.end[trial] + 1e-3 or contents[trial] == "":
            continue
        moment = round((window.start - trials.start[trial]) * grid.response_rate)
        groups.setdefault((str(contents[trial]), moment), []).append(window)
    order = np.random.default_rng(seed).permutation(len(groups))
    every = list(groups.values())
    return [every[k] for k in order]


class Sums(NamedTuple):
    """What a correlation of predicted with recorded samples needs, per stimulus and neuron."""

    n: Float[np.ndarray, "W N"]
    x: Float[np.ndarray, "W N"]
    y: Float[np.ndarray, "W N"]
    xx: Float[np.ndarray, "W N"]
    yy: Float[np.ndarray, "W N"]
    xy: Float[np.ndarray, "W N"]

    @classmethod
    def of(cls, predicted: Float[np.ndarray, "W S N"], recorded: Float[np.ndarray, "W S N"]) -> Sums:
        there = np.isfinite(recorded)
        x, y = np.where(there, predicted, 0.0).astype(np.float64), np.where(there, recorded, 0.0).astype(np.float64)
        return cls(there.sum(1).astype(np.float64), x.sum(1), y.sum(1), (x * x).sum(1), (y * y).sum(1), (x * y).sum(1))

    def correlation(self, weights: Float[np.ndarray, "K W"]) -> Float[np.ndarray, " K"]:
        """Mean over neurons of the single-trial correlation over the samples of stimuli so often drawn; neurons without variance
        are left out."""
        n, x, y, xx, yy, xy = (weights @ part for part in self)
        n = np.maximum(n, 1.0)
        square = (xx - x * x / n) * (yy - y * y / n)
        some = square > 1e-12
        r = np.where(some, (xy - x * y / n) / np.sqrt(np.where(some, square, 1.0)), np.nan)
        with np.errstate(invalid="ignore"):
            return np.where(some.any(1), np.nansum(r, 1) / np.maximum(some.sum(1), 1), np.nan)
