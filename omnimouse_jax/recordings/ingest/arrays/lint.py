"""All that is wrong, or looks wrong, with a session of the arrays format, at once, and what a model would see of it.

`ingest` stops at the first mistake; this goes on. Errors are what `ingest` would refuse; warnings are legal but usually
a slip (lint_values.py). When no error is left, the session is read as `ingest` reads it, so that the two agree.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.ingest.arrays import lint_values, reader
from omnimouse_jax.recordings.ingest.arrays.description import Description
from omnimouse_jax.recordings.ingest.arrays.lint_report import (
    Report,
    SessionReport,
    fields_of,
    is_open,
    unknown_fields,
)
from omnimouse_jax.recordings.ingest.arrays.lint_tables import check_stimulus
from omnimouse_jax.recordings.ingest.arrays.marks import FILL_IN, marks
from omnimouse_jax.recordings.ingest.arrays.tables import TABLE_FIELDS
from omnimouse_jax.recordings.session import Recording, Signal


def lint(folder: Path, nan_responses: str = "error") -> Report:
    """Looks at one session folder or a folder of them, as `ingest` with this `nan_responses` would read it. Raises UserError
    only where there is no description at all.
    """
    reports = []
    keys: dict[str, Path] = {}
    for path in reader.discover(folder):
        report, key = _session(path, nan_responses)
        if key in keys:
            report.add("error", "key", f"{key} is also the key of {keys[key]}", "give each session its own key")
        keys.setdefault(key, path)
        reports.append(report)
    if reader.description_file(folder) is None:
        for path in sorted(p for p in folder.iterdir() if p.is_dir() and reader.description_file(p) is None):
            if any(path.glob("*.np[yz]")):
                report = SessionReport(path.name, path)
                report.add("warning", "recording.yml", "none", f"omnimouse-jax ingest arrays {path} --template")
                reports.append(report)
    return Report(tuple(reports))


def _session(folder: Path, nan_responses: str) -> tuple[SessionReport, str]:
    path = reader.description_file(folder)
    assert path is not None
    report = SessionReport(folder.name, path)
    d = report.attempt(path.name, lambda: Description(path, folder.name))
    if d is None:
        return report, folder.name
    report.name = d.key
    _names(report, d)
    for where in marks(d.fields):
        report.add("error", where, f"still {FILL_IN}", "fill it in")
    responses = _responses(report, d, nan_responses)
    streams = _behavior(report, d)
    _neurons(report, d, responses)
    check_stimulus(report, d, responses)
    if not report.count("error"):
        rec = report.attempt("session", lambda: reader.read_session(folder, nan_responses))
        if rec is not None:
            for found in lint_values.session_findings(rec):
                report.add(*found)
            report.summary = lint_values.summary(rec)
            _fine(report, rec)
    elif responses is not None:
        for found in lint_values.duration_findings(responses, streams):
            report.add(*found)
    return report, d.key


def _fine(report: SessionReport, rec: Recording) -> None:
    """Says of each part without a finding that it was looked at."""
    told = {"responses": f"{rec.responses.n_samples} samples of {rec.n_neurons} neurons"}
    told |= {
        f"behavior {name}": f"{s.n_samples} samples of {s.n_channels} channels" for name, s in rec.behavior.items()
    }
    told |= {f"neurons {name}": f"{len(column)} values" for name, column in rec.neurons.items()}
    told["trials"] = f"{len(rec.trials)}, blanks included"
    if rec.screen is not None:
        told["stimulus"] = f"{rec.screen.frames.shape[0]} frames, {len(rec.screen.times)} events"
    for where, what in told.items():
        if not any(f.field == where or f.field.startswith(f"{where} ") for f in report.findings):
            report.add("fine", where, what)


def _names(report: SessionReport, d: Description) -> None:
    """Fields that the format does not have, at every level, and the animal."""
    unknown_fields(report, "description", d.fields, reader.FIELDS)
    unknown_fields(report, "responses", d.fields.get("responses"), reader.SIGNAL_FIELDS)
    for name, stream in fields_of(d.fields.get("behavior")).items():
        unknown_fields(report, f"behavior {name}", stream, reader.SIGNAL_FIELDS)
    stimulus = fields_of(d.fields.get("stimulus"))
    known = TABLE_FIELDS if "table" in stimulus else ("frames", "times", "frame", "end", "grey")
    unknown_fields(report, "stimulus", stimulus, known)
    unknown_fields(
        report,
        "tiers",
        d.fields.get("tiers"),
        reader.TIER_FIELDS,
    )
    report.attempt("animal", lambda: d.text(d.fields, "animal"))


def _stream(
    report: SessionReport, d: Description, where: str, spec: Any, channels: tuple[str, ...] | None
) -> Signal | None:
    """A signal if all of it can be read; what cannot is reported field by field."""
    if not isinstance(spec, dict):
        report.add("error", where, "missing or not a set of fields", "give file and rate")
        return None
    spec = {name: value for name, value in spec.items() if name in reader.SIGNAL_FIELDS}
    before = report.count("error")
    values = None if is_open(spec.get("file")) else report.attempt(where, lambda: d.array(spec.get("file"), where))
    if not is_open(spec.get("rate")):
        report.attempt(f"{where} rate", lambda: d.number(spec, "rate", where))
    if values is None or report.count("error") > before or is_open(spec):
        return None
    return report.attempt(where, lambda: reader.signal_of(d, where, spec, channels))


def _responses(report: SessionReport, d: Description, nan_responses: str) -> Signal | None:
    """The responses, with what their numbers say."""
    spec = d.fields.get("responses")
    signal = _stream(report, d, "responses", spec, None)
    if signal is None:
        values = None
        if isinstance(spec, dict) and isinstance(spec.get("file"), str) and not is_open(spec["file"]):
            try:
                values = d.array(spec["file"], "responses")
            except UserError:
                return None
    else:
        values = signal.values
    if values is not None and values.ndim == 2 and values.dtype.kind in "fiub" and values.size:
        for found in lint_values.response_findings(values, nan_responses):
            report.add(*found)
    return signal


def _behavior(report: SessionReport, d: Description) -> dict[str, Signal]:
    out = {}
    given = d.fields.get("behavior", {})
    if not isinstance(given, dict):
        report.add("error", "behavior", "not a set of streams", "give {stream: {file, rate, channels}}")
        return {}
    for name, spec in given.items():
        where = f"behavior {name}"
        channels = fields_of(spec).get("channels")
        if not isinstance(channels, list) or not all(isinstance(c, str) for c in channels):
            report.add("error", where, "channels missing", "name every column of the file")
            channels = None
        signal = _stream(report, d, where, spec, None if channels is None else tuple(channels))
        if signal is None:
            if channels is not None:
                for found in lint_values.name_findings(where, channels):
                    report.add(*found)
            continue
        if channels is not None and signal.values.ndim == 2 and len(channels) != signal.n_channels:
            report.add(
                "error", where, f"{signal.n_channels} columns but {len(channels)} channel names", "name every column"
            )
            continue
        out[name] = signal
        for found in lint_values.behavior_findings(where, signal):
            report.add(*found)
    return out


def _neurons(report: SessionReport, d: Description, responses: Signal | None) -> None:
    given = d.fields.get("neurons", {})
    if not isinstance(given, dict):
        report.add("error", "neurons", "not a set of columns", "give {column: ARRAY}")
        return
    for name, reference in given.items():
        if is_open(reference):
            continue
        values = report.attempt(f"neurons {name}", functools.partial(d.array, reference, f"neurons {name}"))
        if values is not None and responses is not None and len(values) != responses.n_channels:
            report.add(
                "error",
                f"neurons {name}",
                f"{len(values)} values for {responses.n_channels} neurons",
                "give one per neuron",
            )
