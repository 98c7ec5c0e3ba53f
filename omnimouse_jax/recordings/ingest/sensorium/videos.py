"""Reads SENSORIUM 2023 sessions (videos): a folder or the zip it came in, one file per trial, time on the last axis.

Files are padded with NaN to the session's longest trial. A field ends at its first NaN in any row, and a trial ends where
the first of its fields does (the official loaders' rule; a NaN in the middle thus cuts it). Trials lie on a made-up clock in
the order of the files, as 30 Hz segments with more than the longest trial between two starts, so no window sees two of
them. Scales come from the official statistics, which have a value for every frame of a trial. docs/sensorium.md says what
was checked and what is guessed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.ingest.files import content_name
from omnimouse_jax.recordings.ingest.sensorium.files import (
    Streams,
    Tree,
    check_counts,
    check_finite,
    find_sessions,
    first_nan,
    is_blank,
    neuron_columns,
    response_scale,
    session_files,
    trial_facts,
    trial_tiers,
    withheld_trials,
)
from omnimouse_jax.recordings.lazy import Pieces
from omnimouse_jax.recordings.session import Recording, Screen, Signal, Trials
from omnimouse_jax.recordings.statistics import frame_hashes
from omnimouse_jax.recordings.validate import check_recording

TIERS = (
    *("train", "oracle", "live_test_main", "live_test_bonus"),
    *("final_test_main", "final_test_bonus", "none"),
)
#: Tiers whose responses the benchmark keeps to itself, in some mice or in all.
KEPT = ("live_test_main", "live_test_bonus", "final_test_main", "final_test_bonus")
CHANNELS = {"behavior": ("pupil_size", "running"), "pupil_center": ("pupil_x", "pupil_y")}
RATE = 30.0


class Clip(NamedTuple):
    """What one file of videos shows up to its first NaN. `whole`: its grey levels are whole numbers of 0..255."""

    file: str
    hashes: tuple[bytes, ...]
    name: str
    whole: bool


def discover(source: Path) -> list[Path]:
    """Session folders and zips (dynamic*.zip) at or in `source`; a zip goes before the folder unpacked from it."""
    return find_sessions(source, 2023, "dynamic", "videos")


def source_files(session: Path) -> list[Path]:
    """The zip, or the arrays of the folder."""
    return session_files(session)


def read_session(session: Path, *, nan_responses: str = "error") -> Recording:
    """One session; videos and responses are read when sliced.

    NaN is how this format says that a trial is over, so `nan_responses` changes nothing. Raises UserError naming session, file
    and way out.
    """
    if nan_responses not in ("error", "mask"):
        raise UserError(f"nan_responses {nan_responses}", way_out="choose error or mask")
    tree = Tree(session)
    tiers = trial_tiers(tree, TIERS)
    n = len(tiers)
    fields = [name for name in CHANNELS if tree.count(f"data/{name}")]
    check_counts(tree, ["videos", "responses", *fields], n)
    neurons = neuron_columns(tree)
    n_neurons = len(neurons["unit_id"])
    n_frames = tree.numbers("data/responses/0.npy", (n_neurons, None)).shape[1]
    start = np.arange(n) * float(math.ceil(n_frames / RATE) + 1)
    std = _statistic(tree, "responses", "std", (n_neurons,), n_frames)

    responses, length, withheld = _responses(tree, tiers, n_neurons, n_frames)
    ends = [length]
    statistics = {"responses/std": std}
    streams = Streams()
    for name in fields:
        channels = CHANNELS[name]
        values, length = _behavior(tree, name, n, len(channels), n_frames)
        mean, deviation = (_statistic(tree, name, what, (len(channels),), n_frames) for what in ("mean", "std"))
        streams.add(
            name, channels, values, mean, deviation, partial(_signal, length=length, start=start, channels=channels)
        )
        ends.append(length)

    clips, size = _clips(tree, n, n_frames)
    ends.append(np.array([len(clip.hashes) for clip in clips], np.int64))
    found = [_statistic(tree, "videos", what, size, n_frames) for what in ("mean", "std")]
    statistics |= {"videos/mean": found[0], "videos/std": found[1]}
    screen, stimulus = _screen(tree, clips, size, start, float(np.nanmean(found[0])))
    usable = np.min(ends, axis=0)
    rec = Recording(
        key=tree.key,
        animal=tree.animal,
        responses=_signal(responses, ends[0], start, None),
        trials=Trials(
            start,
            start + np.maximum(usable, 1) / RATE,
            tiers,
            np.full(n, "video"),
            np.array(stimulus, str),
            usable > 0,
            withheld,
        ),
        behavior=streams.signals,
        screen=screen,
        neurons=neurons,
        response_scale=response_scale(tree, std),
        behavior_mean=streams.mean,
        behavior_scale=streams.scale,
        provenance={
            "original_rate": None,
            "benchmark": "sensorium2023",
            "name": tree.name,
            "trials": trial_facts(tree, n),
            "absent": streams.absent,
        },
        extras=statistics | streams.statistics,
    )
    check_recording(rec)
    return rec


def _statistic(
    tree: Tree, field: str, what: str, rows: tuple[int, ...], n_frames: int
) -> Float[np.ndarray, "*rows frames_or_1"]:
    """An official statistic with time as its last axis, of length 1 where the source has one for the whole trial."""
    name = f"meta/statistics/{field}/all/{what}.npy"
    found = tree.load(name)
    if found.shape == rows:
        found = found[..., None]
    if found.dtype.kind not in "fiu" or found.shape[:-1] != rows or found.shape[-1] not in (1, n_frames):
        raise tree.error(name, f"{found.dtype} of shape {found.shape}, expected {(*rows, n_frames)}", "get it again")
    return found if found.dtype.kind == "f" else found.astype(np.float64)


def _signal(
    values: Any,
    length: Int[np.ndarray, " trials"],
    start: Float[np.ndarray, " trials"],
    channels: tuple[str, ...] | None,
) -> Signal:
    """One segment per trial; a trial without a single frame has one missing sample."""
    first = np.append(0, np.cumsum(np.maximum(length, 1))[:-1]).astype(np.int64)
    return Signal(values, RATE, start, first, channels=channels)


def _responses(
    tree: Tree, tiers: Shaped[np.ndarray, " trials"], n_neurons: int, n_frames: int
) -> tuple[Pieces, Int[np.ndarray, " trials"], Bool[np.ndarray, " trials"]]:
    """Responses trial after trial, read when sliced; the trials' lengths in frames, and which are withheld.

    Responses that were blanked with NaN say nothing of their trial's length: its other fields do.
    """
    n = len(tiers)
    length, blank = np.zeros(n, np.int64), np.zeros(n, bool)
    dtypes = set()
    for i in range(n):
        name = f"data/responses/{i}.npy"
        values = tree.numbers(name, (n_neurons, n_frames))
        check_finite(tree, name, values)
        length[i] = first_nan(values)
        blank[i] = is_blank(values)
        if tiers[i] in KEPT and np.isnan(values).all():
            length[i] = n_frames
        dtypes.add(values.dtype)
    dtype = np.result_type(*dtypes)
    withheld = withheld_trials(tree, tiers, blank, KEPT)

    def opener(i: int) -> Callable[[], np.ndarray]:
        def rows() -> np.ndarray:
            if withheld[i] or length[i] == 0:
                return np.full((max(int(length[i]), 1), n_neurons), np.nan, dtype)
            return tree.load(f"data/responses/{i}.npy").T[: length[i]]

        return rows

    pieces = [(max(int(length[i]), 1), opener(i)) for i in range(n)]
    return Pieces(pieces, (n_neurons,), dtype), length, withheld


def _behavior(
    tree: Tree, field: str, n: int, n_channels: int, n_frames: int
) -> tuple[Float[np.ndarray, "time channels"], Int[np.ndarray, " trials"]]:
    """Samples of all trials one after another, and the trials' lengths in frames."""
    parts, length = [], np.zeros(n, np.int64)
    for i in range(n):
        name = f"data/{field}/{i}.npy"
        values = tree.numbers(name, (n_channels, n_frames))
        check_finite(tree, name, values)
        length[i] = first_nan(values)
        parts.append(values.T[: length[i]] if length[i] else np.full((1, n_channels), np.nan, values.dtype))
    return np.concatenate(parts), length


