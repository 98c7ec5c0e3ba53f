"""The numbers of the page as CSV, and the fits as rows that both the page and the CSV print."""

from __future__ import annotations

import csv
import dataclasses
import io

import numpy as np

from omnimouse_jax.pages.marks import number, plural
from omnimouse_jax.scaling.analysis import Study, Task
from omnimouse_jax.scaling.grid import Gain
from omnimouse_jax.scaling.selection import Selection
from omnimouse_jax.scaling.uncertainty import Bootstrap, Interval
from omnimouse_jax.scaling.words import bracket

#: Candidates in words, as rivals of the curve with a plateau.
PLAIN = {"constant": "constant", "log_linear": "straight line", "score1": "curve", "score_joint": "curve"}


@dataclasses.dataclass(frozen=True)
class FitRow:
    line: str
    form: str
    values: dict[str, float]
    intervals: dict[str, Interval]
    plateau: str
    evidence: str
    flags: tuple[str, ...]
    n: int


def cells_csv(study: Study, task: Task) -> str:
    """One row per cell: score, interval over seeds, number of runs."""
    low, high = task.grid.cell_intervals()
    rows: list[list[object]] = [
        ["task", "metric", "size", "n_params_core", study.data_axis, "score", "low", "high", "interval", "n_runs"]
    ]
    for i, size in enumerate(task.size_names):
        for j, amount in enumerate(task.grid.amounts):
            ends = [_blank(low[i, j]), _blank(high[i, j])]
            kind = f"95% t for these sessions; {task.grid.noise[2]}" if ends[0] != "" else ""
            cell = [_blank(task.grid.mean[i, j]), *ends, kind, int(task.grid.count[i, j])]
            rows.append([task.name, task.metric, size, float(task.grid.sizes[i]), float(amount), *cell])
    return _text(rows)


def gains_csv(study: Study) -> str:
    """Gains of every task: per doubling and from end to end, with both kinds of interval."""
    rows: list[list[object]] = [
        ["task", "gain", "estimate", "these_low", "these_high", "new_low", "new_high", "new_over", "method"]
    ]
    for task in study.tasks:
        named: list[tuple[str, Gain | None]] = [
            ("per doubling of data", task.data_gain),
            ("per doubling of parameters", task.parameter_gain),
            (
                f"{task.amount_names[0]} to {plural(task.amount_names[-1], study.unit)} at the largest size",
                task.data_step,
            ),
            (f"{task.size_names[0]} to {task.size_names[-1]} at the largest amount", task.parameter_step),
        ]
        for name, gain in named:
            if gain is not None:
                over = gain.sessions.over if gain.sessions else ""
                how = "; ".join(i.method for i in (gain.seeds, gain.sessions) if i)
                rows.append([task.name, name, gain.estimate, *_ends(gain.seeds), *_ends(gain.sessions), over, how])
    return _text(rows)


def fits_csv(study: Study) -> str:
    """One row per fitted parameter."""
    rows: list[list[object]] = [
        ["task", "line", "form", "parameter", "estimate", "low", "high", "interval", "n", "flags"]
    ]
    for task in study.tasks:
        for row in fit_rows(task):
            for name, value in row.values.items():
                interval = row.intervals[name]
                ends = [_blank(interval.low), _blank(interval.high)]
                how = f"{interval.method}, {interval.over}"
                rows.append([task.name, row.line, row.form, name, value, *ends, how, row.n, "; ".join(row.flags)])
    return _text(rows)


def worth_csv(study: Study) -> str:
    """The next sessions against the next doubling of parameters, gains and costs; units of data that are worth the doubling."""
    rows: list[list[object]] = [
        [
            *("task", "step", "gain", "these_low", "these_high", "new_low", "new_high", "new_over", "source"),
            *("recorded_hours", "flops", "device_hours"),
        ]
    ]
    for task in study.tasks:
        if task.prospects is None:
            continue
        for option in (task.prospects.data, task.prospects.parameters):
            worth = option.worth
            over = worth.new.over if worth.new is not None else ""
            costs = [
                _blank(v) if v is not None else "" for v in (option.recorded_hours, option.flops, option.device_hours)
            ]
            ends = [*_ends(worth.these), *_ends(worth.new)]
            rows.append([task.name, option.name, worth.estimate, *ends, over, worth.what, *costs])
        exchange, shares = task.prospects.exchange, task.prospects.shares
        told = [(f"{study.unit}s worth a doubling of parameters", exchange)] if exchange is not None else []
        told += [(f"left to gain by {n}", s) for n, s in zip(("parameters", "data"), shares or (), strict=False)]
        for name, found in told:
            rows.append([task.name, name, found.value, *_ends(found.interval), "", "", "", "joint fit", "", "", ""])
    return _text(rows)


def left_out_csv(study: Study) -> str:
    """What rules took out of the fits, and what is only marked."""
    gone = {e.point for e in study.selected.excluded}
    found = [(e, "excluded") for e in study.selected.excluded]
    found += [(e, "marked") for e in study.selected.overfit if e.point not in gone]
    rows: list[list[object]] = [
        ["run_id", "checkpoint_step", "size", study.data_axis, "seed", "what", "rule", "reason"]
    ]
    for e, what in found:
        rows.append([*e.point, e.row["size"], e.row[study.data_axis], e.row["seed"], what, e.rule, e.reason])
    return _text(rows)


def fit_rows(task: Task) -> list[FitRow]:
    """The joint fit first, then one row per line of the two charts."""
    rows = []
    joint = task.joint
    if joint.fit is not None and joint.boot is not None:
        flags = tuple(flag.words for flag in joint.fit.flags)
        rows.append(_row("both axes", joint.fit.form.name, joint.fit.parameters, joint.boot, task.selection, flags))
    for one in task.axis_fits:
        if one.axis == "data":
            line = f"data, at {task.size_names[one.level]}"
        else:
            line = f"parameters, at amount {task.amount_names[one.level]}"
        flags = tuple(flag.words for flag in one.fit.flags)
        rows.append(_row(line, one.fit.form.name, one.fit.parameters, one.boot, one.selection, flags))
    return rows


def _row(
    line: str, form: str, values: dict[str, float], boot: Bootstrap, selection: Selection | None, flags: tuple[str, ...]
) -> FitRow:
    intervals = {name: boot.interval(column) for name, column in boot.named().items()}
    plateau, evidence = "", ""
    if selection is not None:
        plateau = bracket(selection.plateau)
        errors = {c.name: [abs(h.error) for h in c.hold_outs] for c in selection.candidates if c.hold_outs}
        told = [f"{PLAIN[name]} {number(float(np.mean(errors[name])), 4)}" for name in PLAIN if name in errors]
        aicc = f"AICc prefers: {PLAIN[selection.aicc_choice]}" if selection.aicc_choice else "too few points for AICc"
        evidence = "; ".join([", ".join(told), aicc] if told else [aicc])
    return FitRow(line, form, values, intervals, plateau, evidence, flags, boot.fit.n)


def _ends(interval: Interval | None) -> list[object]:
    return [interval.low, interval.high] if interval else ["", ""]


def _blank(value: float) -> float | str:
    return float(value) if np.isfinite(value) else ""


def _text(rows: list[list[object]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()
