"""Score against data for each size, against size for each amount, and the same in every session and animal."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from omnimouse_jax.pages.marks import number, plural
from omnimouse_jax.scaling.analysis import AxisFit, Study, Task
from omnimouse_jax.scaling.analysis_axes import DATA_AXES
from omnimouse_jax.scaling.charts import (
    BEYOND,
    Band,
    Chart,
    Line,
    Mark,
    Series,
    finite_range,
    level_ticks,
    linear,
    padded,
)
from omnimouse_jax.scaling.forms import Array
from omnimouse_jax.scaling.ledger import Row
from omnimouse_jax.scaling.words_stated import decimals, resolution


def curve_charts(study: Study, task: Task) -> tuple[Chart, Chart]:
    """Score against data for each size, and against size for each amount of data, on one scale of scores."""
    pair = tuple(_curve_chart(study, task, axis) for axis in ("data", "parameters"))
    low, high = finite_range(s for chart in pair for s in chart.series)
    near = tuple(rule for rule in pair[0].rules if low < rule[0] < high + 0.6 * (high - low))
    y_range, y_ticks = linear(low, max([high, *(rule[0] for rule in near)]))
    first, second = (dataclasses.replace(c, y_range=y_range, y_ticks=y_ticks, rules=near) for c in pair)
    return first, second


def _curve_chart(study: Study, task: Task, axis: str) -> Chart:
    grid = task.grid
    by_data = axis == "data"
    x_levels, others = (grid.amounts, grid.sizes) if by_data else (grid.sizes, grid.amounts)
    names = task.size_names if by_data else tuple(plural(a, study.unit) for a in task.amount_names)
    series = [_series(study, task, axis, level, names[level]) for level in range(len(others))]
    has_curve = any(line.style == "fit" for s in series for line in s.lines)
    left, end = float(x_levels[0]), float(x_levels[-1])
    right = end * BEYOND if has_curve else end
    return Chart(
        key=f"{task.key}-{axis}",
        title=f"{task.name}: score against {'data' if by_data else 'model size'}",
        x_name=DATA_AXES[study.data_axis][1]
        if by_data
        else "parameters as stated"
        if task.stated
        else "core parameters",
        y_name=task.noun,
        x_range=padded(left, right),
        y_range=(0.0, 1.0),
        x_ticks=level_ticks(x_levels, right=right),
        y_ticks=(),
        series=tuple(series),
        rules=((task.ceiling, f"ceiling {number(task.ceiling)}"),) if task.ceiling is not None else (),
        caption=_caption(task, axis, has_curve),
        data_end=end if has_curve else None,
    )


def _series(study: Study, task: Task, axis: str, level: int, name: str) -> Series:
    """One line of a curve chart: its runs, means, curve and band."""
    grid = task.grid
    by_data = axis == "data"
    x_levels = grid.amounts if by_data else grid.sizes
    low, high = grid.cell_intervals()
    across = (level, slice(None)) if by_data else (slice(None), level)
    mean, count, below, above = grid.mean[across], grid.count[across], low[across], high[across]
    marks = []
    for i in np.flatnonzero(grid.cell[:, 0 if by_data else 1] == level) if not task.stated else ():
        x = float(x_levels[grid.cell[i, 1 if by_data else 0]])
        marks.append(Mark(x, float(grid.score[i]), run_tip(study, task, int(i), float(grid.score[i])), "run"))
    seen = np.flatnonzero(count > 0)
    for k in seen:
        where = plural(task.amount_names[k], study.unit) if by_data else task.size_names[k]
        interval = f" [{number(below[k])}, {number(above[k])}]" if np.isfinite(below[k]) else ""
        tip = f"{name}, {where}: {number(mean[k])}{interval}, mean of {plural(int(count[k]), 'run')}"
        if task.stated:
            mine = grid.cell[:, 0 if by_data else 1] == level
            rows = np.flatnonzero(mine & (grid.cell[:, 1 if by_data else 0] == k))
            tip = "; ".join(
                [
                    f"{name}, {where}: {number(mean[k], decimals(resolution(study)))}",
                    *(_origin(task.runs[i]) for i in rows),
                ]
            )
        marks.append(Mark(float(x_levels[k]), float(mean[k]), tip, "mean"))
    lines, bands = _curves(task, axis, level, x_levels)
    if not lines and len(seen) > 1:
        x_seen = x_levels[seen]
        lines = [Line(x_seen, mean[seen], "mean")]
        if np.isfinite(below[seen]).all():
            bands = [Band(x_seen, below[seen], above[seen], True)]
    ranks = len(grid.sizes if by_data else grid.amounts)
    return Series(name, "size" if by_data else "data", level, ranks, tuple(marks), tuple(lines), tuple(bands))


def session_charts(study: Study, task: Task) -> tuple[Chart, ...]:
    """Score against data in each evaluation session, on one scale."""
    names = [s if a == s else f"{s} ({a})" for s, a in zip(task.sessions, task.grid.animals, strict=True)]
    return _multiples(study, task, names, task.grid.by_session, "session")


def animal_charts(study: Study, task: Task) -> tuple[Chart, ...]:
    """The same for each animal, mean over its sessions; empty where every session is an animal of its own."""
    grid = task.grid
    animals = sorted(set(grid.animals))
    if len(animals) == len(grid.animals):
        return ()
    columns = [grid.by_session[:, [a == name for a in grid.animals]].mean(axis=1) for name in animals]
    counts = [grid.animals.count(name) for name in animals]
    names = [f"{name}, mean of {plural(n, 'session')}" for name, n in zip(animals, counts, strict=True)]
    return _multiples(study, task, names, np.stack(columns, 1), "animal")


def _multiples(study: Study, task: Task, names: Sequence[str], values: Array, kind: str) -> tuple[Chart, ...]:
    """One small chart per column of `values` (runs, columns)."""
    grid = task.grid
    pieces = []
    for name, column in zip(names, values.T, strict=True):
        series = []
        for i, size in enumerate(task.size_names):
            x, y, marks = [], [], []
            for k, amount in enumerate(grid.amounts):
                chosen = np.flatnonzero((grid.cell[:, 0] == i) & (grid.cell[:, 1] == k))
                if len(chosen):
                    x.append(float(amount))
                    y.append(float(column[chosen].mean()))
                    if len(chosen) > 1:
                        marks += [
                            Mark(
                                x[-1],
                                float(column[r]),
                                f"{name}: {run_tip(study, task, int(r), float(column[r]))}",
                                "run",
                            )
                            for r in chosen
                        ]
                    where = plural(task.amount_names[k], study.unit)
                    tip = f"{name}: {size}, {where}: {number(y[-1])}, mean of {plural(len(chosen), 'run')}"
                    marks.append(Mark(x[-1], y[-1], tip, "mean"))
            line = (Line(np.array(x), np.array(y), "mean"),) if len(x) > 1 else ()
            series.append(Series(size, "size", i, len(task.size_names), tuple(marks), line))
        pieces.append(tuple(series))
    y_range, y_ticks = linear(*finite_range(s for series in pieces for s in series), ticks=3)
    left, right = float(grid.amounts[0]), float(grid.amounts[-1])
    ends = ((left, task.amount_names[0]), (right, task.amount_names[-1]))
    return tuple(
        Chart(
            key=f"{task.key}-{kind}-{j}",
            title=name,
            x_name=DATA_AXES[study.data_axis][1],
            y_name=task.noun,
            x_range=padded(left, right, 0.08, 0.1),
            y_range=y_range,
            x_ticks=ends if right > left else ends[:1],
            y_ticks=y_ticks,
            series=series,
        )
        for j, (name, series) in enumerate(zip(names, pieces, strict=True))
    )


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


def run_tip(study: Study, task: Task, i: int, value: float) -> str:
    """Which run this is: cell, value, seed, order, run."""
    size, amount = task.grid.cell[i]
    return f"{task.size_names[size]}, {plural(task.amount_names[amount], study.unit)}: {number(value)}, {who(task.runs[i])}"


def _origin(row: Row) -> str:
    """Of a stated score: its line in the table, where it comes from, and what is noted about it."""
    return "; ".join(part for part in (row["run_id"].partition(":")[0], row["estimator"]) if part)


def who(row: Row) -> str:
    """Seed, order of sessions and name of a run, as far as the ledger has them."""
    seed = f"seed {row['seed']}, " if row["seed"] is not None else ""
    order = f"order {row['data_order']}, " if row["data_order"] else ""
    return f"{seed}{order}run {row['run_id']}"


def _caption(task: Task, axis: str, has_curve: bool) -> str:
    _, freedom, source = task.grid.noise
    if task.stated and not has_curve:
        return "Marks: stated scores, joined where one axis alone changes. No band and no curve: nothing tells their noise."
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
