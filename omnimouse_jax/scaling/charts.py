"""What each figure shows, before anybody draws it: the page's SVG and matplotlib's files render the same charts."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from omnimouse_jax.pages.marks import nice_ticks, number, plural
from omnimouse_jax.scaling.analysis import DATA_AXES, METRICS, AxisFit, Study, Task, human
from omnimouse_jax.scaling.forms import Array
from omnimouse_jax.scaling.uncertainty import Interval

BEYOND = 4.0  # curves stop at this multiple of the largest x


@dataclasses.dataclass(frozen=True)
class Mark:
    """A point with what it says when pointed at. `kind`: "run" (one seed) or "mean"."""

    x: float
    y: float
    tip: str
    kind: str


@dataclasses.dataclass(frozen=True)
class Line:
    """`style`: "mean" joins cell means, "fit" is inside the data, "beyond" outside, "straight" the log-linear rival."""

    x: Array
    y: Array
    style: str


@dataclasses.dataclass(frozen=True)
class Band:
    x: Array
    low: Array
    high: Array
    inside: bool


@dataclasses.dataclass(frozen=True)
class Series:
    """One legend entry. `hue` "size" or "data" and `rank` of `ranks` pick the colour; rank picks the marker."""

    name: str
    hue: str
    rank: int
    ranks: int
    marks: tuple[Mark, ...]
    lines: tuple[Line, ...]
    bands: tuple[Band, ...]


@dataclasses.dataclass(frozen=True)
class Chart:
    key: str
    title: str
    x_name: str
    y_name: str
    x_range: tuple[float, float]  # logarithmic
    y_range: tuple[float, float]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[float, ...]
    series: tuple[Series, ...]
    rules: tuple[tuple[float, str], ...]  # horizontal lines with a name
    caption: str
    data_end: float  # largest x with data


@dataclasses.dataclass(frozen=True)
class ForestRow:
    """Gain per doubling of data or of parameters in one task."""

    task: str
    what: str
    estimate: float
    seeds: Interval | None
    sessions: Interval | None


def curve_charts(study: Study, task: Task) -> tuple[Chart, Chart]:
    """Score against data for each size, and against size for each amount of data, on one scale of scores."""
    pair = tuple(_curve_chart(study, task, axis) for axis in ("data", "parameters"))
    y_range, y_ticks, rules = _y_axis([s for chart in pair for s in chart.series], pair[0].rules)
    first, second = (dataclasses.replace(c, y_range=y_range, y_ticks=y_ticks, rules=rules) for c in pair)
    return first, second


def _curve_chart(study: Study, task: Task, axis: str) -> Chart:
    grid = task.grid
    by_data = axis == "data"
    x_levels, others = (grid.amounts, grid.sizes) if by_data else (grid.sizes, grid.amounts)
    names = task.size_names if by_data else tuple(plural(a, study.unit) for a in task.amount_names)
    low, high = grid.cell_intervals()
    series: list[Series] = []
    has_curve = False
    for level in range(len(others)):
        across = (level, slice(None)) if by_data else (slice(None), level)
        mean, count, below, above = grid.mean[across], grid.count[across], low[across], high[across]
        marks = [
            Mark(
                float(x_levels[grid.cell[i, 1 if by_data else 0]]),
                float(grid.score[i]),
                _run_tip(task, int(i), study),
                "run",
            )
            for i in np.flatnonzero(grid.cell[:, 0 if by_data else 1] == level)
        ]
        seen = np.flatnonzero(count > 0)
        x = x_levels[seen]
        for k in seen:
            where = plural(task.amount_names[k], study.unit) if by_data else task.size_names[k]
            interval = f" [{number(below[k])}, {number(above[k])}]" if np.isfinite(below[k]) else ""
            tip = f"{names[level]}, {where}: {number(mean[k])}{interval}, mean of {plural(int(count[k]), 'run')}"
            marks.append(Mark(float(x_levels[k]), float(mean[k]), tip, "mean"))
        lines, bands = _curves(task, axis, level, x_levels)
        if lines:
            has_curve = True
        else:
            lines = [Line(x, mean[seen], "mean")] if len(x) > 1 else []
            if len(x) > 1 and np.isfinite(below[seen]).all():
                bands = [Band(x, below[seen], above[seen], True)]
        series.append(
            Series(
                names[level],
                "size" if by_data else "data",
                level,
                len(others),
                tuple(marks),
                tuple(lines),
                tuple(bands),
            )
        )
    end = float(x_levels[-1])
    rules: tuple[tuple[float, str], ...] = ()
    if task.ceiling is not None:
        rules = ((task.ceiling, f"ceiling {number(task.ceiling)}"),)
    right = end * BEYOND if has_curve else end
    left = float(x_levels[0])
    pad = max(math.log(right / left) * 0.05, 0.08)
    return Chart(
        key=f"{task.key}-{axis}",
        title=f"{task.name}: score against {'data' if by_data else 'model size'}",
        x_name=DATA_AXES[study.data_axis][1] if by_data else "core parameters",
        y_name=METRICS[task.metric],
        x_range=(left * math.exp(-pad), right * math.exp(pad)),
        y_range=(0.0, 1.0),
        x_ticks=_x_ticks(x_levels, right),
        y_ticks=(),
        series=tuple(series),
        rules=rules,
        caption=_caption(task, axis, has_curve),
        data_end=end,
    )


def session_charts(study: Study, task: Task) -> tuple[Chart, ...]:
    """Score against data in each evaluation session, means over seeds, all on one scale."""
    grid = task.grid
    pieces = []
    for j, session in enumerate(task.sessions):
        series = []
        for i, size in enumerate(task.size_names):
            x, y, marks = [], [], []
            for k, amount in enumerate(grid.amounts):
                chosen = (grid.cell[:, 0] == i) & (grid.cell[:, 1] == k)
                if chosen.any():
                    value = float(grid.by_session[chosen, j].mean())
                    x.append(amount)
                    y.append(value)
                    where = plural(task.amount_names[k], study.unit)
                    tip = f"{session}: {size}, {where}: {number(value)}, mean of {plural(int(chosen.sum()), 'run')}"
                    marks.append(Mark(float(amount), value, tip, "mean"))
            line = (Line(np.array(x), np.array(y), "mean"),) if len(x) > 1 else ()
            series.append(Series(size, "size", i, len(task.size_names), tuple(marks), line, ()))
        pieces.append((session, task.grid.animals[j], series))
    y_range, y_ticks, _ = _y_axis([s for _, _, series in pieces for s in series], (), ticks=3)
    left, right = float(grid.amounts[0]), float(grid.amounts[-1])
    pad = max(math.log(right / left) * 0.08, 0.1)
    ends = (
        ((left, task.amount_names[0]), (right, task.amount_names[-1]))
        if right > left
        else ((left, task.amount_names[0]),)
    )
    return tuple(
        Chart(
            key=f"{task.key}-session-{j}",
            title=session if animal == session else f"{session} ({animal})",
            x_name=DATA_AXES[study.data_axis][1],
            y_name=METRICS[task.metric],
            x_range=(left * math.exp(-pad), right * math.exp(pad)),
            y_range=y_range,
            x_ticks=ends,
            y_ticks=y_ticks,
            series=tuple(series),
            rules=(),
            caption="",
            data_end=right,
        )
        for j, (session, animal, series) in enumerate(pieces)
    )


def forest_rows(study: Study) -> tuple[ForestRow, ...]:
    rows = []
    for task in study.tasks:
        for what, gain in (("data", task.data_gain), ("parameters", task.parameter_gain)):
            if gain is not None:
                rows.append(ForestRow(task.name, what, gain.estimate, gain.seeds, gain.sessions))
    return tuple(rows)


def _curves(task: Task, axis: str, level: int, x_levels: Array) -> tuple[list[Line], list[Band]]:
    """Fitted curve of one series: of the joint form where it was fitted, else of this line's own fit."""
    joint = task.joint
    single = _axis_fit(task, axis, level)
    if (joint.fit is None or joint.boot is None) and single is None:
        return [], []
    lines, bands = [], []
    other = (task.grid.sizes if axis == "data" else task.grid.amounts)[level]
    inside = np.geomspace(x_levels[0], x_levels[-1], 40)
    outside = np.geomspace(x_levels[-1], BEYOND * x_levels[-1], 24)
    for x, style in ((inside, "fit"), (outside, "beyond")):
        if joint.fit is not None and joint.boot is not None:
            pair = [np.full_like(x, other), x] if axis == "data" else [x, np.full_like(x, other)]
            point = np.stack(pair, 1)
            y, (low, high) = joint.fit.predict(point), joint.boot.band(point)
        elif single is not None:
            y, (low, high) = single.fit.predict(x[:, None]), single.boot.band(x[:, None])
        lines.append(Line(x, y, style))
        bands.append(Band(x, low, high, style == "fit"))
    top = len(task.grid.sizes if axis == "data" else task.grid.amounts) - 1
    if single is not None and level == top:
        x = np.concatenate([inside, outside[1:]])
        lines.append(Line(x, single.line.predict(x[:, None]), "straight"))
    return lines, bands


