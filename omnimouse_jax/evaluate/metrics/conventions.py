"""The numbers of the SENSORIUM competitions, by name: what differs from the pooled convention is written here and nowhere else.

Sources: recordings sheet C.3 (2022) and D.3 (2023), after sinzlab/sensorium and ecker-lab/sensorium_2023.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.metrics.pooled import PooledCorrelation
from omnimouse_jax.evaluate.metrics.repeats import (
    FEV_THRESHOLD,
    RepeatSums,
    correlation_to_average,
    fev,
    feve,
    single_trial_correlation,
)

#: Added to standard deviations in both repositories.
EPS = 1e-8
#: Frames of every trial that SENSORIUM 2023 does not score.
SKIPPED_FRAMES = 50


class Sensorium2022(NamedTuple):
    """Per neuron; the competition reports `single.mean()`, `average.mean()` and `feve[kept].mean()`."""

    single: Float[np.ndarray, " neurons"]
    average: Float[np.ndarray, " neurons"]
    fev: Float[np.ndarray, " neurons"]
    feve: Float[np.ndarray, " neurons"]
    kept: Shaped[np.ndarray, " neurons"]  # bool: FEV >= threshold


def sensorium2022(
    predicted: Float[np.ndarray, "trials neurons"],
    responses: Float[np.ndarray, "rows columns"],
    images: Shaped[np.ndarray, " ids"],
    threshold: float = FEV_THRESHOLD,
) -> Sensorium2022:
    """Single-trial correlation, correlation to average and FEVE of one tier, as the submission scorer has them.

    Responses in units of their standard deviation. `images` names what each trial showed. The order of trials does not matter.
    UserError for rows that do not match.
    """
    if not len(predicted) == len(responses) == len(images) or predicted.shape != responses.shape:
        raise UserError(
            f"sensorium 2022: {predicted.shape} predictions, {responses.shape} responses, {len(images)} image ids",
            way_out="give one row per trial and one column per neuron",
        )
    names, group = np.unique(images, return_inverse=True)
    sums = RepeatSums(len(names), responses.shape[1])
    everyone, known = np.arange(responses.shape[1]), np.ones((1, responses.shape[1]), bool)
    shown = np.zeros(len(names), np.int64)
    for trial, image in enumerate(group):
        row = slice(trial, trial + 1)
        sums.update(np.array([image]), int(shown[image]), everyone, predicted[row], responses[row], known)
        shown[image] += 1
    total = sums.moments(at_least=1).total()
    share = fev(total)
    return Sensorium2022(
        single_trial_correlation(total, EPS), correlation_to_average(total, EPS), share, feve(total), share >= threshold
    )


def sensorium2023(
    trials: Iterable[tuple[Float[np.ndarray, "_ _"], Float[np.ndarray, "_ _"]]],
) -> Float[np.ndarray, " neurons"]:
    """Single-trial correlation of one tier from (prediction, responses) of its trials, whole and of equal length: the first 50
    frames of each are dropped, the rest is joined in time, and a neuron without a value counts as 0. The competition reports
    the mean over the neurons of all mice. Predictions that are short of their first frames are aligned at the end.
    """
    sums: PooledCorrelation | None = None
    for predicted, responses in trials:
        n = responses.shape[1] - SKIPPED_FRAMES
        if n < 1:
            continue
        if predicted.shape[1] < n:
            raise UserError(
                f"sensorium 2023: a prediction of {predicted.shape[1]} frames for a trial of {responses.shape[1]}",
                way_out=f"predict all but the first {SKIPPED_FRAMES} frames",
            )
        sums = sums or PooledCorrelation(len(responses))
        p, t = predicted[:, -n:].T, responses[:, -n:].T
        sums.update(slice(None), p, t, np.ones(t.shape, bool))
    if sums is None:
        raise UserError(
            "sensorium 2023: no trial is longer than 50 frames", way_out="give whole trials of 30 Hz frames"
        )
    return np.nan_to_num(sums.correlation(EPS))
