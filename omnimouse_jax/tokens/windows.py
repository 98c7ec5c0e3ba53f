"""Windows: all of them by number, and what one of them holds once it is cut from its recording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.sampling import read_behavior, read_responses, read_screen
from omnimouse_jax.recordings.session import Recording
from omnimouse_jax.recordings.splits import Blanks, tier_spans
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.tokens.grid import Grid

#: Rounding of a window's end against the end of its span; far below a sample at any rate in use.
END_TOLERANCE_S = 1e-6


class Window(NamedTuple):
    """A stretch of one session, from `start` (seconds on the session's axis) for the grid's duration."""

    session: str
    start: float


class Sample(NamedTuple):
    """A cut window of `n` neurons: NaN where nothing was recorded. Responses are scaled, behaviour is z-scored."""

    window: Window
    neurons: Int[np.ndarray, " n"]  # which neurons of the session, in slot order
    responses: Float[np.ndarray, "S n"]
    behavior: Float[np.ndarray, "C T"]
    video: Shaped[np.ndarray, "F H W"] | None
    experiment_second: int


@dataclass(frozen=True)
class WindowIndex:
    """Every window of some sessions and tiers, numbered session by session. Its size in memory is that of the spans.

    Windows start every `stride_s` seconds inside each span (a maximal stretch of allowed trials), so no window straddles tiers
    or gaps. `skipped` names sessions without a single window.
    """

    sessions: tuple[str, ...]
    skipped: tuple[str, ...]
    span_session: Int[np.ndarray, " spans"]
    span_start: Float[np.ndarray, " spans"]
    first: Int[np.ndarray, " spans_and_end"]  # number of the first window of each span; last entry = how many there are
    stride_s: float

    @classmethod
    def of(
        cls,
        store: Store,
        sessions: Sequence[str],
        tiers: Sequence[str],
        grid: Grid,
        stride_s: float,
        blanks: Blanks = "follow",
    ) -> WindowIndex:
        if stride_s <= 0:
            raise UserError(f"window stride of {stride_s} s", way_out="use a positive number of seconds")
        used: list[str] = []
        skipped: list[str] = []
        owners, starts, counts = [], [], []
        for key in sessions:
            spans = tier_spans(store.recording(key), tiers, blanks=blanks)
            room = spans[:, 1] - spans[:, 0] - grid.seconds + END_TOLERANCE_S
            n = np.where(room >= 0, np.floor(room / stride_s) + 1, 0).astype(np.int64)
            if n.sum() == 0:
                skipped.append(key)
                continue
            owners.append(np.full(int((n > 0).sum()), len(used), np.int64))
            starts.append(spans[n > 0, 0])
            counts.append(n[n > 0])
            used.append(key)
        if not used:
            raise UserError(
                f"no window of {grid.seconds:g} s in tiers {', '.join(tiers)} of {len(sessions)} sessions ({_few(sessions)})",
                way_out="`omnimouse-jax inspect STORE` lists the tiers and hours of each session",
            )
        first = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
        return cls(tuple(used), tuple(skipped), np.concatenate(owners), np.concatenate(starts), first, float(stride_s))

    def __len__(self) -> int:
        return int(self.first[-1])

    def __getitem__(self, number: int) -> Window:
        if not 0 <= number < len(self):
            raise IndexError(number)
        span = int(np.searchsorted(self.first, number, side="right")) - 1
        start = self.span_start[span] + self.stride_s * (number - self.first[span])
        return Window(self.sessions[self.span_session[span]], float(start))

    def numbers_of(self, session: str) -> range:
        """Numbers of one session's windows, in order of time within spans."""
        spans = np.flatnonzero(self.span_session == self.sessions.index(session))
        return range(int(self.first[spans[0]]), int(self.first[spans[-1] + 1]))

    def __repr__(self) -> str:
        return f"WindowIndex({len(self)} windows, {len(self.sessions)} sessions, every {self.stride_s:g} s)"


def cut(
    recording: Recording,
    window: Window,
    grid: Grid,
    channels: Sequence[str],
    neurons: Int[np.ndarray, " n"] | None = None,
) -> Sample:
    """Reads one window, resampled to the grid's rates by previous-sample hold (never a later sample).

    `channels` is the model's behaviour vocabulary; a channel that the recording lacks comes back as NaN. `neurons` picks and
    orders neurons (all of them in the session's order by default).
    """
    if neurons is None:
        neurons = np.arange(recording.n_neurons)
    responses = read_responses(recording, _times(window, grid.n_samples, grid.response_rate))[:, neurons]
    if recording.response_scale is not None:
        responses = responses / recording.response_scale[neurons].astype(np.float32)
    behavior = read_behavior(recording, _times(window, grid.n_behavior, grid.behavior_rate), channels)
    mean = _per_channel(recording.behavior_mean, channels, 0.0)
    scale = _per_channel(recording.behavior_scale, channels, 1.0)
    video = None
    if recording.screen is not None:
        video = read_screen(recording, _times(window, grid.n_frames, grid.video_rate))
    return Sample(
        window=window,
        neurons=neurons,
        responses=responses,
        behavior=((behavior - mean) / scale).T.astype(np.float32),
        video=video,
        experiment_second=int(window.start - recording.responses.segment_start[0]),
    )


def _few(keys: Sequence[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")


def _times(window: Window, n: int, rate: int) -> Float[np.ndarray, " n"]:
    return np.linspace(window.start, window.start + n / rate, n, endpoint=False)


def _per_channel(values: Mapping[str, float], channels: Sequence[str], default: float) -> Float[np.ndarray, " C"]:
    return np.array([values.get(name, default) for name in channels], np.float64)
