"""A description to fill in for the arrays format: what can be told from the files beside it, and marks for the rest."""

from __future__ import annotations

import csv
import difflib
import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.ingest.arrays.marks import FILL_IN
from omnimouse_jax.recordings.ingest.arrays.reader import NAMES, description_file
from omnimouse_jax.recordings.ingest.files import NpyHeader, load_array

RESPONSES = re.compile(r"respon|trace|dff|df_f|deconv|spike|spks|event|fluor|activity|calcium|neural")
RUNNING = re.compile(r"run|tread|wheel|speed|veloc|locomot")
EYE = re.compile(r"eye|pupil|gaze")
SCREEN = re.compile(r"frame|screen|stim|movie|video|image|pixel")
TIMES = re.compile(r"time|stamp|clock|(^|_)t$|(^|_)ts$")
#: More columns than this are neurons, not behaviour.
MOST_CHANNELS = 8


@dataclass(frozen=True)
class Found:
    """An array beside the description, as one would name it there."""

    reference: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def stem(self) -> str:
        """The telling part of its name."""
        return (self.reference.rpartition(":")[2] or self.reference).removesuffix(".npy").lower()


def write_template(folder: Path) -> Path:
    """Writes `recording.yml` into `folder` (made if it is not there) and returns its path; overwrites nothing.

    Beside .npy, .npz and .csv files it names those whose names and shapes tell what they are. Raises UserError if the
    folder has a description already, or holds sessions in sub-folders.
    """
    there = description_file(folder)
    if there is not None:
        raise UserError(f"file {there}: already there", way_out="edit it, and look at it with --check")
    if folder.is_file():
        raise UserError(f"{folder}: a file", way_out="name the folder of one session")
    inside = [p for p in folder.glob("*/") if description_file(p) is not None]
    if inside:
        raise UserError(
            f"folder {folder}: holds sessions ({min(inside).name}), which a description here would hide",
            way_out="name the folder of one session",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"folder {folder}: cannot be made ({error.strerror})", way_out="name another") from None
    path = folder / NAMES[1]
    found, tables, unread = _look(folder)
    text = _described(folder, found, tables, unread) if found or tables else _example(folder)
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
    return path


def _look(folder: Path) -> tuple[list[Found], dict[str, list[str]], list[str]]:
    """(arrays, headers of the .csv files, files that cannot be read) of a folder, by name."""
    found: list[Found] = []
    tables: dict[str, list[str]] = {}
    unread: list[str] = []
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        try:
            if path.suffix == ".npy":
                header = NpyHeader(folder.name, path)
                found.append(Found(path.name, header.shape, header.dtype))
            elif path.suffix == ".npz":
                found += _archive(path)
            elif path.suffix == ".csv":
                with path.open(newline="", encoding="utf-8-sig") as file:
                    tables[path.name] = [name.strip() for name in next(csv.reader(file), [])]
        except (UserError, ValueError, OSError, zipfile.BadZipFile):
            unread.append(path.name)
    return found, tables, unread


def _archive(path: Path) -> list[Found]:
    """The arrays of an .npz file from their headers."""
    out = []
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                wide = np.lib.format.read_magic(member)[0] >= 2
                read = np.lib.format.read_array_header_2_0 if wide else np.lib.format.read_array_header_1_0
                shape, _, dtype = read(member)
            out.append(Found(f"{path.name}:{name.removesuffix('.npy')}", shape, dtype))
    return out


