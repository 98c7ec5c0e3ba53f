"""The page of the sensitivity probe: one HTML file from sensitivity.json alone."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from omnimouse_jax.files import write_atomically
from omnimouse_jax.pages.document import document
from omnimouse_jax.pages.marks import number, plural
from omnimouse_jax.probe.sensitivity import page_charts as charts
from omnimouse_jax.probe.sensitivity import page_tables as tables
from omnimouse_jax.probe.sensitivity.page_words import DEFINITIONS, NORM_NAMES, causality_told, interval

PAGE = "index.html"
STYLE = """
.line.random { stroke-width: 1; opacity: .75; } .line.dashed { stroke-dasharray: 7 4; } .line.dotted { stroke-dasharray: 1.5 4;
stroke-linecap: round; }
.films { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); gap: 14px 24px; }
.film { margin: 0; } .film .three { display: grid; grid-template-columns: repeat(3, 1fr); gap: 6px; }
.film .three > div { min-width: 0; } .film small { color: var(--soft); display: block; line-height: 1.3; }
.frame { overflow: hidden; position: relative; width: 100%; border: 1px solid var(--line); }
.frame img { position: absolute; left: 0; top: 0; width: 100%; image-rendering: pixelated; display: block; }
.one { max-width: 760px; } @media (min-width: 700px) { td.text { white-space: nowrap; } }
.slide { display: flex; flex-wrap: wrap; align-items: center; gap: 4px 12px; margin: .5rem 0; font-size: .9rem; }
.slide input { flex: 1 1 220px; max-width: 460px; accent-color: var(--accent); }
.slide output { font-variant-numeric: tabular-nums; color: var(--soft); }
td.of { text-align: right; } .matrix td, .matrix th { padding-right: 14px; }
.hash { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .85em; }
@media print { .slide input { display: none; } .films { grid-template-columns: 1fr 1fr; } }
"""
SCRIPT = """<script>"use strict";
for (const box of document.querySelectorAll(".clip")) {
  const input = box.querySelector("input"), told = box.querySelector("output");
  const show = () => {
    const at = Number(input.value), n = Number(input.max) + 1;
    for (const img of box.querySelectorAll(".frame img")) img.style.transform = "translateY(" + (-100 * at / n) + "%)";
    told.textContent = "frame " + box.dataset.frames.split(",")[at] + ", " + box.dataset.times.split(",")[at] + " s";
    input.setAttribute("aria-valuetext", told.textContent);
  };
  input.addEventListener("input", show);
  show();
}
</script>"""


def write_page(result: Mapping[str, Any], out: Path) -> Path:
    """Writes OUT/index.html and returns its path."""
    path = Path(out) / PAGE
    write_atomically(path, build(result))
    return path


def build(result: Mapping[str, Any]) -> str:
    """The whole page."""
    norms = list(result["models"][0]["norms"])
    body = [
        _header(result),
        "<main>",
        _reading(result),
        *(_norm(result, norm) for norm in norms),
        _pictures(result),
        _causality(result),
        _separates(result),
        _definitions(result),
        _provenance(result),
        "</main>",
        "<footer>Made by omnimouse_jax from sensitivity.json alone. This file needs no network and sends nothing.</footer>",
        SCRIPT,
    ]
    return document(f"Sensitivity: {result['session']}", body, STYLE)


def table(result: Mapping[str, Any]) -> str:
    """The summary as text, for the terminal."""
    lines = []
    for norm in result["models"][0]["norms"]:
        head = (
            "model",
            "eps* [grey levels]",
            "A [SD]",
            "G [SD/level]",
            "Q at mid budget",
            "stable rank",
            "prediction r",
        )
        rows = [head, *(tables.row(result, model, norm) for model in result["models"])]
        widths = [max(len(row[k]) for row in rows) for k in range(len(head))]
        lines.append(f"{NORM_NAMES[norm]}, session {result['session']}, {result['regime']}")
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        lines.append("")
    return "\n".join(lines).rstrip()


def _header(result: Mapping[str, Any]) -> str:
    trained = [model["name"] for model in result["models"] if model["kind"] == "trained"]
    lede = (
        f"How far the predicted responses of {plural(result['n_neurons'], 'neuron')} of session {result['session']} move when the "
        f"screen changes a little: {plural(len(result['stimuli']), 'stimulus window')}, regime {result['regime']}. "
        f"{plural(len(trained), 'trained run')}: {', '.join(trained)}."
    )
    jump = '<p class="jump">' + "".join(
        f'<a href="#{place}">{name}</a>'
        for place, name in (
            *((norm, f"curves, {NORM_NAMES[norm]}") for norm in result["models"][0]["norms"]),
            ("pictures", "the perturbations"),
            ("causality", "which frames matter"),
            ("separates", "what separates models"),
            ("definitions", "definitions"),
            ("settings", "settings and hashes"),
        )
    )
    return f'<header><h1>Sensitivity: {escape(result["session"])}</h1><p class="lede">{escape(lede)}</p>{jump}</p></header>'


def _reading(result: Mapping[str, Any]) -> str:
    return (
        '<p class="note">A profile, to be read whole: neither small nor large numbers here are good or bad by '
        "themselves. Neurons of "
        "macaque IT were found less sensitive than units of standard networks and more sensitive than adversarially trained ones "
        "(Guo et al. 2022, arXiv 2206.11228). Each attack gives a lower bound: a better attack could only find more.</p>"
    )


def _norm(result: Mapping[str, Any], norm: str) -> str:
    parts = [
        f'<section id="{norm}"><h2>{escape(NORM_NAMES[norm])}</h2>',
        f'<div class="pair">{charts.curves(result, norm)}{charts.controls(result, norm)}</div>',
        tables.summary(result, norm),
        tables.recorded(result, norm),
        tables.singles(result, norm),
        tables.attacks(result, norm),
        tables.transfer(result, norm),
        "</section>",
    ]
    return "".join(parts)


def _pictures(result: Mapping[str, Any]) -> str:
    out = [
        '<section id="pictures"><h2>The perturbations</h2><p class="note">The slider (arrow keys) walks through the frames. A '
        "perturbation is shown around mid-grey, amplified by the factor that is said.</p>"
    ]
    times = result["frames"]["times_s"]
    for clip in result["pictures"]:
        frames = clip["frames"]
        first = clip["rows"][0]["strongest"]
        where = result["stimuli"][clip["stimulus"]]
        films = "".join(_film(clip, row) for row in clip["rows"])
        label = f"stimulus {clip['stimulus'] + 1} ({where['start_s']:.2f} s of the session)"
        slider = (
            f'<label class="slide">frame<input type="range" min="0" max="{len(frames) - 1}" value="{first}" step="1" '
            f'aria-label="frame of {label}"><output></output></label>'
            if len(frames) > 1
            else '<input type="hidden" value="0" max="0"><output hidden></output>'
        )
        out.append(
            f'<h3>{label.capitalize()}</h3><div class="clip" data-frames="{",".join(str(f + 1) for f in frames)}" '
            f'data-times="{",".join(f"{times[f]:.2f}" for f in frames)}">{slider}<div class="films">{films}</div></div>'
        )
    return "".join(out) + "</section>"


def _film(clip: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    count = len(clip["frames"])
    names = (
        ("clean", clip["clean"], "as shown to the mouse"),
        ("perturbation", row["perturbation"], f"perturbation, × {row['factor']:.1f}"),
        ("perturbed", row["perturbed"], "perturbed"),
    )
    shift = -100 * clip["rows"][0]["strongest"] / count
    cells = "".join(
        f'<div><div class="frame" style="aspect-ratio:{clip["width"]}/{clip["height"]}"><img src="{url}" alt="{escape(name)}" '
        f'style="transform:translateY({shift:.3f}%)"></div><small>{escape(words)}</small></div>'
        for name, url, words in names
    )
    caption = (
        f"{row['model']}, {NORM_NAMES[row['norm']].split(':')[0]}: budget {row['budget']:g} grey levels (largest pixel change "
        f"{row['largest_levels']:.1f}), D = {number(row['D'], 2)} SD"
    )
    return f'<figure class="film"><div class="three">{cells}</div><figcaption>{escape(caption)}</figcaption></figure>'


def _causality(result: Mapping[str, Any]) -> str:
    told = "".join(
        f"<li><b>{escape(m['name'])}</b>: {escape(causality_told(m['causality']))}</li>" for m in result["models"]
    )
    return (
        f'<section id="causality"><h2>Which frames matter to a response</h2><div class="one">{charts.causality(result)}</div>'
        f'<ul class="flags">{told}</ul></section>'
    )


def _separates(result: Mapping[str, Any]) -> str:
    out = ['<section id="separates"><h2>What separates these models</h2>']
    for by, measures in result["discriminability"].items():
        pairs = next(iter(measures.values()))["n"]
        if not pairs or (by == "architectures" and pairs == result["discriminability"]["models"]["predictivity"]["n"]):
            continue
        rows = []
        for measure, found in measures.items():
            for pair in found["pairs"]:
                apart = "yes" if pair["separated"] else "no"
                rows.append((measure, f"{pair['first']} − {pair['second']}", interval(pair, 3), apart))
        caption = "; ".join(
            f"{measure}: {found['separated']} of {found['n']} pairs" for measure, found in measures.items()
        )
        unit = "seeds of an architecture drawn anew too" if by == "architectures" else "each run by itself"
        out.append(f"<h3>Between {escape(by)}</h3>")
        out.append(
            tables.table(
                ("measure", "pair", "difference", "interval without 0"), rows, f"{caption}. Paired by stimuli, {unit}."
            )
        )
    if len(out) == 1:
        return ""
    out.append(
        '<p class="note">Sensitivity: A, in model SD. Predictivity: mean single-trial correlation over neurons, on '
        f"{plural(result['reference_windows'], 'window')}. That a measure separates models says nothing about "
        f"which is closer to the "
        "brain.</p></section>"
    )
    return "".join(out)


def _definitions(result: Mapping[str, Any]) -> str:
    items = "".join(f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>" for word, meaning in DEFINITIONS)
    return f'<section id="definitions"><h2>Definitions</h2><dl class="words">{items}</dl></section>'


def _provenance(result: Mapping[str, Any]) -> str:
    about = result["provenance"]
    rows = [
        (name, model["kind"], str(model["run"]), str(model["checkpoint_step"]), str(model["checkpoint_hash"]))
        for name, model in about["models"].items()
    ]
    settings = ", ".join(f"{key} {_plain(value)}" for key, value in about["settings"].items())
    versions = (
        f"omnimouse_jax {about['omnimouse_jax']}, jax {about['jax']}, {about['device']}, {result['seconds']:.0f} s"
    )
    return (
        '<section id="settings"><h2>Settings and hashes</h2>'
        + tables.table(
            ("model", "kind", "run", "step", "hash of parameters"), rows, f"Store {about['store']}; {versions}.", text=5
        )
        + f'<p class="note">{escape(settings)}</p></section>'
    )


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value) if value != "" else "default"
