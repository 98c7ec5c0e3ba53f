"""Inside an NWB file: opening it, datasets that are read when sliced, and clocks from time stamps."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.session import Signal

#: A step between time stamps of more than this many sample periods is a gap: the recording is cut there.
GAP = 1.5
#: Time stamps closer than this part of a period to an even clock count as even: the first one starts the clock.
EVEN = 1e-3
#: Bytes of an HDF5 file's chunks kept decoded, so that a chunk that two reads share is decoded once.
CHUNK_CACHE = 64 * 2**20


@dataclass
class Session:
    """The file that is being read, the names for messages, and what was met on the way (kept in the provenance)."""

    path: Path
    key: str
    nwb: Any = None
    notes: list[str] = field(default_factory=list)
    _files: dict[str, HdfFile] = field(default_factory=dict)

    def error(self, what: str, way_out: str) -> UserError:
        """An error of this session and its file, in one line."""
        return UserError(f"session {self.key}: file {self.path}: {' '.join(what.split())}", way_out=way_out)

    def note(self, what: str) -> None:
        """Keeps a remark once."""
        if what not in self.notes:
            self.notes.append(what)

    def dataset(self, found: Any, **view: Any) -> Dataset:
        """A dataset that pynwb found, to be read after the file is closed."""
        name = str(found.file.filename)
        file = self._files.setdefault(name, HdfFile(Path(name)))
        return Dataset(file, str(found.name), tuple(found.shape), found.dtype, **view)

    def close(self) -> None:
        """Closes the files; what is sliced later opens them again."""
        for file in self._files.values():
            file.close()


@contextmanager
def opened(session: Session) -> Iterator[Any]:
    """The file as pynwb shows it, closed again at the end. Extensions are taken from the file itself."""
    try:
        import h5py
        from pynwb import NWBHDF5IO
    except ImportError as error:
        raise session.error("reading NWB needs pynwb", "pip install 'omnimouse-jax[nwb]'") from error
    try:
        with h5py.File(session.path, "r") as file:
            version = file.attrs.get("nwb_version", file.get("nwb_version", [b""])[()] if "nwb_version" in file else "")
        version = version.decode() if isinstance(version, bytes) else str(version)
    except OSError as error:
        raise session.error("truncated or not an HDF5 file", "download it again") from error
    if not version.startswith("2"):
        raise session.error(
            f"not an NWB 2 file (nwb_version: {version or 'none'})", "convert it to NWB 2, or use arrays (docs/data.md)"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of cached schemas and old fields, which are read all the same
        try:
            io = NWBHDF5IO(str(session.path), "r", load_namespaces=True)
            session.nwb = io.read()
        except Exception as error:  # whatever pynwb, hdmf and h5py think of a damaged or incomplete file
            raise session.error(f"pynwb cannot read it ({str(error)[:160]})", "validate it with pynwb") from error
        with io:
            yield session.nwb


class HdfFile:
    """An HDF5 file opened on the first read, once per process, and closed with `close` or with its last user."""

    def __init__(self, path: Path):
        self.path = path
        self._handle: Any = None
        self._process = 0

    def read(self, name: str, where: Any) -> np.ndarray:
        """Part of a dataset. Raises a UserError that names file and dataset if the bytes are damaged."""
        import h5py

        if self._handle is None or self._process != os.getpid():  # a handle does not survive a fork
            self._handle, self._process = h5py.File(self.path, "r", rdcc_nbytes=CHUNK_CACHE), os.getpid()
        try:
            return np.asarray(self._handle[name][where])
        except (OSError, KeyError) as error:
            raise UserError(
                f"file {self.path}: dataset {name}: cannot be read ({' '.join(str(error).split())[:120]})",
                way_out="download the file again",
            ) from error

    def close(self) -> None:
        """Closes the file; the next read opens it again."""
        if self._handle is not None and self._process == os.getpid():
            self._handle.close()
        self._handle = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_handle": None, "_process": 0}


class Dataset:
    """A dataset read when sliced over its first axis, as stored, or as (time, columns).

    `turned` swaps the axes of a (columns, time) dataset, `columns` picks some, `scale` and `offset` bring stored
    numbers to the unit of the file. With `flat` a (time,) dataset becomes one column.
    """

    def __init__(
        self,
        file: HdfFile,
        name: str,
        shape: tuple[int, ...],
        dtype: np.dtype,
        *,
        flat: bool = False,
        turned: bool = False,
        columns: Int[np.ndarray, " chosen"] | None = None,
        scale: float = 1.0,
        offset: float = 0.0,
    ):
        self.file, self.name, self._stored = file, name, len(shape)
        self._turned, self._columns, self._scale, self._offset = turned, columns, scale, offset
        shape = shape[::-1] if turned else shape
        shape = (*shape, 1) if flat and len(shape) == 1 else shape
        self.shape = shape if columns is None else (shape[0], len(columns))
        self._converted = (scale, offset) != (1.0, 0.0)
        self.dtype = np.dtype(np.float64) if self._converted else np.dtype(dtype)

    def __getitem__(self, rows: slice) -> np.ndarray:
        lo, hi, _ = rows.indices(self.shape[0])
        where = (slice(None), slice(lo, hi)) if self._turned else slice(lo, hi)
        out = self.file.read(self.name, where)
        out = out.T if self._turned else out
        if len(self.shape) > self._stored:
            out = out[:, None]
        if self._columns is not None:
            out = out[:, self._columns]
        return out.astype(np.float64) * self._scale + self._offset if self._converted else out


class Side:
    """Several (time, columns) arrays side by side, as far as the shortest of them reaches."""

    def __init__(self, parts: list[Any]):
        self._parts = parts
        self.shape = (min(p.shape[0] for p in parts), sum(p.shape[1] for p in parts))
        self.dtype = np.result_type(*(p.dtype for p in parts))

    def __getitem__(self, rows: slice) -> np.ndarray:
        lo, hi, _ = rows.indices(self.shape[0])
        return np.concatenate([p[lo:hi] for p in self._parts], axis=1)


def stored_times(session: Session, series: Any, what: str, n: int) -> tuple[Float[np.ndarray, " n"], float | None]:
    """(time of every sample in seconds, rate if the file states one instead of time stamps)."""
    if series.timestamps is not None:
        times = np.asarray(series.timestamps[:], np.float64)
        if len(times) != n:
            raise session.error(f"{what}: {n} samples but {len(times)} time stamps", "correct the file")
        return times, None
    rate = float("nan") if series.rate is None else float(series.rate)
    start = 0.0 if series.starting_time is None else float(series.starting_time)
    if not (np.isfinite([rate, start]).all() and rate > 0):
        raise session.error(f"{what}: no time stamps, and rate {rate:g}, start {start:g}", "complete the file")
    return start + np.arange(n) / rate, rate


@dataclass(frozen=True)
class Clock:
    """A piecewise even clock and how far the time stamps stray from it, in sample periods."""

    rate: float
    segment_start: Float[np.ndarray, " segments"]
    segment_first: Int[np.ndarray, " segments"]
    stray: float

    def signal(self, values: Any, **kwargs: Any) -> Signal:
        """Values on this clock."""
        return Signal(values, self.rate, self.segment_start, self.segment_first, **kwargs)


def fit_clock(session: Session, what: str, times: Float[np.ndarray, " n"], rate: float | None) -> Clock:
    """The clock of increasing time stamps: cut at gaps, one rate over all pieces (last minus first over the samples).

    A piece whose stamps are even starts at its first stamp; a jittered one where it strays least on average.
    """
    if len(times) < 2:
        raise session.error(f"{what}: {len(times)} samples", "leave it out")
    step = np.diff(times)
    bad = np.flatnonzero(~(step > 0))
    if len(bad):
        raise session.error(f"{what}: time stamps not increasing at sample {int(bad[0]) + 1}", "correct the file")
    period = float(np.median(step))
    cut = np.flatnonzero(step > GAP * period) + 1
    first = np.concatenate([[0], cut]).astype(np.int64)
    last = np.append(cut, len(times))
    if rate is None:
        rate = float((last - first - 1).sum() / (times[last - 1] - times[first]).sum())
    start = np.empty(len(first), np.float64)
    stray = 0.0
    for s, (lo, hi) in enumerate(zip(first, last, strict=True)):
        begun = times[lo:hi] - np.arange(hi - lo) / rate
        even = float(np.abs(begun - begun[0]).max()) <= EVEN / rate
        start[s] = begun[0] if even else begun.mean()
        stray = max(stray, float(np.abs(begun - start[s]).max()) * rate)
    return Clock(rate, start, first, stray)
