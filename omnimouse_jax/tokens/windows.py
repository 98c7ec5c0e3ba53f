"""Windows: all of them by number, and what one of them holds once it is cut from its recording."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Int, Shaped

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.experanto_windows import window_starts
from omnimouse_jax.recordings.sampling import start_behavior, start_screen, start_signal
from omnimouse_jax.recordings.session import Recording
from omnimouse_jax.recordings.splits import Blanks, tier_spans
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.tokens.grid import Grid

#: Rounding of a window's end against the end of its span; far below a sample at any rate in use.
END_TOLERANCE_S = 1e-6
#: Sessions whose trials are read at the same time.
READERS = 8

Rule = Literal["spans", "experanto"]


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

    Window k of a span starts at `origin + step * (shift + stride * k)` of its span, so that float64 starts are met exactly
    whatever the rule that made them. No window straddles tiers or gaps. `skipped` names sessions without a single window.
    """

    sessions: tuple[str, ...]
    skipped: tuple[str, ...]
    span_session: Int[np.ndarray, " spans"]
    origin: Float[np.ndarray, " spans"]
    step: Float[np.ndarray, " spans"]
    shift: Int[np.ndarray, " spans"]
    first: Int[np.ndarray, " spans_and_end"]  # number of the first window of each span; last entry = how many there are
    stride: int
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
        rule: Rule = "spans",
        leave_out: Mapping[str, Container[str]] | None = None,
        minutes: float = 0.0,
    ) -> WindowIndex:
        """All windows that start every `stride_s` seconds.

        `rule` "spans" starts anew in each span (a maximal stretch of allowed trials); "experanto" takes every so many of the
        starts that experanto allows. Trials whose stimulus (by content) is in `leave_out` of their session count as of another
        tier. `minutes`: of each session only the earliest so many of these tiers (0: all); the windows of few minutes are among
        those of more. Raises UserError if there is no window at all.
        """
        if stride_s <= 0:
            raise UserError(f"window stride of {stride_s} s", way_out="use a positive number of seconds")
        if rule not in get_args(Rule):
            raise UserError(f"window rule {rule!r}", way_out=f"use one of {', '.join(get_args(Rule))}")
        if rule == "experanto" and leave_out:
            raise UserError("experanto's windows leave no stimulus out", way_out="set --config.data.leave_out=nothing")
        if minutes < 0:
            raise UserError(f"config: data.minutes is {minutes:g}", way_out="use a positive number, or 0 for all")
        if rule == "experanto" and minutes:
            raise UserError("experanto's windows are not limited in minutes", way_out="set --config.data.windows=spans")
        stride = 1 if rule == "spans" else _grid_steps(stride_s, grid)

        def spans_of(key: str) -> _Spans:
            recording = store.recording(key)
            if rule == "experanto":
                return _experanto_spans(recording, tiers, grid, stride, blanks)
            out = None
            if leave_out and leave_out[key]:
                out = np.array([content in leave_out[key] for content in store.trial_contents(key).tolist()], bool)
            spans = tier_spans(recording, tiers, blanks=blanks, leave_out=out)
            return _own_spans(earliest(spans, 60 * minutes) if minutes else spans, grid.seconds, stride_s)

        with ThreadPoolExecutor(READERS) as pool:  # a store in the cloud answers many at once
            found = dict(zip(sessions, pool.map(spans_of, sessions), strict=True))
        used = [key for key in sessions if found[key].n.sum()]
        if not used:
            among = f" in their first {minutes:g} minutes" if minutes else ""
            raise UserError(
                f"no window of {grid.seconds:g} s in tiers {', '.join(tiers)} of {len(sessions)} sessions ({few(sessions, 3)})"
                + among,
                way_out="`omnimouse-jax inspect STORE` lists the tiers and hours of each session",
            )
        columns = [np.concatenate(column) for column in zip(*(found[key] for key in used), strict=True)]
        some = columns[-1] > 0
        origin, step, shift, count = (column[some] for column in columns)
        owner = np.repeat(np.arange(len(used)), [int((found[key].n > 0).sum()) for key in used])
        first = np.concatenate([[0], np.cumsum(count)])
        skipped = tuple(key for key in sessions if key not in used)
        return cls(tuple(used), skipped, owner, origin, step, shift, first, stride, float(stride_s))

    def __len__(self) -> int:
        return int(self.first[-1])

    def __getitem__(self, number: int) -> Window:
        if not 0 <= number < len(self):
            raise IndexError(number)
        span = int(np.searchsorted(self.first, number, side="right")) - 1
        at = self.shift[span] + self.stride * (number - self.first[span])
        return Window(self.sessions[self.span_session[span]], float(self.origin[span] + self.step[span] * at))

    def numbers_of(self, session: str) -> range:
        """Numbers of one session's windows, in order of time within spans."""
        at = self.sessions.index(session)
        first, last = np.searchsorted(self.span_session, [at, at + 1])
        return range(int(self.first[first]), int(self.first[last]))

    def fingerprint(self) -> str:
        """Equal for indices that give the same windows."""
        digest = hashlib.blake2b(repr((self.sessions, self.stride)).encode(), digest_size=16)
        for column in (self.span_session, self.origin, self.step, self.shift, self.first):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()

    def __repr__(self) -> str:
        return f"WindowIndex({len(self)} windows, {len(self.sessions)} sessions, every {self.stride_s:g} s)"


