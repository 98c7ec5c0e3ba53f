"""The plane of data and parameters: contours of the joint fit, the compute-optimal line, budgets, and where the cells are."""

from __future__ import annotations

import itertools

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.pages.marks import nice_ticks, number, plural
from omnimouse_jax.scaling.analysis import Study, Task
from omnimouse_jax.scaling.analysis_axes import DATA_AXES
from omnimouse_jax.scaling.charts import (
    BEYOND,
    Chart,
    Label,
    Line,
    Mark,
    Series,
    decade_ticks,
    level_ticks,
    padded,
    superscript,
)
from omnimouse_jax.scaling.fit import Fit
from omnimouse_jax.scaling.forms import Array
from omnimouse_jax.scaling.frontier import compute_optimal, fit_cost

FINE = 160  # samples of a contour along each axis


def plane_chart(study: Study, task: Task) -> Chart | None:
    """Data across, parameters up. None without a joint fit."""
    fit, grid = task.joint.fit, task.grid
    if fit is None:
        return None
    d_range = padded(float(grid.amounts[0]), float(grid.amounts[-1]) * BEYOND)
    n_range = padded(float(grid.sizes[0]), float(grid.sizes[-1]) * BEYOND)
    inside = (float(grid.amounts[0]), float(grid.amounts[-1])), (float(grid.sizes[0]), float(grid.sizes[-1]))
    series = [_contours(fit, d_range, n_range, inside), _cells(study, task, fit)]
    optimal = _optimal(task, fit, d_range, n_range, inside)
    series += optimal
    line = (
        "Thick: the compute-optimal line, on which a budget buys the highest score. Thin straight lines: equal training compute. "
        if optimal
        else f"{why_no_frontier(task)} "
    )
    return Chart(
        key=f"{task.key}-plane",
        title=f"{task.name}: what the joint fit expects of every size and amount",
        x_name=DATA_AXES[study.data_axis][1],
        y_name="core parameters",
        x_range=d_range,
        y_range=n_range,
        x_ticks=level_ticks(grid.amounts, right=float(grid.amounts[-1]) * BEYOND),
        y_ticks=decade_ticks(*n_range),
        series=tuple(series),
        caption="Curves: equal score under the joint fit, solid inside the data, dashed beyond. Where they run upright only data "
        f"helps, where they lie flat only parameters. {line}Squares: cells with a run; crosses: cells without.",
        y_log=True,
    )


def why_no_frontier(task: Task) -> str:
    """Why there is no compute-optimal line, in words; empty if there is one."""
    if task.flops is None:
        return "No compute-optimal line: the ledger has no FLOPs for some run."
    if not task.flops.is_product:
        return (
            f"No compute-optimal line: training FLOPs grow as N^{task.flops.by_size:.2f} D^{task.flops.by_data:.2f} in "
            "this study and not "
            "as N x D (with fixed steps more data costs no more compute), so a budget does not trade one for the other."
        )
    return ""


def contour_levels(fit: Fit, d_range: tuple[float, float], n_range: tuple[float, float]) -> tuple[float, ...]:
    """Round scores that cross the plane."""
    corners = np.array([[n, d] for n in n_range for d in d_range])
    values = fit.predict(corners)
    return nice_ticks(float(values.min()), float(values.max()), 12)


def contour(fit: Fit, level: float, d_range: tuple[float, float], n_range: tuple[float, float]) -> tuple[Array, Array]:
    """Data and parameters along which the fit equals `level`, by increasing data (falling parameters); the fit must be monotone.

    Sampled along both axes, so that it is as smooth where it is steep as where it is flat.
    """
    d, n = np.geomspace(*d_range, FINE), np.geomspace(*n_range, FINE)
    mesh = np.stack(np.meshgrid(n, d, indexing="ij"), -1)
    values = fit.predict(mesh.reshape(-1, 2)).reshape(FINE, FINE)  # (n, d)
    points: list[tuple[float, float]] = []
    for table, along, other, swap in ((values.T, d, n, False), (values, n, d, True)):
        for at, column in zip(along, table, strict=True):  # the fit along `other` at one value of `along`
            rising = column if column[0] <= column[-1] else column[::-1]
            axis = other if column[0] <= column[-1] else other[::-1]
            if rising[0] <= level <= rising[-1] and rising[-1] > rising[0]:
                found = float(np.exp(np.interp(level, rising, np.log(axis))))
                points.append((found, float(at)) if swap else (float(at), found))
    points.sort(key=lambda p: (p[0], -p[1]))
    return np.array([p[0] for p in points]), np.array([p[1] for p in points])


