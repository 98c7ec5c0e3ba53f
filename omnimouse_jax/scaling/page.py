"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from html import escape

from omnimouse_jax.pages.document import document
from omnimouse_jax.pages.marks import plural
from omnimouse_jax.scaling import page_lists, page_task
from omnimouse_jax.scaling.analysis import Study
from omnimouse_jax.scaling.analysis_axes import DATA_AXES
from omnimouse_jax.scaling.analysis_worth import NEXT_SESSIONS, REACH
from omnimouse_jax.scaling.charts_compute import rate_chart
from omnimouse_jax.scaling.charts_worth import Forest, doubling_forest, next_forest
from omnimouse_jax.scaling.exclude import family
from omnimouse_jax.scaling.ledger import FAILED, Row
from omnimouse_jax.scaling.outside_ledger import limits
from omnimouse_jax.scaling.svg_forest import render_forest
from omnimouse_jax.scaling.words import headline, interval_note, title


@dataclasses.dataclass(frozen=True)
class Made:
    """How the page came about: shown on it. `moment`: when the ledger was read, told only of partial results; `every`: seconds
    after which a newer page may be there, for a sweep that runs; `checksum`: SHA-256 of the ledger beside the page;
    `inputs`: name and SHA-256 of the files that were read;
    `where`: the condition that picked their rows."""

    commands: Sequence[str] = ()
    checksum: str = ""
    inputs: Sequence[tuple[str, str]] = ()
    moment: str = ""
    every: int = 0
    where: str = ""


def build(study: Study, heading: str, made: Made | Sequence[str] = ()) -> str:
    """The whole page. `made`: a `Made`, or the commands alone."""
    told = made if isinstance(made, Made) else Made(commands=tuple(made))
    body = [
        _header(study, heading, told),
        '<main id="top">',
        _limits(study),
        _cards(study),
        _next_step(study),
        _overview(study),
        *(page_task.section(study, task) for task in study.tasks),
        _rates(study),
        page_lists.left_out(study),
        page_lists.words(study),
        page_lists.reproduce(study, told.commands, told.checksum, told.inputs),
        "</main>",
        f"<footer>Made by omnimouse_jax from a {'table' if study.outside else 'ledger'} alone. "
        "This file needs no network and sends nothing.</footer>",
    ]
    return document(heading, body, refresh=told.every if study_runs(study.missing) else 0)


def study_runs(missing: Sequence[Row]) -> bool:
    """Cells are still to come: partial results."""
    return any(row["state"] != FAILED for row in missing)


def _header(study: Study, heading: str, made: Made) -> str:
    first = study.tasks[0]
    _, noun = DATA_AXES[study.data_axis]
    facts = f"Model sizes {', '.join(first.size_names)}; {noun} {', '.join(first.amount_names)}"
    if study.outside:
        facts = f"{plural(len(study.runs), 'stated score')}. Sizes as named: {facts.removeprefix('Model sizes ')}"
    else:
        runs = len({family(row) for row in study.runs})
        points = f", scored at {len(study.runs)} points" if len(study.runs) > runs else ""
        facts = (
            f"{plural(runs, 'scored run')}{points}. {facts}; scored on {plural(len(first.sessions), 'evaluation session')} of "
            f"{plural(len(set(first.grid.animals)), 'animal')}, the same for every run"
        )
    facts += f". Only rows for which {made.where}" if made.where else ""
    nav = "".join(
        f'<a href="#{key}">{name}</a>'
        for key, name in (
            ("next-step", "What comes next"),
            ("left-out", "Left out"),
            ("definitions", "Definitions"),
            ("reproduce", "How to reproduce"),
        )
        if key != "next-step" or (next_forest(study).rows and not study.outside)
    )
    return (
        f'<header><h1>{escape(heading)}</h1><p class="lede">{escape(facts)}.</p>{_partial(study, made)}'
        f'<nav class="jump">{nav}</nav></header>'
    )


