"""Which samples of a session were taken at the same moment of the same stimulus, told from the contents of its trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from omnimouse_jax.recordings.session import Trials

#: Stimuli of which blocks for a bootstrap are made as they are; with fewer, a block is a stretch of a stimulus.
ENOUGH_STIMULI = 3
STRETCH_S = 2.0
#: Blocks at most: stimuli are joined beyond.
MOST_BLOCKS = 64


@dataclass(frozen=True)
class RepeatedStimuli:
    """The stimuli of some tiers that were shown at least so often, and where each sample falls in them.

    A stimulus is a content of trials (`Store.trial_contents`: equal frames in equal order, a cut showing counts as the whole). Its
    time is binned at `rate` from each showing's start, a sample goes to the nearest bin: windows are not aligned with trials, so
    showings are compared with up to half a sample of jitter. A bin of a stimulus is a group.
    """

    start: Float[np.ndarray, " trials"]
    end: Float[np.ndarray, " trials"]
    stimulus: Int[np.ndarray, " trials"]  # -1: not a repeated one
    showing: Int[np.ndarray, " trials"]  # 0, 1, ... of its stimulus, in order of time
    names: tuple[str, ...]
    first_group: Int[np.ndarray, " stimuli_and_end"]
    rate: float

    @classmethod
    def of(
        cls,
        trials: Trials,
        contents: Shaped[np.ndarray, " trials"],
        tiers: Sequence[str],
        rate: float | int,
        at_least: int = 2,
    ) -> RepeatedStimuli:
        """Of the valid trials of some tiers whose responses are not withheld; blanks are no stimulus."""
        used = trials.valid & ~trials.withheld & np.isin(trials.tier, list(tiers)) & (contents != "")
        used &= (trials.modality != "blank") & (trials.modality != "invalid")
        names, counts = np.unique(contents[used], return_counts=True)
        names = names[counts >= at_least]
        number = {name: k for k, name in enumerate(names.tolist())}
        stimulus = np.array([number.get(c, -1) if u else -1 for c, u in zip(contents.tolist(), used, strict=True)])
        stimulus = stimulus.astype(np.int64)
        showing, seen = np.full(len(stimulus), -1, np.int64), np.zeros(len(names), np.int64)
        bins = np.zeros(len(names), np.int64)
        for k in np.flatnonzero(stimulus >= 0):
            s = stimulus[k]
            showing[k], seen[s] = seen[s], seen[s] + 1
            bins[s] = max(bins[s], max(1, int((trials.end[k] - trials.start[k]) * rate + 1e-3)))
        first = np.concatenate([[0], np.cumsum(bins)]).astype(np.int64)
        start, end = trials.start.astype(np.float64), trials.end.astype(np.float64)
        return cls(start, end, stimulus, showing, tuple(map(str, names)), first, float(rate))

    @property
    def n_groups(self) -> int:
        return int(self.first_group[-1])

    def locate(self, times: Float[np.ndarray, " n"]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """(trial, group) of each time (s on the session's axis); group -1 outside of repeated stimuli. Trial -1: before all."""
        half = 0.5 / self.rate
        trial = np.searchsorted(self.start, times + half, side="right") - 1
        known = np.maximum(trial, 0)
        stimulus = np.where(trial >= 0, self.stimulus[known], -1) if len(self.start) else np.full(len(times), -1)
        which = np.maximum(stimulus, 0)
        # Half way between two bins always goes up: to the nearest even one, two samples would share a bin.
        bins = (
            np.floor((times - self.start[known]) * self.rate + 0.5 + 1e-6).astype(np.int64)
            if len(self.start)
            else trial
        )
        if not len(self.names):
            return trial, np.full(len(times), -1, np.int64)
        ok = (stimulus >= 0) & (bins >= 0) & (bins < self.first_group[which + 1] - self.first_group[which])
        ok &= times < self.end[known]
        return trial, np.where(ok, self.first_group[which] + bins, -1)

    def blocks(self) -> tuple[Int[np.ndarray, " groups"], str]:
        """The block of every group, and what a block is: a stimulus (some of them, where there are very many), or with fewer than 3
        stimuli a stretch of 2 s of one.
        """
        n = len(self.names)
        stimulus = np.repeat(np.arange(n), np.diff(self.first_group))
        if n >= ENOUGH_STIMULI:
            return stimulus * min(n, MOST_BLOCKS) // n, "stimuli"
        within = np.arange(self.n_groups) - self.first_group[:-1][stimulus] if n else np.zeros(0, np.int64)
        stretch = within // max(1, round(STRETCH_S * self.rate))
        _, block = np.unique(stimulus * (self.n_groups + 1) + stretch, return_inverse=True)
        count = int(block.max()) + 1 if len(block) else 0
        return block.astype(np.int64) * min(count, MOST_BLOCKS) // max(
            count, 1
        ), f"{STRETCH_S:g} s stretches of stimuli"


class Visited:
    """Which samples of which trial were taken already: overlapping windows must not turn one showing into two."""

    def __init__(self, stimuli: RepeatedStimuli):
        self._first = stimuli.first_group
        self._stimulus = stimuli.stimulus
        self._seen: dict[int, Bool[np.ndarray, " bins"]] = {}

    def fresh(self, trial: Int[np.ndarray, " n"], group: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The groups again, -1 where that sample of that trial has come before."""
        out = group.copy()
        for number in np.unique(trial[group >= 0]):
            first, end = self._first[self._stimulus[number]], self._first[self._stimulus[number] + 1]
            seen = self._seen.setdefault(int(number), np.zeros(end - first, bool))
            at = np.flatnonzero((trial == number) & (group >= 0))
            bins = group[at] - first
            _, once = np.unique(bins, return_index=True)
            again = np.ones(len(at), bool)
            again[once] = seen[bins[once]]
            out[at[again]] = -1
            seen[bins] = True
        return out