def _contours(
    fit: Fit, d_range: tuple[float, float], n_range: tuple[float, float], inside: tuple[tuple[float, float], ...]
) -> Series:
    lines, labels = [], []
    for level in contour_levels(fit, d_range, n_range):
        d, n = contour(fit, level, d_range, n_range)
        if len(d) < 2:
            continue
        lines += _split(d, n, inside, "level")
        # the label stands where the curve is farthest from both edges
        share_d = np.log(d / d_range[0]) / np.log(d_range[1] / d_range[0])
        share_n = np.log(n / n_range[0]) / np.log(n_range[1] / n_range[0])
        room = np.minimum(np.minimum(share_d, 1 - share_d), np.minimum(share_n, 1 - share_n))
        k = int(np.argmax(room))
        if room[k] < 0.07:
            continue
        labels.append(
            Label(float(d[k]), float(n[k]), number(level, 3 if round(level * 100) != round(level * 100, 6) else 2))
        )
    return Series("expected score", "size", 2, 5, (), tuple(lines), labels=tuple(labels), ends=False)


def _split(d: Array, n: Array, inside: tuple[tuple[float, float], ...], style: str) -> list[Line]:
    """The parts of a curve inside the data, and those beyond with `style`-beyond; neighbours share a point."""
    (d_low, d_high), (n_low, n_high) = inside
    within = (d >= d_low) & (d <= d_high) & (n >= n_low) & (n <= n_high)
    cuts = [0, *(np.flatnonzero(np.diff(within)) + 1), len(d)]
    out = []
    for a, b in itertools.pairwise(cuts):
        part = slice(int(a), min(int(b) + 1, len(d)))
        if part.stop - part.start > 1:
            out.append(Line(d[part], n[part], style if within[a] else f"{style}-beyond"))
    return out


def _cells(study: Study, task: Task, fit: Fit) -> Series:
    grid = task.grid
    expected = fit.predict(np.array([[n, d] for n in grid.sizes for d in grid.amounts])).reshape(grid.count.shape)
    marks = []
    for i, size in enumerate(task.size_names):
        for j, amount in enumerate(task.amount_names):
            runs = int(grid.count[i, j])
            seen = f"{number(float(grid.mean[i, j]))}, mean of {plural(runs, 'run')}" if runs else "no run"
            tip = f"{size}, {plural(amount, study.unit)}: {seen}; the fit expects {number(float(expected[i, j]))}"
            marks.append(Mark(float(grid.amounts[j]), float(grid.sizes[i]), tip, "mean" if runs else "absent"))
    return Series("cells", "ink", 1, 2, tuple(marks), ends=False)


def _optimal(
    task: Task,
    fit: Fit,
    d_range: tuple[float, float],
    n_range: tuple[float, float],
    inside: tuple[tuple[float, float], ...],
) -> list[Series]:
    """The compute-optimal line and the budgets around it; empty where cost is not a product or the law has no split."""
    if task.flops is None or not task.flops.is_product:
        return []
    flops = np.array([row["flops"] for row in task.runs], dtype=np.float64)
    k = fit_cost(task.grid.parameters, task.grid.data, flops)
    budgets = np.geomspace(k * n_range[0] * d_range[0] / 100, k * n_range[1] * d_range[1] * 100, 400)
    try:
        found = compute_optimal(fit, k, budgets)
    except UserError:
        return []
    seen = (found.d >= d_range[0]) & (found.d <= d_range[1]) & (found.n >= n_range[0]) & (found.n <= n_range[1])
    lines = _split(found.d[seen], found.n[seen], inside, "optimal") if seen.sum() > 1 else []
    budgets_drawn, labels = [], []
    low, high = np.log10(k * n_range[0] * d_range[0]), np.log10(k * n_range[1] * d_range[1])
    step = max(1, round((high - low) / 5))
    for power in range(int(np.ceil(low)), int(np.floor(high)) + 1, step):
        product = 10.0**power / k
        d = np.geomspace(max(d_range[0], product / n_range[1]), min(d_range[1], product / n_range[0]), 2)
        budgets_drawn.append(Line(d, product / d, "cost"))
        at = d[0] * (d[1] / d[0]) ** 0.12
        labels.append(Label(float(at), float(product / at), f"10{superscript(power)}"))
    return [
        Series(f"compute-optimal (N ~ C^{found.exponent:.2f})", "data", 3, 4, (), tuple(lines), ends=False),
        Series("equal FLOPs", "ink", 0, 2, (), tuple(budgets_drawn), labels=tuple(labels), ends=False),
    ]
