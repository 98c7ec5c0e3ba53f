"""The page of an evaluation: scores beside their ceilings, neuron by neuron, over cortex, ahead in time, and as traces."""

from __future__ import annotations

import dataclasses
import math
import urllib.parse
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse_jax.evaluate import evaluation_charts as charts
from omnimouse_jax.evaluate.beside import FEW, compared
from omnimouse_jax.evaluate.breakdown import by_area
from omnimouse_jax.evaluate.evaluation import Evaluation, where
from omnimouse_jax.files import write_atomically
from omnimouse_jax.pages.document import document
from omnimouse_jax.pages.marks import number, plural

STYLE = """
.line.faint-line { stroke-width: .9; opacity: .4; } .line.recorded { stroke-width: 1.1; opacity: .8; }
.line.ceiling { stroke-width: 1.4; stroke-dasharray: 9 3 1.5 3; }
.cloud { fill: none; stroke: var(--c); stroke-width: 2.4; stroke-linecap: round; opacity: .45; }
.traces { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); gap: 8px 24px; }
.pair > figure { max-width: 540px; } .forest-of { max-width: 760px; } .curve { max-width: 620px; }
@media print { .traces { grid-template-columns: 1fr 1fr; } }
"""
SCORE_COLUMNS: tuple[str, ...] = (
    *("task", "metric", "channel", "session", "score", "score_low", "score_high", "interval", "ceiling", "normalized"),
    *("ceiling_estimator", "estimator", "not_applicable", "ceiling_remark"),
)
CEILING_COLUMNS: tuple[str, ...] = (
    *("task", "session", "estimator", "bounds", "value", "low", "high", "interval", "repeats", "stimuli"),
    *("reason", "remark"),
)
BESIDE_COLUMNS = ("beside", "score", "difference", "low", "high", "over", "share_above_0", "n_sessions", "remark")
CHANNEL_COLUMNS = ("session", "channel", "score", "score_low", "score_high", "interval")
AREA_COLUMNS = ("area", "score", "low", "high", "interval", "ceiling", "normalized", "n_units", "n_sessions")
#: Of intervals that the page makes itself: by area, and of differences.
RESAMPLES, SEED = 1000, 0
WORDS = {
    "response_correlation": "single-trial correlation",
    "behavior_correlation": "correlation, mean of channels",
    "behavior_r2": "R², mean of channels",
    "repeated_correlation": "single-trial correlation, repeated stimuli",
    "average_correlation": "correlation to average",
    "explained_variance": "variance explained",
    "feve": "FEVE",
    "deviance_explained": "Poisson deviance explained",
    "bits_per_spike": "bits per unit of response",
}
DEFINITIONS = (
    (
        "Single-trial correlation",
        "Pearson correlation of prediction and recording per neuron, over all scored samples pooled (OmniMouse's convention); mean "
        "over neurons, a neuron without variance counts as 0; mean over sessions counts each once.",
    ),
    (
        "Correlation to average",
        "Predictions and responses are averaged over the showings of each moment of a repeated stimulus, then correlated.",
    ),
    (
        "FEVE",
        "1 - (E - N) / (V - N): squared error E, variance V, and N the variance between showings of one stimulus. Noise where the "
        "stimulus explains little, so only over neurons whose explainable share reaches the threshold that its row names.",
    ),
    (
        "Ceiling",
        "What a perfect model of what the regime shows would score. Known for synthetic mice; else estimated from repeats of the "
        "test stimuli, which bounds a model of the stimulus only. With too few repeats there is none. Estimates are noisy and "
        "nothing is clipped: a neuron may lie above its own.",
    ),
    (
        "Difference",
        "Score of this run less that of what stands beside it, on the same neurons and trials; resamples are drawn alike for both. "
        "Of fewer than ten sessions the interval is too narrow.",
    ),
    (
        "Interval",
        "95 %, by percentiles of a bootstrap over what is named; of repeated stimuli a t interval from its spread. None tells how "
        "another training run would come out.",
    ),
)


def write_page(
    found: Evaluation,
    facts: Mapping[str, Any],
    traces: Sequence[Mapping[str, Any]],
    path: Path,
    others: Mapping[str, Evaluation] | None = None,
) -> Path:
    """`facts`: what was scored and how (title, lede, command, and `facts`: names with values for the end)."""
    write_atomically(path, build(found, facts, traces, others or {}))
    return path