def _axis_fit(task: Task, axis: str, level: int) -> AxisFit | None:
    return next((a for a in task.axis_fits if a.axis == axis and a.level == level), None)


def _run_tip(task: Task, i: int, study: Study) -> str:
    size, amount = task.grid.cell[i]
    where = f"{task.size_names[size]}, {plural(task.amount_names[amount], study.unit)}"
    return f"{where}: {number(float(task.grid.score[i]))}, seed {task.seeds[i]}, run {task.run_ids[i]}"


def _caption(task: Task, axis: str, has_curve: bool) -> str:
    _, freedom, source = task.grid.noise
    points = "Small open marks: single runs (seeds). " if task.grid.seed_noise[1] else ""
    if not has_curve:
        band = (
            f"Band: 95 % interval of the cell mean for these sessions ({source}, {freedom} df). "
            if freedom
            else "No band: the noise of runs is not known. "
        )
        return f"Filled marks and line: means. {points}{band}No curve: see the verdict above."
    joint = task.joint.fit is not None
    unit = "cells" if joint else "runs"
    source = "the joint fit of both axes" if joint else "a fit of each line"
    rival = any(a.axis == axis for a in task.axis_fits)
    return (
        f"Filled marks: means. {points}Curve: {source}, solid inside the data, dashed beyond, ends at "
        f"{BEYOND:g} times the largest value. Band: 95 % by bootstrap over {unit}, for these sessions."
        + (" Dotted: a straight line in log x through the top series, the rival without a plateau." if rival else "")
    )


