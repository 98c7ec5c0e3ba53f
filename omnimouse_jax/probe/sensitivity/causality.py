"""Which frames a response depends on: the gradient of the response at t with respect to the frame at t - lag, for all lags.

A model whose windows look ahead has gain at negative lags; that is told, not forbidden. Where the gradient is exactly 0 the frame
cannot matter; replacing frames and comparing responses bit by bit says the same without gradients.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from omnimouse_jax.probe.sensitivity.subject import Subject


class Dependence(NamedTuple):
    """`gain` (S, F): RMS over stimuli and neurons of d z / d frame, in SD per unit of that frame's RMS. `changed` (S, F): whether
    replacing the frame changed the response of any neuron to any stimulus in any bit."""

    gain: Float[np.ndarray, "S F"]
    changed: Bool[np.ndarray, "S F"]


def dependence(subject: Subject, n_stimuli: int, seed: int = 0) -> Dependence:
    """Of the first stimuli. Over neurons, squares are summed through one random sign per neuron and stimulus, without bias."""
    at = np.arange(min(n_stimuli, subject.n_stimuli))
    whole = dataclasses.replace(subject, frames=None)
    clean = whole.clean_samples[at]
    n_samples, n_frames = clean.shape[1], whole.shape[0]
    signs = (
        np.random.default_rng(seed).choice(np.array([-1.0, 1.0], np.float32), size=(len(at), subject.n_neurons))
        * subject.inverse
    )
    gain = np.zeros((n_samples, n_frames))
    # (stimulus, sample) pairs, as many at a time as a batch has rows.
    stimulus, sample = (part.ravel() for part in np.meshgrid(at, np.arange(n_samples), indexing="ij"))
    for first in range(0, len(sample), subject.rows):
        some = slice(first, first + subject.rows)
        weights = np.zeros((len(sample[some]), n_samples, subject.n_neurons), np.float32)
        weights[np.arange(len(weights)), sample[some]] = signs[stimulus[some]]
        found = np.square(whole.gradients(weights, stimulus[some]).astype(np.float64)).sum((2, 3))
        np.add.at(gain, sample[some], found / len(at))
    count = max(int(subject.included.sum()), 1)
    gain = np.sqrt(gain / count * math.prod(whole.shape[1:]))

    changed = np.zeros((n_samples, n_frames), bool)
    stimulus, frame = (part.ravel() for part in np.meshgrid(at, np.arange(n_frames), indexing="ij"))
    for first in range(0, len(frame), subject.rows):
        some = slice(first, first + subject.rows)
        x = whole.video[stimulus[some], frame[some]]
        d = np.zeros((len(x), *whole.shape), np.float32)
        # Another picture, which differs from the first in every pixel.
        d[np.arange(len(x)), frame[some]] = np.where(x < 0.5, 1.0, 0.0) - x
        moved = (whole.responses(d, stimulus[some]) != whole.clean_samples[stimulus[some]]).any(2)
        np.logical_or.at(changed.T, frame[some], moved)
    return Dependence(gain, changed)


class Profile(NamedTuple):
    """Gain by lag = time of the response - time of the frame, in seconds; negative: the frame comes up after the response."""

    lag: Float[np.ndarray, " L"]
    gain: Float[np.ndarray, " L"]
    ahead: float  # the longest time ahead with any gradient, s; 0: none
    ahead_forward: float  # the same from replaced frames
    ahead_share: float  # of the sum of squared gains, from frames after the response; NaN: no gain at all
    n_future: int  # pairs of a response and a later frame
    n_zero: int  # those of them with a gradient of exactly 0
    behind: float  # the longest time back with any gradient, s


def profile(
    found: Dependence,
    sample_times: Float[np.ndarray, " S"],
    frame_times: Float[np.ndarray, " F"],
    bin_s: float | int | None = None,
) -> Profile:
    """Bins lags by the frames' own spacing, or `bin_s`. A frame that comes up at the very time of the response is not later."""
    lags = sample_times[:, None] - frame_times[None]
    width = bin_s or (float(np.diff(frame_times).min()) if len(frame_times) > 1 else 1.0)
    numbers = np.round(lags / width).astype(int)
    places = np.unique(numbers)
    gain = np.array([np.sqrt(np.mean(found.gain[numbers == place] ** 2)) for place in places])
    future, there = lags < -1e-9, found.gain > 0
    total = float((found.gain**2).sum())
    return Profile(
        lag=places * width,
        gain=gain,
        ahead=float(max(0.0, -lags[there].min(initial=0.0))),
        ahead_forward=float(max(0.0, -lags[found.changed].min(initial=0.0))),
        ahead_share=float((found.gain[future] ** 2).sum() / total) if total > 0 else float("nan"),
        n_future=int(future.sum()),
        n_zero=int((future & ~there).sum()),
        behind=float(max(0.0, lags[there].max(initial=0.0))),
    )