def build(
    found: Evaluation,
    facts: Mapping[str, Any],
    traces: Sequence[Mapping[str, Any]],
    others: Mapping[str, Evaluation],
) -> str:
    """`others`: what stands beside the run, by name: baselines, other runs."""
    tasks = list(dict.fromkeys(row["task"] for row in found.rows))
    body = [
        f'<header><h1>{escape(str(facts["title"]))}</h1><p class="lede">{escape(str(facts["lede"]))}</p></header>',
        "<main>",
        f'<div class="cards">{"".join(_card(found, task) for task in tasks)}</div>',
        *(_task(found, task, [row for row in traces if row["task"] == task], others) for task in tasks),
        _table("All scores", [*found.rows, *found.metrics], SCORE_COLUMNS),
        _table("All ceilings", found.ceilings, CEILING_COLUMNS),
        _definitions(),
        _reproduce(facts),
        "</main>",
        "<footer>Made by omnimouse_jax. This file needs no network and sends nothing.</footer>",
    ]
    return document(str(facts["title"]), body, STYLE)


def _card(found: Evaluation, task: str) -> str:
    lines = []
    for metric in dict.fromkeys(row["metric"] for row in _of(found, task)):
        rows = [row for row in _of(found, task) if row["metric"] == metric and row["channel"] in ("", "mean")]
        scores = [row["score"] for row in rows if _there(row["score"])]
        if not scores:
            continue
        shares = [row["normalized"] for row in rows if _there(row["normalized"])]
        share = (
            f" ({100 * sum(shares) / len(shares):.0f} % of ceiling)"
            if len(shares) == len(rows) and metric != "feve"
            else ""
        )
        lines.append((WORDS.get(metric, metric), f"{number(sum(scores) / len(scores))}{share}"))
    if not lines:
        return ""
    (_, headline), rest = lines[0], lines[1:]
    main = _main_rows(found, task)
    items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in rest)
    interval = _over_sessions(found, task)
    return (
        f'<a class="card" href="#{_id(task)}"><span class="task">{escape(task)}: {escape(lines[0][0])}</span>'
        f'<span class="verdict">{escape(headline)}</span><span class="told">{escape(interval)} '
        f"{plural(len(main), 'session')}</span><dl>{items}</dl></a>"
    )


def _over_sessions(found: Evaluation, task: str) -> str:
    """The interval of the mean over sessions, over animals if there are enough of them."""
    rows = where(found.intervals, task=task, session="") if found.intervals else {}
    for over in ("animals", "sessions"):
        mine = where(rows, over=over) if rows else {}
        for low, high in zip(mine.get("low", ()), mine.get("high", ()), strict=True):
            if math.isfinite(low):
                few = f" ({n}, few: too narrow)" if (n := int(mine["n_units"][0])) < FEW else ""
                return f"[{number(float(low))}, {number(float(high))}] over {over}{few},"
    return "no interval:"


def _task(
    found: Evaluation,
    task: str,
    traces: Sequence[Mapping[str, Any]],
    others: Mapping[str, Evaluation],
) -> str:
    main, neurons = _main_rows(found, task), where(found.neurons, task=task) if found.neurons else {}
    regime = found.regimes.get(task) or (str(main[0]["regime"]) if main else "")
    parts = [f'<div class="forest-of">{charts.sessions(main, "By session")}</div>'] if main else []
    parts.append(_table("Beside it", compared(found, others, task, SEED), BESIDE_COLUMNS, opened=True))
    if len(neurons.get("raw", ())):
        law = any(str(e).startswith("known law") for e in neurons["ceiling_estimator"].tolist())
        remark = (
            ""
            if law
            else next((r["ceiling_remark"] for r in found.metrics if r["task"] == task and r.get("ceiling_remark")), "")
        )
        if remark:  # what repeats tell is no bound here, so it is not drawn as one
            unknown = np.full(len(neurons["raw"]), np.nan)
            neurons = {**neurons, "ceiling": unknown, "repeated_ceiling": unknown}
            parts.append(f'<p class="note">No ceiling is drawn: {escape(remark)}.</p>')
        pair = charts.distribution(neurons, "How many neurons reach a score")
        score, ceiling = ("raw", "ceiling") if law else ("repeated_correlation", "repeated_ceiling")
        heading = "Each neuron against its ceiling" + ("" if law else " (repeated stimuli, estimated)")
        parts.append(f'<div class="pair">{pair}{charts.against_ceiling(neurons, score, ceiling, heading)}</div>')
        parts.append(_areas(found, task))
        parts.append(charts.maps(neurons))
    for table, draw, heading in (
        (found.horizon, charts.horizon, "How far ahead"),
        (found.time, charts.over_time, "Along the session"),
    ):
        mine = where(table, task=task) if table else {}
        if len(mine.get("score", ())) > 1:
            parts.append(f'<div class="curve">{draw(mine, heading)}</div>')
    channels = [row for row in found.rows if row["task"] == task and row["metric"].startswith("behavior")]
    if channels:
        parts.append(_table("By channel", channels, CHANNEL_COLUMNS, opened=True))
    if traces:
        drawn = "".join(charts.trace(row) for row in traces)
        parts.append(
            '<h3>Recorded and predicted</h3><p class="note">In the middle of what was scored, in the recording\'s units. Thin: '
            f'recorded; thick: predicted.</p><div class="traces">{drawn}</div>'
        )
    head = f'<h2>{escape(task)}</h2><p class="note"><code>{escape(regime)}</code></p>'
    return f'<section id="{_id(task)}">{head}{"".join(parts)}</section>'


