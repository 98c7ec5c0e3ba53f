"""The part of the page that tells one task: verdict, curves, plane, prices, warnings, numbers, and what to check them with."""

from __future__ import annotations

import math
import urllib.parse
from collections.abc import Sequence
from html import escape

import numpy as np

from omnimouse_jax.pages.marks import number, plural
from omnimouse_jax.scaling import tables
from omnimouse_jax.scaling.analysis import HOLDOUTS, Study, Task
from omnimouse_jax.scaling.analysis_axes import DATA_AXES
from omnimouse_jax.scaling.analysis_cells import human
from omnimouse_jax.scaling.analysis_worth import Option
from omnimouse_jax.scaling.charts import Chart
from omnimouse_jax.scaling.charts_compute import compute_chart
from omnimouse_jax.scaling.charts_curves import animal_charts, curve_charts, session_charts
from omnimouse_jax.scaling.charts_plane import plane_chart
from omnimouse_jax.scaling.charts_residuals import axis_charts, expectation, residual_charts
from omnimouse_jax.scaling.exclude import OVERFIT, point
from omnimouse_jax.scaling.svg import legend_swatch, render
from omnimouse_jax.scaling.words import bracket, digits_for, interval_note, sentences, title
from omnimouse_jax.scaling.words_stated import decimals, resolution

#: Warnings that speak of runs, which stated scores are not.
OF_RUNS = ("single_seed", "single_seed_at_top", "single_order", "missing_cells")


def section(study: Study, task: Task) -> str:
    """All of one task."""
    by_data, by_size = curve_charts(study, task)
    curves = figure(by_data, "More data, for each model size") + figure(
        by_size, "Bigger models, for each amount of data"
    )
    compute, plane = compute_chart(study, task), plane_chart(study, task)
    pair = figure(compute, "Score against training compute") if compute is not None else _absent(
        "Score against training compute",
        "Not drawn: the table states no FLOPs."
        if task.stated
        else "Not drawn: the ledger has no FLOPs for these runs (column flops).",
    )  # fmt: skip
    pair += figure(plane, "Data and parameters together") if plane is not None else _absent(
        "Data and parameters together", f"No contours: {task.joint.refusal or 'there is no joint fit'}."
    )  # fmt: skip
    told, *more = sentences(task, study)
    return (
        f'<section id="{task.key}"><h2>{escape(task.name)}</h2>'
        f'<p class="verdict task-verdict">{escape(title(task, study))}</p><p class="key">{escape(told)}</p>'
        f"{''.join(f'<p>{escape(s)}</p>' for s in more)}{_how(task)}"
        f'<div class="pair">{curves}</div><div class="pair">{pair}</div>'
        f"{_care(study, task)}{_numbers(study, task)}{_fits(task)}{_multiples(study, task)}{_residuals(study, task)}"
        f"{_measures(study, task)}</section>"
    )


def figure(chart: Chart, head: str) -> str:
    """A chart with its heading, the buttons that hide its lines, and its words."""
    buttons = "".join(
        f'<button type="button" aria-pressed="true" data-series="{s.hue}-{s.rank}">{legend_swatch(s)}{escape(s.name)}</button>'
        for s in chart.series
    )
    return (
        f'<figure class="framed"><h3>{escape(head)}</h3>'
        f'<div class="legend" role="group" aria-label="Show or hide">{buttons}</div>'
        f"{render(chart)}<figcaption>{escape(chart.caption)}</figcaption></figure>"
    )