def start_cut(
    recording: Recording,
    window: Window,
    grid: Grid,
    channels: Sequence[str],
    neurons: Int[np.ndarray, " n"] | None = None,
) -> Callable[[], Sample]:
    """Begins to read one window, resampled to the grid's rates by previous-sample hold (never a later sample), and returns a
    function that waits for it.

    `channels` is the model's behaviour vocabulary; a channel that the recording lacks comes back as NaN. `neurons` picks and
    orders neurons (all of them in the session's order by default).
    """
    chosen = np.arange(recording.n_neurons) if neurons is None else neurons
    responses = start_signal(recording.responses, _times(window, grid.n_samples, grid.response_rate), neurons)
    behavior = start_behavior(recording, _times(window, grid.n_behavior, grid.behavior_rate), channels)
    video = None
    if recording.screen is not None:
        video = start_screen(recording, _times(window, grid.n_frames, grid.video_rate))

    def wait() -> Sample:
        values = responses()
        if recording.response_scale is not None:
            values = values / recording.response_scale[chosen].astype(np.float32)
        mean = _per_channel(recording.behavior_mean, channels, 0.0)
        scale = _per_channel(recording.behavior_scale, channels, 1.0)
        return Sample(
            window=window,
            neurons=chosen,
            responses=values,
            behavior=((behavior() - mean) / scale).T.astype(np.float32),
            video=None if video is None else video(),
            experiment_second=int(window.start - recording.responses.segment_start[0]),
        )

    return wait


def cut(
    recording: Recording,
    window: Window,
    grid: Grid,
    channels: Sequence[str],
    neurons: Int[np.ndarray, " n"] | None = None,
) -> Sample:
    """`start_cut`, waited for."""
    return start_cut(recording, window, grid, channels, neurons)()


class _Spans(NamedTuple):
    """One session's spans: where their windows start (see WindowIndex) and how many there are."""

    origin: Float[np.ndarray, " spans"]
    step: Float[np.ndarray, " spans"]
    shift: Int[np.ndarray, " spans"]
    n: Int[np.ndarray, " spans"]


def earliest(spans: Float[np.ndarray, "_ 2"], seconds: float) -> Float[np.ndarray, "_ 2"]:
    """The first `seconds` of some spans in order of time: the span that holds the end is cut there, later ones are dropped."""
    length = spans[:, 1] - spans[:, 0]
    left = np.clip(seconds - (np.cumsum(length) - length), 0.0, length)
    cut = np.stack([spans[:, 0], np.where(left < length, spans[:, 0] + left, spans[:, 1])], axis=1)
    return cut[left > 0]


def _own_spans(spans: Float[np.ndarray, "_ 2"], seconds: float, stride_s: float) -> _Spans:
    room = spans[:, 1] - spans[:, 0] - seconds + END_TOLERANCE_S
    count = np.where(room >= 0, np.floor(room / stride_s) + 1, 0).astype(np.int64)
    return _Spans(spans[:, 0], np.full(len(spans), stride_s), np.zeros(len(spans), np.int64), count)


def _experanto_spans(recording: Recording, tiers: Sequence[str], grid: Grid, stride: int, blanks: Blanks) -> _Spans:
    """The stride counts allowed starts, through gaps, as experanto counts."""
    signals = {"responses": recording.responses, **recording.behavior}
    cut = [name for name, signal in signals.items() if len(signal.segment_start) > 1]
    if cut:
        raise UserError(
            f"session {recording.key}: {cut[0]} has gaps, which experanto's windows do not know",
            way_out="set --config.data.windows=spans",
        )
    if blanks == "follow":
        raise UserError("experanto's windows with blanks 'follow'", way_out="set --config.data.blanks to all or none")
    allowed = window_starts(recording, tiers, blanks == "all", grid.n_frames, float(grid.video_rate))
    n = allowed.runs[:, 1] - allowed.runs[:, 0]
    before = np.cumsum(n) - n
    ahead = -before % stride  # of this run, up to the first start that is taken
    count = np.maximum(0, -(-(n - ahead) // stride))
    flat = np.full(len(n), 1.0)
    return _Spans(allowed.origin * flat, allowed.step * flat, allowed.runs[:, 0] + ahead, count)


def _grid_steps(stride_s: float, grid: Grid) -> int:
    steps = round(stride_s * grid.video_rate)
    if steps < 1 or abs(steps / grid.video_rate - stride_s) > END_TOLERANCE_S:
        raise UserError(
            f"window stride of {stride_s:g} s", way_out=f"experanto's windows need a multiple of 1/{grid.video_rate} s"
        )
    return steps


def few(keys: Sequence[str], at_most: int) -> str:
    """The first keys of a list that may be long, for a message."""
    return ", ".join(keys[:at_most]) + (", ..." if len(keys) > at_most else "")


def _times(window: Window, n: int, rate: int) -> Float[np.ndarray, " n"]:
    return np.linspace(window.start, window.start + n / rate, n, endpoint=False)


def _per_channel(values: Mapping[str, float], channels: Sequence[str], default: float) -> Float[np.ndarray, " C"]:
    return np.array([values.get(name, default) for name in channels], np.float64)
