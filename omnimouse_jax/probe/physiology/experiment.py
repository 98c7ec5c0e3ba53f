"""The gratings of a subject, in two steps: a crossed grid of directions, frequencies and phases, then contrasts and sizes at each
neuron's best one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from omnimouse_jax.probe.physiology import tuning
from omnimouse_jax.probe.physiology.gratings import Conditions, Grating, drawer
from omnimouse_jax.probe.physiology.subject import Subject

Told = Callable[[int], None] | None
Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How long, how many, what counts. Times in seconds within the window; `read_s` after the onset."""

    onset_s: float = 0.5
    read_s: tuple[float, float] = (0.5, 1.5)
    n_directions: int = 16
    n_spatial: int = 5
    n_temporal: int = 4
    n_phases: int = 4
    contrasts: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.35, 0.6, 1.0)
    diameters: tuple[float, ...] = (10.0, 20.0, 30.0, 45.0, 70.0)  # degrees, beside the full field
    floor: float = 0.1  # of the neuron's SD over natural stimuli: less is no response, and no range of a curve
    least: float = 0.1  # range of a curve in units of responses: recorded SDs
    alpha: float = 0.01
    draws: int = 500
    seed: int = 0

    def conditions(self, subject: Subject) -> Conditions:
        return Conditions.of(subject.geometry, self.n_directions, self.n_spatial, self.n_temporal, self.n_phases)

    def read(self, subject: Subject) -> slice:
        """The samples that a mean response is over."""
        return subject.read(self.onset_s + self.read_s[0], self.onset_s + self.read_s[1])


def grey_response(subject: Subject, read: slice) -> Float[np.ndarray, " N"]:
    """To a window of grey."""
    found = subject.responses(1, lambda numbers: np.full((1, *subject.frames_shape), subject.geometry.grey, np.float32))
    return found[0, read].astype(np.float64).mean(axis=0)


def examine(subject: Subject, protocol: Protocol, spread: Float[np.ndarray, " N"], told: Told = None) -> Arrays:
    """Every curve and what follows from it, by name (see `tuning.DEFINITIONS`). `spread`: SD over natural stimuli, per neuron.

    NaN in what describes the preference of a neuron that is not tuned.
    """
    c, read = protocol.conditions(subject), protocol.read(subject)
    gratings = c.gratings()
    raw = subject.responses(len(gratings), drawer(gratings, subject.geometry, protocol.onset_s), told=told)
    traces = raw[:, read].reshape(*c.shape, read.stop - read.start, subject.n_neurons)
    grid_DxKxFxPxN = traces.astype(np.float64).mean(axis=4)
    grey = grey_response(subject, read)
    mean = np.moveaxis(grid_DxKxFxPxN.mean(axis=3), -1, 0)  # N D K F
    best = np.stack(np.unravel_index(mean.reshape(len(mean), -1).argmax(axis=1), mean.shape[1:]), axis=1)
    n = np.arange(len(mean))
    by_phase = np.moveaxis(grid_DxKxFxPxN, -1, 0)[n, :, best[:, 1], best[:, 2]]  # N D P
    is_tuned, p = tuning.tuned(
        by_phase, np.maximum(protocol.floor * spread, protocol.least), protocol.alpha, protocol.draws, protocol.seed
    )
    out: Arrays = {"grid": mean, "best": best, "grey": grey, "spread": spread, "tuned": is_tuned, "p": p}
    out |= _direction(mean[n, :, best[:, 1], best[:, 2]], np.asarray(c.directions))
    for name, axis, values in (("spatial", 2, c.spatial_frequencies), ("temporal", 3, c.temporal_frequencies)):
        curve = mean[n, best[:, 0], :, best[:, 2]] if axis == 2 else mean[n, best[:, 0], best[:, 1]]
        out[f"{name}_curve"] = curve
        out[f"{name}_frequency"], out[f"{name}_at_edge"] = tuning.best_frequency(curve, values)
    at_best = np.moveaxis(traces, -1, 0)[n, best[:, 0], best[:, 1], best[:, 2]]  # N P S
    times = subject.sample_times[read] - protocol.onset_s
    frequency = np.asarray(c.temporal_frequencies)[best[:, 2]]
    out["f1_f0"] = tuning.phase_sensitivity(at_best, times, frequency, grey, spread, protocol.floor)
    out |= _contrast(subject, protocol, c, best, told)
    for name in PREFERENCES:
        out[name] = np.where(is_tuned, out[name], np.nan)
    return out