def _areas(found: Evaluation, task: str) -> str:
    """Scores by area, where the recordings tell areas."""
    table = by_area(dataclasses.replace(found, neurons=where(found.neurons, task=task)), RESAMPLES, SEED)
    if not table or all(name == "not told" for name in table.get("area", ())):
        return ""
    rows = [{name: table[name][k] for name in table} for k in range(len(table["area"]))]
    return _table("By area", rows, AREA_COLUMNS, opened=True)


def _table(heading: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], opened: bool = False) -> str:
    """Foldable, with the same as CSV; columns that say nothing are left out."""
    used = [name for name in columns if any(_cell(row.get(name)) for row in rows)]
    if not used:
        return ""
    text = {name for name in used if any(isinstance(row.get(name), str) and row.get(name) for row in rows)}
    head = "".join(f'<th class="text">{_plain(n)}</th>' if n in text else f"<th>{_plain(n)}</th>" for n in used)
    body = "".join(
        "<tr>" + "".join(f"<td{' class=text' if n in text else ''}>{_cell(row.get(n))}</td>" for n in used) + "</tr>"
        for row in rows
    )
    lines = [",".join(used), *(",".join(_csv(row.get(name)) for name in used) for row in rows)]
    data = urllib.parse.quote("\n".join(lines) + "\n")
    return (
        f"<details{' open' if opened else ' class=long'}><summary>{escape(heading)} ({len(rows)})</summary>"
        f'<div class="scroll"><table><caption><a download="{_id(heading)}.csv" href="data:text/csv;charset=utf-8,{data}">As CSV'
        f"</a></caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></details>"
    )


def _definitions() -> str:
    listed = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in DEFINITIONS)
    return f'<h2>Definitions</h2><dl class="words">{listed}</dl>'


def _reproduce(facts: Mapping[str, Any]) -> str:
    listed = "".join(
        f"<dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd>" for k, v in facts["facts"].items() if v not in (None, "")
    )
    return f'<h2>How to reproduce</h2><pre><code>{escape(str(facts["command"]))}</code></pre><dl class="words">{listed}</dl>'


def _of(found: Evaluation, task: str) -> list[Mapping[str, Any]]:
    return [row for row in [*found.rows, *found.metrics] if row["task"] == task]


def _main_rows(found: Evaluation, task: str) -> list[Mapping[str, Any]]:
    """One row per session: neurons, or the mean of channels where a task asks for behaviour alone."""
    rows = [
        row for row in found.rows if row["task"] == task and row["channel"] in ("", "mean") and _there(row["score"])
    ]
    first = rows[0]["metric"] if rows else ""
    return [row for row in rows if row["metric"] == first]


def _there(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return (
            (f"{value:.0f}" if value.is_integer() and abs(value) >= 10 else number(value))
            if math.isfinite(value)
            else ""
        )
    return "" if value is None else escape(str(value))


def _csv(value: Any) -> str:
    text = "" if value is None or (isinstance(value, float) and not math.isfinite(value)) else str(value)
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\n') else text


def _plain(name: str) -> str:
    return escape(name.replace("_", " "))


def _id(text: str) -> str:
    return urllib.parse.quote(text, safe="").replace("%", "_")
