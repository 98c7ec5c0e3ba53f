"""Reads experanto experiment folders (one per session: screen, responses, eye_tracker, treadmill).

Time rules are the format's own, so that a value read back at any time equals what experanto returns: previous-sample
hold by `floor((t - shift - start) / (1 / rate))`, the last frame that began before t + 0.1 ms. Scales are the format's
stored statistics: a response is divided by its standard deviation, but never by less than 1; behaviour is z-scored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.ingest.files import (
    NpyHeader,
    content_name,
    field,
    load_array,
    load_mapping,
    load_raw,
)
from omnimouse_jax.recordings.lazy import Pieces
from omnimouse_jax.recordings.session import MODALITIES, Recording, Screen, Signal, Trials
from omnimouse_jax.recordings.validate import check_increasing, check_recording, check_responses

#: Channel names of the eye tracker's four signals and of the treadmill's one.
CHANNELS = {
    "eye_tracker": ("pupil_x", "pupil_y", "pupil_size", "pupil_size_derivative"),
    "treadmill": ("running",),
}
#: A response is never divided by less than this.
STD_FLOOR = 1.0


def discover(source: Path) -> list[Path]:
    """Session folders: `source` itself if it has responses, else its sub-folders that do, by name."""
    if (source / "responses").is_dir():
        return [source]
    found = sorted(p for p in source.iterdir() if (p / "responses").is_dir()) if source.is_dir() else []
    if not found:
        raise UserError(
            f"folder {source}: no experanto session (a folder with responses/)", way_out="give one, or a folder of them"
        )
    return found


def read(folder: Path | str, nan_responses: str = "error") -> Iterator[Recording]:
    """The recordings of a session folder or of a folder of them, one at a time, large arrays memory-mapped."""
    for path in discover(Path(folder)):
        yield read_session(path, nan_responses=nan_responses)


def session_key(folder: Path) -> tuple[str, str]:
    """(key, animal) of a session folder: its `data_key`, or its `scan_key`'s numbers, or the folder's name."""
    path = folder / "meta.json"
    meta = load_mapping(folder.name, path) if path.is_file() else {}
    if "data_key" in meta:
        key = str(meta["data_key"])
        animal = re.match(r"(\d+)-\d+-\d+", key)
        return key, animal.group(1) if animal else key
    if "scan_key" in meta:
        scan = meta["scan_key"]
        try:
            return f"{scan['animal_id']}-{scan['session']}-{scan['scan_idx']}", str(scan["animal_id"])
        except (KeyError, TypeError) as error:
            raise UserError(
                f"session {folder.name}: file {path}: scan_key without animal_id, session and scan_idx",
                way_out="complete it or give a data_key",
            ) from error
    animal = re.match(r"(?:dynamic|static)?(\d+)-\d+-\d+", folder.name)
    return folder.name, animal.group(1) if animal else folder.name


def read_session(folder: Path, nan_responses: str = "error") -> Recording:
    """One session folder as a recording. Raises a UserError naming session and file where the folder breaks the format.

    `nan_responses`: "error" refuses NaN in the responses, "mask" takes them for not recorded.
    """
    key, animal = session_key(folder)
    responses, meta, std = _signal(key, folder / "responses", None)
    file = str(folder / "responses" / Path(responses.values.filename).name)
    check_responses(key, file, responses.values, nan_responses)
    behavior: dict[str, Signal] = {}
    mean: dict[str, float] = {}
    scale: dict[str, float] = {}
    devices = {"responses": meta}
    for device, channels in CHANNELS.items():
        if not (folder / device).is_dir():
            continue
        signal, devices[device], deviation = _signal(key, folder / device, channels)
        behavior[device] = signal
        m = _statistics(key, folder / device, "means", signal.n_channels)
        mean.update({c: float(v) for c, v in zip(channels, m, strict=True)})
        scale.update({c: float(v) for c, v in zip(channels, deviation, strict=True)})
        if not np.all(deviation > 0):
            raise UserError(
                f"session {key}: file {folder / device / 'meta' / 'stds.npy'}: a standard deviation is not positive",
                way_out="correct the statistics",
            )
    screen, trials = None, _whole(responses)
    if (folder / "screen").is_dir():
        screen, trials = _screen(key, folder / "screen")
    rec = Recording(
        key=key,
        animal=animal,
        responses=responses,
        trials=trials,
        behavior=behavior,
        screen=screen,
        response_scale=np.where(std < STD_FLOOR, 1.0, std),
        behavior_mean=mean,
        behavior_scale=scale,
        provenance={
            "original_rate": meta.get("original_sampling_rate"),
            "devices": devices,
        },
    )
    check_recording(rec)
    return rec


def source_files(folder: Path) -> list[Path]:
    """The files whose contents make a session, sorted; the trial cache that experanto writes by itself is left out."""
    cache = folder / "screen" / "combined_meta.json"
    made = (folder / "screen" / "meta").is_dir() and any((folder / "screen" / "meta").glob("*.yml"))
    return sorted(p for p in folder.rglob("*") if p.is_file() and not (made and p == cache))


def _signal(key: str, folder: Path, channels: tuple[str, ...] | None) -> tuple[Signal, dict[str, Any], np.ndarray]:
    """A sequence device: its signal, its meta.yml and its stored standard deviations."""
    path = folder / "meta.yml"
    meta = load_mapping(key, path)
    rate, start, end = (field(key, path, meta, name, float) for name in ("sampling_rate", "start_time", "end_time"))
    if not (np.isfinite([rate, start, end]).all() and rate > 0 and end > start):
        raise UserError(
            f"session {key}: file {path}: sampling_rate {rate}, start_time {start}, end_time {end}",
            way_out="give a positive rate and an end after the start, in seconds",
        )
    n = field(key, path, meta, "n_signals", int)
    if (folder / "data.npy").is_file():
        values = load_array(key, folder / "data.npy")
        if values.ndim != 2 or values.shape[1] != n:
            raise UserError(
                f"session {key}: file {folder / 'data.npy'}: shape {values.shape}, but n_signals is {n}",
                way_out="correct meta.yml or the file",
            )
    else:
        length = field(key, path, meta, "n_timestamps", int)
        values = load_raw(key, folder / "data.mem", (length, n), field(key, path, meta, "dtype", str))
    if n == 0:
        raise UserError(f"session {key}: file {path}: n_signals is 0", way_out="leave this session out")
    if channels is not None and len(channels) != n:
        raise UserError(
            f"session {key}: file {path}: {n} signals, expected {', '.join(channels)}", way_out="correct the device"
        )
    shifts = None
    if field(key, path, meta, "phase_shift_per_signal", bool):
        shifts = _numbers(key, folder / "meta" / "phase_shifts.npy", n)
    signal = Signal.continuous(
        values,
        rate,
        start,
        channels=channels,
        phase_shifts=shifts,
        segment_end=np.array([end], np.float64),
        snap=0.0,
    )
    return signal, meta, _statistics(key, folder, "stds", n)


def _statistics(key: str, folder: Path, name: str, n: int) -> np.ndarray:
    return _numbers(key, folder / "meta" / f"{name}.npy", n)


def _numbers(key: str, path: Path, n: int) -> np.ndarray:
    """`n` finite float64 numbers stored as (n,), (1, n) or (n, 1)."""
    values = np.asarray(load_array(key, path), np.float64).ravel()
    if values.shape != (n,) or not np.isfinite(values).all():
        raise UserError(
            f"session {key}: file {path}: {values.size} numbers for {n} signals, or not finite",
            way_out="give one per signal",
        )
    return values


def _trial_metas(key: str, folder: Path) -> Iterator[tuple[str, Path, Mapping[str, Any]]]:
    """(trial key, file, fields) in order, from the YAML files, or from the cache where they are absent."""
    files = sorted(p for p in (folder / "meta").glob("*.yml") if re.fullmatch(r"\d{5}", p.stem))
    if files:
        for path in files:
            yield path.stem, path, load_mapping(key, path)
        return
    path = folder / "combined_meta.json"
    for name, meta in load_mapping(key, path).items():
        yield str(name), path, meta


def _screen(key: str, folder: Path) -> tuple[Screen, Trials]:
    """Frames shown, their times, and the trials. Equal stimulus files share their frames."""
    path = folder / "timestamps.npy"
    times = np.asarray(load_array(key, path), np.float64)
    check_increasing(key, f"file {path}", times)
    frame = np.full(len(times), -1, np.int64)
    grey = np.zeros(len(times), np.float64)
    pool: dict[str, int] = {}
    pieces: list[tuple[int, NpyHeader]] = []
    size: tuple[int, ...] | None = None
    rows: list[tuple[int, str, str, str, bool]] = []
    at = n_pool = 0
    for name, file, meta in _trial_metas(key, folder):
        modality = field(key, file, meta, "modality", str).lower()
        if modality not in MODALITIES:
            raise UserError(
                f"session {key}: file {file}: trial {name}: modality {modality}", way_out=f"use {', '.join(MODALITIES)}"
            )
        n = field(key, file, meta, "num_frames", int) if modality == "video" else 1
        if at + n > len(times):
            raise UserError(
                f"session {key}: file {path}: {len(times)} frame times, but trial {name} needs {at + n}",
                way_out="copy the session again; trials and timestamps must agree",
            )
        shown = tuple(int(s) for s in meta.get("image_size") or ())[:2]
        stimulus = ""
        if modality in ("image", "video"):
            source = NpyHeader(key, folder / "data" / f"{name}.npy")
            shape = source.shape[1:] if modality == "image" and len(source.shape) == 3 else source.shape
            expected = shape if modality == "image" else shape[1:]
            if len(expected) != 2 or (modality == "video" and shape[0] != n):
                raise UserError(
                    f"session {key}: file {source.path}: shape {source.shape} for a {modality} of {n} frames",
                    way_out="give grey frames (frames, height, width); colour is not read",
                )
            shown = tuple(expected)
            stimulus = content_name(source.load())
            if stimulus not in pool:
                pool[stimulus] = n_pool
                pieces.append((n, source))
                n_pool += n
            frame[at : at + n] = pool[stimulus] + np.arange(n)
        else:
            grey[at : at + n] = field(key, file, meta, "interleave_value", float)
        if shown:
            size = size or shown
            if shown != size:
                raise UserError(
                    f"session {key}: file {file}: trial {name} is {shown}, others are {size} (height, width)",
                    way_out="bring all stimuli to one size",
                )
        rows.append((at, str(meta.get("tier") or ""), modality, stimulus, bool(meta.get("valid_trial", True))))
        at += n
    if not rows or size is None:
        raise UserError(f"session {key}: file {folder / 'meta'}: no trials", way_out="copy the session again")
    first = np.array([row[0] for row in rows], np.int64)
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    start = times[first]
    # The format lets the last trial last for ever; here it lasts as long as its last frame.
    end = np.append(start[1:], times[at - 1] + step)
    # A trial without a tier counts as blank in the format, whatever its modality.
    tier = [t or ("" if m == "blank" else "blank") for _, t, m, _, _ in rows]
    trials = Trials(
        start,
        end,
        np.array(tier, str),
        np.array([row[2] for row in rows], str),
        np.array([row[3] for row in rows], str),
        np.array([row[4] for row in rows], bool),
    )
    dtype = np.result_type(*(p.dtype for _, p in pieces)) if pieces else np.dtype(np.uint8)
    dtype = dtype if dtype == np.uint8 else np.dtype(np.float32)
    frames = Pieces([(n, _opener(p, (n, *size))) for n, p in pieces], tuple(size), dtype)
    return Screen(frames, times[:at], frame[:at], grey[:at], float(times[-1])), trials


def _opener(source: NpyHeader, shape: tuple[int, ...]) -> Any:
    return lambda: source.load().reshape(shape)


def _whole(responses: Signal) -> Trials:
    """One untiered trial for a session without a screen."""
    lo, hi = responses.spans()[0]
    one = np.array([""], str)
    return Trials(
        np.array([lo]), np.array([hi]), np.array(["train"], str), np.array(["blank"], str), one, np.array([True])
    )
