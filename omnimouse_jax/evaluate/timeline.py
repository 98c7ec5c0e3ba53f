"""The samples of a session that are to be predicted, in order of time, and the windows that predict each of them once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.session import Recording
from omnimouse_jax.recordings.splits import Blanks, intersect, tier_spans
from omnimouse_jax.tokens.layout import Layout
from omnimouse_jax.tokens.windows import END_TOLERANCE_S, WindowIndex

#: How overlapping windows are combined, as every file of predictions says it.
RULE = "each sample is predicted by one window: of those that are asked for it, the one with most past"


class Asked(NamedTuple):
    """Samples [first, last) of a window that a regime asks for, `rate` a second; equal where it asks for none."""

    rate: int
    first: int
    last: int


class Coverage(NamedTuple):
    """How many samples there are, how many of them are predicted, and why the others are not."""

    samples: int
    predicted: int
    before: int  # ahead of the first sample that a window is asked for
    short: int  # in stretches that are shorter than a window
    between: int  # windows at this stride leave them out
    after: int  # behind the last sample that a window is asked for


@dataclasses.dataclass(frozen=True)
class Timeline:
    """Stretches of one session without a gap, [start, end) in seconds on its own axis, sampled at the model's rates.

    Samples are numbered through all stretches: what lies between two of them has no sample. Windows start every `stride_s`
    from the start of a stretch, and one more ends with it. They come in order of time, so the first window that is asked for a
    sample is the one that has most of its past (`RULE`).
    """

    session: str
    stretches: Float[np.ndarray, "n 2"]
    layout: Layout
    stride_s: float
    wanted: tuple[float, float] = (-math.inf, math.inf)  # seconds; windows need more than what is wanted

    @classmethod
    def of(
        cls,
        recording: Recording,
        layout: Layout,
        tiers: Sequence[str] = (),
        start: float | int | None = None,
        seconds: float | int | None = None,
        stride_s: float | int | None = None,
        blanks: Blanks = "follow",
    ) -> Timeline:
        """Of the whole recording, of its tiers, or of `seconds` from `start` on: windows then reach as far beyond these as the
        regime needs, so that all samples in them are predicted where there is recording.

        UserError where nothing is as long as a window, or where windows would not start at sample times.
        """
        spans = tier_spans(recording, tiers, blanks) if tiers else recording.responses.spans()
        wanted = (-math.inf, math.inf)
        if start is not None or seconds is not None:
            low = float(spans[0, 0]) if start is None and len(spans) else float(start or 0.0)
            wanted = (low, math.inf if seconds is None else low + seconds)
            spans = intersect(spans, np.array([_reach(*wanted, layout)], np.float64))
        stride = _default_stride(layout) if stride_s is None else float(stride_s)
        timeline = cls(recording.key, spans, layout, stride, wanted)
        units = timeline.stride_s * timeline._lattice
        if units < 0.5 or abs(units - round(units)) > 1e-6:
            raise UserError(
                f"predict: a stride of {timeline.stride_s:g} s", way_out=f"use a multiple of 1/{timeline._lattice} s"
            )
        if not len(timeline.windows):
            recorded = recording.responses.spans()
            where = f"tier {', '.join(tiers)}" if tiers else "the recording"
            part = "" if wanted[0] == -math.inf else f" within what is needed for {wanted[0]:g} to {wanted[1]:g} s"
            raise UserError(
                f"session {recording.key}: no stretch of {where}{part} is as long as a window ({layout.grid.seconds:g} s)",
                way_out=f"it was recorded from {recorded[0, 0]:.10g} to {recorded[-1, 1]:.10g} s in {len(recorded)} stretches; "
                "`omnimouse-jax inspect STORE` lists tiers and hours",
            )
        return timeline

    @property
    def responses(self) -> Asked:
        targets = self.layout.targets
        first = min((r.first_sample for r in targets), default=0)
        return Asked(self.layout.grid.response_rate, first, max((r.last_sample for r in targets), default=0))

    @property
    def behavior(self) -> Asked:
        grid = self.layout.grid
        return Asked(grid.behavior_rate, 0, grid.n_behavior if self.layout.behavior == "target" else 0)

    def first_rows(self, rate: int) -> Int[np.ndarray, " stretches_and_end"]:
        """Number of the first sample of each stretch at a rate; the last entry is how many there are."""
        return self._first_rows[rate]

    def times(self, rate: int, lo: int, hi: int) -> Float[np.ndarray, " rows"]:
        """When samples [lo, hi) are, in seconds on the session's axis."""
        stretch = self.stretch_of(rate, lo, hi)
        return self.stretches[stretch, 0] + (np.arange(lo, hi) - self.first_rows(rate)[stretch]) / rate

    def stretch_of(self, rate: int, lo: int, hi: int) -> Int[np.ndarray, " rows"]:
        """The stretch of each of the samples [lo, hi)."""
        return np.searchsorted(self.first_rows(rate), np.arange(lo, hi), side="right") - 1

    @cached_property
    def windows(self) -> WindowIndex:
        """In order of time. A stretch has up to two entries: windows at every stride, and the one that ends with it."""
        _, offset, count = self._entries
        stretch = self._entries[0]
        return WindowIndex(
            sessions=(self.session,),
            skipped=(),
            span_session=np.zeros(len(stretch), np.int64),
            origin=self.stretches[stretch, 0] + offset / self._lattice,
            step=np.full(len(stretch), self.stride_s),
            shift=np.zeros(len(stretch), np.int64),
            first=np.concatenate([[0], np.cumsum(count)]).astype(np.int64),
            stride=1,
            stride_s=self.stride_s,
        )

    def wanted_rows(self, rate: int) -> tuple[int, int]:
        """[lo, hi): the samples that are wanted."""
        times = self.times(rate, 0, int(self.first_rows(rate)[-1]))
        lo, hi = np.searchsorted(times, np.array(self.wanted) - END_TOLERANCE_S)
        return int(lo), int(hi)

    def row(self, window: int, rate: int) -> int:
        """Number of the sample at which a window starts."""
        entry = int(np.searchsorted(self.windows.first, window, side="right")) - 1
        stretch, offset, _ = (column[entry] for column in self._entries)
        units = offset + self._units * (window - self.windows.first[entry])
        return int(self.first_rows(rate)[stretch] + units * (rate // self._lattice))

    def coverage(self, asked: Asked) -> Coverage:
        """Of the samples at the rate of what is asked."""
        n = np.diff(self.first_rows(asked.rate))
        each, room = asked.rate // self._lattice, self._room
        whole = room >= 0
        before = np.where(whole, asked.first, 0)
        after = np.where(whole, n - room * each - asked.last, 0)
        hole = max(0, self._units * each - (asked.last - asked.first))
        between = np.where(whole, room // self._units * hole, 0)
        rest = room % self._units * each  # the last window may be closer
        between += np.where(whole & (rest > 0), np.maximum(0, rest - (asked.last - asked.first)), 0)
        short = np.where(whole, 0, n)
        told = [int(part.sum()) for part in (before, short, between, after)]
        return Coverage(int(n.sum()), int(n.sum()) - sum(told), *told)

    @property
    def _lattice(self) -> int:
        """Windows start at multiples of 1/lattice s, so that samples of all that is asked for fall on common times."""
        grid = self.layout.grid
        return math.gcd(grid.response_rate, grid.behavior_rate) if self.behavior.last else grid.response_rate

    @property
    def _units(self) -> int:
        return round(self.stride_s * self._lattice)

    @cached_property
    def _room(self) -> Int[np.ndarray, " stretches"]:
        """By how many units the last window of each stretch starts after it; negative where no window fits."""
        room = self.stretches[:, 1] - self.stretches[:, 0] - self.layout.grid.seconds + END_TOLERANCE_S
        return np.floor(room * self._lattice).astype(np.int64)

    @cached_property
    def _entries(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(stretch, units from its start, number of windows) of each entry of `windows`."""
        whole = np.flatnonzero(self._room >= 0)
        room = self._room[whole]
        offset = np.stack([np.zeros_like(room), room], axis=1).reshape(-1)
        count = np.stack([room // self._units + 1, np.where(room % self._units, 1, 0)], axis=1).reshape(-1)
        some = count > 0
        return np.repeat(whole, 2)[some], offset[some], count[some]

    @cached_property
    def _first_rows(self) -> Mapping[int, Int[np.ndarray, " stretches_and_end"]]:
        lengths = self.stretches[:, 1] - self.stretches[:, 0] + END_TOLERANCE_S
        rates = {self.layout.grid.response_rate, self.layout.grid.behavior_rate}
        return {rate: np.concatenate([[0], np.cumsum(np.floor(lengths * rate))]).astype(np.int64) for rate in rates}


def _default_stride(layout: Layout) -> float:
    """As evaluation takes it: every sample is asked for once, responses with up to half a window of past."""
    grid = layout.grid
    if not layout.targets:
        return grid.seconds
    asked = max(r.last_sample for r in layout.targets) - min(r.first_sample for r in layout.targets)
    samples = min(asked, max(1, grid.n_samples // 2))
    if layout.behavior == "target":
        each = grid.response_rate // math.gcd(grid.response_rate, grid.behavior_rate)
        samples = max(1, samples // each) * each
    return samples / grid.response_rate


def _reach(start: float, end: float, layout: Layout) -> tuple[float, float]:
    """What windows need in order to predict [start, end): at least one window."""
    grid, first, last = layout.grid, 0, layout.grid.n_samples
    if layout.behavior != "target":
        first, last = min(r.first_sample for r in layout.targets), max(r.last_sample for r in layout.targets)
    before, after = first / grid.response_rate, (grid.n_samples - last) / grid.response_rate
    return min(start - before, end - grid.seconds), max(end + after, start + grid.seconds)
