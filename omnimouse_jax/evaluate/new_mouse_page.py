"""The page of a new mouse: one HTML file from `finetune`'s result, which needs nothing else and no network."""

from __future__ import annotations

import os
import shlex
import urllib.parse
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from omnimouse_jax.evaluate import new_mouse_charts as charts
from omnimouse_jax.evaluate.new_mouse_view import (
    METHODS,
    TaskView,
    channels,
    finite,
    headline,
    minutes_told,
    sentences,
    told,
    views,
)
from omnimouse_jax.pages.document import document
from omnimouse_jax.pages.marks import number, plural

PAGE = "index.html"
STYLE = """
.line.dashed { stroke-dasharray: 7 4; } .line.dotted { stroke-dasharray: 1.5 4; stroke-linecap: round; stroke-width: 2.2; }
.line.hair { stroke-width: 1.1; stroke-dasharray: 3 3; } .line.recorded { stroke-width: 1.1; opacity: .8; }
.line.ceiling { stroke-width: 1.4; stroke-dasharray: 9 3 1.5 3; }
.cloud { fill: none; stroke: var(--c); stroke-width: 2.4; stroke-linecap: round; opacity: .45; }
.traces { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); gap: 8px 24px; }
.card .pair-of { white-space: normal; } .curve { max-width: 620px; } .channels { max-width: 720px; }
ul.told { padding-left: 1.2rem; } ul.told li { margin: .2rem 0; max-width: 92ch; overflow-wrap: anywhere; }
li.warn { font-weight: 600; color: var(--accent); }
@media print { .traces { grid-template-columns: 1fr 1fr; } }
"""


def write_page(result: Mapping[str, Any], out: Path) -> Path:
    """Writes the page to `out`, a folder (then OUT/index.html) or an .html file, and returns its path.

    A part of the result that is not there, or empty, leaves its part of the page out: no scratch, ridge, ceiling, curve or traces.
    """
    path = Path(out) if Path(out).suffix == ".html" else Path(out) / PAGE
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(build(result), encoding="utf-8")
    os.replace(part, path)
    return path


def build(result: Mapping[str, Any]) -> str:
    """The whole page."""
    found = views(result)
    sessions = list(dict.fromkeys([view.session for view in found]))
    several = len(sessions) > 1
    body = [
        _header(result, sessions),
        "<main>",
        *(_cards([view for view in found if view.session == session], several) for session in sessions),
        *(_task(result, view, several) for view in found),
        _told(result),
        _stages(result),
        _scores(result),
        _definitions(result, found),
        _reproduce(result),
        "</main>",
        "<footer>Made by omnimouse_jax from result.json alone. This file needs no network and sends nothing.</footer>",
    ]
    return document(f"New mouse: {', '.join(sessions) or 'nothing scored'}", body, STYLE)


def _header(result: Mapping[str, Any], sessions: Sequence[str]) -> str:
    names = ", ".join(sessions) or "nothing scored yet"
    trained = result.get("stages") or []
    stages = " then ".join(str(stage["name"]) for stage in trained) or "nothing"
    lede = (
        f"{result.get('from')} (step {result.get('checkpoint_step')}), adapted to {plural(len(sessions), 'session')}: {stages} "
        f"trained. Scored on trials of tier {result.get('tier')}, which no step of adapting saw."
    )
    return f'<header><h1>New mouse: {escape(names)}</h1><p class="lede">{escape(lede)}</p></header>'


def _cards(of_session: Sequence[TaskView], several: bool) -> str:
    cards = []
    for view in of_session:
        rows = [(METHODS[method].words, told(row)) for method, row in view.rows.items()]
        if view.ceiling is not None:
            rows.append(("ceiling", number(view.ceiling)))
        if view.needed is not None and len(view.curves["adapted"]) > 1:
            needed, all_of, fewer = view.needed
            rows.append(
                ("minutes", f"{'at most ' if fewer else ''}{minutes_told(needed)} for scratch's {minutes_told(all_of)}")
            )
        items = "".join(f'<dt>{escape(k)}</dt><dd class="pair-of">{_value(v)}</dd>' for k, v in rows)
        cards.append(
            f'<a class="card" href="#{_id(view)}"><span class="task">{escape(view.task)}</span>'
            f'<span class="verdict">{escape(headline(view))}</span><dl>{items}</dl></a>'
        )
    name = f"<h2>{escape(of_session[0].session)}</h2>" if several else ""
    return f'{name}<div class="cards">{"".join(cards)}</div>'


