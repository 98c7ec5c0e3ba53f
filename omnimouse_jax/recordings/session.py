"""What one recording session is, in memory: signals on their own clocks, a screen, trials with tiers.

Readers (`ingest/`) and the synthesiser make a `Recording`; `store.py` writes it and hands out a lazily read twin. Times
are float64 seconds on the session's own axis (any origin, Unix time included).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from omnimouse_jax.errors import UserError

#: The behaviour vocabulary of the reference model, in its channel order. A lab may add names of its own.
BEHAVIOR_CHANNELS = ("pupil_x", "pupil_y", "pupil_size", "pupil_size_derivative", "running")
MODALITIES = ("video", "image", "blank", "invalid")
#: Tiers that are neither trained on nor held out: blanks, and trials that their source leaves unused.
UNUSED_TIERS = ("", "blank", "none")


@dataclass(frozen=True)
class Signal:
    """Samples of `C` channels on a piecewise uniform clock.

    Sample `k` of segment `s` (rows `segment_first[s]` up to the next segment's first) was taken at
    `segment_start[s] + (k - segment_first[s]) / rate`. A continuous recording has one segment; a recording that was cut
    into trials has one per trial. `values` is anything that slices to an array over its first axis (numpy, memmap,
    store handle): NaN marks a missing sample.

    A value at time t is the last sample taken at or before `t - phase_shifts[c]` (previous-sample hold), so a resampled
    signal never looks ahead. A time that falls short of a sample's by less than `snap` sample periods counts as that
    sample's: float64 seconds cannot hit every sample exactly (formats with their own exact rule set it to 0).
    `segment_end` is the last valid time of each segment where the source states one (otherwise its last sample's end).
    """

    values: Any  # (T, C)
    rate: float
    segment_start: Float[np.ndarray, " segments"]
    segment_first: Int[np.ndarray, " segments"]
    channels: tuple[str, ...] | None = None
    phase_shifts: Float[np.ndarray, " channels"] | None = None
    segment_end: Float[np.ndarray, " segments"] | None = None
    snap: float = 1e-3

    @classmethod
    def continuous(cls, values: Any, rate: float, start_time: float, **kwargs: Any) -> Signal:
        """A signal of one unbroken segment."""
        return cls(values, float(rate), np.array([start_time], np.float64), np.array([0], np.int64), **kwargs)

    @property
    def n_samples(self) -> int:
        return int(self.values.shape[0])

    @property
    def n_channels(self) -> int:
        return int(self.values.shape[1])

    @property
    def segment_lengths(self) -> Int[np.ndarray, " segments"]:
        """Samples in each segment."""
        return np.diff(np.append(self.segment_first, self.n_samples))

    def spans(self) -> Float[np.ndarray, "segments 2"]:
        """Half-open intervals [start, end) in seconds in which every channel has a value."""
        late = 0.0 if self.phase_shifts is None else float(np.max(self.phase_shifts))
        early = 0.0 if self.phase_shifts is None else float(np.min(self.phase_shifts))
        ends = self.segment_start + self.segment_lengths / self.rate
        if self.segment_end is not None:
            ends = np.minimum(ends, self.segment_end)
        return np.stack([self.segment_start + late, ends + early], axis=1)


@dataclass(frozen=True)
class Screen:
    """What was shown: a pool of distinct frames and the times at which one of them (or grey) came up.

    `frames` (P, H, W), uint8 or float32 grey levels of 0..255, lazily sliced like a signal's values. Event e shows
    `frames[frame[e]]`, or uniform `grey[e]` where `frame[e]` is -1, from `times[e]` until the next event; the last one
    ends at `end_time`. Repeats of a clip point into the same pool frames.
    """

    frames: Any
    times: Float[np.ndarray, " events"]
    frame: Int[np.ndarray, " events"]
    grey: Float[np.ndarray, " events"]
    end_time: float

    @property
    def height(self) -> int:
        return int(self.frames.shape[1])

    @property
    def width(self) -> int:
        return int(self.frames.shape[2])


@dataclass(frozen=True)
class Trials:
    """Stretches of the session with one stimulus and one tier, as columns. Sorted by start, not overlapping.

    `stimulus` names what was shown by content (equal names = the same frames; "" for blanks), so repeats and leaks can
    be found across sessions. `tier` is free text ("train", "validation", "test", "final_test_1", ...); "" on a blank
    means that the source gave none. `withheld` marks trials whose responses a benchmark keeps to itself (default: none):
    their stored responses are all NaN, so they can be predicted but never be a target or a score.
    """

    start: Float[np.ndarray, " trials"]
    end: Float[np.ndarray, " trials"]
    tier: Shaped[np.ndarray, " trials"]  # str
    modality: Shaped[np.ndarray, " trials"]  # str, one of MODALITIES
    stimulus: Shaped[np.ndarray, " trials"]  # str
    valid: Bool[np.ndarray, " trials"]
    withheld: Bool[np.ndarray, " trials"] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.withheld is None:
            object.__setattr__(self, "withheld", np.zeros(len(self.start), bool))

    def __len__(self) -> int:
        return len(self.start)

    def tiers(self) -> dict[str, int]:
        """Trials per tier, blanks without a tier under "blank"."""
        names = np.where((self.tier == "") & (self.modality == "blank"), "blank", self.tier)
        found, counts = np.unique(names, return_counts=True)
        return {str(k): int(v) for k, v in zip(found, counts, strict=True)}


@dataclass(frozen=True)
class Recording:
    """One session. `responses` is (time, neurons); `behavior` maps a stream name (its own clock) to named channels.

    `neurons` holds per-neuron columns (unit_id, x, y, z, area, ...), each of length n_neurons. `response_scale` divides
    responses before they reach a model, `behavior_mean` / `behavior_scale` z-score channels by name, both float64 from
    the training tier only. `provenance` says which reader, from what, with which options and checksums, and the
    `original_rate` of resampled signals. `truth` is what only a synthetic mouse knows: ceilings and planted tuning.
    `extras` are arrays by name that only the source's format has a use for (the statistics of a benchmark).
    """

    key: str
    animal: str
    responses: Signal
    trials: Trials
    behavior: Mapping[str, Signal] = field(default_factory=dict)
    screen: Screen | None = None
    neurons: Mapping[str, np.ndarray] = field(default_factory=dict)
    response_scale: Float[np.ndarray, " neurons"] | None = None
    behavior_mean: Mapping[str, float] = field(default_factory=dict)
    behavior_scale: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    truth: Mapping[str, Any] | None = None
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def n_neurons(self) -> int:
        return self.responses.n_channels

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of all behaviour channels, stream by stream."""
        return tuple(name for stream in self.behavior.values() for name in (stream.channels or ()))


def require(condition: bool | np.bool_, key: str, what: str, way_out: str = "") -> None:
    """Raises a `UserError` that names the session unless `condition` holds."""
    if not condition:
        raise UserError(f"session {key}: {what}", way_out=way_out)
