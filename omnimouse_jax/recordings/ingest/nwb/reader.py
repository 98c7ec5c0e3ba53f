"""Reads two-photon sessions from NWB 2 files, as on DANDI (Allen Visual Coding, MICrONS and their like).

One .nwb file is one session. What becomes what, and the options: docs/nwb.md. Needs pynwb (the extra `nwb`). Large
arrays stay in the file and are read when sliced.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings import splits
from omnimouse_jax.recordings.ingest.nwb.behavior import read_behavior
from omnimouse_jax.recordings.ingest.nwb.file import Session, opened
from omnimouse_jax.recordings.ingest.nwb.responses import read_responses
from omnimouse_jax.recordings.ingest.nwb.stimuli import Options, read_stimuli
from omnimouse_jax.recordings.session import Recording, Trials
from omnimouse_jax.recordings.validate import check_recording, check_responses

KEYS = ("stem", "identifier", "session_id")
#: Drawn gratings have no more frames per second: no screen shows them.
MOST_FRAMES = 1000


def discover(source: Path) -> list[Path]:
    """The .nwb files at or below `source`, by name. Below a folder, files that hold no traces (raw movies) are left out."""
    if source.is_file() and source.suffix == ".nwb":
        return [source]
    found = sorted(p for p in source.rglob("*.nwb") if p.is_file()) if source.is_dir() else []
    if not found:
        raise UserError(f"{source}: no .nwb file", way_out="give one, or a folder of them (sub-*/*.nwb as on DANDI)")
    return [p for p in found if _may_have_responses(p)] or found


def source_files(session: Path) -> list[Path]:
    """The file itself."""
    return [session]


def read_session(
    session: Path,
    *,
    nan_responses: str = "error",
    key: str = "stem",
    animal: str = "",
    responses: str = "",
    cells: str = "marked",
    timing_tolerance: float = 0.5,
    behavior: str = "all",
    stimuli: str = "all",
    size: tuple[Any, ...] = (36, 64),
    screen_deg: tuple[Any, ...] = (0.0, 0.0),
    drawing_rate: float = 30.0,
    hold_out_last: float = 0.0,
    validation_last: float = 0.0,
    hold_out_stimuli: float = 0.0,
    validation_stimuli: float = 0.0,
) -> Recording:
    """One file as a recording. Raises a UserError naming session, file and field for what cannot be read.

    `key`: "stem" (of the file's name), "identifier" or "session_id" of the file. `animal`: a name for a file without a
    subject. `responses`: series by name, path or container, comma-separated (default: events, else dF/F, else
    fluorescence). `cells`: "marked" leaves out ROIs that the file marks as no cells, "all" keeps them.
    `timing_tolerance`: how far time stamps may stray from an even clock, in sample periods. `behavior`, `stimuli`:
    "all", "none", or names. `size`: (height, width) of the frames kept; `screen_deg`: the screen's in degrees and
    `drawing_rate`, for gratings. `hold_out_last`, `validation_last`: shares of the trials that become test and validation
    trials; `hold_out_stimuli`, `validation_stimuli`: shares of the distinct stimuli, all repeats together.
    """
    for name, value, known in (("key", key, KEYS), ("cells", cells, ("marked", "all"))):
        if value not in known:
            raise UserError(f"format nwb: {name} {value!r}", way_out=f"choose {' or '.join(known)}")
    for name, given, fits, way_out in (
        ("size", size, len(size) == 2 and all(_whole(n) and n >= 1 for n in size), "give (height, width) in pixels"),
        ("screen_deg", screen_deg, all(_number(x) for x in screen_deg), "give (height, width) in degrees"),
        ("timing_tolerance", timing_tolerance, timing_tolerance >= 0, "give sample periods, such as 0.5"),
        (
            "drawing_rate",
            drawing_rate,
            0 < drawing_rate <= MOST_FRAMES,
            f"give frames per second, at most {MOST_FRAMES}",
        ),
    ):
        if not fits:
            raise UserError(f"format nwb: {name} {given!r}", way_out=way_out)
    with contextlib.closing(Session(session, session.stem)) as s:
        with opened(s) as nwb:
            s.key = {"stem": session.stem, "identifier": str(nwb.identifier), "session_id": str(nwb.session_id or "")}[
                key
            ]
            if not s.key.strip():
                raise s.error(f"no {key} in the file", "choose another key (stem, identifier or session_id)")
            signal, neurons, series = read_responses(s, responses, cells, timing_tolerance)
            streams = read_behavior(s, behavior, timing_tolerance)
            screen, trials = read_stimuli(
                s, Options((int(size[0]), int(size[1])), tuple(map(float, screen_deg)), drawing_rate, stimuli)
            )
            invalid = np.zeros((0, 2)) if nwb.invalid_times is None else _spans(nwb.invalid_times)
            subject = None if nwb.subject is None else nwb.subject.subject_id
            where = nwb.session_description
        if trials is None or not np.any(trials.tier == "train"):
            try:
                trials = splits.cut_into_trials(signal)
            except UserError as error:
                raise s.error(error.what, error.way_out) from None
        overlap = splits.overlap_seconds(trials.start, trials.end, splits.merge(invalid))
        trials = dataclasses.replace(trials, valid=trials.valid & ~(overlap > 0))
        check_responses(s.key, f"{session.name}: {', '.join(series)}", signal.values, nan_responses)
        named = re.match(r"sub-([^_]+)", session.name)
        rec = Recording(
            key=s.key,
            animal=animal or str(subject or "") or (named.group(1) if named else s.key),
            responses=signal,
            trials=_tiers(trials, (hold_out_last, validation_last), (hold_out_stimuli, validation_stimuli)),
            behavior=streams,
            screen=screen,
            neurons=neurons,
            provenance={
                "original_rate": signal.rate,
                "responses": series,
                "description": where,
                "notes": list(s.notes),
            },
        )
        check_recording(rec)
    return rec


def _may_have_responses(path: Path) -> bool:
    """Whether a file holds traces of ROIs; a file that cannot be looked into counts, so that reading it says why."""
    try:
        import h5py
    except ImportError:
        return True
    try:
        with h5py.File(path, "r") as file:
            found: list[str] = []

            def look(name: str, item: object) -> None:
                if isinstance(item, h5py.Group) and "rois" in item and "data" in item:
                    found.append(name)

            if "processing" in file:
                file["processing"].visititems(look)
            return bool(found)
    except OSError:
        return True


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _spans(table: object) -> np.ndarray:
    return np.stack([np.asarray(table[name].data[:], np.float64) for name in ("start_time", "stop_time")], axis=1)  # type: ignore[index]


def _tiers(trials: Trials, last: tuple[float, float], stimuli: tuple[float, float]) -> Trials:
    """Trials with (test, validation) shares of tiers by one of two rules: NWB itself has no tiers."""
    if any(last) and any(stimuli):
        raise UserError("format nwb: trials held out by hold_out_last and by stimulus", way_out="choose one rule")
    if any(stimuli):
        return splits.hold_out_stimuli(trials, stimuli[0], "test", stimuli[1])
    return splits.hold_out_last(trials, last[0], "test", last[1])