def _value(text: str) -> str:
    """A number with its bracket set smaller."""
    value, bracket, rest = text.partition(" [")
    return escape(value) + (f' <span class="soft">{escape(bracket.strip() + rest)}</span>' if bracket else "")


def _task(result: Mapping[str, Any], view: TaskView, several: bool) -> str:
    """A section: sentences, learning curve, neurons or channels, traces."""
    heading = f"{view.task}, {view.session}" if several else view.task
    regime = result.get("tasks", {}).get(view.task, "")
    words = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences(view))
    parts = [f'<div class="curve">{curve}</div>' if (curve := charts.learning_curve(view)) else ""]
    neurons = charts.neuron_scatter(view) + charts.neuron_distribution(view)
    parts.append(f'<div class="pair">{neurons}</div>' if neurons else "")
    if view.metric.startswith("behavior") and (of_channels := channels(result, view)):
        parts.append(f'<div class="channels">{charts.decoding(of_channels, view)}</div>')
    shown = [row for row in result.get("traces", []) if (row["session"], row["task"]) == (view.session, view.task)]
    if shown:
        drawn = "".join(charts.trace(row) for row in shown)
        of = (
            "Every channel"
            if view.metric.startswith("behavior")
            else "The neurons that the adapted model predicts best"
        )
        parts.append(
            f'<h3>Recorded and predicted</h3><p class="note">{of}, in held-out trials, in the recording\'s units. Thin: recorded; '
            f'thick: adapted; dashed: from scratch.</p><div class="traces">{drawn}</div>'
        )
    return (
        f'<section id="{_id(view)}"><h2>{escape(heading)}</h2><p class="verdict task-verdict">{escape(headline(view))}</p>'
        f'<p class="note"><code>{escape(str(regime))}</code></p>{words}{"".join(parts)}</section>'
    )


def _told(result: Mapping[str, Any]) -> str:
    lines = [str(line).strip() for line in result.get("told", [])]
    if not lines:
        return ""
    loud = ("WARNING", "LEAK:")
    items = "".join(
        f"<li{' class=warn' if any(word in line for word in loud) else ''}>{escape(line)}</li>" for line in lines
    )
    return f'<h2>What was frozen, trained and fresh</h2><ul class="told">{items}</ul>'


def _stages(result: Mapping[str, Any]) -> str:
    stages = result.get("stages") or []
    if not stages:
        return ""
    head = ("stage", "steps", "at most", "best step", "seconds", "trained parameters", "frozen parameters")
    body = ""
    for stage in stages:
        names = ("stopped_at", "steps", "best_step", "seconds", "trained_parameters", "frozen_parameters")
        cells = "".join(f"<td>{_count(stage.get(name))}</td>" for name in names)
        body += f"<tr><th>{escape(str(stage['name']))}</th>{cells}</tr>"
    columns = "".join(f"<th>{name}</th>" for name in head)
    curves = charts.validation(stages)
    drawn = f'<div class="traces">{curves}</div>' if curves else ""
    return f'<h2>Stages</h2><div class="scroll"><table><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>{drawn}'


def _scores(result: Mapping[str, Any]) -> str:
    """Every score as a table, and as CSV."""
    rows = [row for row in result.get("scores", []) if finite(row["score"]) is not None]
    if not rows:
        return ""
    names = (
        "session",
        "task",
        "channel",
        "method",
        "score",
        "score_low",
        "score_high",
        "ceiling",
        "normalized",
        "n_units",
    )
    every = (*names, "metric", "interval", "ceiling_estimator")
    lines = [",".join(every), *(",".join(_csv(row.get(name)) for name in every) for row in rows)]
    data = urllib.parse.quote("\n".join(lines) + "\n")
    text = ("session", "task", "channel", "method")
    head = "".join(f'<th class="text">{n}</th>' if n in text else f"<th>{n}</th>" for n in names)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="text">{_cell(row.get(n))}</td>' if n in text else f"<td>{_cell(row.get(n))}</td>"
            for n in names
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<h2>All scores</h2><details><summary>{plural(len(rows), "score")}</summary><div class="scroll"><table><caption>'
        f'<a download="scores.csv" href="data:text/csv;charset=utf-8,{data}">As CSV</a></caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></details>"
    )


