"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

import urllib.parse
from collections.abc import Sequence
from html import escape

from omnimouse_jax.pages.document import document
from omnimouse_jax.pages.marks import number, plural
from omnimouse_jax.scaling import ledger, tables
from omnimouse_jax.scaling.analysis import DATA_AXES, METRICS, Study, Task, human
from omnimouse_jax.scaling.charts import Chart, curve_charts, forest_rows, session_charts
from omnimouse_jax.scaling.svg import legend_swatch, render, render_forest
from omnimouse_jax.scaling.words import bracket, definitions, interval_note, sentences, title, told


def build(study: Study, heading: str, commands: Sequence[str]) -> str:
    """The whole page."""
    body = [
        _header(study, heading),
        '<main id="top">',
        _cards(study),
        _overview(study),
        *(_task(study, task) for task in study.tasks),
        _missing(study),
        _definitions(study),
        _reproduce(study, commands),
        "</main>",
        "<footer>Made by omnimouse_jax from a ledger alone. This file needs no network and sends nothing.</footer>",
    ]
    return document(heading, body)


def _header(study: Study, heading: str) -> str:
    first = study.tasks[0]
    _, noun = DATA_AXES[study.data_axis]
    facts = (
        f"{plural(len(study.runs), 'trained run')}: model sizes {', '.join(first.size_names)}; {noun} "
        f"{', '.join(first.amount_names)}; scored on {plural(len(first.sessions), 'evaluation session')} of "
        f"{plural(len(set(first.grid.animals)), 'animal')}, the same for every run."
    )
    partial = ""
    if study.missing:
        states = sorted({row["state"] for row in study.missing})
        words = f"{plural(len(study.missing), 'cell')} {' or '.join(states)}"
        where = '<a href="#missing">listed below</a> and in no number here'
        partial = f'<p class="partial">Partial results: {words}, {where}.</p>'
    return f'<header><h1>{escape(heading)}</h1><p class="lede">{escape(facts)}</p>{partial}</header>'


def _cards(study: Study) -> str:
    cards = []
    for task in study.tasks:
        best = number(float(task.grid.mean[-1, -1])) if task.grid.count[-1, -1] else "no run"
        rows = [("largest cell", best)]
        if task.data_gain is not None:
            rows.append(("2\u00d7 data", told(task.data_gain)))
        if task.parameter_gain is not None:
            rows.append(("2\u00d7 parameters", told(task.parameter_gain)))
        items = "".join(f"<dt>{escape(k)}</dt><dd>{_value(v)}</dd>" for k, v in rows)
        cards.append(
            f'<a class="card" href="#{task.key}"><span class="task">{escape(task.name)}</span>'
            f'<span class="verdict">{escape(title(task))}</span><dl>{items}</dl></a>'
        )
    note = escape(interval_note(study.tasks[0]))
    return f'<div class="cards">{"".join(cards)}</div><p class="note">Scores are correlations. {note}</p>'


def _value(told_value: str) -> str:
    """An estimate with its bracket set smaller."""
    value, _, rest = told_value.partition(" ")
    return escape(value) + (f' <span class="soft">{escape(rest)}</span>' if rest else "")


def _overview(study: Study) -> str:
    rows = forest_rows(study)
    if not rows:
        return ""
    return (
        "<h2>What a doubling is worth</h2><p>Gain of score from twice the data (circles) and from twice the core "
        "parameters (squares): slopes of a straight line in log2 through the cell means, averaged over the other axis. "
        f"No curve is assumed.</p><figure>{render_forest(rows)}<figcaption>Thick bar: 95 % for these sessions "
        "(run noise). Thin bar: 95 % for new sessions or animals, with the run noise in it; an arrow: it goes on. "
        "Headlines speak of these sessions (thick bar); a thin bar that crosses zero: not shown for new ones.</figcaption></figure>"
    )


def _task(study: Study, task: Task) -> str:
    told_in_words = "".join(f"<p>{escape(s)}</p>" for s in sentences(task, study))
    pair = "".join(_figure(c, axis) for c, axis in zip(curve_charts(study, task), ("data", "parameters"), strict=True))
    sessions = session_charts(study, task)
    multiples = "".join(
        f"<figure>{render(chart, 210, 150, small=True)}<figcaption>{escape(chart.title)}</figcaption></figure>"
        for chart in sessions
    )
    estimator = f" Estimator: {escape(task.estimator)}." if task.estimator else ""
    tier = f" Scored on {escape(task.tier)} trials." if task.tier else ""
    return (
        f'<section id="{task.key}"><h2>{escape(task.name)}</h2>'
        f'<p class="verdict task-verdict">{escape(title(task))}</p>{told_in_words}'
        f'<p class="note">{escape(interval_note(task))} Score: {METRICS[task.metric]}, plain mean over '
        f"{plural(len(task.sessions), 'evaluation session')}.{estimator}{tier}</p>"
        f'<div class="pair">{pair}</div>{_care(task)}{_numbers(study, task)}{_fits(task)}'
        f"<details{' open' if len(sessions) <= 8 else ''}><summary>Each evaluation session</summary>"
        '<p class="note">Means over seeds, one line per model size, all on one scale.</p>'
        f'<div class="small-multiples">{multiples}</div></details></section>'
    )