def _described(folder: Path, found: list[Found], tables: dict[str, list[str]], unread: list[str]) -> str:
    """The text of a description for the files of a folder."""
    numeric = [f for f in found if f.dtype.kind in "fiub"]
    left = list(numeric)
    responses = _responses(numeric)
    frames = next((f for f in numeric if len(f.shape) == 3 and f is not responses and SCREEN.search(f.stem)), None)
    behavior = [
        f
        for f in numeric
        if f not in (responses, frames) and (len(f.shape) == 1 or (len(f.shape) == 2 and f.shape[1] <= MOST_CHANNELS))
        if (EYE.search(f.stem) or RUNNING.search(f.stem)) and not TIMES.search(f.stem)
    ]
    used = [f for f in (responses, frames) if f is not None] + behavior
    clocks = [f for f in numeric if len(f.shape) == 1 and f not in used and TIMES.search(f.stem)]
    lines = [*_head(folder), "responses:"]
    if responses is None:
        lines += [f"  file: {FILL_IN}  # an array (time, neurons): none of the files here looks like it"]
        lines += [f"  rate: {FILL_IN}  # samples per second"]
    else:
        lines += [f"  file: {json.dumps(responses.reference)}  # {_size(responses)}{_axes(responses)}"]
        lines += _rate(folder, responses, clocks, used)
    n = responses.shape[-1] if responses is not None and len(responses.shape) > 1 else -1
    columns = [f for f in left if f.shape == (n,) and f not in used]
    if columns:
        lines += [
            "",
            "neurons:  # one value per neuron",
            *(f"  {_name(f)}: {json.dumps(f.reference)}" for f in columns),
        ]
        used += columns
    if behavior:
        lines += ["", "behavior:"]
        for f in behavior:
            lines += [f"  {_name(f)}:", f"    file: {json.dumps(f.reference)}  # {_size(f)}"]
            lines += ["  " + line for line in _rate(folder, f, clocks, used)]
            lines += [f"    channels: {_channels(f)}  # pupil_x, pupil_y, pupil_size, running where they fit"]
    table = next((t for t, head in tables.items() if "onset" in head), None)
    trials = next((t for t, head in tables.items() if "start" in head and "end" in head), None)
    lines += [""]
    if table is not None:
        lines += ["stimulus:", f"  table: {table}", "  size: [36, 64]  # height, width of the frames kept, pixels"]
        if "draw" in tables[table]:
            lines += [f"  screen_deg: [{FILL_IN}, {FILL_IN}]  # height, width of the screen in degrees of visual angle"]
    elif frames is not None:
        times = next((f for f in clocks if f.shape[0] == frames.shape[0] and f not in used), None)
        lines += ["stimulus:", f"  frames: {json.dumps(frames.reference)}  # {_size(frames)}, grey levels of 0..255"]
        reference = FILL_IN if times is None else json.dumps(times.reference)
        lines += [f"  times: {reference}  # when each frame came up (s)"]
        used += [] if times is None else [times]
    else:
        lines += ["# stimulus:  # see docs/data.md: a table of stimuli, or frames with time stamps"]
    if trials is not None and trials != table:
        lines += [f"trials: {trials}"]
    elif table is None and frames is not None:
        lines += ["# trials: trials.csv  # columns start, end, tier, stimulus; without it, trials of 10 s are cut"]
    lines += ["", *_tail()]
    listed = {t for t in (table, trials) if t is not None}
    rest = [f"{f.reference} {_size(f)}" for f in found if f not in used]
    rest += [t for t in tables if t not in listed] + [f"{name} (cannot be read)" for name in unread]
    if rest:
        lines += ["", "# Files here that this description does not use:", *(f"#   {name}" for name in rest)]
    return "\n".join(lines) + "\n"


def _responses(found: list[Found]) -> Found | None:
    """The responses: by name, else the widest matrix of floats."""
    shaped = [f for f in found if len(f.shape) in (2, 3) and f.dtype.kind in "fiu"]
    named = [f for f in shaped if RESPONSES.search(f.stem)]
    wide = [f for f in shaped if len(f.shape) == 2 and f.dtype.kind == "f" and min(f.shape) > MOST_CHANNELS]
    return max(named or wide, key=lambda f: int(np.prod(f.shape)), default=None)


def _rate(folder: Path, f: Found, clocks: list[Found], used: list[Found]) -> list[str]:
    """Lines with the rate and start of a stream: from time stamps of its length, if they are even, else marks."""
    if len(f.shape) == 3:
        return [
            f"  rate: {FILL_IN}  # samples per second",
            f"  segments: {{start: {FILL_IN}}}  # when each of the {f.shape[0]} trials began (s): an array, or [..]",
        ]
    for clock in sorted(clocks, key=lambda c: -difflib.SequenceMatcher(None, c.stem, f.stem).ratio()):
        if clock.shape[0] == f.shape[0] and f.shape[0] > 2 and clock.dtype.kind in "fiu":
            path, _, member = clock.reference.partition(":")
            times = np.asarray(load_array(folder.name, folder / path, member or None), np.float64)
            step = (times[-1] - times[0]) / (len(times) - 1)
            even = step > 0 and np.abs(times - times[0] - np.arange(len(times)) * step).max() < 0.5 * step
            if even:
                used.append(clock)
                return [
                    f"  rate: {1 / step:.10g}  # samples per second, from {clock.reference}",
                    f"  start: {times[0]:.10g}  # time of the first sample (s), from {clock.reference}",
                ]
    return [f"  rate: {FILL_IN}  # samples per second", "  start: 0  # time of the first sample (s)"]


