"""Reads a folder of plain arrays and a small description: what a lab without any pipeline has.

One folder per session with `recording.json` (or .yml, .yaml). An ARRAY is the name of a .npy file (memory-mapped),
`file.npz:name` (one array of an archive), or a list of numbers. Times are seconds on one clock.

    key, animal                      names (key defaults to the folder's)
    responses  {file: ARRAY, rate, start | segments, original_rate}
               file is (time, neurons), or (trials, time, neurons) for a recording cut into trials
               segments {start: ARRAY} or {every: s, first: s}, and for (time, neurons) also {length: ARRAY}: one entry
               per segment
    neurons    {column: ARRAY}       one value per neuron (optional)
    behavior   {stream: {file: ARRAY, rate, start | segments, channels: [names]}}   (optional)
    stimulus   {frames: ARRAY (n, height, width), times: ARRAY, frame: ARRAY of frame numbers (-1: grey), end, grey}
          or   {table, size: [height, width], rate, screen_deg: [height, width], grey, frames: ARRAY}   (optional)
    trials     table                 (optional; with a stimulus table they are one)
    tiers      {hold_out_last: 0.2, tier: test, validation_last: 0.1}, or {hold_out_stimuli: 0.2, validation_stimuli: 0.1}
               (optional)

A table is the name of a .csv file with a header, or {column: ARRAY or one value for all rows}. Columns of a stimulus
table: onset and offset (s); what was shown, one of: frame (number of one of `frames`), file (a .npy image or clip;
clip_rate, frames per second), draw = grating (direction, spatial_frequency in cycles per degree, temporal_frequency in
Hz, contrast, phase), or nothing at all for grey; start and end of the trial (default: onset and offset); tier; valid.
Columns of trials: start, end, tier, stimulus, modality, valid. Full description with an example: docs/data.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.ingest.arrays.description import Description
from omnimouse_jax.recordings.ingest.arrays.marks import FILL_IN, marks
from omnimouse_jax.recordings.ingest.arrays.tables import TABLE_FIELDS, read_table, screen_from_table, trial_columns
from omnimouse_jax.recordings.session import Recording, Screen, Signal, Trials
from omnimouse_jax.recordings.splits import cut_into_trials, hold_out_last, hold_out_stimuli, overlap_seconds
from omnimouse_jax.recordings.validate import check_recording, check_responses

NAMES = ("recording.json", "recording.yml", "recording.yaml")
FIELDS = ("key", "animal", "responses", "neurons", "behavior", "stimulus", "trials", "tiers")
SIGNAL_FIELDS = ("file", "rate", "start", "segments", "original_rate", "channels")
TIER_FIELDS = ("hold_out_last", "tier", "validation_last", "hold_out_stimuli", "validation_stimuli")
#: Share of the trials' time that must have been recorded.
MOSTLY = 0.9


def discover(source: Path) -> list[Path]:
    """Session folders: `source` itself if it holds a recording.json/.yml, else its sub-folders that do, by name."""
    if description_file(source) is not None:
        return [source]
    found = sorted(p for p in source.iterdir() if description_file(p) is not None) if source.is_dir() else []
    if not found:
        raise UserError(
            f"folder {source}: no recording.json, here or one folder down", way_out="write one as docs/data.md shows"
        )
    return found


def description_file(folder: Path) -> Path | None:
    """The session's description, if the folder has one."""
    return next((folder / name for name in NAMES if (folder / name).is_file()), None)


def read(folder: Path | str, nan_responses: str = "error") -> Iterator[Recording]:
    """The recordings of a session folder or of a folder of them, one at a time."""
    for path in discover(Path(folder)):
        yield read_session(path, nan_responses=nan_responses)