#: Without a meaning in a neuron that is not tuned.
PREFERENCES = (
    *("direction", "orientation", "bandwidth", "osi_vector", "dsi_vector", "osi_pref_orth", "dsi_pref_null"),
    *("spatial_frequency", "temporal_frequency", "f1_f0", "c50", "contrast_exponent", "rmax"),
)


def _direction(curve: Float[np.ndarray, "N D"], degrees: Float[np.ndarray, " D"]) -> Arrays:
    osi, dsi = tuning.pref_orth_null(curve)
    peaks = tuning.fit_peaks(curve, degrees)
    return {
        "direction_curve": curve,
        "osi_vector": tuning.vector_selectivity(curve, degrees, 2),
        "dsi_vector": tuning.vector_selectivity(curve, degrees, 1),
        "osi_pref_orth": osi,
        "dsi_pref_null": dsi,
        "direction": peaks.direction,
        "orientation": (peaks.direction + 90.0) % 180.0,
        "bandwidth": np.where(peaks.explained >= 0.7, peaks.bandwidth, np.nan),
        "direction_explained": peaks.explained,
    }


def best_gratings(c: Conditions, best: np.ndarray) -> list[Grating]:
    """Each neuron's best condition of the grid, at phase 0."""
    return [Grating(c.directions[d], c.spatial_frequencies[k], c.temporal_frequencies[f]) for d, k, f in best.tolist()]


def _contrast(subject: Subject, protocol: Protocol, c: Conditions, best: np.ndarray, told: Told) -> Arrays:
    """Contrast curves at the best grating: each distinct one is shown once to all."""
    read = protocol.read(subject)
    distinct, of = np.unique(best, axis=0, return_inverse=True)
    shown = [
        dataclasses.replace(g, contrast=contrast, phase=phase)
        for g in best_gratings(c, distinct)
        for contrast in protocol.contrasts
        for phase in c.phases
    ]
    raw = subject.responses(len(shown), drawer(shown, subject.geometry, protocol.onset_s), told=told)
    mean = raw[:, read].astype(np.float64).mean(axis=1)
    mean = mean.reshape(len(distinct), len(protocol.contrasts), len(c.phases), -1).mean(axis=2)
    curve = mean[of.ravel(), :, np.arange(len(best))]
    law = tuning.fit_contrast(curve, protocol.contrasts)
    return {
        "contrast_curve": curve,
        "r0": law.r0,
        "rmax": law.rmax,
        "c50": law.c50,
        "contrast_exponent": law.exponent,
        "contrast_explained": law.explained,
    }


def sizes(subject: Subject, protocol: Protocol, found: Arrays, x: Any, y: Any, told: Told = None) -> Arrays:
    """Responses to each neuron's best grating in discs around its receptive field (x, y in degrees, NaN: none), and in full field.

    `suppression`: 1 - (response to full field - grey) / (response to the best disc - grey); NaN where no disc excites.
    """
    c, read = protocol.conditions(subject), protocol.read(subject)
    rows = np.flatnonzero(np.isfinite(x) & np.isfinite(y) & found["tuned"])
    phases = c.phases[:: max(1, len(c.phases) // 2)]
    every = (*protocol.diameters, np.inf)
    best = best_gratings(c, found["best"])
    shown = [
        dataclasses.replace(best[n], x=float(x[n]), y=float(y[n]), diameter=diameter, phase=phase)
        for n in rows
        for diameter in every
        for phase in phases
    ]
    raw = subject.responses(len(shown), drawer(shown, subject.geometry, protocol.onset_s), told=told)
    mean = raw[:, read].astype(np.float64).mean(axis=1)
    mean = mean.reshape(len(rows), len(every), len(phases), subject.n_neurons).mean(axis=2)
    curve = np.full((subject.n_neurons, len(every)), np.nan)
    curve[rows] = mean[np.arange(len(rows)), :, rows]
    above = curve - found["grey"][:, None]
    most = np.nanmax(np.where(np.isfinite(above), above, -np.inf), axis=1)
    excited = np.isfinite(most) & (most > protocol.floor * found["spread"])
    at = np.where(np.isfinite(above), above, -np.inf).argmax(axis=1)
    return {
        "size_curve": curve,
        "preferred_size": np.where(excited, np.array(every)[at], np.nan),
        "suppression": np.where(excited, 1 - above[:, -1] / np.where(excited, most, 1.0), np.nan),
    }