def prices(tasks: Sequence[Task]) -> str:
    """What the next step gains per recorded hour, per FLOPs and per device-hour, as far as the ledger knows the costs."""
    body = []
    dearest = max(
        (o.flops or 0.0 for t in tasks if t.prospects for o in (t.prospects.data, t.prospects.parameters)), default=0.0
    )
    power = 3 * math.floor(math.log10(dearest) / 3) if dearest > 0 else 18
    for task in tasks:
        if task.prospects is None:
            continue
        for k, option in enumerate((task.prospects.data, task.prospects.parameters)):
            name = f'<th rowspan="2">{escape(task.name)}</th>' if k == 0 else ""
            body.append(f"<tr>{name}{_price_cells(option, 10.0**power)}</tr>")
    if not body:
        return ""
    return (
        '<p class="note">The same in numbers, with what each step costs. Recording buys data; compute is bought either '
        "way, because more data is trained on too. FLOPs and device-hours of a step are read off a power law through the runs.</p>"
        '<div class="scroll"><table class="prices">'
        "<thead><tr><th>task</th><th class='text'>step</th><th>gain</th><th>per recorded hour</th>"
        f"<th>per 10<sup>{power}</sup> FLOP</th><th>per device-hour</th></tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _price_cells(option: Option, flops: float) -> str:
    worth = option.worth
    digits = digits_for(worth.these)
    over = [f"{i.over} {bracket(i, digits)}" for i in (worth.these, worth.new) if i is not None] or ["no interval"]
    intervals = "".join(f'<span class="of">{escape(told)}</span>' for told in over)
    cells = [
        f'<td class="text">{escape(option.name)}</td>',
        f"<td>{number(worth.estimate, digits, signed=True)}{intervals}</td>",
    ]
    for cost, unit, told in (
        (option.recorded_hours, 1.0, "h"),
        (option.flops, flops, "FLOP"),
        (option.device_hours, 1.0, "h"),
    ):
        if cost is None:
            cells.append('<td><span class="of">not known</span></td>')
        elif cost <= 0:
            free = unit == 1.0 and option.recorded_hours == 0 and len(cells) == 2  # a larger model needs no recording
            cells.append(f'<td><span class="of">{"no recording needed" if free else "not known"}</span></td>')
        else:
            each = f"{worth.estimate / cost * unit:+.1e}".replace("-", "\u2212")
            cells.append(f'<td>{each}<span class="of">{_cost(cost)} {told}</span></td>')
    return "".join(cells)


def _cost(value: float) -> str:
    return f"{value:.2g}" if value >= 1e4 else f"{float(f'{value:.2g}'):g}"


def _absent(head: str, why: str) -> str:
    return f'<figure class="framed"><h3>{escape(head)}</h3><p class="note absent">{escape(why)}</p></figure>'


def _how(task: Task) -> str:
    if task.stated:
        return f'<p class="note">{escape(interval_note(task))}</p>'
    estimator = f" Estimator: {task.estimator}." if task.estimator else ""
    tier = f" Scored on {task.tier} trials." if task.tier else ""
    holdout = f" What is new to the model: {HOLDOUTS[task.holdout][1]}." if task.holdout in HOLDOUTS else ""
    above = (
        f" In the largest cell {100 * task.above:.0f} % of neurons have a correlation above .1."
        if task.above is not None
        else ""
    )
    if task.ceiling is not None and task.grid.count[-1, -1] and task.grid.mean[-1, -1] > 0:
        share = f"{number(float(task.grid.mean[-1, -1]) / task.ceiling, 2)} of the ceiling {number(task.ceiling)}"
        how = f" ({task.ceiling_estimator})" if task.ceiling_estimator else ""
        above += f" The largest cell reaches {share}{how}."
    mean = f"{task.noun}, plain mean over {plural(len(task.sessions), 'evaluation session')}"
    return f'<p class="note">{escape(f"{interval_note(task)} Score: {mean}.{estimator}{tier}{holdout}{above}")}</p>'


def _care(study: Study, task: Task) -> str:
    flags = [flag for flag in task.flags if not (task.stated and flag.code in OF_RUNS)]
    items = [*(flag.words[0].upper() + flag.words[1:] + "." for flag in flags), *task.notes, *study.selected.notes]
    mine = {point(row) for row in task.runs}
    if task.joint.fit is not None and not task.grid.count[-1, -1]:
        items.append(
            "No run of the largest size at the largest amount: what is said of that cell, the curves say alone."
        )
    marked = [e for e in study.selected.overfit if e.point in mine]
    if marked:
        items.append(
            f"{plural(len(marked), 'run')} marked as over-fit (listed under \u201cLeft out\u201d) and kept in the fits."
        )
    if not items:
        return ""
    return "<h3>Read with care</h3>" + f'<ul class="flags">{"".join(f"<li>{escape(i)}</li>" for i in items)}</ul>'


def _numbers(study: Study, task: Task) -> str:
    grid = task.grid
    low, high = grid.cell_intervals()
    fat = {point(e.row) for e in study.selected.overfit if e.rule == OVERFIT}
    head = "".join(f"<th>{escape(plural(a, study.unit))}</th>" for a in task.amount_names)
    body = []
    for i, size in enumerate(task.size_names):
        cells = []
        for j in range(len(task.amount_names)):
            if not grid.count[i, j]:
                cells.append(f'<td class="soft">{"not stated" if task.stated else "no run"}</td>')
                continue
            mine = np.flatnonzero((grid.cell[:, 0] == i) & (grid.cell[:, 1] == j))
            over = " \u2020" if any(point(task.runs[int(r)]) in fat for r in mine) else ""
            more = f"[{number(low[i, j])}, {number(high[i, j])}] " if low[i, j] == low[i, j] else ""
            if task.stated and grid.count[i, j] == 1:
                cells.append(f"<td>{number(grid.mean[i, j], decimals(resolution(study)))}</td>")
                continue
            cells.append(
                f"<td>{number(grid.mean[i, j])}{over}<br>"
                f'<span class="soft">{more}n\u202f=\u202f{int(grid.count[i, j])}</span></td>'
            )
        body.append(
            f'<tr><th>{escape(size)} <span class="soft">{human(float(grid.sizes[i]))}</span></th>{"".join(cells)}</tr>'
        )
    dagger = " \u2020 over-fit." if any("\u2020" in row for row in body) else ""
    what = (
        "Scores as stated."
        if task.stated
        else "Score per cell: mean, 95 % interval for these sessions, number of runs."
        if task.noise_known
        else "Score per cell: mean, number of runs. No intervals: the noise of a run is unknown."
    )
    data = urllib.parse.quote(tables.cells_csv(study, task))
    return (
        f'<p class="note">{what}{dagger} '
        f'<a download="{task.key}-cells.csv" href="data:text/csv;charset=utf-8,{data}">As CSV</a></p><div class="scroll"><table>'
        f"<thead><tr><th>model</th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _fits(task: Task) -> str:
    rows = tables.fit_rows(task)
    if not rows:
        return ""
    body = []
    for row in rows:
        shown = [name for name in row.values if name not in ("A", "B")]
        values = ", ".join(f"{n} = {number(row.values[n])} {bracket(row.intervals[n])}" for n in shown)
        body.append(
            f'<tr><td class="text">{escape(row.line)}</td><td class="text">{escape(values)}</td>'
            f'<td class="text">{escape(row.plateau)}</td><td class="text">{escape(row.evidence)}</td>'
            f'<td class="text">{escape("; ".join(row.flags) or "none")}</td></tr>'
        )
    return (
        '<details><summary>Fitted curves</summary><div class="scroll"><table><thead><tr><th class="text">line</th>'
        '<th class="text">parameters [95 %, bootstrap]</th><th class="text">plateau [95 %, profile]</th>'
        '<th class="text">mean error at the held-out largest level</th><th class="text">flags</th></tr></thead>'
        f'<tbody>{"".join(body)}</tbody></table></div><p class="note">S = S_inf \u2212 A x^\u2212alpha for one axis, '
        "S = S_inf \u2212 A N^\u2212alpha \u2212 B D^\u2212beta for both; the coefficients are in fits.csv."
        "</p></details>"
    )


def _multiples(study: Study, task: Task) -> str:
    out = []
    for charts, head in (
        (session_charts(study, task), "Each evaluation session"),
        (animal_charts(study, task), "Each animal"),
    ):
        if len(charts) > 1:
            out.append(
                f"<details{' open' if len(charts) <= 8 and head.endswith('session') else ''}><summary>{head}</summary>"
                '<p class="note">Means over seeds (filled) and single runs (open), one line per model size, all on one scale.</p>'
                f"{_small(charts)}</details>"
            )
    return "".join(out)


def _residuals(study: Study, task: Task) -> str:
    charts = residual_charts(study, task)
    if not charts:
        return ""
    _, source = expectation(task)
    names = ", ".join(f"{j}: {name}" for j, name in enumerate(task.sessions, start=1))
    return (
        '<details><summary>What is left over</summary><p class="note">'
        f"Seen \u2212 expected by {escape(source)}, one mark per run (per cell in the panel of sessions); dotted: means. A trend "
        "against parameters or data is a law that does not fit; a step between seeds, orders or sessions is noise that the "
        "intervals should contain. In the panel of "
        f"sessions each has its own level: what counts is a fan, a session with a slope of its own ({escape(names)}).</p>"
        f"{_small(charts, 'wide')}</details>"
    )


def _measures(study: Study, task: Task) -> str:
    if not task.axes:
        return ""
    rows = []
    for check in task.axes:
        names = ", ".join(DATA_AXES[n][1].removeprefix("training ").removesuffix(" in training") for n in check.names)
        noise = number(check.noise, 4) if check.noise is not None else "not known"
        rows.append(
            f'<tr><td class="text">{escape(names)}</td><td>{number(check.error, 4)}</td>'
            f"<td>{number(check.bias, 4, signed=True)}</td>"
            f"<td>{noise}</td></tr>"
        )
    first = task.axes[0]
    many = len(task.axes) > 1
    gap = task.axes[1].error - first.error if many else 0.0
    if not many:
        verdict = "All measures of data in this ledger are one up to a power, so nothing tells which of them counts."
    elif first.noise is not None and gap < first.noise:
        verdict = "The difference between the measures is smaller than the noise of a cell: this study does not tell which counts."
    else:
        verdict = f"Best here: {DATA_AXES[first.names[0]][1]}."
    return (
        "<details><summary>Which measure of data</summary>"
        f'<p class="note">Every measure predicts the {plural(first.cells, "cell")} with most data from a fit without them '
        f"({escape(first.form.replace('_', ' '))}). Measures in one row are the same up to a power. {escape(verdict)}</p>"
        '<div class="scroll"><table><thead><tr><th class="text">measure</th><th>error (rms)</th><th>mean error</th>'
        f"<th>noise of a cell</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        f"{_small(axis_charts(study, task), 'wide')}</details>"
    )


def _small(charts: Sequence[Chart], kind: str = "") -> str:
    drawn = "".join(
        f"<figure>{render(chart, 230, 160, small=True)}<figcaption>{escape(chart.title)}</figcaption></figure>"
        for chart in charts
    )
    return f'<div class="small-multiples {kind}">{drawn}</div>'