def _definitions(result: Mapping[str, Any], found: Sequence[TaskView]) -> str:
    ceilings = {
        str(row["ceiling_estimator"]) for view in found for row in view.rows.values() if row.get("ceiling_estimator")
    }
    estimators = {str(row["estimator"]) for view in found for row in view.rows.values() if row.get("estimator")}
    intervals = {str(row["interval"]) for view in found for row in view.rows.values() if row.get("interval")}
    words = [
        (
            "Score",
            f"Correlation of prediction and recording ({'; '.join(sorted(estimators)) or 'Pearson'}), on trials of tier "
            f"{result.get('tier')}; mean over neurons or channels, never clipped. One without variance counts as 0.",
        ),
        (
            "Interval",
            f"{'; '.join(sorted(intervals)) or 'Not computed'}. It does not tell how another training run would come out.",
        ),
        (
            "Ceiling",
            f"What a perfect model of the same inputs would score: {'; '.join(sorted(ceilings))}."
            if ceilings
            else "Not known for this recording: no percentages are given.",
        ),
        ("Before adapting", "The trained model with rows for the new neurons that nothing was trained on."),
        ("Adapted", "The same model after the stages below, with a checkpoint chosen by the validation tier alone."),
        ("From scratch", "The same architecture, all of it trained on this session alone."),
        ("Ridge regression", "Linear in what the task shows; where there is none, the task has none."),
        (
            "Minutes",
            "Of the training tier, the earliest ones of the recording. The adapted model has seen other mice besides.",
        ),
        (
            "Minutes needed",
            "Where the adapted model's curve, straight between its points in log minutes, meets the last point of the one "
            "from scratch; at most: its first point lies above already.",
        ),
    ]
    listed = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in words)
    return f'<h2>Definitions</h2><dl class="words">{listed}</dl>'


def _reproduce(result: Mapping[str, Any]) -> str:
    keys = [str(key) for key in result.get("sessions", [])]
    session = " ".join(f"--session {shlex.quote(key)}" for key in keys)
    stages = ",".join(str(stage["name"]) for stage in result.get("stages") or [])
    run, store = shlex.quote(str(result.get("from"))), shlex.quote(str(result.get("store")))
    plain = f"omnimouse-jax finetune --from {run} --store {store} {session} --stages {stages or 'tables'} --workdir NEW"
    commands = [str(result.get("command") or plain)]
    if result.get("run"):
        adapted, regime = str(result["run"]), next(iter((result.get("tasks") or {}).values()), "stimulus")
        asked = f"{session} --regime {shlex.quote(regime)} --out predictions.zarr"
        commands.append(f"omnimouse-jax predict --from {shlex.quote(adapted)} --store {store} {asked}")
    facts = [
        ("omnimouse_jax", result.get("version")),
        ("started", result.get("started")),
        ("model", f"{result.get('from')}, step {result.get('checkpoint_step')}"),
        ("adapted run", result.get("run")),
        ("recordings", result.get("store")),
        ("rows began by", result.get("start")),
        ("seed", result.get("seed")),
    ]
    listed = "".join(f"<dt>{k}</dt><dd>{escape(str(v))}</dd>" for k, v in facts if v not in (None, ""))
    code = escape("\n".join(commands))
    return f'<h2>How to reproduce</h2><pre><code>{code}</code></pre><dl class="words">{listed}</dl>'


def _id(view: TaskView) -> str:
    return urllib.parse.quote(f"{view.session}-{view.task}-{view.metric}", safe="").replace("%", "_")


def _count(value: Any) -> str:
    found = finite(value)
    return "" if found is None else f"{found:,.0f}"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return number(value, 3) if finite(value) is not None else ""
    return "" if value is None else escape(str(value))


def _csv(value: Any) -> str:
    text = "" if value is None else str(value)
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\n') else text