def read_session(folder: Path, nan_responses: str = "error") -> Recording:
    """One session folder as a recording; .npy files stay on disk.

    `nan_responses`: "error" refuses NaN in the responses, "mask" takes them for not recorded. Raises a UserError naming
    session, file and field for anything missing, truncated or inconsistent.
    """
    path = description_file(folder)
    if path is None:
        raise UserError(f"folder {folder}: no recording.json", way_out="write one as docs/data.md shows")
    d = Description(path, folder.name)
    d.check("the description", d.fields, FIELDS)
    open_field = next(marks(d.fields), None)
    if open_field is not None:
        raise d.error(f"field {open_field} is still {FILL_IN}", "fill it in")
    key, animal = d.key, d.text(d.fields, "animal")
    spec = d.mapping(d.fields, "responses")
    responses = signal_of(d, "responses", spec, None)
    check_responses(key, str(spec.get("file")), responses.values, nan_responses)
    behavior = {}
    for name, stream in d.mapping(d.fields, "behavior", {}).items():
        if not isinstance(stream, dict):
            raise d.error(f"behavior {name}: not a set of fields", "give file, rate, start and channels")
        channels = stream.get("channels")
        if not isinstance(channels, list) or not all(isinstance(c, str) for c in channels):
            raise d.error(f"behavior {name}: channels missing", "name every column of the file")
        behavior[name] = signal_of(d, f"behavior {name}", stream, tuple(channels))
    screen, trials = _stimulus_and_trials(d, responses)
    trials = _tiers(d, trials)
    original = spec.get("original_rate")
    rec = Recording(
        key=key,
        animal=animal,
        responses=responses,
        trials=trials,
        behavior=behavior,
        screen=screen,
        neurons={name: d.array(ref, f"neurons {name}") for name, ref in d.mapping(d.fields, "neurons", {}).items()},
        provenance={
            "original_rate": None if original is None else float(original),
            "description": d.fields,
        },
    )
    check_recording(rec)
    _check_covered(rec, path)
    return rec


def _check_covered(rec: Recording, path: Path) -> None:
    """Most of what was shown must have been recorded: the usual slips are a wrong rate, milliseconds, and swapped axes."""
    shown = rec.trials.modality != "blank"
    start, end = rec.trials.start[shown], rec.trials.end[shown]
    recorded, asked = float(overlap_seconds(start, end, rec.responses.spans()).sum()), float((end - start).sum())
    if recorded < MOSTLY * asked:
        size = f"{rec.responses.n_samples} samples x {rec.n_neurons} neurons"
        raise UserError(
            f"session {rec.key}: file {path}: responses of {size} end at {float(rec.responses.spans()[-1, 1]):g} s and cover "
            f"{recorded:g} s of {asked:g} s of trials, which end at {float(end[-1]):g} s",
            way_out="check the rate, the unit of the times (seconds) and the order of the axes (time, neurons)",
        )


def source_files(folder: Path) -> list[Path]:
    """All files that the description names, and itself, without reading any large one."""
    path = description_file(folder)
    assert path is not None
    d = Description(path, folder.name)
    return [path, *sorted(d.mentioned())]


def signal_of(d: Description, what: str, spec: Mapping[str, Any], channels: tuple[str, ...] | None) -> Signal:
    """A stream of the description, (trials, time, columns) laid end to end as segments."""
    d.check(what, spec, SIGNAL_FIELDS)
    values = d.array(spec.get("file"), what)
    if values.dtype.kind not in "fiub":
        raise d.error(f"{what}: file {spec['file']} holds {values.dtype}", "give numbers")
    rate = d.number(spec, "rate", what)
    if not (np.isfinite(rate) and rate > 0):
        raise d.error(f"{what}: rate {rate:g}", "give samples per second")
    segments = spec.get("segments")
    if channels is not None and values.ndim == 1:
        values = values[:, None]
    if values.ndim == 3:
        n_trials, n_samples, n_columns = values.shape
        if not isinstance(segments, dict):
            raise d.error(
                f"{what}: file {spec['file']} is cut into {n_trials} trials", "give segments with their starts"
            )
        start = _starts(d, what, segments, n_trials)
        values = values.reshape(n_trials * n_samples, n_columns)
        return Signal(values, rate, start, np.arange(n_trials, dtype=np.int64) * n_samples, channels=channels)
    if values.ndim != 2:
        raise d.error(
            f"{what}: file {spec['file']} has shape {values.shape}", "give (time, columns) or (trials, time, columns)"
        )
    if segments is None:
        start_time = d.number(spec, "start", what, 0.0)
        return Signal.continuous(values, rate, start_time, channels=channels)
    if not isinstance(segments, dict):
        raise d.error(f"{what}: segments are not a set of fields", "give start (and length) of each")
    length = d.numbers(segments.get("length"), f"{what} segments length", int)
    if int(length.sum()) != len(values):
        raise d.error(
            f"{what}: file {spec['file']} has {len(values)} samples, its segments {int(length.sum())}",
            "give the number of samples of each segment",
        )
    start = _starts(d, what, segments, len(length))
    return Signal(values, rate, start, np.append(0, np.cumsum(length)[:-1]).astype(np.int64), channels=channels)


