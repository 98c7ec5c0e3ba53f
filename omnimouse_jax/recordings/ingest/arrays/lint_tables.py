"""Stimulus and trials of a session of the arrays format: every column and every file, for the linter."""

from __future__ import annotations

from typing import Any

import numpy as np

from omnimouse_jax.recordings.ingest.arrays import lint_values
from omnimouse_jax.recordings.ingest.arrays.description import Description, is_reference
from omnimouse_jax.recordings.ingest.arrays.lint_report import SessionReport, fields_of, is_open, unknown_fields
from omnimouse_jax.recordings.ingest.arrays.tables import STIMULUS_COLUMNS, TRIAL_COLUMNS, flags, numbers, read_table
from omnimouse_jax.recordings.ingest.files import load_array
from omnimouse_jax.recordings.session import Signal

#: Columns of tables that hold numbers; whatever else is text.
NUMBERS = ("onset", "offset", "start", "end", "clip_rate", "direction", "spatial_frequency", "temporal_frequency",
           "contrast", "phase")  # fmt: skip
#: Trials that last this many times as long as the responses are in milliseconds if, divided by 1000, they fill this
#: share of them.
MILLISECONDS = 50.0
FILLED = (0.1, 1.5)


def check_stimulus(report: SessionReport, d: Description, responses: Signal | None) -> None:
    """Stimulus and trials: every column of a table, every file that it names, and their order."""
    spec, trials = fields_of(d.fields.get("stimulus")), d.fields.get("trials")
    if "table" in spec and trials is not None:
        report.add(
            "error", "trials", "given beside a stimulus table", "put start, end and tier into the stimulus table"
        )
    if "table" in spec:
        _table(report, d, "stimulus table", spec["table"], STIMULUS_COLUMNS, ("onset", "offset"), responses)
    elif trials is not None:
        _table(report, d, "trials", trials, TRIAL_COLUMNS, ("start", "end"), responses)
    if "frames" in spec and not is_open(spec["frames"]):
        frames = report.attempt("stimulus frames", lambda: d.array(spec["frames"], "stimulus frames"))
        if frames is not None:
            for found in lint_values.level_findings("stimulus frames", frames):
                report.add(*found)
    if "frames" in spec and "table" not in spec and not is_open(spec.get("times")):
        where = "stimulus times"
        times = report.attempt(where, lambda: np.asarray(d.array(spec.get("times"), where), np.float64).ravel())
        step = np.diff(np.zeros(0) if times is None else times)
        bad = np.flatnonzero(~(step > 0))
        if len(bad):
            report.add("error", "stimulus times", f"not increasing at entry {int(bad[0]) + 1}", "sort by time")


def _table(
    report: SessionReport,
    d: Description,
    where: str,
    given: Any,
    known: tuple[str, ...],
    needed: tuple[str, str],
    responses: Signal | None,
) -> None:
    if is_open(given):
        return
    table = report.attempt(where, lambda: read_table(d, given, where))
    if table is None:
        return
    unknown_fields(report, where, table.columns, known)
    columns: dict[str, np.ndarray] = {}
    for name in NUMBERS:
        if name in table.columns or name in needed:
            fallback = None if name in needed else np.nan
            values = report.attempt(f"{where} {name}", lambda n=name, f=fallback: numbers(d, table, n, f), table.where)  # type: ignore[misc]
            if values is not None:
                columns[name] = values
    report.attempt(f"{where} valid", lambda: flags(d, table, "valid"), table.where)
    first, last = (columns.get(name) for name in needed)
    if first is not None and last is not None and len(first):
        late = np.flatnonzero(~(last > first))
        if len(late):
            k = int(late[0])
            more = f" (and {len(late) - 1} more)" if len(late) > 1 else ""
            report.add(
                "error",
                where,
                f"row {k} is from {first[k]:g} s to {last[k]:g} s{more}",
                f"give {needed[1]} > {needed[0]}",
            )
        early = np.flatnonzero(first[1:] < last[:-1] - 1e-3)
        if len(early) and not len(late):
            more = f" (and {len(early) - 1} more)" if len(early) > 1 else ""
            report.add(
                "error",
                where,
                f"row {int(early[0]) + 1} begins before row {int(early[0])} has ended{more}",
                "sort the rows",
            )
        if responses is not None:
            _milliseconds(report, where, first, last, responses)
    _files(report, d, where, table.columns.get("file"))


def _milliseconds(report: SessionReport, where: str, first: np.ndarray, last: np.ndarray, responses: Signal) -> None:
    spans = responses.spans()
    recorded, asked = float(spans[-1, 1] - spans[0, 0]), float(last[-1] - first[0])
    if asked > MILLISECONDS * recorded and FILLED[0] * recorded < asked / 1000 < FILLED[1] * recorded:
        report.add(
            "error",
            where,
            f"times from {first[0]:g} to {last[-1]:g}, but {recorded:g} s were recorded: milliseconds?",
            "give seconds: divide by 1000",
        )


def _files(report: SessionReport, d: Description, where: str, files: np.ndarray | None) -> None:
    """Every distinct stimulus file of a table."""
    for name in dict.fromkeys([] if files is None else [str(f) for f in files if str(f)]):
        if not is_reference(name):
            report.add("error", f"{where} file", f"{name} is no .npy file", "save it with numpy.save")
            continue
        frames = report.attempt(f"{where} file", lambda n=name: load_array(d.key, d.path.parent / n))  # type: ignore[misc]
        if frames is None:
            continue
        if frames.ndim not in (2, 3):
            report.add("error", f"{where} file", f"{name} has shape {frames.shape}", "give a grey image or clip")
            continue
        for found in lint_values.level_findings(f"{where} file {name}", frames):
            report.add(*found)
