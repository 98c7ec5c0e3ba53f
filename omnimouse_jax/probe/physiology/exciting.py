"""Most exciting inputs: the still image or the film that drives a neuron most, of a contrast, smooth, within the box [0, 1].

Gradient ascent through the model (after Walker et al. 2019 and Bashivan et al. 2019) in contrast d = x - grey: the gradient is
blurred by a Gaussian in space (and time), made of unit RMS, stepped along, and the result is brought back into the box and then
into the ball of RMS contrast; both then hold, since shrinking towards grey leaves the box unhurt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from omnimouse_jax.probe.physiology.gratings import Grating, draw
from omnimouse_jax.probe.physiology.subject import Subject

Told = Callable[[int], None] | None

#: In units of the response scale: a best natural stimulus that moves a neuron less is nothing to compare with.
LEAST_MOVED = 0.05
DEFINITIONS = {
    "MEI": "the stimulus of the best seed: largest predicted response (mean over the same samples as for gratings) found "
    "by the ascent",
    "bound": "RMS contrast over all pixels and frames of x - grey, in units of the full range; the median of natural "
    "stimuli unless set",
    "best natural": "largest response to natural stimuli of the drawn windows, contrast scaled to the same RMS (then "
    "clipped to the "
    "box), still frames for images",
    "best grating": "largest response over phases of the neuron's best full-field grating, contrast as near to the same "
    "RMS as the box "
    "lets it, not moving for images",
    "spread": "standard deviation over seeds of the final response / the best one; `agreement`: mean cosine of the other seeds' "
    "stimuli with the best one's",
}


@dataclasses.dataclass(frozen=True)
class Ascent:
    """Settings. Blurs are standard deviations, in pixels and frames; 0: none."""

    steps: int = 60
    seeds: int = 3
    step: float | int = 0.5  # of the bound, falling linearly to a tenth of it
    blur_pixels: float | int = 1.0
    blur_frames: float | int = 1.0
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Exciting:
    """Of n neurons; T is 1 for a still image. Stimuli in [0, 1]."""

    stimuli: Float[np.ndarray, "n T H W_"]
    value: Float[np.ndarray, " n"]
    by_seed: Float[np.ndarray, "n seeds"]
    agreement: Float[np.ndarray, " n"]
    history: Float[np.ndarray, "n steps"]  # of the best seed


def blur_matrix(n: int, sigma: float | int) -> Float[np.ndarray, "n n"]:
    """Symmetric and positive, so that a blurred gradient still points uphill; the identity for sigma 0."""
    if sigma <= 0:
        return np.eye(n)
    away = np.arange(n)[:, None] - np.arange(n)
    return np.exp(-0.5 * (away / sigma) ** 2)


def rms(d: Float[np.ndarray, "n T H W_"]) -> Float[np.ndarray, "n 1 1 1"]:
    return np.sqrt((d.astype(np.float64) ** 2).mean(axis=(1, 2, 3), keepdims=True))


def project(d: Float[np.ndarray, "n T H W_"], grey: float, bound: float) -> Float[np.ndarray, "n T H W_"]:
    """Into the box, then into the ball."""
    inside = np.clip(d, -grey, 1 - grey)
    return inside * np.minimum(1.0, bound / np.maximum(rms(inside), 1e-12))


def scaled(d: Float[np.ndarray, "n T H W_"], grey: float, bound: float) -> Float[np.ndarray, "n T H W_"]:
    """Of RMS `bound` as near as the box lets it: scaled, clipped, and scaled once more."""
    for _ in range(8):
        d = np.clip(d * (bound / np.maximum(rms(d), 1e-12)), -grey, 1 - grey)
    return project(d, grey, bound)


def ascend(
    subject: Subject,
    neurons: Int[np.ndarray, " n"],
    read: slice,
    onset_s: float,
    bound: float,
    ascent: Ascent,
    video: bool,
    told: Told = None,
) -> Exciting:
    """The most exciting inputs of some neurons, shown from `onset_s` on after grey."""
    n_frames, height, width = subject.frames_shape
    first = round(onset_s * subject.geometry.frame_rate)
    length = n_frames - first if video else 1
    grey = subject.geometry.grey
    blurs = [blur_matrix(size, ascent.blur_pixels) for size in (height, width)]
    in_time = blur_matrix(length, ascent.blur_frames if video else 0.0)

    def blurred(g: np.ndarray) -> np.ndarray:
        return np.einsum("st,ntij,ih,jw->nshw", in_time, g, *blurs, optimize=True)

    items = np.repeat(neurons.astype(np.int32), ascent.seeds)
    rng = np.random.default_rng([ascent.seed, int(video)])
    noise = rng.standard_normal((ascent.seeds, length, height, width))
    start = scaled(blurred(noise), grey, bound / 4)
    context = subject.context(subject.batch, {})
    values = np.zeros((len(items), ascent.steps))
    found = np.zeros((len(items), length, height, width))
    for lo in range(0, len(items), subject.batch):
        rows = np.arange(lo, min(lo + subject.batch, len(items)))
        d = start[rows % ascent.seeds]
        most = np.full(len(rows), -np.inf)
        for k in range(ascent.steps):
            frames = np.full((len(rows), n_frames, height, width), grey, np.float32)
            frames[:, first:] += d.astype(np.float32)
            value, gradient = subject.gradients(np.clip(frames, 0.0, 1.0), items[rows], read, context)
            values[rows, k] = value
            better = value > most
            most[better], found[rows[better]] = value[better], d[better]
            g = gradient[:, first:].astype(np.float64)
            g = blurred(g if video else g.sum(axis=1, keepdims=True))
            size = rms(g)
            step = ascent.step * (1 - 0.9 * k / max(1, ascent.steps - 1))
            d = project(d + step * bound * np.where(size > 0, g / np.where(size > 0, size, 1.0), 0.0), grey, bound)
            if told is not None:
                told(len(rows))
    by_seed = values.max(axis=1).reshape(len(neurons), ascent.seeds)
    best = by_seed.argmax(axis=1)
    every = found.reshape(len(neurons), ascent.seeds, -1)
    mine = every[np.arange(len(neurons)), best]
    norms = np.linalg.norm(every, axis=2) * np.linalg.norm(mine, axis=1)[:, None]
    cosine = np.einsum("nsi,ni->ns", every, mine) / np.maximum(norms, 1e-12)
    others = (cosine.sum(axis=1) - 1) / (ascent.seeds - 1) if ascent.seeds > 1 else np.full(len(neurons), np.nan)
    return Exciting(
        np.clip(grey + mine.reshape(len(neurons), length, height, width), 0.0, 1.0),
        by_seed.max(axis=1),
        by_seed,
        others,
        values.reshape(len(neurons), ascent.seeds, -1)[np.arange(len(neurons)), best],
    )


def natural_bound(natural: Float[np.ndarray, "W F H W_"], grey: float) -> float:
    """Median RMS contrast of natural windows."""
    return float(np.median(rms(natural.astype(np.float64) - grey)))


def best_natural(
    subject: Subject, natural: Float[np.ndarray, "W F H W_"], read: slice, onset_s: float, bound: float, video: bool
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, "N T H W_"]]:
    """Largest response of every neuron to natural stimuli of the bound's contrast, and that stimulus."""
    grey = subject.geometry.grey
    n_frames = subject.geometry.n_frames
    first = round(onset_s * subject.geometry.frame_rate)
    pieces = (
        natural[:, first:]
        if video
        else natural[:, [n_frames // 4, 3 * n_frames // 4]].reshape(-1, 1, *natural.shape[2:])
    )
    d = scaled(pieces.astype(np.float64) - grey, grey, bound)

    def drawn(numbers: range) -> np.ndarray:
        frames = np.full((len(numbers), *subject.frames_shape), grey, np.float32)
        frames[:, first:] += d[numbers.start : numbers.stop].astype(np.float32)
        return frames

    r = subject.responses(len(d), drawn)[:, read].astype(np.float64).mean(axis=1)
    return r.max(axis=0), np.clip(grey + d[r.argmax(axis=0)], 0.0, 1.0)


def best_grating(
    subject: Subject,
    neurons: Int[np.ndarray, " n"],
    best: list[Grating],
    read: slice,
    onset_s: float,
    bound: float,
    video: bool,
    n_phases: int = 8,
) -> Float[np.ndarray, " n"]:
    """Largest response of each of some neurons over phases of its own grating at the bound's contrast."""
    grey = subject.geometry.grey
    contrast = min(1.0, bound * np.sqrt(2) / min(grey, 1 - grey))
    shown = [
        dataclasses.replace(g, contrast=float(contrast), phase=k / n_phases) for g in best for k in range(n_phases)
    ]
    r = subject.responses(
        len(shown), lambda n: draw(shown[n.start : n.stop], subject.geometry, onset_s, still=not video)
    )
    mean = r[:, read].astype(np.float64).mean(axis=1).reshape(len(best), n_phases, -1).max(axis=1)
    return mean[np.arange(len(best)), neurons]


def times_natural(arrays: Mapping[str, np.ndarray], of: str) -> str:
    """How many times as far above grey as the best natural stimulus, median over neurons that it moves at all."""
    over = arrays["natural"] - arrays["grey"]
    moved = over > LEAST_MOVED
    if not moved.any():
        return f"no value: the best natural stimulus moves no neuron by {LEAST_MOVED:g} above grey"
    ratio = float(np.median((arrays[of] - arrays["grey"])[moved] / over[moved]))
    return (
        f"{ratio:.2f} times the best natural stimulus above grey (median of {int(moved.sum())} of {len(moved)} neurons)"
    )