def _starts(d: Description, what: str, segments: Mapping[str, Any], n: int) -> np.ndarray:
    d.check(f"{what} segments", segments, ("start", "length", "every", "first"))
    if "every" in segments:
        first = d.number(segments, "first", f"{what} segments", 0.0)
        return first + np.arange(n) * d.number(segments, "every", f"{what} segments")
    start = d.numbers(segments.get("start"), f"{what} segments start")
    if start.shape != (n,):
        raise d.error(f"{what}: {start.size} segment starts for {n} segments", "give one start per segment")
    return start


def _stimulus_and_trials(d: Description, responses: Signal) -> tuple[Screen | None, Trials]:
    """Screen and trials from a stimulus table, from frames and a table of trials, or from nothing."""
    spec = d.mapping(d.fields, "stimulus", {})
    given = d.fields.get("trials")
    if "table" in spec:
        if given is not None:
            raise d.error("trials given beside a stimulus table", "put start, end and tier into the stimulus table")
        d.check("stimulus", spec, TABLE_FIELDS)
        return screen_from_table(d, spec)
    screen = None
    if spec:
        d.check("stimulus", spec, ("frames", "times", "frame", "end", "grey"))
        screen = _frames(d, spec)
    if given is None:
        return screen, cut_into_trials(responses)
    return screen, trial_columns(d, read_table(d, given, "trials"), "video" if screen is not None else "blank")


def _frames(d: Description, spec: Mapping[str, Any]) -> Screen:
    frames = d.array(spec.get("frames"), "stimulus frames")
    times = d.numbers(spec.get("times"), "stimulus times")
    if frames.ndim != 3:
        raise d.error(
            f"stimulus: file {spec['frames']} has shape {frames.shape}", "give grey frames (n, height, width)"
        )
    number = np.arange(len(frames))
    if "frame" in spec:
        number = d.numbers(spec["frame"], "stimulus frame", int)
    if len(number) != len(times):
        raise d.error(f"stimulus: {len(times)} times for {len(number)} frames", "give one time per frame shown")
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    end = d.number(spec, "end", "stimulus", float(times[-1]) + step if len(times) else 0.0)
    grey = np.full(len(times), d.number(spec, "grey", "stimulus", 128.0))
    return Screen(frames, times, number.astype(np.int64), grey, end)


def _tiers(d: Description, trials: Trials) -> Trials:
    """Applies the rule of the description, on top of the tiers given per trial."""
    rule = d.mapping(d.fields, "tiers", {})
    d.check("tiers", rule, TIER_FIELDS)
    name = str(rule.get("tier", "test"))
    by_stimulus = "hold_out_stimuli" in rule
    if by_stimulus and ("hold_out_last" in rule or "validation_last" in rule):
        raise d.error("tiers: hold_out_stimuli beside hold_out_last", "choose one of the two rules")
    if not by_stimulus and "hold_out_last" not in rule:
        return trials
    fields = ("hold_out_stimuli", "validation_stimuli") if by_stimulus else ("hold_out_last", "validation_last")
    share, validation = (d.number(rule, field, "tiers", 0.0) for field in fields)
    try:
        return (hold_out_stimuli if by_stimulus else hold_out_last)(trials, share, name, validation)
    except UserError as error:
        raise d.error(f"tiers {error.what}", error.way_out) from None
