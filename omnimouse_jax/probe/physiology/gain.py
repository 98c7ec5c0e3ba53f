"""What running and the pupil do to responses: the same stimuli, behaviour held at a low and at a high level."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

from omnimouse_jax.probe.physiology.subject import Subject
from omnimouse_jax.recordings.session import Recording

Values = Float[np.ndarray, " N"]
Told = Callable[[int], None] | None

DEFINITIONS = {
    "gain": "slope of a neuron's predicted responses (windows x samples) with the channel at its high level on those with "
    "it at its "
    "low level, least squares, same natural stimuli; `log_gain` its logarithm, NaN for a slope that is not positive",
    "offset": "intercept of that line, in units of the neuron's SD over natural stimuli",
    "levels": "10th and 90th percentile of what was recorded; running: 0 and the 90th percentile; other channels at their mean",
}
#: Channels that physiologists ask about, as far as a session has them.
CHANNELS = ("running", "pupil_size")
LOW, HIGH = 10.0, 90.0


def levels(recording: Recording, channel: str) -> tuple[float, float]:
    """Low and high level of a channel in recorded units; running starts at standstill."""
    for signal in recording.behavior.values():
        if signal.channels is not None and channel in signal.channels:
            values = np.asarray(signal.values[:], np.float64)[:, signal.channels.index(channel)]
            low, high = np.nanpercentile(values, [LOW, HIGH])
            return (0.0 if channel == "running" else float(low)), float(high)
    return float("nan"), float("nan")


def gains(
    subject: Subject,
    natural: Float[np.ndarray, "W F H W_"],
    at: Mapping[str, tuple[float, float]],
    spread: Values,
    told: Told = None,
) -> dict[str, np.ndarray]:
    """`<channel>_gain`, `_log_gain`, `_offset` per neuron for each channel of `at` that the subject is shown.

    `at`: (low, high) in recorded units. NaN for a neuron that does not respond to the stimuli at the low level.
    """
    out: dict[str, np.ndarray] = {}
    for channel, (low, high) in at.items():
        if channel not in subject.channels or not high > low:
            continue
        x, y = (
            subject.responses(len(natural), lambda n: natural[n.start : n.stop], {channel: level}, told)
            .astype(np.float64)
            .reshape(-1, subject.n_neurons)
            for level in (low, high)
        )
        slope, offset = lines(x, y)
        out[f"{channel}_gain"] = slope
        out[f"{channel}_log_gain"] = np.where(slope > 0, np.log(np.where(slope > 0, slope, 1.0)), np.nan)
        out[f"{channel}_offset"] = np.where(spread > 0, offset / np.where(spread > 0, spread, 1.0), np.nan)
    return out


def lines(x: Float[np.ndarray, "T N"], y: Float[np.ndarray, "T N"]) -> tuple[Values, Values]:
    """Slope and intercept of y on x per column; NaN where x is constant."""
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    variance = ((x - mean_x) ** 2).sum(axis=0)
    varies = variance > 1e-12 * np.maximum((x**2).sum(axis=0), 1e-30)
    slope = np.where(varies, ((x - mean_x) * (y - mean_y)).sum(axis=0) / np.where(varies, variance, 1.0), np.nan)
    return slope, mean_y - slope * mean_x