def _x_ticks(levels: Array, right: float) -> tuple[tuple[float, str], ...]:
    values = [float(v) for v in levels]
    if right > values[-1]:
        values.append(right)
    span = math.log(values[-1] / values[0]) or 1.0
    kept: list[float] = []
    for value in reversed(values):  # the largest matter most
        if not kept or math.log(kept[-1] / value) / span > 0.075:
            kept.append(value)
    return tuple((v, human(v)) for v in reversed(kept))


def _y_axis(
    series: list[Series], rules: tuple[tuple[float, str], ...], ticks: int = 6
) -> tuple[tuple[float, float], tuple[float, ...], tuple[tuple[float, str], ...]]:
    values = [m.y for s in series for m in s.marks]
    for s in series:
        for band in s.bands:
            values += [float(band.low.min()), float(band.high.max())] if band.inside else []
        for line in s.lines:
            values += [float(line.y.min()), float(line.y.max())] if line.style in ("fit", "beyond") else []
    low, high = min(values), max(values)
    if high - low < 1e-3:
        low, high = low - 5e-4, high + 5e-4
    near = tuple(r for r in rules if low < r[0] < high + 0.6 * (high - low))
    high = max([high, *(r[0] for r in near)])
    room = 0.06 * (high - low)
    y_range = (low - room, high + room)
    return y_range, nice_ticks(*y_range, count=ticks), near
