"""Stimuli drawn from a table when no pixels were kept: drifting gratings, and images brought to the screen's size."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float, Shaped, UInt8


def drifting_grating(
    times: Float[np.ndarray, " n"],
    *,
    direction: float,
    spatial_frequency: float,
    temporal_frequency: float,
    size: tuple[int, int],
    screen_deg: tuple[float, float],
    contrast: float = 1.0,
    phase: float = 0.0,
    mean: float = 128.0,
    shape: Literal["sine", "square"] = "sine",
) -> UInt8[np.ndarray, "n height width"]:
    """Grey levels of a full-field grating at `times` (s after its onset).

    `direction` is where the bars move: 0 to the right, 90 up, counter-clockwise, in degrees. `spatial_frequency` in
    cycles per degree on a flat screen of `screen_deg` (height, width) degrees, `temporal_frequency` in Hz, `phase` in
    cycles, `contrast` Michelson, 0..1, around the grey level `mean`. `size` is (height, width) in pixels.
    """
    height, width = size
    y = (0.5 - (np.arange(height) + 0.5) / height) * screen_deg[0]
    x = ((np.arange(width) + 0.5) / width - 0.5) * screen_deg[1]
    angle = np.deg2rad(direction)
    along = x[None, :] * np.cos(angle) + y[:, None] * np.sin(angle)
    cycles = spatial_frequency * along[None] - temporal_frequency * times[:, None, None] + phase
    wave = np.sin(2 * np.pi * cycles)
    if shape == "square":
        wave = np.sign(wave)
    amplitude = contrast * min(mean, 255.0 - mean)
    return np.clip(np.rint(mean + amplitude * wave), 0, 255).astype(np.uint8)


def resize_area(frames: Shaped[np.ndarray, "n h w"], size: tuple[int, int]) -> Shaped[np.ndarray, "n height width"]:
    """Frames brought to `size` (height, width) by area-weighted averaging, in their own dtype."""
    if frames.shape[1:] == tuple(size):
        return frames
    rows, columns = _area_weights(frames.shape[1], size[0]), _area_weights(frames.shape[2], size[1])
    out = np.einsum("ah,nhw,bw->nab", rows, frames.astype(np.float64), columns, optimize=True)
    return np.rint(out).astype(frames.dtype) if frames.dtype.kind in "iu" else out.astype(frames.dtype)


def _area_weights(n_in: int, n_out: int) -> Float[np.ndarray, "n_out n_in"]:
    """Share of every input pixel in every output pixel of a line, each row summing to 1."""
    edges = np.linspace(0, n_in, n_out + 1)
    pixel = np.arange(n_in)
    shared = np.minimum(edges[1:, None], pixel + 1.0) - np.maximum(edges[:-1, None], pixel)
    shared = np.clip(shared, 0.0, None)
    return shared / shared.sum(axis=1, keepdims=True)