def _partial(study: Study, made: Made) -> str:
    """Counts, time and which cells are missing; nothing where every cell is scored."""
    if not study.missing or study.outside:
        return ""
    states: dict[str, int] = {}
    for row in study.missing:
        state = row["error"] if row["error"] == "not started" else row["state"]
        states[state] = states.get(state, 0) + 1
    counts = ", ".join(f"{n} {state}" for state, n in sorted(states.items()))
    total = len({row["run_id"] for row in study.rows})
    done = total - len({row["run_id"] for row in study.missing})
    where = '<a href="#left-out">listed below</a> and in no number here'
    if not study_runs(study.missing):
        return f'<p class="partial">{done} of {total} runs are scored, {counts}: {where}.</p>'
    when = f" As of {escape(made.moment)}." if made.moment else ""
    again = f" This page looks for newer results every {made.every} s." if made.every else ""
    return (
        f'<div class="partial"><p><strong>Partial results.</strong> {done} of {total} runs are scored, {escape(counts)}: {where}.'
        f"{when}{again} Every verdict below may change.</p>{page_lists.progress(study)}</div>"
    )


def _limits(study: Study) -> str:
    """What numbers of an outside table can and cannot tell."""
    if not study.outside:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in limits(study))
    head = "<p><strong>What these numbers can and cannot tell</strong></p>"
    return f'<div class="partial">{head}<ul class="flags">{items}</ul></div>'


def _cards(study: Study) -> str:
    cards = []
    for task in study.tasks:
        sentence, rows = headline(task, study)
        items = "".join(f"<dt>{escape(k)}</dt><dd>{_value(v)}</dd>" for k, v in rows)
        told = f'<span class="told">{escape(sentence)}</span>' if sentence else ""
        cards.append(
            f'<a class="card" href="#{task.key}"><span class="task">{escape(task.name)}</span>'
            f'<span class="verdict">{escape(title(task, study))}</span>{told}<dl>{items}</dl></a>'
        )
    note = "" if study.outside else f"Scores are correlations. {interval_note(study.tasks[0])}"
    return f'<div class="cards">{"".join(cards)}</div><p class="note">{escape(note)}</p>'


def _value(told_value: str) -> str:
    """An estimate with its bracket set smaller."""
    value, _, rest = told_value.partition(" [")
    rest = f"[{rest}" if rest else ""
    return escape(value) + (f' <span class="soft">{escape(rest)}</span>' if rest else "")


def _overview(study: Study) -> str:
    forest = doubling_forest(study)
    if not forest.rows:
        return ""
    return (
        "<h2>What a doubling is worth</h2><p>Gain of score from twice the data (circles) and from twice the "
        "parameters (squares): slopes of a straight line in log2 through all cell means, averaged over the other axis. "
        f"No curve is assumed.</p>{_forest(forest)}"
    )


def _next_step(study: Study) -> str:
    """The next sessions against the next doubling of parameters."""
    forest = next_forest(study)
    if not forest.rows or study.outside:
        return ""
    priced = [task for task in study.tasks if task.prospects is not None]
    data = next(t.prospects.data.name for t in priced if t.prospects is not None)
    short = (
        f" No more than {data.removeprefix('next ')}, because nothing is said beyond {REACH} times the largest amount."
    )
    near = "" if data.startswith(f"next {NEXT_SESSIONS} ") else short
    return (
        f'<h2 id="next-step">What comes next: {escape(data.removeprefix("next "))} more, or twice the parameters</h2>'
        f"<p>Expected gain from the largest cell on: of the {escape(data)} (circles) and of the next doubling of core "
        "parameters (squares), "
        f"from the joint fit where there is one, else from straight lines.{escape(near)}</p>"
        f"{_forest(forest)}{page_task.prices(priced)}"
    )


def _forest(forest: Forest) -> str:
    these, new = (any(getattr(row, name) is not None for row in forest.rows) for name in ("these", "new"))
    parts = []
    if these:
        parts.append("Thick bar: 95 % for these sessions (run noise).")
    if new:
        noise = ", with the run noise in it" if these else "; run noise is unknown and not in it"
        parts.append(f"Thin bar: 95 % for new sessions or animals{noise}; an arrow: it goes on.")
    if these and new:
        parts.append(
            "Headlines speak of these sessions (thick bar); a thin bar that crosses zero: not shown for new ones."
        )
    caption = " ".join(parts) or "No bars: nothing tells the noise."
    return f"<figure>{render_forest(forest)}{render_forest(forest, narrow=True)}<figcaption>{caption}</figcaption></figure>"


def _rates(study: Study) -> str:
    chart = rate_chart(study)
    if chart is None:
        return ""
    drawn = page_task.figure(chart, chart.title)
    return f'<h2 id="learning-rates">Learning rates that were tried</h2><div class="pair">{drawn}</div>'
