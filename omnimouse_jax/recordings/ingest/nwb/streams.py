"""Frames over time in an NWB file: presentation series and tables that name frames, the pool that they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from omnimouse_jax.recordings.ingest.nwb.file import GAP, Session, stored_times
from omnimouse_jax.recordings.ingest.nwb.frames import Pictures, pictures_of
from omnimouse_jax.recordings.ingest.nwb.tables import Row
from omnimouse_jax.recordings.lazy import Pieces
from omnimouse_jax.recordings.splits import TRIAL_SECONDS

#: Frames that stay longer than this (s) are images, one trial each; faster ones are movies, one trial each pass.
IMAGE_SECONDS = 0.1
#: Index values that mean no frame: -1, and what it becomes as an unsigned number.
NO_FRAME = (-1, 2**32 - 1, 2**64 - 1)
#: A pause between trials shorter than this (s) is rounding: the last frame stays on.
ROUNDING_PAUSE = 0.05


@dataclass(frozen=True)
class Stream:
    """Frame `index[k]` of `pictures` (-1: grey) is on from `times[k]` to `ends[k]`. `own`: frames are shown in order, once."""

    name: str
    pictures: Pictures
    times: Float[np.ndarray, " n"]
    ends: Float[np.ndarray, " n"]
    index: Int[np.ndarray, " n"]
    own: bool


class Pool:
    """Distinct frames in the order in which they are first shown."""

    def __init__(self, session: Session, size: tuple[int, int]):
        self.session, self.size, self.n = session, size, 0
        self._pieces: list[tuple[int, Callable[[], Any]]] = []
        self._pictures: dict[int, tuple[Pictures, list[int]]] = {}
        self.clips: dict[str, tuple[int, int, Pictures | None, int]] = {}

    def pictures(self, template: Any) -> Pictures:
        """The frames of a template, opened once."""
        if id(template) not in self._pictures:
            self._pictures[id(template)] = (pictures_of(self.session, template, self.size), [])
        return self._pictures[id(template)][0]

    def whole(self, pictures: Pictures) -> int:
        """First pool number of a template that is in the pool as a whole."""
        base = next(b for p, b in self._pictures.values() if p is pictures)
        if not base:
            base.append(self.add(len(pictures), lambda: pictures))
        return base[0]

    def add(self, n: int, opener: Callable[[], Any]) -> int:
        """Adds `n` frames that `opener` gives; returns the number of the first."""
        self._pieces.append((n, opener))
        self.n += n
        return self.n - n

    def frames(self) -> Pieces:
        return Pieces(self._pieces, self.size, np.dtype(np.uint8))


def read_stream(session: Session, pool: Pool, series: Any) -> Stream:
    """A presentation series with its frames."""
    what = f"stimulus {series.name}"
    indexed = getattr(series, "indexed_images", None) or getattr(series, "indexed_timeseries", None)
    is_index = type(series).__name__ == "IndexSeries"
    if is_index and indexed is None:
        raise session.error(f"{what}: its template is missing", "leave it out with stimuli=NAME,NAME")
    pictures = pool.pictures(indexed if is_index else series)
    index = np.asarray(series.data[:], np.float64).astype(np.int64) if is_index else np.arange(len(pictures))
    index = np.where(np.isin(index, NO_FRAME), -1, index)
    if len(index) and (index.max() >= len(pictures) or index.min() < -1):
        raise session.error(
            f"{what}: frame {int(index.max() if index.max() >= len(pictures) else index.min())} of a template of "
            f"{len(pictures)}",
            "correct the index, or leave it out with stimuli=NAME,NAME",
        )
    times, _ = stored_times(session, series, what, len(index))
    bad = np.flatnonzero(~(np.diff(times) > 0))
    if len(bad) or not np.isfinite(times).all() or len(times) == 0:
        at = f" at sample {int(bad[0]) + 1}" if len(bad) else ""
        raise session.error(f"{what}: time stamps not increasing{at}", "correct the file")
    period = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    ends = np.minimum(
        np.append(times[1:], np.inf), times + np.where(np.diff(times, append=np.inf) > GAP * period, period, np.inf)
    )
    return Stream(str(series.name), pictures, times, ends, index, not is_index)


def streams_of_rows(pool: Pool, rows: list[Row], templates: Any) -> list[Stream]:
    """Rows that each name one frame of a template, put together by table and template."""
    out = []
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.table, row.template), []).append(row)
    for (table, template), group in groups.items():
        pictures = pool.pictures(templates[template])
        index = np.array([row.index for row in group], np.int64)
        if index.max() >= len(pictures) or index.min() < 0:
            raise pool.session.error(
                f"stimulus {table}: frame {int(index.max())} of template {template} with {len(pictures)}",
                "correct the table, or leave it out with stimuli=NAME,NAME",
            )
        times = np.array([row.start for row in group])
        stops = np.array([row.stop for row in group])
        ends = np.minimum(stops, np.append(times[1:], np.inf))
        out.append(Stream(table, pictures, times, ends, index, False))
    return out


def covered(streams: list[Stream], row: Row) -> tuple[int, Int[np.ndarray, " n"]] | None:
    """(stream, its entries) whose frames fill at least half of a row."""
    for k, s in enumerate(streams):
        lo, hi = np.searchsorted(s.times, [row.start - 1e-3, row.stop - 1e-3])
        if hi > lo and float(np.minimum(s.ends[lo:hi], row.stop) @ np.ones(hi - lo) - s.times[lo:hi].sum()) >= 0.5 * (
            row.stop - row.start
        ):
            return k, np.arange(lo, hi)
    return None


def cut(stream: Stream, free: Bool[np.ndarray, " n"]) -> list[Int[np.ndarray, " _"]]:
    """Entries of each trial of a stream: images one by one, movies pass by pass, movies without an index every 10 s."""
    at = np.flatnonzero(free)
    if len(at) == 0:
        return []
    pause = stream.times[at[1:]] > stream.ends[at[:-1]] + ROUNDING_PAUSE
    new = pause | (np.diff(at) > 1)
    if float(np.median(stream.ends - stream.times)) > IMAGE_SECONDS:
        new[:] = True
    elif stream.own:
        begun = np.concatenate([[0], np.flatnonzero(new) + 1])
        origin = stream.times[at][begun][np.searchsorted(begun, np.arange(len(at)), side="right") - 1]
        number = np.floor((stream.times[at] - origin) / TRIAL_SECONDS + 1e-6)
        new |= np.diff(number) != 0
    else:
        new |= ~np.isin(np.diff(stream.index[at]), [0, 1])
    return np.split(at, np.flatnonzero(new) + 1)
