"""Predictions as a zarr3 group that zarr, xarray and TensorStore open: one group per session, written as they come.

FILE.zarr/                       attributes: run, checkpoint, regime, rule, version, ...; sessions: group -> key
    <session>/                   attributes: session, animal, samples and why some were not predicted, ...
        time (time)              seconds on the session's axis; a stretch begins where it jumps
        responses (time, neuron) recording's units, NaN: not predicted
        recorded (time, neuron)  where asked for
        neuron_id (neuron)       as the store has them
        trial, tier, stretch (time)
        behavior_time, behavior, recorded_behavior, behavior_trial, channel   where the regime asks for behaviour
"""

from __future__ import annotations

import datetime
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from omnimouse_jax import __version__
from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.opened import Run
from omnimouse_jax.evaluate.predict import BEHAVIOR, RESPONSES, Job, block_rows
from omnimouse_jax.evaluate.timeline import RULE, Coverage
from omnimouse_jax.evaluate.zarr_group import Hierarchy, whole
from omnimouse_jax.progress import Progress
from omnimouse_jax.recordings.kvstore import Location
from omnimouse_jax.tokens.expression import expression

FORMAT = "omnimouse_jax.predictions"
VERSION = 1
#: Rows of an array without columns that are written at once.
BLOCK = 2**20
RECORDED = {RESPONSES: "recorded", BEHAVIOR: "recorded_behavior"}
UNITS = "as recorded: those of the store's session"


def write(
    run: Run,
    sessions: Sequence[str],
    regime: str,
    out: Location,
    tiers: Sequence[str] = (),
    stride_s: float | None = None,
    recorded: bool = False,
    overwrite: bool = False,
) -> list[str]:
    """Predicts sessions under a regime into `out`; returns what is to be told of each.

    Everything that can be refused is refused before anything is written: UserError. `out` holds all of it or nothing
    (`zarr_group.whole`). Memory is that of a few batches and blocks, however long a recording is.
    """
    if len(set(sessions)) < len(sessions):
        raise UserError("predict: a session is named twice", way_out="name each once")
    jobs = {_group(key): run.job(key, regime, tiers, stride_s=stride_s) for key in sessions}
    about = {
        "format": FORMAT,
        "format_version": VERSION,
        "made_with": f"omnimouse_jax {__version__}",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "run": str(run.folder),
        "checkpoint": run.step,
        "store": run.store.name,
        "regime": regime,
        "regime_expression": expression(next(iter(jobs.values())).regime, run.model.grid),
        "tiers": list(tiers) or "all: the whole recording",
        "windows": RULE,
        "sessions": {group: job.recording.key for group, job in jobs.items()},
    }
    attributes: dict[str, Mapping[str, Any]] = {"": about}
    told = []
    with whole(out, overwrite, lambda found: found.get("format") == FORMAT) as place:
        hierarchy = Hierarchy(place)
        for group, job in jobs.items():
            attributes[group] = _write_session(hierarchy, group, job, run.params, recorded)
            told.append(_told(job))
        hierarchy.close(attributes)
    return told


def _write_session(hierarchy: Hierarchy, group: str, job: Job, params: Any, recorded: bool) -> dict[str, Any]:
    """Arrays of one session; returns its attributes."""
    coordinates: list[str] = []
    writers = {}
    if RESPONSES in job.arrays:
        hierarchy.write(f"{group}/neuron_id", job.neuron_ids, ("neuron",))
        coordinates += ["neuron_id", *_write_times(hierarchy, group, job, RESPONSES, "")]
        writers[RESPONSES] = _arrays(hierarchy, group, job, RESPONSES, ("time", "neuron"), recorded)
    if BEHAVIOR in job.arrays:
        hierarchy.write(f"{group}/channel", np.array(job.channels), ("channel",))
        coordinates += _write_times(hierarchy, group, job, BEHAVIOR, "behavior_")
        writers[BEHAVIOR] = _arrays(hierarchy, group, job, BEHAVIOR, ("behavior_time", "channel"), recorded)
    progress = Progress(len(job.timeline.windows), label=f"predict {job.recording.key} ")
    try:
        for rows in job.stream(params, progress):
            predicted, *others = writers[rows.array]
            predicted(rows.first, rows.values)
            for writer in others:
                writer(rows.first, job.recorded(rows.array, rows.first, rows.first + len(rows.values)))
    finally:
        progress.close()
    return {
        "session": job.recording.key,
        "animal": job.recording.animal,
        "stride_s": job.timeline.stride_s,
        "windows": len(job.timeline.windows),
        "stretches": len(job.timeline.stretches),
        "samples": {name: job.timeline.coverage(asked)._asdict() for name, (asked, _) in job.arrays.items()},
        "coordinates": " ".join(coordinates),  # what xarray is to take for such
    }


