"""What the fit leaves over, against everything it might depend on; and score against other measures of data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from omnimouse_jax.pages.marks import number, plural
from omnimouse_jax.scaling.analysis import Study, Task
from omnimouse_jax.scaling.analysis_axes import DATA_AXES
from omnimouse_jax.scaling.charts import (
    Chart,
    Line,
    Mark,
    Series,
    Ticks,
    decade_ticks,
    finite_range,
    groups,
    level_ticks,
    linear,
    padded,
)
from omnimouse_jax.scaling.charts_curves import run_tip
from omnimouse_jax.scaling.fit import Fit, fit
from omnimouse_jax.scaling.forms import Array, make_form


def expectation(task: Task) -> tuple[Fit | None, str]:
    """What residuals are taken from: the joint fit, else a plane in the logs, else nothing; and its name."""
    if task.joint.fit is not None:
        return task.joint.fit, "the joint fit"
    grid = task.grid
    if min(len(grid.sizes), len(grid.amounts)) < 2 or len(grid.score) < 6:
        return None, ""
    x = np.stack([grid.parameters, grid.data], 1)
    return fit(make_form("log_linear", axes=2), x, grid.score, delta=np.inf), "a plane in the logs of both axes"


def residual_charts(study: Study, task: Task) -> tuple[Chart, ...]:
    """Seen - expected of every run against parameters, data, expected score, seed, order of sessions and session."""
    source, _ = expectation(task)
    if source is None or task.stated:
        return ()
    grid = task.grid
    expected = source.predict(np.stack([grid.parameters, grid.data], 1))
    left = grid.score - expected
    tips = [
        f"{number(float(r), 4, signed=True)}: {run_tip(study, task, i, float(grid.score[i]))}"
        for i, r in enumerate(left)
    ]
    every = np.arange(len(left))
    panels = [
        _panel(
            study,
            task,
            "core parameters",
            grid.parameters,
            left,
            tips,
            every,
            level_ticks(grid.sizes, gap=0.28),
            log=True,
        ),
        _panel(
            study,
            task,
            DATA_AXES[study.data_axis][1],
            grid.data,
            left,
            tips,
            every,
            level_ticks(grid.amounts, gap=0.28),
            log=True,
        ),
        _panel(
            study,
            task,
            "expected score",
            expected,
            left,
            tips,
            every,
            linear(float(expected.min()), float(expected.max()), 4)[1],
        ),
    ]
    for name, column in (("seed", "seed"), ("order of sessions", "data_order")):
        values = [row[column] for row in task.runs]
        levels = sorted({v for v in values if v is not None})
        if len(levels) > 1:
            x = np.array([float(levels.index(v)) for v in values])
            panels.append(
                _panel(study, task, name, x, left, tips, every, tuple((float(k), str(v)) for k, v in enumerate(levels)))
            )
    if len(task.sessions) > 1:
        panels.append(_by_session(study, task, expected))
    low, high = finite_range(s for chart in panels[:5] for s in chart.series)
    reach = max(abs(low), abs(high), 1e-4)

    y_range, y_ticks = linear(-reach, reach, 4, 1e-4)
    return tuple(
        chart if chart.x_name == "session" else dataclasses.replace(chart, y_range=y_range, y_ticks=y_ticks)
        for chart in panels
    )


def _by_session(study: Study, task: Task, expected: Array) -> Chart:
    """Cells in every session: its own level is no misfit, what counts is how it changes from cell to cell."""
    grid = task.grid
    own = grid.by_session - grid.by_session.mean(axis=0) - (expected - expected.mean())[:, None]
    cells = groups(grid.cell_number.tolist())
    x, y, tips, runs = [], [], [], []
    for j, name in enumerate(task.sessions):
        for cell in cells:
            value = float(own[cell, j].mean())
            size, amount = grid.cell[cell[0]]
            where = f"{task.size_names[size]}, {plural(task.amount_names[amount], study.unit)}"
            tips.append(f"{name}: {number(value, 4, signed=True)}: {where}, mean of {plural(len(cell), 'run')}")
            x.append(float(j))
            y.append(value)
            runs.append(int(cell[0]))
    ticks = tuple((float(j), str(j + 1)) for j in range(len(task.sessions)))
    return _panel(study, task, "session", np.array(x), np.array(y), tips, np.array(runs), ticks)


def _panel(
    study: Study,
    task: Task,
    name: str,
    x: Array,
    y: Array,
    tips: Sequence[str],
    runs: np.ndarray,
    ticks: Ticks,
    log: bool = False,
) -> Chart:
    grid = task.grid
    sizes = grid.cell[runs, 0]
    # runs of one level stand side by side, so that they do not hide each other
    sideways = (sizes - (len(grid.sizes) - 1) / 2) / max(len(grid.sizes), 2)
    step = 0.10 if log else 0.5 if name in ("seed", "order of sessions", "session") else 0.0
    placed = x * np.exp(step * sideways) if log else x + step * sideways
    series = []
    for rank, size in enumerate(task.size_names):
        marks = [Mark(float(placed[i]), float(y[i]), tips[int(i)], "run") for i in np.flatnonzero(sizes == rank)]
        series.append(Series(size, "size", rank, len(task.size_names), tuple(marks), ends=False))
    means = [(float(np.mean(x[rows])), float(np.mean(y[rows]))) for rows in groups(x.tolist())]
    if len(means) <= 12:
        ordered = sorted(means)
        line = Line(np.array([a for a, _ in ordered]), np.array([b for _, b in ordered]), "straight")
        series.append(Series("mean", "ink", 0, 1, (), (line,), ends=False))
    low, high = float(placed.min()), float(placed.max())
    reach = max(float(np.abs(y).max()), 1e-4)
    y_range, y_ticks = linear(-reach, reach, 4, 1e-4)
    room = (high - low) * 0.06 or 0.5
    return Chart(
        key=f"{task.key}-residual-{name.split()[0]}",
        title=f"against {name}",
        x_name=name,
        y_name="seen \u2212 expected",
        x_range=padded(low, high, 0.06) if log else (low - room, high + room),
        y_range=y_range,
        x_ticks=ticks,
        y_ticks=y_ticks,
        series=tuple(series),
        rules=((0.0, ""),),
        x_log=log,
    )


def axis_charts(study: Study, task: Task) -> tuple[Chart, ...]:
    """Score against every measure of data that is not another up to a power, runs as they are."""
    out = []
    for check in task.axes:
        series = []
        for rank, size in enumerate(task.size_names):
            mine = np.flatnonzero(task.grid.cell[:, 0] == rank)
            marks = tuple(
                Mark(
                    float(check.values[i]),
                    float(task.grid.score[i]),
                    run_tip(study, task, int(i), float(task.grid.score[i])),
                    "run",
                )
                for i in mine
            )
            series.append(Series(size, "size", rank, len(task.size_names), marks, ends=False))
        low, high = float(check.values.min()), float(check.values.max())
        y_range, y_ticks = linear(*finite_range(series), ticks=4)
        out.append(
            Chart(
                key=f"{task.key}-axis-{check.names[0]}",
                title=DATA_AXES[check.names[0]][1],
                x_name=DATA_AXES[check.names[0]][1],
                y_name=task.noun,
                x_range=padded(low, high, 0.06),
                y_range=y_range,
                x_ticks=decade_ticks(*padded(low, high, 0.06)),
                y_ticks=y_ticks,
                series=tuple(series),
            )
        )
    return tuple(out)