def _figure(chart: Chart, axis: str) -> str:
    buttons = "".join(
        f'<button type="button" aria-pressed="true" data-series="{s.hue}-{s.rank}">'
        f"{legend_swatch(s)}{escape(s.name)}</button>"
        for s in chart.series
    )
    head = "More data, for each model size" if axis == "data" else "Bigger models, for each amount of data"
    return (
        f'<figure class="framed"><h3>{head}</h3>'
        f'<div class="legend" role="group" aria-label="Show or hide">{buttons}</div>'
        f"{render(chart)}<figcaption>{escape(chart.caption)}</figcaption></figure>"
    )


def _care(task: Task) -> str:
    items = [*(flag.words[0].upper() + flag.words[1:] + "." for flag in task.flags), *task.notes]
    if not items:
        return ""
    return "<h3>Read with care</h3>" + f'<ul class="flags">{"".join(f"<li>{escape(i)}</li>" for i in items)}</ul>'


def _numbers(study: Study, task: Task) -> str:
    grid = task.grid
    low, high = grid.cell_intervals()
    head = "".join(f"<th>{escape(plural(a, study.unit))}</th>" for a in task.amount_names)
    body = []
    for i, size in enumerate(task.size_names):
        cells = []
        for j in range(len(task.amount_names)):
            if not grid.count[i, j]:
                cells.append('<td class="soft">no run</td>')
                continue
            more = f"[{number(low[i, j])}, {number(high[i, j])}] " if low[i, j] == low[i, j] else ""
            cells.append(
                f"<td>{number(grid.mean[i, j])}<br>"
                f'<span class="soft">{more}n\u202f=\u202f{int(grid.count[i, j])}</span></td>'
            )
        body.append(
            f'<tr><th>{escape(size)} <span class="soft">{human(grid.sizes[i])}</span></th>{"".join(cells)}</tr>'
        )
    data = urllib.parse.quote(tables.cells_csv(study, task))
    return (
        f'<div class="scroll"><table><caption>Score per cell: mean, 95 % interval for these sessions, number of runs. '
        f'<a download="{task.key}-cells.csv" href="data:text/csv;charset=utf-8,{data}">As CSV</a></caption>'
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


def _missing(study: Study) -> str:
    head = '<h2 id="missing">Failed and excluded cells</h2>'
    if not study.missing:
        return f"{head}<p>None: every cell in the ledger finished and is in the numbers.</p>"
    names = ("run_id", "size", study.data_axis, "seed", "state", "error")
    titles = ("run", "size", f"{study.unit}s", "seed", "state", "why")
    body = "".join(
        "<tr>" + "".join(f'<td class="text">{escape(_plain(row[n]))}</td>' for n in names) + "</tr>"
        for row in study.missing
    )
    columns = "".join(f'<th class="text">{t}</th>' for t in titles)
    return (
        f'{head}<p>These are in no number on this page.</p><div class="scroll"><table><thead><tr>{columns}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _definitions(study: Study) -> str:
    words = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in definitions(study))
    return f'<h2>Definitions</h2><dl class="words">{words}</dl>'


def _reproduce(study: Study, commands: Sequence[str]) -> str:
    runs = study.runs
    shown = [*commands, "omnimouse-jax report LEDGER.csv --out DIR    # this page again, from the table of all scores"]

    def distinct(name: str) -> str:
        found = sorted({str(r[name]) for r in runs if r[name] not in ("", None)})
        return ", ".join(found) or "not recorded"

    facts = [
        ("study", study.name),
        ("omnimouse_jax", distinct("version")),
        ("devices", distinct("device")),
        ("schedules", distinct("schedule")),
        ("seeds", distinct("seed")),
        ("data orders", distinct("data_order")),
        ("ledger", f"version {ledger.VERSION}, {len(study.rows)} rows"),
    ]
    names = (
        "run_id",
        "size",
        "n_params_core",
        study.data_axis,
        "seed",
        "steps",
        "learning_rate",
        "seconds",
        "config_hash",
    )
    head = "".join(f"<th>{escape(n)}</th>" for n in names)
    body = "".join("<tr>" + "".join(f"<td>{escape(_plain(r[n]))}</td>" for n in names) + "</tr>" for r in runs)
    listed = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts)
    return (
        f"<h2>How to reproduce</h2><pre><code>{escape(chr(10).join(shown))}</code></pre>"
        f'<dl class="words">{listed}</dl><details>'
        f"<summary>All {len(runs)} runs with their configuration hashes</summary>"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></details>'
    )


def _plain(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