def _arrays(
    hierarchy: Hierarchy, group: str, job: Job, name: str, dims: tuple[str, str], recorded: bool
) -> list[Callable[[int, np.ndarray], None]]:
    """What writes blocks of the predictions, and where it is wished of what was recorded."""
    asked, columns = job.arrays[name]
    about: dict[str, Any] = {"units": UNITS, "rate": asked.rate}
    if name == BEHAVIOR:
        recording, channels = job.recording, job.channels
        about |= {"channels": list(channels), "z_score": "(value - mean) / scale"}
        about["mean"] = [recording.behavior_mean[channel] for channel in channels]
        about["scale"] = [recording.behavior_scale[channel] for channel in channels]
    names = [name, *([RECORDED[name]] if recorded else [])]
    shape = (job.n_rows(name), columns)
    return [hierarchy.create(f"{group}/{one}", shape, "float32", dims, block_rows(columns), **about) for one in names]


def _write_times(hierarchy: Hierarchy, group: str, job: Job, name: str, prefix: str) -> list[str]:
    """When each sample is, and in which stretch, trial and tier. Returns the names of the last three."""
    tiers = np.asarray(job.recording.trials.tier, str)
    names, code = np.unique(np.append(tiers, ""), return_inverse=True)  # the last one, -1, is between trials
    flags = {
        "flag_values": list(range(len(names))),
        "flag_meanings": " ".join(str(tier).replace(" ", "_") or "none" for tier in names),
    }
    rate, n = job.arrays[name][0].rate, job.n_rows(name)
    columns: dict[str, tuple[str, Callable[[int, int], np.ndarray], dict[str, Any]]] = {
        "time": ("float64", lambda lo, hi: job.times(name, lo, hi), {"units": "s", "axis": "the session's own"}),
        "stretch": ("int32", lambda lo, hi: job.timeline.stretch_of(rate, lo, hi), {"about": "no gap within one"}),
        "trial": ("int32", lambda lo, hi: job.trials(name, lo, hi), {"about": "row of the session's trials; -1: none"}),
        "tier": ("int8", lambda lo, hi: code[job.trials(name, lo, hi)], flags),
    }
    for array, (dtype, values, about) in columns.items():
        write = hierarchy.create(f"{group}/{prefix}{array}", (n,), dtype, (f"{prefix}time",), BLOCK, **about)
        for lo in range(0, n, BLOCK):
            write(lo, values(lo, min(lo + BLOCK, n)).astype(dtype))
    return [f"{prefix}{array}" for array in columns if array != "time"]


def _told(job: Job) -> str:
    """One line about a session: how much of it was predicted, and why the rest was not."""
    parts = []
    for name, (asked, _) in job.arrays.items():
        found = job.timeline.coverage(asked)
        minutes = found.samples / asked.rate / 60
        few = _of_neurons(job) if name == RESPONSES else ""
        parts.append(
            f"{name}{few}: {found.predicted} of {found.samples} samples ({minutes:.1f} min){_reasons(job, found)}"
        )
    return f"session {job.recording.key}: {'; '.join(parts)}"


def _of_neurons(job: Job) -> str:
    """Where not all of them are asked for."""
    n, asked = job.recording.n_neurons, job.n_asked
    return f" of {asked} of {n} neurons (the regime does not ask for the others: NaN)" if asked < n else ""


def _reasons(job: Job, found: Coverage) -> str:
    n, seconds = len(job.timeline.stretches), job.timeline.layout.grid.seconds
    many = f"{n} stretches" if n > 1 else "the recording" if n else "it"
    told = {
        f"before the first that is asked for, of {many}": found.before,
        f"in stretches shorter than {seconds:g} s": found.short,
        "between windows, by the stride": found.between,
        f"at the end of {many}": found.after,
    }
    reasons = [f"{count} {why}" for why, count in told.items() if count]
    return f"; NaN: {', '.join(reasons)}" if reasons else ""


def _group(key: str) -> str:
    """A session's name in the file."""
    return urllib.parse.quote(key, safe="")
