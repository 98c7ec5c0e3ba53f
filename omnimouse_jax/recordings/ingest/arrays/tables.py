"""Tables of trials: columns from a .csv file or from arrays, and the screen that a stimulus table describes."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse_jax.recordings.ingest.arrays.description import Description, is_reference
from omnimouse_jax.recordings.ingest.files import load_array
from omnimouse_jax.recordings.lazy import Pieces
from omnimouse_jax.recordings.session import Screen, Trials
from omnimouse_jax.recordings.stimuli import drifting_grating, resize_area

TRIAL_COLUMNS = ("start", "end", "tier", "stimulus", "modality", "valid")
GRATING = ("direction", "spatial_frequency", "temporal_frequency", "contrast", "phase")
STIMULUS_COLUMNS = ("onset", "offset", "start", "end", "tier", "valid", "frame", "file", "clip_rate", "draw", *GRATING)
#: Fields of a stimulus that is a table.
TABLE_FIELDS = ("table", "size", "rate", "screen_deg", "grey", "frames")


@dataclass(frozen=True)
class Table:
    """Columns of equal length and where they came from."""

    columns: dict[str, np.ndarray]
    n_rows: int
    where: str


def read_table(d: Description, given: Any, where: str) -> Table:
    """A table of the description: the name of a .csv file, or {column: ARRAY or one value}."""
    if isinstance(given, str):
        return _read_csv(d, d.path.parent / given, where)
    if not isinstance(given, dict) or not given:
        raise d.error(f"{where}: not a table", "name a .csv file or give its columns")
    columns: dict[str, np.ndarray] = {}
    constants: dict[str, Any] = {}
    for name, value in given.items():
        if isinstance(value, list) or (is_reference(value) and name != "file"):
            columns[name] = np.asarray(d.array(value, f"{where} {name}")).ravel()
        else:
            constants[name] = value
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        told = ", ".join(f"{name} {n}" for name, n in lengths.items()) or "no column is an array"
        raise d.error(f"{where}: columns of different length ({told})", "give one value per row, or one for all rows")
    n = next(iter(lengths.values()))
    columns.update({name: np.full(n, "" if value is None else value) for name, value in constants.items()})
    return Table(columns, n, where)


def _read_csv(d: Description, path: Path, where: str) -> Table:
    if not path.is_file():
        raise d.error(f"{where}: file {path} is missing", "put it there or correct the name")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise d.error(f"{where}: file {path} is no text", "save it as .csv in UTF-8") from error
    if not rows:
        raise d.error(f"{where}: file {path} is empty", "give a header and one row per trial")
    header = [name.strip() for name in rows[0]]
    for k, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise d.error(
                f"{where}: file {path}: line {k} has {len(row)} of {len(header)} columns", "complete or remove it"
            )
    columns = {name: np.array([row[c].strip() for row in rows[1:]], str) for c, name in enumerate(header)}
    return Table(columns, len(rows) - 1, f"{where} file {path.name}")


def numbers(d: Description, table: Table, name: str, default: Any = None) -> np.ndarray:
    """A column as float64; where empty, `default` (a number or a column); without one it is required."""
    column = table.columns.get(name)
    fallback = None if default is None else np.broadcast_to(np.asarray(default, np.float64), (table.n_rows,))
    if column is None:
        if fallback is None:
            raise d.error(f"{table.where}: no column {name}", f"add {name}")
        return fallback.copy()
    out = np.empty(table.n_rows, np.float64)
    for k, value in enumerate(column):
        if isinstance(value, str) and value == "" and fallback is not None:
            out[k] = fallback[k]
            continue
        try:
            out[k] = float(value)
        except (TypeError, ValueError):
            raise d.error(f"{table.where}: {name} of row {k} is {str(value)!r}", "give a number") from None
    return out


def texts(table: Table, name: str, default: str) -> np.ndarray:
    """A column as text; `default` where it is empty or absent."""
    column = table.columns.get(name)
    if column is None:
        return np.full(table.n_rows, default)
    return np.array([str(v) if str(v) else default for v in column], str)


def flags(d: Description, table: Table, name: str) -> np.ndarray:
    """A column as bool, True where empty or absent."""
    column = table.columns.get(name)
    if column is None:
        return np.ones(table.n_rows, bool)
    known = {"": True, "true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    for k, value in enumerate(column):
        if str(value).lower() not in known:
            raise d.error(f"{table.where}: {name} of row {k} is {str(value)!r}", "write true or false")
    return np.array([known[str(value).lower()] for value in column], bool)


def trial_columns(d: Description, table: Table, modality: str) -> Trials:
    """Trials from a table of them. `modality` is meant where the table does not say."""
    d.check(table.where, table.columns, TRIAL_COLUMNS)
    return Trials(
        numbers(d, table, "start"),
        numbers(d, table, "end"),
        texts(table, "tier", "train"),
        texts(table, "modality", modality),
        texts(table, "stimulus", ""),
        flags(d, table, "valid"),
    )


def screen_from_table(d: Description, spec: Mapping[str, Any]) -> tuple[Screen, Trials]:
    """Screen and trials of a stimulus table. Gaps between trials become blanks; equal stimuli share their frames."""
    table = read_table(d, spec["table"], "stimulus table")
    d.check(table.where, table.columns, STIMULUS_COLUMNS)
    size = _pair(d, spec, "size", (36.0, 64.0))
    if table.n_rows == 0:
        raise d.error(f"{table.where}: no rows", "give one row per trial")
    pixels = (int(size[0]), int(size[1]))
    rate = d.number(spec, "rate", "stimulus", 30.0)
    grey = d.number(spec, "grey", "stimulus", 128.0)
    onset, offset = numbers(d, table, "onset"), numbers(d, table, "offset")
    start, end = numbers(d, table, "start", onset), numbers(d, table, "end", offset)
    for k in range(table.n_rows):
        if not (start[k] <= onset[k] < offset[k] <= end[k]):
            raise d.error(
                f"{table.where}: row {k}: start {start[k]:g}, onset {onset[k]:g}, offset {offset[k]:g}, end {end[k]:g}",
                "give start <= onset < offset <= end, in seconds",
            )
        if k and start[k] < end[k - 1] - 1e-3:
            raise d.error(f"{table.where}: row {k} starts before row {k - 1} has ended", "sort the rows by time")
    show = _Shown(d, spec, table, pixels, rate, grey)
    pool: dict[str, tuple[int, int]] = {}
    pieces: list[tuple[int, Any]] = []
    times: list[np.ndarray] = []
    frames: list[np.ndarray] = []
    names, modalities = [], []
    n_pool = 0
    for k in range(table.n_rows):
        step, n, name, draw = show(k, float(offset[k] - onset[k]))
        if draw is not None:
            if name not in pool:
                pool[name] = (n_pool, n)
                pieces.append((n, draw))
                n_pool += n
            n = min(n, max(1, int(np.ceil((offset[k] - onset[k]) / step - 1e-6))))
            shown = onset[k] + np.arange(n) * step
            times += [shown, offset[k : k + 1]]
            frames += [pool[name][0] + np.arange(n), np.array([-1])]
        names.append(name)
        modalities.append("blank" if draw is None else "image" if n == 1 else "video")
    at = np.concatenate([[start[0]], *times])
    number = np.concatenate([[-1], *frames]).astype(np.int64)
    keep = np.append(np.diff(at) > 1e-6, True)  # a stimulus that follows at once replaces the grey in between
    pixel_frames = Pieces(pieces, pixels, np.dtype(np.uint8))
    screen = Screen(pixel_frames, at[keep], number[keep], np.full(int(keep.sum()), grey), float(end[-1]))
    tier, valid = texts(table, "tier", "train"), flags(d, table, "valid")
    trials = Trials(start, end, tier, np.array(modalities, str), np.array(names, str), valid)
    return screen, _with_blanks(trials)


class _Shown:
    """What each row of a stimulus table shows."""

    def __init__(
        self, d: Description, spec: Mapping[str, Any], table: Table, size: tuple[int, int], rate: float, grey: float
    ):
        self._d, self._where, self._size, self._rate, self._grey = d, table.where, size, rate, grey
        self._file, self._draw = texts(table, "file", ""), texts(table, "draw", "")
        self._clip_rate = numbers(d, table, "clip_rate", rate)
        self._known: dict[str, tuple[int, str, Any]] = {}
        self._frame = np.nan_to_num(numbers(d, table, "frame", -1.0), nan=-1.0)
        self._images = None
        if "frames" in spec:
            self._images = d.array(spec["frames"], "stimulus frames")
            if self._images.ndim != 3 or _is_color(self._images.shape):
                raise d.error(
                    f"stimulus: file {spec['frames']} has shape {self._images.shape}",
                    "give grey images (n, height, width)",
                )
        elif np.any(self._frame >= 0):
            raise d.error(
                f"{self._where}: frame given, but no images", "name them: stimulus frames, a .npy of (n, h, w)"
            )
        for k, drawn in enumerate(self._draw):
            if drawn not in ("", "grating"):
                raise d.error(f"{self._where}: draw of row {k} is {str(drawn)!r}", "draw knows: grating")
        if np.any(self._draw != ""):
            if "screen_deg" not in spec:
                raise d.error(
                    "stimulus screen_deg is missing", "give the screen's [height, width] in degrees of visual angle"
                )
            self._screen_deg = _pair(d, spec, "screen_deg", None)
            defaults = (None, None, None, 1.0, 0.0)
            drawn_rows = self._draw != ""
            table = Table({n: c[drawn_rows] for n, c in table.columns.items()}, int(drawn_rows.sum()), table.where)
            self._row = np.cumsum(drawn_rows) - 1
            self._grating = {n: numbers(d, table, n, v) for n, v in zip(GRATING, defaults, strict=True)}

    def __call__(self, k: int, seconds: float) -> tuple[float, int, str, Any]:
        """(seconds per frame, frames, name by content, function that gives the frames or None for grey) of row `k`."""
        file = str(self._file[k])
        if self._frame[k] >= 0:
            image = f"frames[{int(self._frame[k])}]"
            if image not in self._known:
                self._known[image] = self._one_of_many(k, int(self._frame[k]))
            n, name, load = self._known[image]
            return seconds, n, name, load
        if file:
            if file not in self._known:
                self._known[file] = self._stored(self._d.path.parent / file)
            n, name, load = self._known[file]
            return seconds if n == 1 else 1.0 / float(self._clip_rate[k]), n, name, load
        if not self._draw[k]:
            return seconds, 1, "", None
        values: dict[str, Any] = {name: float(column[self._row[k]]) for name, column in self._grating.items()}
        n = max(1, int(np.ceil(seconds * self._rate - 1e-6)))
        size, screen_deg, rate, grey = self._size, self._screen_deg, self._rate, self._grey

        def draw() -> np.ndarray:
            return drifting_grating(np.arange(n) / rate, size=size, screen_deg=screen_deg, mean=grey, **values)

        what = json.dumps([values, n, rate, size, screen_deg, grey])
        return 1.0 / rate, n, hashlib.sha256(what.encode()).hexdigest()[:16], draw

    def _one_of_many(self, k: int, number: int) -> tuple[int, str, Any]:
        images, size = self._images, self._size
        assert images is not None
        if number >= len(images):
            raise self._d.error(
                f"{self._where}: frame {number} of row {k}", f"there are {len(images)}, numbered from 0"
            )

        def load() -> np.ndarray:
            frame = np.asarray(images[number : number + 1])
            return np.clip(np.rint(resize_area(frame, size)), 0, 255).astype(np.uint8)

        return 1, hashlib.sha256(load().tobytes()).hexdigest()[:16], load

    def _stored(self, path: Path) -> tuple[int, str, Any]:
        d, size = self._d, self._size
        stored = load_array(d.key, path)
        if stored.ndim not in (2, 3) or _is_color(stored.shape):
            raise d.error(
                f"{self._where}: file {path} has shape {stored.shape}",
                "give a grey image (height, width) or clip (n, height, width), colour averaged",
            )
        if 0 in stored.shape:
            raise d.error(f"{self._where}: file {path} has shape {stored.shape}", "give at least one frame")
        n = len(stored) if stored.ndim == 3 else 1
        shape = (n, *stored.shape[-2:])

        def load() -> np.ndarray:
            frames = np.asarray(load_array(d.key, path)).reshape(shape)
            return np.clip(np.rint(resize_area(frames, size)), 0, 255).astype(np.uint8)

        return n, hashlib.sha256(load().tobytes()).hexdigest()[:16], load


def _is_color(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[-1] in (3, 4)


def _pair(
    d: Description, spec: Mapping[str, Any], name: str, default: tuple[float, float] | None
) -> tuple[float, float]:
    value = spec.get(name, default)
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(isinstance(v, int | float) for v in value):
        raise d.error(f"stimulus {name} is {value!r}", "give [height, width]")
    if min(value) <= 0:
        raise d.error(f"stimulus {name} is {value!r}", "give positive numbers")
    return float(value[0]), float(value[1])


def _with_blanks(trials: Trials) -> Trials:
    """The trials with a blank in every gap of more than 1 ms."""
    gap = np.flatnonzero(trials.start[1:] > trials.end[:-1] + 1e-3)
    n = len(gap)
    columns = {
        "start": np.append(trials.start, trials.end[gap]),
        "end": np.append(trials.end, trials.start[gap + 1]),
        "tier": np.append(trials.tier, np.full(n, "")),
        "modality": np.append(trials.modality, np.full(n, "blank")),
        "stimulus": np.append(trials.stimulus, np.full(n, "")),
        "valid": np.append(trials.valid, np.ones(n, bool)),
        "withheld": np.append(trials.withheld, np.zeros(n, bool)),
    }
    order = np.argsort(columns["start"], kind="stable")
    return Trials(**{name: column[order] for name, column in columns.items()})
