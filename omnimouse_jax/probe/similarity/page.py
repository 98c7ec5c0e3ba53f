"""The page of `probe similarity`: one HTML file from similarity.json, which needs nothing else and no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse_jax.files import write_atomically
from omnimouse_jax.pages.document import document
from omnimouse_jax.pages.marks import MARKERS, number, plural
from omnimouse_jax.pages.picture import data_url
from omnimouse_jax.pages.plot import Axis, Plot
from omnimouse_jax.probe.similarity.page_parts import STROKES, bracket, table, there, told
from omnimouse_jax.probe.similarity.page_patterns import alignment, between, procrustes
from omnimouse_jax.probe.similarity.page_words import definitions
from omnimouse_jax.probe.similarity.rdm import square

PAGE = "index.html"
STYLE = """
.rdm { width: 100%; max-width: 220px; image-rendering: pixelated; border: 1px solid var(--line); display: block; margin: 0 auto; }
.ramp { display: inline-block; width: 90px; height: 11px; border: 1px solid var(--line); vertical-align: -1px;
  background: linear-gradient(to right, #fff, #000); print-color-adjust: exact; -webkit-print-color-adjust: exact; }
td.own { font-weight: 600; } td.name, th.name { white-space: normal;
  min-width: 12ch; max-width: 34ch; overflow-wrap: anywhere; text-align: left; }
.narrow { max-width: 760px; } .why { background: var(--card); border-left: 4px solid var(--line); padding: .6rem 1rem; }
"""


def write_page(result: Mapping[str, Any], out: Path) -> Path:
    """Writes OUT/index.html and returns its path."""
    path = Path(out) / PAGE
    write_atomically(path, build(result))
    return path


def build(result: Mapping[str, Any]) -> str:
    """The whole page."""
    body = [
        _header(result),
        "<main>",
        _pictures(result),
        _rsa(result),
        _cka(result),
        procrustes(result),
        between(result),
        alignment(result),
        _sessions(result),
        definitions(result),
        _made_with(result),
        "</main>",
        "<footer>Made by omnimouse_jax from similarity.json alone. This file needs no network and sends nothing.</footer>",
    ]
    return document("Similarity of representations", body, STYLE)


def _header(result: Mapping[str, Any]) -> str:
    runs = [run["run"] for run in result["provenance"]["runs"]]
    s = result["provenance"]["settings"]
    lede = (
        f"{plural(len(runs), 'run')} and an untrained one, {plural(len(result['sessions']), 'session')}; responses to the "
        f"repeated stimuli of tier {s['tier']} in bins of {s['bin_s']:g} s, under the regime {s['regime']}. "
        "Do the same stimuli look alike to the model and to the mouse?"
    )
    return f'<header><h1>Similarity of representations</h1><p class="lede">{escape(lede)}</p></header>'


def _pictures(result: Mapping[str, Any]) -> str:
    shown = result.get("pictures") or {}
    if not shown:
        return ""
    figures = []
    for name, values in shown["rdms"].items():
        ranks = np.argsort(np.argsort(np.array(values, np.float64), kind="stable"), kind="stable").astype(np.float64)
        grey = np.rint(255 * (1 - square(ranks / max(1, len(ranks) - 1)))).astype(np.uint8)
        alt = f"RDM of {name}, {plural(len(grey), 'condition')}"
        figures.append(
            f'<figure><img class="rdm" src="{data_url(grey)}" alt="{escape(alt, quote=True)}">'
            f"<figcaption>{escape(name)}</figcaption></figure>"
        )
    clips = list(dict.fromkeys(clip for clip, _ in shown["conditions"]))
    stimuli = "one stimulus" if len(clips) == 1 else f"{len(clips)} stimuli"
    note = (
        f"Session {shown['session']}: crossnobis distance of every pair of conditions, the time bins of {stimuli} one after the "
        "other; each picture in ranks of its own"
    )
    ramp = '<span class="ramp" role="img" aria-label="white to black"></span>'
    return (
        f'<h2>Which conditions are told apart</h2><p class="note">{escape(note)}: alike {ramp} different.</p>'
        f'<div class="small-multiples">{"".join(figures)}</div>'
    )


def _rsa(result: Mapping[str, Any]) -> str:
    compare = result["provenance"]["settings"]["compare"]
    parts = ["<h2>RDMs of models and of the recording</h2>"]
    for distance in dict.fromkeys(row["distance"] for row in result["rsa summary"]):
        summary = [row for row in result["rsa summary"] if row["distance"] == distance]
        every = [row for row in result["rsa"] if row["distance"] == distance]
        rows = []
        for row in summary:
            mine = [r for r in every if r["source"] == row["source"]]
            interval = bracket(row["animals interval"])
            if not interval and len(mine) == 1:
                interval = bracket((mine[0]["low"], mine[0]["high"]))
            ps = [r["permutation p"] for r in mine if there(r["permutation p"])]
            rows.append(
                (
                    row["source"],
                    told(row["score"]),
                    interval or "none",
                    told(row["corrected"]),
                    told(row["partial"]) if row["kind"] == "model" else "",
                    f"{number(max(ps), 3)}" if ps else "none",
                )
            )
        head = ("source", compare, "interval", "corrected", "partial", "largest p")
        note = (
            f"Mean over sessions; reliability of the recorded RDM {told(summary[0]['reliability'])}. "
            f"Interval: {'over animals' if bracket(summary[0]['animals interval']) else every[0]['interval']}."
        )
        parts.append(f"<h3>{escape(distance.capitalize())}</h3>{_scores_chart(summary, every, compare, distance)}")
        parts.append(f'<p class="note">{escape(note)}</p>{table(head, rows)}')
    names = list(result["rsa summary"][0]["raw"])
    rows = [(r["distance"], r["source"], *(told(r["raw"][n]) for n in names)) for r in result["rsa summary"]]
    parts.append(
        f"<details><summary>Every comparison</summary>{table(('distance', 'source', *names), rows, names=2)}</details>"
    )
    return "".join(parts)


def _scores_chart(
    summary: Sequence[Mapping[str, Any]], every: Sequence[Mapping[str, Any]], compare: str, distance: str
) -> str:
    """A row per source: every session small, their mean large."""
    values = [v for row in every for v in (row["score"], row["low"], row["high"]) if there(v)] + [0.0]
    left = 14 + 10 * max(len(_short(row["source"])) for row in summary)
    x = Axis.over(values, f"{compare} of RDMs", 5)
    y = Axis(-0.6, len(summary) - 0.4, "", ())
    plot = Plot(f"{distance}: {compare} with the recorded RDM", x, y, 540, 60 + 30 * len(summary), (left, 14, 8, 46))
    plot._out.append(f'<path class="zero" d="M{plot.px(0):.1f} {plot.top}V{plot.height - plot.bottom}"/>')
    for place, row in enumerate(reversed(summary)):
        plot.row(place, _short(row["source"]))
        light, dark = STROKES[0] if row["kind"] == "model" else STROKES[1]
        plot.begin(row["source"], f"--l:{light};--d:{dark}")
        shape = MARKERS[0] if row["kind"] == "model" else MARKERS[1]
        mine = [r for r in every if r["source"] == row["source"]]
        for k, r in enumerate(mine):
            at = place + 0.22 * (k - (len(mine) - 1) / 2) / max(1, (len(mine) - 1) / 2) if len(mine) > 1 else place
            if there(r["low"]) and there(r["high"]):
                plot.bar(at, r["low"], r["high"])
            if there(r["score"]):
                tip = f"{row['source']}, {r['session']}: {told(r['score'])} {bracket((r['low'], r['high']))}"
                plot.mark(r["score"], at, shape, tip, 2.6, "run")
        if there(row["score"]):
            plot.mark(row["score"], place, shape, f"{row['source']}: mean {told(row['score'])}", 5)
        plot.end()
    return f'<div class="narrow">{plot.svg()}</div>'


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:10]}\u2026{name[-13:]}"


def _cka(result: Mapping[str, Any]) -> str:
    rows = []
    for row in result["cka summary"]:
        b = "recorded, other showings" if row["a"] == row["b"] else row["b"]
        rows.append(
            (row["a"], b, told(row["debiased"]), bracket((row["low"], row["high"])) or "none", told(row["biased"]))
        )
    head = ("one", "other", "debiased", "over animals", "biased")
    note = (
        "Linear CKA of averages over showings, neurons z-scored. The first row compares the recording with itself, odd with even "
        "showings: noise alone lowers it to that. The biased value is large for any noise where neurons outnumber conditions."
    )
    return f'<h2>CKA</h2><p class="note">{escape(note)}</p>{table(head, rows, names=2)}'


def _sessions(result: Mapping[str, Any]) -> str:
    rows = []
    for row in result["sessions"]:
        left = ", ".join(f"{n} {why}" for why, n in row["left out"].items() if n)
        areas = ", ".join(f"{area or 'unnamed'} {n}" for area, n in row["areas"].items())
        behavior = ", ".join(row["behavior regressed out"]) or "none"
        shown = (str(row[name]) for name in ("neurons", "stimuli", "repeats", "conditions"))
        rows.append((row["session"], *shown, areas, left or "none", behavior))
    head = ("session", "neurons", "stimuli", "repeats", "conditions", "areas", "left out", "behaviour regressed out")
    return f"<h2>Sessions</h2>{table(head, rows)}"


def _made_with(result: Mapping[str, Any]) -> str:
    made = result["provenance"]
    rows = [(r["run"], str(r["checkpoint_step"]), str(r["checkpoint_hash"])) for r in made["runs"]]
    settings = ", ".join(f"{name}={value}" for name, value in made["settings"].items())
    return f'<h2>Made with</h2>{table(("run", "step", "checkpoint"), rows)}<p class="note">{escape(settings)}</p>'
