"""Where on the screen a neuron looks: by gradient over natural stimuli, and by reverse correlation of responses to sparse noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize
from scipy.ndimage import gaussian_filter

from omnimouse_jax.probe.physiology.subject import Geometry, Subject

Maps = Float[np.ndarray, "N H W_"]
Values = Float[np.ndarray, " N"]
Told = Callable[[int], None] | None

DEFINITIONS = {
    "gradient map": "root mean square over natural windows and frames of the gradient of the mean predicted response with "
    "respect to "
    "each pixel; `mean_jacobian` is its signed mean over windows, frame by frame",
    "sparse noise map": "sqrt(on^2 + off^2): how much the predicted response deviates from its mean when the cell was "
    "white (on) or "
    "black (off) a lag ago; the lag is the one at which the neuron's map varies most over cells",
    "rf_x, rf_y, rf_sigma": "a Gaussian with offset fitted to the gradient map (sparse_x ...: to the sparse noise map), "
    "degrees from "
    "the screen's centre, x right, y up; sigma is the geometric mean of both axes. NaN where it explains less than 30 % of the "
    "map's variance or lies off the screen",
}
LEAST_EXPLAINED = 0.3


class Fields(NamedTuple):
    """Gaussians fitted to maps."""

    x: Values
    y: Values
    sigma: Values
    explained: Values


def gradient_maps(
    subject: Subject, natural: Float[np.ndarray, "W F H W_"], read: slice, told: Told = None
) -> tuple[Maps, Float[np.ndarray, "N F H W_"]]:
    """RMS map and mean Jacobian of every neuron: a backward pass for every neuron and window, `batch` of them at a time."""
    n_frames, height, width = subject.frames_shape
    squares = np.zeros((subject.n_neurons, height, width))
    mean = np.zeros((subject.n_neurons, n_frames, height, width), np.float32)
    context = subject.context(subject.batch, {})
    pairs = np.stack(np.divmod(np.arange(subject.n_neurons * len(natural)), len(natural)), axis=1)
    for first in range(0, len(pairs), subject.batch):
        neurons, windows = pairs[first : first + subject.batch].T
        _, gradient = subject.gradients(natural[windows], neurons, read, context)
        np.add.at(squares, neurons, (gradient.astype(np.float64) ** 2).sum(axis=1))
        np.add.at(mean, neurons, gradient / np.float32(len(natural)))
        if told is not None:
            told(len(neurons))
    return np.sqrt(squares / (len(natural) * n_frames)), mean


@dataclasses.dataclass(frozen=True)
class SparseNoise:
    """Patterns of white and black square cells on grey, one after the other without gaps."""

    cell_degrees: float = 10.0
    share: float = 0.06  # of cells that are not grey in a pattern
    hold_s: float = 0.2
    n_windows: int = 192
    lags_s: tuple[float, ...] = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)
    seed: int = 0

    def cells(self, geometry: Geometry) -> tuple[Int[np.ndarray, " H"], Int[np.ndarray, " W_"]]:
        """Row and column of the cell of each row and column of pixels."""
        pixels = max(1, round(self.cell_degrees / geometry.degrees_per_pixel))
        return np.arange(geometry.height) // pixels, np.arange(geometry.width) // pixels

    def patterns(self, geometry: Geometry) -> Float[np.ndarray, "windows shown R C"]:
        """-1 black, 0 grey, 1 white."""
        rows, columns = self.cells(geometry)
        hold = max(1, round(self.hold_s * geometry.frame_rate))
        shape = (self.n_windows, -(-geometry.n_frames // hold), rows[-1] + 1, columns[-1] + 1)
        rng = np.random.default_rng([self.seed, self.n_windows])
        return np.where(rng.random(shape) < self.share, rng.choice([-1.0, 1.0], shape), 0.0)

    def draw(self, patterns: np.ndarray, geometry: Geometry) -> Float[np.ndarray, "w F H W_"]:
        """Frames in [0, 1]."""
        rows, columns = self.cells(geometry)
        hold = max(1, round(self.hold_s * geometry.frame_rate))
        swing = min(geometry.grey, 1 - geometry.grey)
        video = geometry.grey + swing * patterns[:, :, rows][..., columns].repeat(hold, axis=1)
        return video[:, : geometry.n_frames].astype(np.float32)


def sparse_maps(subject: Subject, noise: SparseNoise, told: Told = None) -> tuple[Maps, Maps, Values]:
    """ON and OFF maps, cell by cell on the screen's pixels, and each neuron's lag in seconds."""
    geometry = subject.geometry
    patterns = noise.patterns(geometry)
    raw = subject.responses(
        len(patterns), lambda numbers: noise.draw(patterns[numbers.start : numbers.stop], geometry), told=told
    )
    r_WxSxN = raw.astype(np.float64)
    flat = (r_WxSxN - r_WxSxN.mean(axis=(0, 1))).reshape(-1, subject.n_neurons)
    maps = []
    for lag in noise.lags_s:
        showing = np.floor((subject.sample_times - lag) / noise.hold_s + 1e-9).astype(int)
        usable = (showing >= 0) & (showing < patterns.shape[1])
        shown = patterns[:, np.where(usable, showing, 0)] * usable[None, :, None, None]
        shown = shown.reshape(-1, patterns.shape[2] * patterns.shape[3])
        on, off = (shown > 0).astype(np.float64), (shown < 0).astype(np.float64)
        maps.append([flat.T @ s / np.maximum(s.sum(axis=0), 1) for s in (on, off)])
    both = np.array(maps)  # lags, 2, N, cells
    best = (both**2).sum(axis=(1, 3)).argmax(axis=0)
    chosen = both[best, :, np.arange(subject.n_neurons)].reshape(subject.n_neurons, 2, *patterns.shape[2:])
    rows, columns = noise.cells(geometry)
    full = chosen[:, :, rows][..., columns]
    return full[:, 0], full[:, 1], np.asarray(noise.lags_s)[best]


def fit_fields(maps: Maps, geometry: Geometry) -> Fields:
    """Gaussians with offset by least squares, from the smoothed map's peak."""
    x, y = geometry.pixels()
    out = np.full((4, len(maps)), np.nan)
    half = np.abs(x).max() + geometry.degrees_per_pixel / 2, np.abs(y).max() + geometry.degrees_per_pixel / 2
    for n, found in enumerate(maps.astype(np.float64)):
        if not (np.isfinite(found).all() and np.ptp(found) > 0):
            continue
        scaled = (found - np.median(found)) / np.ptp(found)
        at = np.unravel_index(gaussian_filter(scaled, 1.0).argmax(), scaled.shape)
        start = [max(scaled[at], 0.1), x[at], y[at], 2.5, 2.5, 0.0]

        def away(p: np.ndarray, scaled: np.ndarray = scaled) -> np.ndarray:
            across = ((x - p[1]) / np.exp(p[3])) ** 2 + ((y - p[2]) / np.exp(p[4])) ** 2
            return (p[0] * np.exp(-0.5 * across) + p[5] - scaled).ravel()

        low = np.log(geometry.degrees_per_pixel / 2)
        start[3] = start[4] = max(low + 0.1, np.log(8.0))
        bounds = (
            [0, -2 * half[0], -2 * half[1], low, low, -2],
            [10, 2 * half[0], 2 * half[1], np.log(4 * half[0]), np.log(4 * half[0]), 2],
        )
        fit = optimize.least_squares(away, start, bounds=bounds)
        explained = 1 - 2 * fit.cost / ((scaled - scaled.mean()) ** 2).sum()
        _, cx, cy, sx, sy, _ = fit.x
        out[3, n] = explained
        if explained >= LEAST_EXPLAINED and abs(cx) <= half[0] and abs(cy) <= half[1]:
            out[:3, n] = cx, cy, np.exp((sx + sy) / 2)
    return Fields(*out)
