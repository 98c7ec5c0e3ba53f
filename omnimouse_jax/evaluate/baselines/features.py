"""Features of regressions: what is shown of a window, at chosen delays around the moment that is asked for.

Each function returns a band: (windows, moments, features). A delay that would reach beyond what is shown takes the nearest moment
that is; what is shown but was not recorded counts as the band's mean over what was. Delays are in seconds; negative: later than the
moment.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int

from omnimouse_jax.evaluate.baselines.ridge import units
from omnimouse_jax.evaluate.baselines.shown import Shown, Stretch

#: Cells (rows, columns) of the screen.
CELLS = (4, 8)
#: Delays of the screen's contrast, change and luminance, and of its oriented and moving energy.
SCREEN_S = (0.05, 0.15, 0.3, 0.6)
ENERGY_S = (0.1, 0.3)
SCREEN_WIDTH_S = 0.1
#: Delays of behaviour and of other neurons around a moment.
BEHAVIOR_S = (-1.0, -0.5, -0.2, 0.0, 0.2, 0.5, 1.0)
BEHAVIOR_WIDTH_S = 0.1
NEURONS_S = (-0.2, -0.1, 0.0, 0.1, 0.2)
NEURONS_WIDTH_S = 0.05
#: How many samples, counted from the nearest shown one, each part of a neuron's past averages.
PAST = (1, 2, 4, 8, 16)
#: Neurons of a shown stretch, and features of a regression, at most; of more, as many leading principal components are taken.
MOST_NEURONS = 256
MOST_FEATURES = 384

Moments = Float[np.ndarray, " m"]  # seconds since the start of a window


def screen(shown: Shown, at_s: Moments) -> dict[str, Float[np.ndarray, "W m f"]]:
    """Bands of the shown frames; {} without any. All are means over cells of the screen, in units of half the grey scale.

    luminance, contrast (distance from the frame's mean), change (from the frame before), and products of gradients: `oriented`
    (xx, yy, xy), which tell orientations apart, and `moving` (xt, yt), which tell opposite directions apart.
    """
    if shown.frames is None:
        return {}
    courses: dict[str, list[np.ndarray]] = {}
    for frames in shown.frames:  # window by window: gradients of all at once would take much memory
        for name, values in _courses(frames).items():
            courses.setdefault(name, []).append(values)
    rate, first = shown.view.grid.video_rate, shown.view.frames[0]
    found = {}
    for name, each in courses.items():
        delays = ENERGY_S if name in ("oriented", "moving") else SCREEN_S
        found[name] = _delayed(np.stack(each), at_s, rate, first, delays, SCREEN_WIDTH_S)
    return found


def behavior(shown: Shown, at_s: Moments) -> dict[str, Float[np.ndarray, "W m f"]]:
    """The band of behaviour channels; {} where the regime hides them."""
    if not shown.view.sees_behavior:
        return {}
    values = shown.behavior.swapaxes(1, 2).astype(np.float64)
    found = _delayed(values, at_s, shown.view.grid.behavior_rate, 0, BEHAVIOR_S, BEHAVIOR_WIDTH_S)
    return {"behavior": np.nan_to_num(found)}  # z-scored: 0 is the mean


def around(
    shown: Shown,
    at_s: Moments,
    population: Population,
    delays_s: Sequence[float | int] = NEURONS_S,
    width_s: float | int = NEURONS_WIDTH_S,
) -> dict[str, Float[np.ndarray, "W m f"]]:
    """A band for each stretch of shown responses, at delays around each moment."""
    rate = shown.view.grid.response_rate
    return {
        f"neurons {number}": _delayed(population(shown, number), at_s, rate, stretch.first, delays_s, width_s)
        for number, stretch in enumerate(shown.view.shown)
    }


def past(shown: Shown, at_s: Moments, population: Population) -> dict[str, Float[np.ndarray, "W m f"]]:
    """A band for each stretch of shown responses that lies all before (or all after) the moments: averages of more and more samples
    from its near end on, the same at every moment. Stretches that hold some of the moments are bands of `around`.
    """
    rate, bands = shown.view.grid.response_rate, {}
    for number, stretch in enumerate(shown.view.shown):
        sample = at_s * rate + 1e-9
        values = population(shown, number)
        if (sample >= stretch.last).all():
            values = values[:, ::-1]
        elif not (sample < stretch.first).all():
            bands[f"neurons {number}"] = _delayed(values, at_s, rate, stretch.first, NEURONS_S, NEURONS_WIDTH_S)
            continue
        ends = np.minimum(np.cumsum((0, *PAST)), values.shape[1])
        parts = [values[:, a:b].mean(1) for a, b in pairwise(ends) if a < b]
        flat = np.concatenate(parts, axis=1)
        bands[f"past {number}"] = np.repeat(flat[:, None], len(at_s), axis=1)
    return bands


def response_moments(shown: Shown, first: int, last: int) -> Moments:
    """Seconds of response samples [first, last)."""
    return np.arange(first, last, dtype=np.float64) / shown.view.grid.response_rate


def behavior_moments(shown: Shown) -> Moments:
    """Seconds of all behaviour samples."""
    return np.arange(shown.view.grid.n_behavior, dtype=np.float64) / shown.view.grid.behavior_rate


@dataclasses.dataclass(frozen=True)
class Population:
    """How shown neurons become features: what was not recorded is filled in, and many neurons become few components.

    fill: per neuron of the session. loadings: per shown stretch, (its neurons, components), or None where all neurons are kept.
    """

    fill: Float[np.ndarray, " N"]
    loadings: tuple[Float[np.ndarray, "n components"] | None, ...]

    @classmethod
    def of(cls, shown: Shown, fill: Float[np.ndarray, " N"]) -> Population:
        """From training windows. Of more than `MOST_NEURONS` the leading principal components are taken."""
        found = []
        for stretch in shown.view.shown:
            many = len(stretch.neurons) > MOST_NEURONS
            found.append(_components(_recorded(shown, stretch, fill)) if many else None)
        return cls(fill, tuple(found))

    def __call__(self, shown: Shown, number: int) -> Float[np.ndarray, "W s n"]:
        """What a shown stretch tells."""
        values, loadings = _recorded(shown, shown.view.shown[number], self.fill), self.loadings[number]
        return values if loadings is None else values @ loadings


class Rotation:
    """Bands, scaled as ridge regression scales them, as their leading principal components where features are many.

    What is dropped is what a penalty shrinks first.
    """

    def __init__(self, bands: Sequence[Float[np.ndarray, "rows _"]], most: int = MOST_FEATURES):
        x = np.concatenate(bands, axis=1)
        self.mean, self.unit = units(x, [band.shape[1] for band in bands])
        self.vectors: np.ndarray | None = None
        if x.shape[1] > most:
            scaled = (x - self.mean) * self.unit
            _, vectors = scipy.linalg.eigh(scaled.T @ scaled, subset_by_index=(x.shape[1] - most, x.shape[1] - 1))
            self.vectors = vectors

    def __call__(self, bands: Sequence[Float[np.ndarray, "rows _"]]) -> Float[np.ndarray, "rows components"]:
        scaled = (np.concatenate(bands, axis=1) - self.mean) * self.unit
        return scaled if self.vectors is None else scaled @ self.vectors


def held(at_s: Moments, rate: int, n: int) -> Int[np.ndarray, " m"]:
    """The last of n samples taken at or before each moment."""
    return np.clip(np.floor(at_s * rate + 1e-6).astype(np.int64), 0, n - 1)


def _recorded(shown: Shown, stretch: Stretch, fill: Float[np.ndarray, " N"]) -> Float[np.ndarray, "W s n"]:
    values = shown.responses[:, stretch.samples][:, :, stretch.neurons].astype(np.float64)
    return np.where(np.isnan(values), fill[stretch.neurons], values)


def _components(values: Float[np.ndarray, "W s n"], rounds: int = 4) -> Float[np.ndarray, "n components"]:
    """Leading principal directions, by subspace iteration from a fixed random start (Halko et al. 2011, SIAM Review 53)."""
    flat = values.reshape(-1, values.shape[2])
    flat = flat - flat.mean(0)
    basis = np.random.default_rng(0).standard_normal((flat.shape[1], MOST_NEURONS))
    for _ in range(rounds):
        basis, _ = np.linalg.qr(flat.T @ (flat @ basis))
    return basis


def _delayed(
    values: Float[np.ndarray, "W t c"],
    at_s: Moments,
    rate: int,
    first: int,
    delays_s: Sequence[float | int],
    width_s: float | int,
) -> Float[np.ndarray, "W m f"]:
    """Values at each delay before each moment, averaged over `width_s`; sample `first` of a window is values[:, 0]."""
    half = max(0, round(width_s * rate / 2))
    n, sums = values.shape[1], np.cumsum(np.pad(values, ((0, 0), (1, 0), (0, 0))), axis=1)
    lags = sorted({round(delay * rate) for delay in delays_s})
    at = np.floor(at_s * rate + 1e-6).astype(np.int64)[:, None] - np.array(lags) - first
    at = np.clip(at, 0, n - 1)
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, n)
    means = (sums[:, high] - sums[:, low]) / (high - low)[:, :, None]
    return means.reshape(len(values), len(at_s), -1)


def _courses(frames: np.ndarray) -> dict[str, Float[np.ndarray, "f cells"]]:
    video = frames.astype(np.float32) / 128.0 - 1.0
    change = np.diff(video, axis=0, prepend=video[:1])
    dy, dx = np.gradient(video, axis=(1, 2))
    oriented = [_cells(product) for product in (dx * dx, dy * dy, dx * dy)]
    moving = [_cells(product) for product in (dx * change, dy * change)]
    return {
        "luminance": _cells(video),
        "contrast": _cells(np.abs(video - video.mean((1, 2), keepdims=True))),
        "change": _cells(np.abs(change)),
        "oriented": np.concatenate(oriented, axis=1),
        "moving": np.concatenate(moving, axis=1),
    }


def _cells(frames: Float[np.ndarray, "f H W"]) -> Float[np.ndarray, "f cells"]:
    rows, cols = (np.linspace(0, size, n + 1).astype(int) for size, n in zip(frames.shape[1:], CELLS, strict=True))
    by_row = np.add.reduceat(frames, rows[:-1], axis=1) / np.diff(rows)[:, None]
    by_cell = np.add.reduceat(by_row, cols[:-1], axis=2) / np.diff(cols)
    return by_cell.reshape(len(frames), -1).astype(np.float64)