def _clips(tree: Tree, n: int, n_frames: int) -> tuple[list[Clip], tuple[int, int]]:
    """What every trial's file shows, and the frames' (height, width)."""
    clips: list[Clip] = []
    size: tuple[int, int] | None = None
    for i in range(n):
        file = f"data/videos/{i}.npy"
        video = tree.numbers(file, (None, None, n_frames))
        check_finite(tree, file, video)
        found = (video.shape[0], video.shape[1])
        size = size or found
        if found != size:
            raise tree.error(file, f"frames of {found}, those before it {size}", "get the session again")
        frames = np.moveaxis(video, -1, 0)[: first_nan(video)]
        whole = bool(np.all((frames >= 0) & (frames <= 255) & (frames == np.rint(frames))))
        levels = np.ascontiguousarray(frames, np.uint8 if whole else np.float32)
        clips.append(Clip(file, tuple(frame_hashes(levels)), content_name(levels), whole))
    assert size is not None
    return clips, size


def _screen(
    tree: Tree, clips: list[Clip], size: tuple[int, int], start: Float[np.ndarray, " trials"], grey: float
) -> tuple[Screen, list[str]]:
    """Frames shown and when, grey between trials, and a name for what each trial showed.

    A clip that is the beginning of a longer one (a repeat of which fewer frames were kept) shares that one's frames and name.
    """
    shown: dict[bytes, list[tuple[Clip, int]]] = {}
    group: list[tuple[str, int]] = [("", 0)] * len(clips)
    pieces: list[tuple[int, Callable[[], np.ndarray]]] = []
    at = 0

    def opener(clip: Clip) -> Callable[[], np.ndarray]:
        return lambda: np.moveaxis(tree.load(clip.file), -1, 0)[: len(clip.hashes)]

    for k in sorted(range(len(clips)), key=lambda k: -len(clips[k].hashes)):
        clip = clips[k]
        if not clip.hashes:
            continue
        alike = shown.setdefault(clip.hashes[0], [])
        for longer, first in alike:
            if longer.hashes[: len(clip.hashes)] == clip.hashes:
                group[k] = (longer.name, first)
                break
        else:
            alike.append((clip, at))
            pieces.append((len(clip.hashes), opener(clip)))
            group[k] = (clip.name, at)
            at += len(clip.hashes)
    times, frame = [], []
    for clip, (_, first), begin in zip(clips, group, start, strict=True):
        n = len(clip.hashes)
        times.append(begin + np.arange(n + 1) / RATE)
        frame.append(np.append(first + np.arange(n), -1))
    dtype = np.dtype(np.uint8 if all(clip.whole for clip in clips) else np.float32)
    clock = np.concatenate(times)
    screen = Screen(
        Pieces(pieces, size, dtype),
        clock,
        np.concatenate(frame).astype(np.int64),
        np.full(len(clock), grey),
        float(clock[-1]),
    )
    return screen, [name for name, _ in group]
