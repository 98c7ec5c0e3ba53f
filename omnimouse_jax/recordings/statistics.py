"""Per-column mean and standard deviation in float64, met block by block, and the hash of what was shown."""

from __future__ import annotations

import hashlib

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from omnimouse_jax.recordings.sampling import sample_times
from omnimouse_jax.recordings.session import Screen, Signal, Trials
from omnimouse_jax.recordings.splits import Spans, inside, merge, overlap_seconds

#: A standard deviation below this part of the mean is rounding, not signal.
ROUNDING = 1e-9


class Moments:
    """Count, mean and sum of squared deviations of each column, NaN left out; blocks are merged exactly (Chan et al.
    1983).
    """

    def __init__(self, n_columns: int):
        self.count = np.zeros(n_columns, np.int64)
        self.mean = np.zeros(n_columns, np.float64)
        self.square = np.zeros(n_columns, np.float64)

    def update(self, block: Shaped[np.ndarray, "rows columns"]) -> None:
        """Takes in some more rows."""
        values = block.astype(np.float64)
        total = values.sum(axis=0)
        if np.isnan(total).any():
            known = ~np.isnan(values)
            n = known.sum(axis=0)
            mean = np.where(known, values, 0.0).sum(axis=0) / np.maximum(n, 1)
            deviation = np.where(known, values - mean, 0.0)
        else:
            n = np.full(len(total), len(values), np.int64)
            mean = total / max(len(values), 1)
            deviation = values - mean
        square = np.einsum("rc,rc->c", deviation, deviation)
        both = self.count + n
        shift = mean - self.mean
        part = n / np.maximum(both, 1)
        self.square += square + shift**2 * self.count * part
        self.mean += shift * part
        self.count = both

    def std(self) -> Float[np.ndarray, " columns"]:
        """Population standard deviation (ddof 0); exactly 0 for constant columns, NaN for columns never seen."""
        std = np.sqrt(self.square / np.maximum(self.count, 1))
        std[std <= ROUNDING * np.abs(self.mean)] = 0.0
        return np.where(self.count > 0, std, np.nan)


def training_spans(trials: Trials) -> Spans:
    """[start, end) of the valid trials of tier "train", joined."""
    chosen = (trials.tier == "train") & trials.valid & (trials.modality != "invalid")
    return merge(np.stack([trials.start[chosen], trials.end[chosen]], axis=1).astype(np.float64))


def training_rows(signal: Signal, spans: Spans, lo: int, hi: int) -> Bool[np.ndarray, " rows"]:
    """Which of the rows [lo, hi) were taken inside the spans."""
    return inside(sample_times(signal, lo, hi), spans)


def usable_scale(std: Float[np.ndarray, " columns"]) -> tuple[Float[np.ndarray, " columns"], int]:
    """A divisor for each column, 1 where the column never varied or was never recorded, and the number of those."""
    flat = ~(std > 0)
    return np.where(flat, 1.0, std), int(flat.sum())


def frame_hashes(frames: Shaped[np.ndarray, "n height width"]) -> list[bytes]:
    """8 bytes for each frame's content: whole grey levels hash alike whatever the dtype that they are stored in."""
    if frames.dtype != np.uint8:
        frames = frames.astype(np.float32)
    out = []
    for frame in frames:
        if frame.dtype != np.uint8:
            levels = np.clip(np.nan_to_num(frame), 0, 255).astype(np.uint8)
            frame = levels if np.array_equal(levels, frame) else frame
        out.append(hashlib.blake2b(np.ascontiguousarray(frame).tobytes(), digest_size=8).digest())
    return out


def trial_contents(trials: Trials, screen: Screen | None, hashes: list[bytes]) -> Shaped[np.ndarray, " trials"]:
    """A name for what each trial showed, from the pixels: equal names, equal frames in equal order. "" for blanks.

    Trials that the reader calls by one name were shown the same clip, some perhaps shorter: they have the name of the
    longest. Without a screen the reader's own names stand in, marked as such.
    """
    if screen is None:
        return np.array([f"name:{s}" if s else "" for s in trials.stimulus], dtype=str)
    first = np.searchsorted(screen.times, trials.start + 1e-4, side="right") - 1
    last = np.searchsorted(screen.times, trials.end - 1e-4, side="left")
    names: list[str] = []
    counts: list[int] = []
    for lo, hi in zip(np.maximum(first, 0), last, strict=True):
        shown: Int[np.ndarray, " events"] = screen.frame[lo:hi]
        shown = shown[shown >= 0]
        digest = hashlib.blake2b(b"".join(hashes[f] for f in shown), digest_size=8)
        names.append(digest.hexdigest() if len(shown) else "")
        counts.append(len(shown))
    longest: dict[str, str] = {}
    for k in np.argsort(-np.array(counts), kind="stable"):
        if names[k] and trials.stimulus[k]:
            names[k] = longest.setdefault(str(trials.stimulus[k]), names[k])
    return np.array(names, dtype=str)


def stimulus_seconds(trials: Trials, contents: Shaped[np.ndarray, " trials"], spans: Spans) -> dict[str, float]:
    """Recorded seconds of one presentation of every distinct stimulus (its longest), blanks left out."""
    seconds = overlap_seconds(trials.start.astype(np.float64), trials.end.astype(np.float64), spans)
    out: dict[str, float] = {}
    for name, shown in zip(contents, seconds, strict=True):
        if name and shown > 0:
            out[str(name)] = max(out.get(str(name), 0.0), float(shown))
    return out
