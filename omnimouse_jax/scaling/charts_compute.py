"""Score against training compute, along the points of one training; validation loss against the learning rates tried."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from omnimouse_jax.pages.marks import number, plural
from omnimouse_jax.scaling.analysis import Scored, Study, Task
from omnimouse_jax.scaling.analysis_cells import human
from omnimouse_jax.scaling.charts import Chart, Line, Mark, Series, decade_ticks, finite_range, linear, padded
from omnimouse_jax.scaling.charts_curves import who
from omnimouse_jax.scaling.exclude import RATE, best_rate, point, rate_trials
from omnimouse_jax.scaling.ledger import finished


def compute_chart(study: Study, task: Task) -> Chart | None:
    """Every point of every run at its FLOPs; a path joins the anneal points of one size and amount. None without FLOPs."""
    rates = {e.point for e in study.selected.excluded if e.rule == RATE}
    scored = [p for p in task.points if p.row["flops"] and point(p.row) not in rates]
    if not scored:
        return None
    names = dict(zip((float(s) for s in task.grid.sizes), task.size_names, strict=True))
    series = []
    for rank, size in enumerate(sorted({float(p.row["n_params_core"]) for p in scored})):
        mine = [p for p in scored if p.row["n_params_core"] == size]
        marks, lines = _paths(study, mine, names.get(size, human(size)))
        series.append(
            Series(names.get(size, human(size)), "size", rank, len(names), tuple(marks), tuple(lines), ends=False)
        )
    best = _envelope([(m.x, m.y) for s in series for m in s.marks if m.kind != "run"])
    series.append(Series("best so far", "ink", 0, 1, (), (Line(*best, "straight"),), ends=False))
    x = [m.x for s in series for m in s.marks]
    y_range, y_ticks = linear(*finite_range(series))
    joined = any(s.lines for s in series[:-1])
    return Chart(
        key=f"{task.key}-compute",
        title=f"{task.name}: score against training compute",
        x_name="training FLOPs",
        y_name=task.noun,
        x_range=padded(min(x), max(x)),
        y_range=y_range,
        x_ticks=decade_ticks(*padded(min(x), max(x))),
        y_ticks=y_ticks,
        series=tuple(series),
        caption="Marks: mean over seeds of every cell"
        + (", and of its earlier anneal points (hollow), joined into the path of one training" if joined else "")
        + ". Dots: single runs. Dotted: the best mean score at each compute or less. FLOPs are the model's, counted from exact "
        "shapes. A cell with more data is not only dearer, it saw other sessions: compare paths, not single marks.",
    )


def _paths(study: Study, scored: list[Scored], name: str) -> tuple[list[Mark], list[Line]]:
    cells: dict[tuple[float, int], list[Scored]] = defaultdict(list)
    for p in scored:
        cells[(float(p.row[study.data_axis]), point(p.row)[1])].append(p)
    marks: list[Mark] = []
    paths: dict[float, list[Mark]] = defaultdict(list)
    for (amount, step), found in sorted(cells.items()):
        x = float(np.exp(np.mean([np.log(p.row["flops"]) for p in found])))
        y = float(np.mean([p.score for p in found]))
        where = f"{name}, {plural(human(amount), study.unit)}, step {human(step)}"
        used = any(p.used for p in found)
        tip = f"{where}: {number(y)} at {x:.2g} FLOP, mean of {plural(len(found), 'run')}"
        mark = Mark(x, y, tip if used else f"{tip}, an earlier anneal point", "mean" if used else "out")
        if len(found) > 1:
            marks += [
                Mark(float(p.row["flops"]), p.score, f"{where}: {number(p.score)}, {who(p.row)}", "run") for p in found
            ]
        marks.append(mark)
        paths[amount].append(mark)
    lines = [
        Line(np.array([m.x for m in path]), np.array([m.y for m in path]), "path")
        for path in (sorted(p, key=lambda m: m.x) for p in paths.values())
        if len(path) > 1
    ]
    return marks, lines


def _envelope(points: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """The best score at each compute or less, as steps."""
    x: list[float] = []
    y: list[float] = []
    best = -np.inf
    for a, b in sorted(points):
        if b > best:
            if x:
                x.append(a)
                y.append(best)
            x.append(a)
            y.append(b)
            best = b
    x.append(max(a for a, _ in points))
    y.append(best)
    return np.array(x), np.array(y)


def rate_chart(study: Study) -> Chart | None:
    """Validation loss against learning rate for every size with several, over the cells they share. None where none had."""
    series = []
    trials = {size: tried for size, tried in rate_trials(finished(study.rows)).items() if len(tried) > 1}
    names = dict(zip((float(s) for s in study.tasks[0].grid.sizes), study.tasks[0].size_names, strict=True))
    sizes = sorted(names)
    for size, tried in sorted(trials.items()):
        best, means = best_rate(tried)
        name = names.get(float(size), human(float(size)))
        rank = sizes.index(float(size)) if float(size) in names else 0
        shared = len(set.intersection(*(set(cells) for cells in tried.values())))
        marks = []
        for rate in sorted(means):
            chosen = "; kept, the lowest" if rate == best else "; its runs are in no fit"
            over = plural(shared, "shared cell")
            tip = f"{name}, learning rate {rate:g}: validation loss {means[rate]:.4f}, mean over {over}{chosen}"
            marks.append(Mark(rate, means[rate], tip, "mean" if rate == best else "out"))
        if marks:
            line = Line(np.array(sorted(means)), np.array([means[r] for r in sorted(means)]), "mean")
            series.append(Series(name, "size", rank, max(len(sizes), rank + 1), tuple(marks), (line,)))
    if not series:
        return None
    x = [m.x for s in series for m in s.marks]
    y_range, y_ticks = linear(*finite_range(series))
    return Chart(
        key="learning-rates",
        title="Validation loss against learning rate",
        x_name="peak learning rate",
        y_name="validation loss",
        x_range=padded(min(x), max(x), 0.1, 0.3),
        y_range=y_range,
        x_ticks=decade_ticks(*padded(min(x), max(x), 0.1, 0.3)),
        y_ticks=y_ticks,
        series=tuple(series),
        caption="Mean over the cells in which all rates of a size were tried, by validation loss and never by a test "
        "score. Filled: "
        "kept. Hollow: its runs are in no fit.",
    )
