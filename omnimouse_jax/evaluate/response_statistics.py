"""What can be told of a neuron from a few minutes without a model: its distribution, its rhythm, what it goes along with.

Everything comes from windows of the training tier that the caller names. Numbers are comparable between recordings: responses are
divided by their scale, behaviour is z-scored, correlations have no unit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from omnimouse_jax.tokens.pipeline import Cutter
from omnimouse_jax.tokens.windows import Sample, Window

#: Cells (rows, columns) that the screen is divided into, to find where a neuron looks.
CELLS = (4, 8)
#: Seconds by which responses follow the screen; windows end there, so that no value is needed from outside of one.
DELAYS_S = (0.1, 0.25)
#: Seconds at which responses are compared with themselves.
RHYTHM_S = (0.1, 0.3, 1.0)


def statistics(
    cutter: Cutter, windows: Sequence[Window], channels: Sequence[str]
) -> tuple[Float[np.ndarray, "neurons statistics"], tuple[str, ...]]:
    """Statistics of every neuron of one session, and their names. 0 where something was not recorded."""
    samples = [cutter.sample(window) for window in windows]
    rate = cutter.grid.response_rate
    y_WxSxN = np.stack([sample.responses for sample in samples]).astype(np.float64)
    columns: dict[str, np.ndarray] = {}
    mean = np.nan_to_num(np.nanmean(y_WxSxN, axis=(0, 1)))
    centred = y_WxSxN - mean
    deviation = np.sqrt(np.nan_to_num(np.nanmean(centred**2, axis=(0, 1))))
    scaled = np.nan_to_num(centred / np.where(deviation > 0, deviation, 1.0))
    columns["mean"], columns["deviation"] = mean, deviation
    columns["skewness"] = np.cbrt((scaled**3).mean((0, 1)))
    columns["near zero"] = (y_WxSxN < 0.1 * (mean + deviation)).mean((0, 1))
    for seconds in RHYTHM_S:
        lag = min(max(1, round(seconds * rate)), y_WxSxN.shape[1] - 1)
        columns[f"itself {seconds:g} s later"] = (scaled[:, lag:] * scaled[:, :-lag]).mean((0, 1))
    total = scaled.sum(2, keepdims=True)
    others = (total - scaled) / max(1, scaled.shape[2] - 1)
    columns["population"] = _correlation(scaled, others)
    behavior = np.stack([at_responses(sample.behavior.T, cutter, "behavior") for sample in samples])
    for c, name in enumerate(channels):
        columns[f"behavior {name}"] = _correlation(scaled, _standard(behavior[..., c : c + 1]))
    for name, values in _screen(samples, cutter).items():
        for seconds in DELAYS_S:
            lag = max(1, round(seconds * rate))
            columns[f"{name} {seconds:g} s before"] = _correlation(scaled[:, lag:], values[:, :-lag])
    return np.nan_to_num(np.stack(list(columns.values()), axis=1)), tuple(columns)


def screen_courses(samples: Sequence[Sample], cutter: Cutter) -> dict[str, Float[np.ndarray, "W S cells"]]:
    """Contrast, change and luminance of each cell of the screen, at the times of responses; {} without a screen."""
    rows, cols = CELLS
    seen: dict[str, list[np.ndarray]] = {}
    for sample in samples:
        if sample.video is None:
            return {}
        video = sample.video.astype(np.float32) / 128.0 - 1.0
        change = np.abs(np.diff(video, axis=0, prepend=video[:1]))
        local = np.abs(video - video.mean((1, 2), keepdims=True))
        for name, frames in (("contrast", local), ("change", change), ("luminance", video)):
            strips = [strip for band in np.array_split(frames, rows, 1) for strip in np.array_split(band, cols, 2)]
            cells = np.stack([cell.mean((1, 2)) for cell in strips], axis=1)
            seen.setdefault(name, []).append(at_responses(cells, cutter, "video"))
    return {name: np.stack(values) for name, values in seen.items()}


def _screen(samples: Sequence[Sample], cutter: Cutter) -> dict[str, Float[np.ndarray, "W S 1"]]:
    """Each of these averaged over the screen, and contrast and change cell by cell."""
    found: dict[str, np.ndarray] = {}
    for name, values in screen_courses(samples, cutter).items():
        found[name] = _standard(values.mean(2, keepdims=True))
        for cell in range(values.shape[2] if name != "luminance" else 0):
            found[f"{name} of cell {cell}"] = _standard(values[..., cell : cell + 1])
    return found


def at_responses(values: Float[np.ndarray, "T C"], cutter: Cutter, of: str) -> Float[np.ndarray, "S C"]:
    """Values of a window held at the times of its response samples."""
    grid = cutter.grid
    rate = grid.video_rate if of == "video" else grid.behavior_rate
    at = np.floor(np.arange(grid.n_samples) * rate / grid.response_rate + 1e-9).astype(int)
    return values[np.minimum(at, len(values) - 1)].astype(np.float64)


def _standard(values: Float[np.ndarray, "W S C"]) -> Float[np.ndarray, "W S C"]:
    known = np.isfinite(values)
    if not known.any():
        return np.zeros_like(values)
    deviation = np.nanstd(values)
    return np.where(known, values - np.nanmean(values), 0.0) / (deviation if deviation > 0 else 1.0)


def _correlation(scaled: Float[np.ndarray, "W S N"], other: Float[np.ndarray, "W S _"]) -> Float[np.ndarray, " N"]:
    """Of each neuron with a time course, or with its own one."""
    a, b = scaled - scaled.mean((0, 1)), other - other.mean((0, 1))
    norm = np.sqrt((a**2).sum((0, 1)) * (b**2).sum((0, 1)))
    return (a * b).sum((0, 1)) / np.where(norm > 0, norm, 1.0)