def _channels(f: Found) -> str:
    n = 1 if len(f.shape) == 1 else f.shape[1]
    if RUNNING.search(f.stem) and not EYE.search(f.stem) and n == 1:
        return "[running]"
    if EYE.search(f.stem):
        known = {2: "[pupil_x, pupil_y]", 3: "[pupil_x, pupil_y, pupil_size]"}.get(n)
        known = "[pupil_size]" if n == 1 and re.search(r"size|area|diam|radius", f.stem) else known
        known = f"[{f.stem}]" if known is None and n == 1 and re.fullmatch(r"pupil_[xy]", f.stem) else known
        if known is not None:
            return known
    return "[" + ", ".join([FILL_IN] * n) + "]"


def _name(f: Found) -> str:
    return re.sub(r"\W+", "_", f.stem).strip("_") or "column"


def _size(f: Found) -> str:
    return " x ".join(str(n) for n in f.shape) + f" {f.dtype}"


def _axes(f: Found) -> str:
    if len(f.shape) == 2 and f.shape[0] < f.shape[1]:
        return ": looks like (neurons, time), but (time, neurons) is needed: transpose and save it again"
    return ", (trials, time, neurons)" if len(f.shape) == 3 else ", (time, neurons)"


def _head(folder: Path) -> list[str]:
    return [
        "# One recording session as plain arrays. All times are seconds on one clock. All fields: docs/data.md",
        f"# Replace every {FILL_IN}, look over the rest, then:",
        f"#   omnimouse-jax ingest arrays {folder} --check",
        f"#   omnimouse-jax ingest arrays {folder} --store my-store",
        "",
        f"key: {json.dumps(folder.resolve().name)}  # name of the session, unique in the store",
        f"animal: {FILL_IN}  # sessions of one animal share its row in the model",
        "",
    ]


def _tail() -> list[str]:
    return [
        "tiers:  # which trials are kept out of training; leave it out if the table has a column tier",
        "  hold_out_last: 0.2  # the last fifth becomes tier test",
        "  # validation_last: 0.1  # and the tenth before it validation",
    ]


def _example(folder: Path) -> str:
    """A description of everything, for a folder that is still empty."""
    return "\n".join(
        [
            *_head(folder),
            "responses:",
            "  file: responses.npy  # (time, neurons): deconvolved activity, dF/F or spike counts",
            f"  rate: {FILL_IN}  # samples per second",
            "  start: 0  # time of the first sample (s)",
            "  # original_rate: 7.5  # if you resampled them",
            "  # segments: {start: starts.npy, length: lengths.npy}  # instead of start, for a recording with gaps",
            "",
            "# neurons:  # optional, one value per neuron",
            "#   depth: depth.npy",
            "#   area: area.npy",
            "",
            "behavior:  # leave out what you have not recorded",
            "  eye:",
            "    file: eye.npy  # (time, channels), NaN where the eye was not found",
            f"    rate: {FILL_IN}",
            "    start: 0",
            "    channels: [pupil_x, pupil_y, pupil_size]",
            "  wheel:",
            "    file: running.npy  # (time,) or (time, 1)",
            f"    rate: {FILL_IN}",
            "    start: 0",
            "    channels: [running]",
            "",
            "# One row per trial: onset, offset (s) and what was shown: file (a .npy image or clip of grey levels 0..255,",
            "# clip_rate frames per second), or draw = grating with direction, spatial_frequency, temporal_frequency.",
            "stimulus:",
            "  table: stimulus.csv",
            "  size: [36, 64]  # height, width of the frames kept, pixels",
            f"  screen_deg: [{FILL_IN}, {FILL_IN}]  # height, width of the screen in degrees, for gratings",
            "# Or frames with time stamps, and trials as a table with start, end, tier, stimulus:",
            "# stimulus: {frames: frames.npy, times: frame_times.npy}",
            "# trials: trials.csv",
            "",
            *_tail(),
            "",
        ]
    )
