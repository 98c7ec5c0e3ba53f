"""The parts of the page about agreement: Procrustes between models, what mice share, areas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from omnimouse_jax.pages.marks import MARKERS, plural
from omnimouse_jax.pages.plot import Axis, Plot
from omnimouse_jax.probe.similarity.page_parts import STROKES, bracket, table, there, told


def procrustes(result: Mapping[str, Any]) -> str:
    found = [row for row in result["procrustes"] if "values" in row]
    if not found:
        why = "One run: nothing to compare it with. Give two or more (seeds, sizes)."
        why = next((row["reason"] for row in result["procrustes"] if "reason" in row), why)
        return f'<h2>Where models disagree</h2><p class="why">{escape(why)}</p>'
    rows = []
    for row in found:
        for clip, of in row["clips"].items():
            values = (told(of[name]) for name in ("dispersion", "chance", "predictivity"))
            rows.append((row["session"], clip, *values))
    terciles = [(row["session"], *(told(v) for v in row["predictivity by tercile"])) for row in found]
    note = (
        f"Predictions of {len(found[0]['among'])} models, rotated onto their common mean (generalised Procrustes, "
        f"{found[0]['k']} dimensions, rotations from other stimuli). Dispersion: how far models are from that mean, in units of "
        "its squared length. At chance their stimuli are shuffled."
    )
    return (
        f'<h2>Where models disagree</h2><p class="note">{escape(note)}</p>'
        + table(("session", "stimulus", "dispersion, median", "at chance", "predictivity"), rows, names=2)
        + f'<div class="pair">{"".join(_dispersion_chart(row) for row in found[:2])}</div>'
        + "<h3>Are hard stimuli predicted worse?</h3>"
        + table(("session", "least dispersion", "middle", "most"), terciles, "Predictivity by tercile of dispersion")
    )


def _dispersion_chart(row: Mapping[str, Any]) -> str:
    values = [max(v, 1e-3) for v in row["values"] if there(v)]
    x = Axis.over([0, len(row["values"]) - 1], "condition (time bins, stimulus after stimulus)", 5)
    y = Axis.logarithmic([*values, row["chance median"]], "dispersion (log scale)")
    ticks = tuple((v, f"{v:g}") for v in (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100) if y.low <= v <= y.high)
    plot = Plot(f"{row['session']}: dispersion of every condition", x, y._replace(ticks=ticks or y.ticks))
    plot.rule(row["chance median"], "chance, median")
    clips = list(dict.fromkeys(clip for clip, _ in row["conditions"]))
    for number_, clip in enumerate(clips):
        light, dark = STROKES[number_ % len(STROKES)]
        plot.begin(clip, f"--l:{light};--d:{dark}")
        for k, ((of, time), value) in enumerate(zip(row["conditions"], row["values"], strict=True)):
            if of == clip and there(value):
                plot.mark(
                    k, max(value, 1e-3), MARKERS[number_ % len(MARKERS)], f"{clip}, bin {time}: {told(value, 2)}", 3.4
                )
        plot.end()
    return f"<figure><h3>{escape(row['session'])}</h3>{plot.svg()}<figcaption>A shape for each stimulus.</figcaption></figure>"


def between(result: Mapping[str, Any]) -> str:
    found = result["between mice"]
    if "rsa" not in found:
        return ""
    rows = [
        (r["source"], told(r["score"]), bracket((r["low"], r["high"])) or "none", str(r["pairs"])) for r in found["rsa"]
    ]
    parts = [
        f'<h2>Between mice</h2><p class="note">{found["conditions"]} conditions that {len(found["animals"])} mice were all shown. '
        "RDM of one mouse, recorded or predicted, against the RDM recorded in another (crossnobis).</p>",
        table(("source", "similarity", "over animals", "pairs"), rows),
    ]
    rows = [
        (
            r["source"],
            told(r["median"], 2),
            told(r["chance median"], 2),
            *(told(v) for v in r["predictivity by tercile"]),
        )
        for r in found["procrustes"]
        if "values" in r
    ]
    if rows:
        head = ("source", "dispersion, median", "at chance", "least dispersion", "middle", "most")
        parts.append(
            "<h3>Dispersion of mice</h3>" + table(head, rows, "The last three: predictivity by tercile of dispersion")
        )
    return "".join(parts)


def alignment(result: Mapping[str, Any]) -> str:
    found = result["between mice"]["alignment"]
    heading = "<h2>Alignment patterns across areas</h2>"
    if not found["applicable"]:
        reason = str(found["reason"])
        return f'{heading}<p class="why">{escape(reason[:1].upper() + reason[1:])}.</p>'
    areas = found["areas"]
    parts = [heading]
    skipped = ", ".join(f"{area} ({told(value, 2)})" for area, value in found["skipped"].items())
    parts.append(
        f'<p class="note">{escape(", ".join(areas))}, {found["neurons of each area"]} neurons of each, '
        f"{plural(found['subsamples'], 'subsample')}; rows: area of one mouse, columns: area recorded in another. "
        + (f"Skipped, too little alike between mice: {escape(skipped)}. " if skipped else "")
        + f"{escape(found['brain-brain note'].capitalize())}.</p>"
    )
    matrices = {"recorded": found["brain matrix"]}
    if found.get("brain matrix, corrected"):
        matrices["recorded, corrected for reliability"] = found["brain matrix, corrected"]
    matrices |= {name: model["matrix"] for name, model in found["models"].items()}
    parts.append('<div class="pair">')
    for name, matrix in matrices.items():
        parts.append(f"<figure><h3>{escape(name)}</h3>{_matrix(areas, matrix)}</figure>")
    parts.append("</div>")
    names = ("profile", "pearson, all", "pearson, off-diagonal", "pearson, diagonal", "difference, all")
    rows = [
        (name, *(told(m["scores"][n]) for n in names), told(m["wrong-area profile"]), told(m["label permutation p"]))
        for name, m in found["models"].items()
    ]
    if found["brain-brain"]:
        rows.insert(0, ("brain-brain", *(told(found["brain-brain"][n]) for n in names), "", ""))
    parts.append(table(("source", *names, "wrong-area profile", "p of labels"), rows))
    return "".join(parts)


def _matrix(areas: Sequence[str], matrix: Sequence[Sequence[Any]]) -> str:
    head = "<th></th>" + "".join(f"<th>{escape(a)}</th>" for a in areas)
    body = ""
    for i, (area, row) in enumerate(zip(areas, matrix, strict=True)):
        cells = "".join(f"<td{' class=own' if i == j else ''}>{told(v, 2)}</td>" for j, v in enumerate(row))
        body += f"<tr><th>{escape(area)}</th>{cells}</tr>"
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
