"""Per-column mean and standard deviation in float64, met block by block, and the hash of what was shown."""

from __future__ import annotations

import hashlib

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from omnimouse_jax.recordings.contents import MARK
from omnimouse_jax.recordings.sampling import sample_times
from omnimouse_jax.recordings.session import Screen, Signal, Trials
from omnimouse_jax.recordings.splits import Spans, inside, merge, overlap_seconds

#: A frame that came up before its trial is the trial's if it did so at most `ROUNDED_S` before (rounded time stamps), or if it
#: stays on for more than `STILL_ON_S` of it (s): many trials are marked a little before their first frame.
ROUNDED_S, STILL_ON_S = 0.01, 0.1
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
    shown = _frames_shown(trials, screen)
    names = [_named(frames, hashes) for frames in shown]
    longest: dict[str, str] = {}
    for k in np.argsort([-len(frames) for frames in shown], kind="stable"):
        if names[k] and trials.stimulus[k]:
            names[k] = longest.setdefault(str(trials.stimulus[k]), names[k])
    return np.array(names, dtype=str)


def trial_clips(trials: Trials, screen: Screen | None, hashes: list[bytes]) -> dict[str, bytes]:
    """Marks of the frames of every distinct content that `trial_contents` names, to find clips that were cut (contents.py)."""
    if screen is None:
        return {}
    kept = set(trial_contents(trials, screen, hashes).tolist())
    out: dict[str, bytes] = {}
    for frames in _frames_shown(trials, screen):
        name = _named(frames, hashes)
        if name in kept and name and name not in out:
            out[name] = b"".join(hashes[f][:MARK] for f in frames)
    return out


def _named(frames: Int[np.ndarray, " n"], hashes: list[bytes]) -> str:
    return hashlib.blake2b(b"".join(hashes[f] for f in frames), digest_size=8).hexdigest() if len(frames) else ""


def _frames_shown(trials: Trials, screen: Screen) -> list[Int[np.ndarray, " n"]]:
    """The frames of each trial, grey left out.

    A trial that begins a little before its first frame does not show the one that was still on: an event that began
    before the trial (by more than rounding) and ends within 0.1 s of its start is not the trial's.
    """
    first = np.maximum(np.searchsorted(screen.times, trials.start + 1e-4, side="right") - 1, 0)
    last = np.searchsorted(screen.times, trials.end - 1e-4, side="left")
    until = np.append(screen.times, screen.end_time)[first + 1]
    over = (screen.times[first] < trials.start - ROUNDED_S) & (until <= trials.start + STILL_ON_S + 1e-6)
    events = [screen.frame[lo:hi] for lo, hi in zip(first + (over & (first + 1 < last)), last, strict=True)]
    return [frames[frames >= 0] for frames in events]


def stimulus_seconds(trials: Trials, contents: Shaped[np.ndarray, " trials"], spans: Spans) -> dict[str, float]:
    """Recorded seconds of one presentation of every distinct stimulus (its longest), blanks left out."""
    seconds = overlap_seconds(trials.start.astype(np.float64), trials.end.astype(np.float64), spans)
    out: dict[str, float] = {}
    for name, shown in zip(contents, seconds, strict=True):
        if name and shown > 0:
            out[str(name)] = max(out.get(str(name), 0.0), float(shown))
    return out
