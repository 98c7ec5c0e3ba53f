"""The scores of SENSORIUM 2022 and 2023 by the conventions of their own scorers.

2022: standardised responses and predictions, trials x neurons. 2023: frames x neurons, the first 50 frames of a trial left out.
Conventions: the benchmarks' scorers as described in recordings.md, C.3 and D.3; docs/benchmarks.md has the formulas.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from omnimouse_jax.evaluate.metrics.conventions import EPS
from omnimouse_jax.evaluate.metrics.pooled import PooledCorrelation
from omnimouse_jax.evaluate.metrics.repeats import FEV_THRESHOLD

#: How the intervals of these scores are made.
INTERVAL = "95% percentile bootstrap over neurons"

Values = Float[np.ndarray, "n neurons"]
PerNeuron = Float[np.ndarray, " neurons"]


def correlation(a: Values, b: Values) -> PerNeuron:
    """Pearson correlation of each column, with population deviations and 1e-8 added to each: 0, not NaN, without variance."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    z_a, z_b = ((x - x.mean(axis=0)) / (x.std(axis=0) + EPS) for x in (a, b))
    return (z_a * z_b).mean(axis=0)


def correlation_to_average(responses: Values, predictions: Values, image_ids: Shaped[np.ndarray, " n"]) -> PerNeuron:
    """Correlation over images of the mean response with the mean prediction. NaN where there are fewer than two images."""
    _, image = np.unique(image_ids, return_inverse=True)
    if image.max(initial=0) < 1:
        return np.full(responses.shape[1], np.nan)
    return correlation(_means(responses, image), _means(predictions, image))


class Explained(NamedTuple):
    """Fraction of the variance that could be explained, and what the prediction explains of that; NaN without repeats."""

    explainable: PerNeuron
    explained: PerNeuron

    @property
    def kept(self) -> Shaped[np.ndarray, " neurons"]:
        """Neurons that the official mean is taken over."""
        return self.explainable >= FEV_THRESHOLD

    @property
    def score(self) -> float:
        """The official number: mean over the kept neurons; NaN if there are none."""
        return float(self.explained[self.kept].mean()) if self.kept.any() else float("nan")


def feve(responses: Values, predictions: Values, image_ids: Shaped[np.ndarray, " n"]) -> Explained:
    """FEVE = 1 - (E - N) / (V - N): V the variance over all trials, N the mean over images of the variance over repeats (both
    with n - 1; every image counts alike), E the mean squared error. Nothing is clipped. An image that was shown once makes all of
    it NaN, as in the original.
    """
    responses, predictions = responses.astype(np.float64), predictions.astype(np.float64)
    _, image, counts = np.unique(image_ids, return_inverse=True, return_counts=True)
    if len(responses) < 2 or counts.min() < 2:
        nothing = np.full(responses.shape[1], np.nan)
        return Explained(nothing, nothing)
    total = responses.var(axis=0, ddof=1)
    apart = (responses - _means(responses, image)[image]) ** 2
    noise = (_sums(apart, image) / (counts[:, None] - 1)).mean(axis=0)
    error = ((responses - predictions) ** 2).mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):  # a silent neuron has no variance to explain
        return Explained((total - noise) / total, 1 - (error - noise) / (total - noise))


class VideoCorrelation:
    """Single-trial correlation of 2023: trials (already without their first 50 frames) one after another, NaN as 0. The score is
    the mean over the neurons of all mice. Running sums: trials are forgotten once they are added.
    """

    def __init__(self, n_neurons: int):
        self._sums = PooledCorrelation(n_neurons)
        self.trials = 0

    def add(self, target: Values, output: Values) -> None:
        """One trial, frames x neurons."""
        self._sums.update(slice(None), output, target, np.ones(target.shape, bool))
        self.trials += 1

    def per_neuron(self) -> PerNeuron:
        return np.nan_to_num(self._sums.correlation(EPS))


def interval(per_neuron: PerNeuron, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """`INTERVAL` of a mean over neurons: what other neurons of the same recordings would give. NaN, NaN for fewer than two."""
    if len(per_neuron) < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng([seed, 2022])
    drawn = [per_neuron[rng.integers(0, len(per_neuron), len(per_neuron))].mean() for _ in range(resamples)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def _sums(values: Values, group: Shaped[np.ndarray, " n"]) -> Float[np.ndarray, "groups neurons"]:
    sums = np.zeros((int(group.max()) + 1, values.shape[1]))
    np.add.at(sums, group, values)
    return sums


def _means(values: Values, group: Shaped[np.ndarray, " n"]) -> Float[np.ndarray, "groups neurons"]:
    return _sums(values.astype(np.float64), group) / np.bincount(group)[:, None]
