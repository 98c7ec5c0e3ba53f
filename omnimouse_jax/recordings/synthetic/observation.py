"""From rates to what the microscope's pipeline writes: calcium, scans, resampling, private noise.

All but the noise is linear, so what holds of rates (averages over behaviour or latents) holds of recorded responses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import signal

#: (rise, decay) in seconds of the smear that is left in each kind of signal: e^(-t/decay) - e^(-t/rise).
KERNELS = {"deconvolved": (0.02, 0.10), "dff": (0.05, 0.5)}


@dataclass(frozen=True)
class Microscope:
    """Scans at `first_scan + j / scan_rate`, each the mean over the scan before it, then linearly resampled to
    `first_scan + k / rate`; `rate` None keeps the scans as they are.

    Input is one value per tick; tick k lasts from `start + k * tick`. The first scan must come a scan after `start`.
    """

    kernel: str
    start: float
    tick: float
    first_scan: float
    last_time: float
    scan_rate: float
    rate: float | None

    @property
    def n_scans(self) -> int:
        return int((self.last_time - self.first_scan) * self.scan_rate) + 1

    @property
    def times(self) -> Float[np.ndarray, " samples"]:
        """Times of the recorded samples."""
        if self.rate is None:
            return self.first_scan + np.arange(self.n_scans) / self.scan_rate
        return self.first_scan + np.arange(int((self.n_scans - 1) / self.scan_rate * self.rate) + 1) / self.rate

    def scan(self, x: Float[np.ndarray, "T N"]) -> Float[np.ndarray, "scans N"]:
        """Calcium trace of `x`, averaged over each scan. A constant stays itself (after the kernel's length)."""
        rise, decay = (np.exp(-self.tick / seconds) for seconds in KERNELS[self.kernel])
        # a difference of exponentials is two one-pole filters in a row; area 1
        trace = signal.lfilter([(1 - rise) * (1 - decay)], np.poly([rise, decay]), x, axis=0)
        total = np.concatenate([np.zeros((1, x.shape[1])), np.cumsum(trace, axis=0)])
        edges = self.first_scan + np.arange(-1, self.n_scans) / self.scan_rate
        return np.diff(_between(total, (edges - self.start) / self.tick), axis=0) * self.scan_rate * self.tick

    def resample(self, scans: Float[np.ndarray, "scans N"]) -> Float[np.ndarray, "samples N"]:
        if self.rate is None:
            return scans
        return _between(scans, (self.times - self.first_scan) * self.scan_rate)

    def observe(self, x: Float[np.ndarray, "T N"]) -> Float[np.ndarray, "samples N"]:
        return self.resample(self.scan(x))

    def noise_gain(self) -> float:
        """Variance of the recorded samples of unit white noise at the ticks: the mean sum of squared weights."""
        n, tick_rate = 48, 1 / self.tick
        part = Microscope(self.kernel, 0.0, self.tick, 1.0, 20.0, self.scan_rate, self.rate)
        impulses = np.zeros((int(22 * tick_rate), n))
        impulses[(5 * tick_rate + np.arange(n) * 0.13 * tick_rate).astype(int), np.arange(n)] = 1.0
        rate = self.scan_rate if self.rate is None else self.rate
        return float((part.observe(impulses) ** 2).sum(axis=0).mean() * tick_rate / rate)

    def scan_noise_gain(self) -> float:
        """Variance of the recorded samples of unit white noise at the scans."""
        if self.rate is None:
            return 1.0
        part = np.modf((self.times - self.first_scan) * self.scan_rate)[0]
        return float(np.mean(part**2 + (1 - part) ** 2))


def _between(values: Float[np.ndarray, "n N"], at: Float[np.ndarray, " m"]) -> Float[np.ndarray, "m N"]:
    """Linear interpolation between rows."""
    below = np.clip(np.floor(at).astype(np.int64), 0, max(0, len(values) - 2))
    part = np.clip(at - below, 0.0, 1.0)[:, None]
    above = np.minimum(below + 1, len(values) - 1)
    return values[below] * (1 - part) + values[above] * part
