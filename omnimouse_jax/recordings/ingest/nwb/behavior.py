"""Behaviour of an NWB file: running, pupil and whatever else its behaviour series hold, each on its own clock."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.ingest.nwb.file import Dataset, Session, fit_clock, stored_times
from omnimouse_jax.recordings.session import Signal

#: Wider series are not behaviour channels but images or spectra.
MOST_COLUMNS = 64
#: Longest time, in sample periods, for which an unevenly sampled value is held before it counts as missing.
HELD_PERIODS = 3.0
#: What a series must be called to become a channel of the common vocabulary, best first.
POSITION = ("pupil_location", "eye_position", "pupil_position", "gaze", "pupil_tracking", "pupil", "eye")
SIZE = ("pupil_size", "pupil_area", "pupil_diameter", "pupil_radius", "pupil_major_radius", "pupil_raw_area")
RUNNING = ("running_speed", "running_velocity", "treadmill_velocity", "wheel_velocity", "locomotion", "speed",
           "running", "treadmill", "velocity", "wheel")  # fmt: skip
NOT_RUNNING = re.compile(r"raw|rotation|position|voltage|v_in|v_sig|dx|angle|acquisition")


@dataclass(frozen=True)
class Found:
    """A behaviour series: its name, where it is, and its number of columns."""

    name: str
    path: str
    series: Any
    columns: int


def read_behavior(session: Session, wanted: str, tolerance: float) -> dict[str, Signal]:
    """Streams by name with named channels. `wanted`: "all", "none", or names of series by comma.

    Samples during a blink that the file marks, and NaN, are missing. A series whose time stamps stray from an even clock
    is laid on one of the same median rate, each value held for at most a few samples (noted).
    """
    found = sorted(_series(session), key=lambda f: f.path)
    if wanted == "none":
        return {}
    if wanted != "all":
        names = [name.strip() for name in wanted.split(",")]
        missing = [name for name in names if name not in {f.name for f in found}]
        if missing:
            known = ", ".join(f.name for f in found) or "none"
            raise session.error(f"behavior {missing[0]}: no such series (there are: {known})", "set behavior=NAME,NAME")
        found = [f for f in found if f.name in names]
    blinks = [f for f in found if "blink" in f.name.lower() and f.columns == 1]
    found = [f for f in found if f not in blinks]
    position = _best(found, POSITION, lambda f: f.columns == 2)
    size = _best(found, SIZE, lambda f: f.columns == 1)
    running = _best(found, RUNNING, lambda f: f.columns == 1 and not NOT_RUNNING.search(f.name.lower()))
    out: dict[str, Signal] = {}
    for f in found:
        stream = f.name if f.name not in out else f.path.replace("/", "_")
        if f is position:
            channels: tuple[str, ...] = ("pupil_x", "pupil_y")
        elif f is size:
            channels = ("pupil_size",)
        elif f is running:
            channels = ("running",)
        else:
            ends = "xyz" if type(f.series).__name__ == "SpatialSeries" and f.columns <= 3 else range(f.columns)
            channels = (stream,) if f.columns == 1 else tuple(f"{stream}_{e}" for e in list(ends)[: f.columns])
        blink = next((b for b in blinks if b.path.rpartition("/")[0] == f.path.rpartition("/")[0]), None)
        out[stream] = _signal(session, f, channels, blink, tolerance)
    return out


def _series(session: Session) -> Iterator[Found]:
    """Numeric series of the behaviour modules, and eye tracking and running wherever else they are."""
    from pynwb.base import TimeSeries
    from pynwb.image import ImageSeries, IndexSeries
    from pynwb.ophys import RoiResponseSeries

    for series in session.nwb.objects.values():
        data: Any = getattr(series, "data", None)
        if not isinstance(series, TimeSeries) or isinstance(series, ImageSeries | IndexSeries | RoiResponseSeries):
            continue
        if not hasattr(data, "name") or data.dtype.kind not in "fiub" or data.ndim not in (1, 2):
            continue
        path = str(data.name).removesuffix("/data").removeprefix("/")
        if not re.match(r"(processing|acquisition)/", path) or data.shape[0] < 2:
            continue
        known = re.search(r"behavi|eye|pupil|gaze|running|treadmill|wheel|locomotion", path.lower())
        if not known or re.match(r"processing/ophys/", path):
            continue
        columns = 1 if data.ndim == 1 else int(data.shape[1])
        if columns <= MOST_COLUMNS:
            yield Found(str(series.name), path.partition("/")[2], series, columns)


def _best(found: list[Found], names: tuple[str, ...], fits: Any) -> Found | None:
    """The first series that fits and is called best; the eye tracking interface wins over others of its name."""
    for name in names:
        hits = [f for f in found if fits(f) and (f.name.lower() == name or name in f.name.lower().replace(" ", "_"))]
        exact = [f for f in hits if f.name.lower() == name]
        inside = [f for f in hits if re.search(r"eye_?tracking|pupil_?tracking", f.path.lower())]
        if hits:
            return (exact or inside or hits)[0]
    return None


def _signal(session: Session, f: Found, channels: tuple[str, ...], blink: Found | None, tolerance: float) -> Signal:
    what = f"behavior {f.name}"
    unit = {"scale": float(f.series.conversion or 1.0), "offset": float(f.series.offset or 0.0)}
    values: Any = session.dataset(f.series.data, flat=True, **unit)
    if blink is not None and blink.series.data.shape[0] == values.shape[0]:
        values = Unblinked(values, session.dataset(blink.series.data, flat=True))
        session.note(f"{f.name}: samples that {blink.name} marks are missing")
    try:
        times, rate = stored_times(session, f.series, what, values.shape[0])
        known = np.flatnonzero(np.isfinite(times))
        clock = fit_clock(session, what, times[known], rate)
    except UserError as error:
        raise UserError(error.what, way_out=f"{error.way_out}, or name the series to read with behavior=") from error
    if clock.stray <= tolerance and len(known) == len(times):
        return clock.signal(values, channels=channels)
    period = float(np.median(np.diff(times[known])))
    session.note(f"{f.name}: uneven time stamps, laid on an even clock of {1 / period:.4g} Hz by the last value before")
    grid = times[known[0]] + np.arange(int((times[known[-1]] - times[known[0]]) / period) + 1) * period
    last = np.maximum(np.searchsorted(times[known], grid + 1e-3 * period, side="right") - 1, 0)
    rows = np.where(grid - times[known][last] <= HELD_PERIODS * period, known[last], -1)
    return Signal.continuous(Held(values, rows), 1 / period, float(grid[0]), channels=channels)


class Unblinked:
    """Values with NaN in the samples where `blink` is true."""

    def __init__(self, values: Dataset, blink: Dataset):
        self._values, self._blink = values, blink
        self.shape, self.dtype = values.shape, np.result_type(values.dtype, np.float32)

    def __getitem__(self, rows: slice) -> np.ndarray:
        lo, hi, _ = rows.indices(self.shape[0])
        out = self._values[lo:hi].astype(self.dtype)
        out[self._blink[lo:hi][:, 0] > 0] = np.nan
        return out


class Held:
    """Row k is row `rows[k]` of `values`, NaN where that is -1; `rows` never decreases but for -1."""

    def __init__(self, values: Dataset | Unblinked, rows: Int[np.ndarray, " n"]):
        self._values, self._rows = values, rows
        self.shape, self.dtype = (len(rows), values.shape[1]), np.result_type(values.dtype, np.float32)

    def __getitem__(self, rows: slice) -> np.ndarray:
        wanted = self._rows[rows]
        out = np.full((len(wanted), self.shape[1]), np.nan, self.dtype)
        known = wanted >= 0
        if known.any():
            lo, hi = int(wanted[known][0]), int(wanted[known][-1]) + 1
            out[known] = self._values[lo:hi][wanted[known] - lo]
        return out
