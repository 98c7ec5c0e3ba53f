"""Stimuli of an NWB file: presentations with frames, tables of intervals, and the screen and trials that they make.

Frames come from IndexSeries into templates, from ImageSeries and OpticalSeries with their own time stamps, and from
tables whose rows name a template's frame. Tables with grating parameters are drawn. A table whose rows lie on frames
of a series only says where its trials are. Everything else becomes trials of modality "invalid", with a note.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from omnimouse_jax.recordings.ingest.nwb.file import Session
from omnimouse_jax.recordings.ingest.nwb.frames import Pictures
from omnimouse_jax.recordings.ingest.nwb.streams import (
    ROUNDING_PAUSE,
    Pool,
    Stream,
    covered,
    cut,
    read_stream,
    streams_of_rows,
)
from omnimouse_jax.recordings.ingest.nwb.tables import Row, epochs_of, rows_of, stimulus_tables
from omnimouse_jax.recordings.session import Screen, Trials
from omnimouse_jax.recordings.stimuli import drifting_grating

GREY = 128.0
#: Share of a trial by which the next may begin early (times rounded to microscope frames); more is an error.
EARLY = 0.25
#: Mean difference in grey levels up to which two presentations of one named clip are one (video codecs are lossy).
SAME_CLIP = 8.0
#: A pause that lies this long (s) in an epoch of some stimulus is not grey: what was shown is missing in the file.
MISSING_SECONDS = 5.0


@dataclass(frozen=True)
class Options:
    """How stimuli are brought to the screen: (height, width) in pixels and in degrees, frames per second of drawings."""

    size: tuple[int, int]
    screen_deg: tuple[float, ...]
    rate: float
    wanted: str


@dataclass(frozen=True)
class Shown:
    """One trial: frames of the pool (-1: grey) and when they came up."""

    start: float
    end: float
    modality: str
    name: str
    times: Float[np.ndarray, " n"]
    frames: Int[np.ndarray, " n"]


def read_stimuli(session: Session, options: Options) -> tuple[Screen | None, Trials | None]:
    """Screen and trials (all of tier "train", blanks of none), or none for a file that shows nothing."""
    nwb = session.nwb
    series, tables = _presentations(session, options.wanted)
    pool = Pool(session, options.size)
    streams = [read_stream(session, pool, s) for s in series]
    rows = [row for table in tables for row in rows_of(session, table, {**nwb.stimulus_template})]
    framed = [row for row in rows if row.index is not None and not covered(streams, row)]
    streams += streams_of_rows(pool, framed, nwb.stimulus_template)
    taken = {id(row) for row in framed}
    shown: list[Shown] = []
    free = [np.ones(len(s.times), bool) for s in streams]
    for row in rows:
        if id(row) in taken:
            continue
        hit = covered(streams, row)
        if hit is not None:
            k, entries = hit
            free[k][entries] = False
            shown.append(_trial(pool, streams[k], entries, row.start, row.stop, row.condition))
        else:
            shown.append(_drawn(session, pool, row, options))
    for stream, open_ in zip(streams, free, strict=True):
        for entries in cut(stream, open_):
            lo, hi = float(stream.times[entries[0]]), float(stream.ends[entries[-1]])
            shown.append(_trial(pool, stream, entries, lo, hi, ""))
    return _assemble(session, pool, shown)


def _presentations(session: Session, wanted: str) -> tuple[list[Any], list[Any]]:
    """The series and the tables that say what was shown; `wanted` is "all", "none" or names by comma."""
    from pynwb.image import ImageSeries, IndexSeries
    from pynwb.ophys import OnePhotonSeries, TwoPhotonSeries

    nwb = session.nwb
    if wanted == "none":
        return [], []
    series = [s for s in nwb.stimulus.values() if isinstance(s, ImageSeries | IndexSeries)]
    for s in nwb.acquisition.values():  # some converters keep the stimulus movie beside the recordings
        movie = isinstance(s, ImageSeries) and not isinstance(s, TwoPhotonSeries | OnePhotonSeries)
        if movie and "stimul" in f"{s.name} {s.description}".lower():
            series.append(s)
    tables = stimulus_tables(session)
    other = sorted(str(s.name) for s in nwb.stimulus.values() if not any(s is known for known in [*series, *tables]))
    if other:
        session.note(f"stimulus {', '.join(other)}: not understood, left out")
    if wanted == "all":
        return series, tables
    names = [name.strip() for name in wanted.split(",")]
    known = [str(s.name) for s in [*series, *tables]]
    for name in names:
        if name not in known:
            raise session.error(f"stimulus {name}: not there (there are: {', '.join(known)})", "set stimuli=NAME,NAME")
    return [s for s in series if s.name in names], [t for t in tables if t.name in names]


def _trial(pool: Pool, s: Stream, entries: Int[np.ndarray, " n"], start: float, end: float, condition: str) -> Shown:
    """A trial of frames that a stream has. Named clips share the frames of their first presentation."""
    times, index = s.times[entries], s.index[entries]
    if (index < 0).all():
        return Shown(start, end, "blank", "", times[:1], np.array([-1]))
    modality = "image" if len(entries) == 1 else "video"
    if not s.own:
        digest = hashlib.blake2b(b"".join(s.pictures.hashes()[i] if i >= 0 else b"" for i in index), digest_size=8)
        return Shown(
            start,
            end,
            modality,
            condition or digest.hexdigest(),
            times,
            np.where(index < 0, -1, pool.whole(s.pictures) + index),
        )
    lo, n, pictures = int(index[0]), len(index), s.pictures
    name = condition or hashlib.blake2b(b"".join(pictures.range_hashes(lo, lo + n)), digest_size=8).hexdigest()
    if condition in pool.clips and not _same(pool.clips[condition], pictures, lo, n):
        name = f"{condition}-{lo}"
        pool.session.note(f"{s.name}: presentations of {condition} differ, kept apart")
    if name not in pool.clips:
        pool.clips[name] = (pool.add(n, lambda: pictures[lo : lo + n]), n, pictures, lo)
    base, known, _, _ = pool.clips[name]
    return Shown(start, end, modality, name, times, base + np.minimum(np.arange(n), known - 1))


def _same(clip: tuple[int, int, Pictures | None, int], pictures: Pictures, lo: int, n: int) -> bool:
    """Whether a presentation looks like the clip's first one: length to a tenth, and three frames."""
    _, known, first, begun = clip
    if first is None or abs(known - n) > 0.1 * known:
        return False
    m = min(known, n)
    for k in {0, m // 2, m - 1}:
        a, b = first[begun + k : begun + k + 1].astype(float), pictures[lo + k : lo + k + 1].astype(float)
        if np.abs(a - b).mean() > SAME_CLIP:
            return False
    return True


def _drawn(session: Session, pool: Pool, row: Row, options: Options) -> Shown:
    """A trial without stored frames: a grating, grey, or something that is not known."""
    here = np.array([row.start])
    if row.grating is None:
        if not row.blank:
            session.note(f"{row.table}: {row.what} has neither frames nor grating parameters, trials marked invalid")
        return Shown(
            row.start,
            row.stop,
            "blank" if row.blank else "invalid",
            "" if row.blank else row.what,
            here,
            np.array([-1]),
        )
    if len(options.screen_deg) != 2 or min(options.screen_deg) <= 0:
        raise session.error(
            f"{row.table}: gratings to draw, but how large is the screen?", "set screen_deg=(HEIGHT,WIDTH) in degrees"
        )
    moving = row.grating["temporal_frequency"] != 0
    n = max(1, round((row.stop - row.start) * options.rate)) if moving else 1
    size, screen_deg, rate = options.size, options.screen_deg, options.rate
    values: dict[str, Any] = dict(row.grating)

    def draw() -> np.ndarray:
        return drifting_grating(
            np.arange(n) / rate, size=size, screen_deg=(screen_deg[0], screen_deg[1]), mean=GREY, **values
        )

    name = hashlib.sha256(json.dumps([values, n, rate, size, screen_deg, GREY]).encode()).hexdigest()[:16]
    if name not in pool.clips:
        pool.clips[name] = (pool.add(n, draw), n, None, 0)
    times = row.start + np.arange(n) / rate
    frames = pool.clips[name][0] + np.arange(n)
    on = times < row.stop - 1e-4
    return Shown(row.start, row.stop, "video" if moving else "image", name, times[on], frames[on])


def _assemble(session: Session, pool: Pool, shown: list[Shown]) -> tuple[Screen | None, Trials | None]:
    """Trials in order with blanks in between, and the events of the screen."""
    if not shown:
        return None, None
    shown = sorted(shown, key=lambda s: s.start)
    epochs = epochs_of(session)
    rows: list[tuple[float, float, str, str]] = []
    times: list[np.ndarray] = []
    frames: list[np.ndarray] = []
    for k, s in enumerate(shown):
        end = s.end
        if k + 1 < len(shown):
            follows = shown[k + 1].start
            if end - follows > max(1e-3, EARLY * (end - s.start)):
                raise session.error(
                    f"stimulus: what is on at {s.start:.3f} s lasts until {end:.3f} s, the next begins at {follows:.3f} s",
                    "two presentations say different things: choose with stimuli=NAME,NAME",
                )
            end = follows if abs(end - follows) < ROUNDING_PAUSE or end > follows else end
        if rows and s.start > rows[-1][1] + 1e-3:
            rows.append((rows[-1][1], s.start, *_pause(session, epochs, rows[-1][1], s.start)))
        rows.append((s.start, end, s.modality, s.name))
        on = s.times < end
        times += [np.maximum(s.times[on], s.start), [end]]  # type: ignore[list-item]
        frames += [s.frames[on], [-1]]  # type: ignore[list-item]
    at = np.concatenate([[rows[0][0]], *times])
    number = np.concatenate([[-1], *frames]).astype(np.int64)
    keep = np.append(np.diff(at) > 1e-6, True)  # a stimulus that follows at once replaces the grey in between
    screen = Screen(pool.frames(), at[keep], number[keep], np.full(int(keep.sum()), GREY), rows[-1][1])
    start, end_, modality, name = (np.array(column) for column in zip(*rows, strict=True))
    tier = np.where(modality == "blank", "", "train")
    trials = Trials(start, end_, tier, modality, name, np.ones(len(rows), bool))
    return screen if pool.n else None, trials


def _pause(session: Session, epochs: list[tuple[float, float, str]], lo: float, hi: float) -> tuple[str, str]:
    """(modality, what) of the time between two trials: blank, or invalid where an epoch says that something was on."""
    for start, end, what in epochs:
        if min(end, hi) - max(start, lo) > MISSING_SECONDS:
            session.note(f"{what}: nothing in the file says what was on from {lo:.1f} to {hi:.1f} s, marked invalid")
            return "invalid", what
    return "blank", ""
