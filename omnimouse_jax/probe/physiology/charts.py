"""The charts of the physiology page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from omnimouse_jax.pages.marks import Look, marker, number
from omnimouse_jax.pages.plot import Axis, Plot
from omnimouse_jax.probe.physiology.measure import Found
from omnimouse_jax.probe.physiology.tuning import naka_rushton

Arrays = Mapping[str, np.ndarray]


LOOKS = {
    "model": Look("model", "circle", "fit", "#8a3d0c", "#f0b06a"),
    "planted law": Look("planted law", "diamond", "dashed", "#23633f", "#8fd0aa"),
    "untrained": Look("untrained", "square", "dotted", "#4a5568", "#b3bcc8"),
    "recorded": Look("recorded", "triangle", "dashed", "#1b3a6b", "#9dbcf0"),
}


def legend(names: Sequence[str]) -> str:
    """Buttons that hide series."""
    buttons = "".join(
        f'<button type="button" aria-pressed="true" data-series="{name}">{_swatch(LOOKS[name])}{LOOKS[name].words}</button>'
        for name in names
    )
    return f'<div class="legend" role="group" aria-label="Show or hide">{buttons}</div>'


def _swatch(look: Look) -> str:
    return (
        f'<svg class="swatch" viewBox="0 0 26 14" aria-hidden="true"><g class="series" style="{look.style}">'
        f'<path class="line {look.line}" d="M1 7H25"/><path class="mark mean" d="{marker(look.shape, 13, 7, 4.2)}"/></g></svg>'
    )


def figure(heading: str, inside: str, caption: str) -> str:
    title = f"<h3>{escape(heading)}</h3>" if heading else ""
    return f"<figure>{title}{inside}<figcaption>{escape(caption)}</figcaption></figure>"


def curve(title: str, x: Axis, lines: Mapping[str, tuple[Any, Any]], y_name: str, tip: str, fits: Any = None) -> str:
    """Small chart of one neuron: each subject's points, joined. `lines`: subject -> (x, y); `fits`: the same, drawn instead of
    joins.

    Where subjects are of different sizes each is drawn in its own range, 0 to 1.
    """
    several = len(lines) > 1
    drawn = {
        name: (np.asarray(a, float), _unit(b) if several else np.asarray(b, float)) for name, (a, b) in lines.items()
    }
    every = [v for _, b in drawn.values() for v in b if math.isfinite(v)]
    plot = Plot(title, x, Axis.over(every, y_name, 3), 270, 190, (52, 10, 10, 44), small=True)
    for name, (a, b) in drawn.items():
        look = LOOKS[name]
        plot.begin(name, look.style)
        if fits is not None and name in fits:
            fx, fy = fits[name]
            low, size = _range(lines[name][1])
            plot.line(fx, (np.asarray(fy) - low) / size if several else fy, look.line)
        else:
            plot.line(a, b, look.line)
        for at, value, raw in zip(a, b, np.asarray(lines[name][1], float), strict=True):
            if math.isfinite(value):
                plot.mark(
                    at, value, look.shape, f"{name}, {tip.format(at)}: response {number(float(raw))}", 3.0, "mean"
                )
        plot.end()
    return plot.svg()


def _range(values: Any) -> tuple[float, float]:
    values = np.asarray(values, float)
    finite = values[np.isfinite(values)]
    size = float(np.ptp(finite)) if len(finite) else 0.0
    return (float(finite.min()) if len(finite) else 0.0), size or 1.0


def _unit(values: Any) -> np.ndarray:
    low, size = _range(values)
    return (np.asarray(values, float) - low) / size


def neuron_row(found: Found, n: int) -> list[str]:
    """Direction, spatial, temporal frequency and contrast curves of a neuron, each subject that is worth drawing."""
    names: list[str] = [name for name in ("model", "planted law") if name in found.subjects]
    one, c = found.subjects, found.conditions
    y = "response, own range" if len(names) > 1 else "response"
    degrees = np.array([*c["directions"], 360.0])
    around = {
        name: (degrees, np.append(one[name]["direction_curve"][n], one[name]["direction_curve"][n][0]))
        for name in names
    }
    ticks = Axis(0.0, 360.0, "direction, degrees", tuple((float(d), f"{d}") for d in (0, 90, 180, 270, 360)))
    charts = [curve(f"direction, neuron {n}", ticks, around, y, "{:.0f} degrees")]
    for key, words, values, unit in (
        ("spatial", "spatial frequency, cycles/degree", c["spatial_frequencies"], "{:.3f} cycles/degree"),
        ("temporal", "temporal frequency, Hz", c["temporal_frequencies"], "{:.2f} Hz"),
    ):
        lines = {name: (values, one[name][f"{key}_curve"][n]) for name in names}
        charts.append(curve(f"{words}, neuron {n}", Axis.logarithmic(values, words), lines, y, unit))
    shown = np.array(found_contrasts(found))
    lines = {name: (shown, one[name]["contrast_curve"][n]) for name in names}
    fine = np.linspace(0, 1, 60)
    fits = {}
    for name in names:
        law = [float(one[name][k][n]) for k in ("r0", "rmax", "c50", "contrast_exponent")]
        if all(math.isfinite(v) for v in law):
            fits[name] = (fine, naka_rushton(fine, *law))
    axis = Axis(0.0, 1.0, "contrast", tuple((v, f"{v:g}") for v in (0.0, 0.25, 0.5, 0.75, 1.0)))
    charts.append(curve(f"contrast, neuron {n}", axis, lines, y, "contrast {:.2f}", fits))
    return charts


def found_contrasts(found: Found) -> list[float]:
    return list(found.conditions["contrasts"])


def distribution(found: Found, name: str, words: str, low: float | None = None, high: float | None = None) -> str:
    """Cumulative share of neurons by value, one line per subject."""
    plot_values = {}
    for subject, arrays in found.subjects.items():
        values = np.sort(arrays[name][np.isfinite(arrays[name])]) if name in arrays else np.zeros(0)
        if len(values) >= 3:
            plot_values[subject] = values
    if not plot_values:
        return ""
    every = np.concatenate(list(plot_values.values()))
    x = Axis.over([*every, *([low] if low is not None else []), *([high] if high is not None else [])], words, 4)
    plot = Plot(
        f"{words}: cumulative share of neurons", x, Axis(0.0, 1.0, "share", ((0, "0"), (0.5, ".5"), (1, "1"))), 360, 230
    )
    for subject, values in plot_values.items():
        look = LOOKS[subject]
        plot.begin(subject, look.style)
        share = (np.arange(len(values)) + 0.5) / len(values)
        plot.line(values, share, look.line)
        middle = len(values) // 2
        plot.mark(
            values[middle],
            share[middle],
            look.shape,
            f"{subject}: median {number(float(np.median(values)))} of {len(values)} neurons",
        )
        plot.end()
    return plot.svg()


def scatter(
    found: Found, subject: str, mine: str, true: str, words: str, *, log: bool = False, period: float = 0.0
) -> str:
    """Recovered against planted, a point per neuron."""
    a, b = found.subjects[subject].get(mine), found.planted.get(true)
    if a is None or b is None:
        return ""
    there = np.isfinite(a) & np.isfinite(b)
    if there.sum() < 3:
        return ""
    a, b = a[there], np.asarray(b, float)[there]
    if period:
        ticks = tuple((float(v), f"{v:g}") for v in np.arange(0, period + 1, period / 4))
        x, y = (Axis(0.0, period, f"{words}, {who}", ticks) for who in ("planted", "recovered"))
    elif log:
        values = sorted({round(float(v), 4) for v in np.geomspace(min(a.min(), b.min()), max(a.max(), b.max()), 4)})
        x, y = (Axis.logarithmic(values, f"{words}, {who}") for who in ("planted", "recovered"))
    else:
        x, y = Axis.over(b, f"{words}, planted", 4), Axis.over(a, f"{words}, recovered", 4)
    plot = Plot(f"{words}: recovered by {subject} against planted", x, y, 330, 290)
    if mine == true or period or log:
        plot.diagonal()
    look = LOOKS[subject]
    plot.begin(subject, look.style)
    for number_of, p, q in zip(np.flatnonzero(there), b, a, strict=True):
        plot.mark(
            p, q, look.shape, f"neuron {number_of}: planted {number(float(p))}, recovered {number(float(q))}", 3.4
        )
    plot.end()
    return plot.svg()


def field_map(found: Found, subject: str = "model") -> str:
    """Receptive field centres on the screen."""
    g, arrays = found.geometry, found.subjects[subject]
    half = g.degrees / 2, g.degrees * g.height / g.width / 2
    x, y = (
        Axis(
            -h, h, f"{w}, degrees", tuple((float(v), f"{v:.0f}".replace("-", "\u2212")) for v in np.linspace(-h, h, 5))
        )
        for h, w in zip(half, ("x", "y"), strict=True)
    )
    plot = Plot("Receptive field centres on the screen", x, y, 520, 330)
    for source, words in (("rf", "gradient"), ("sparse", "sparse noise")):
        look = LOOKS[subject] if source == "rf" else LOOKS["recorded"]
        plot.begin(words, look.style)
        for n in np.flatnonzero(np.isfinite(arrays[f"{source}_x"])):
            cx, cy, s = (float(arrays[f"{source}_{k}"][n]) for k in ("x", "y", "sigma"))
            plot.mark(cx, cy, look.shape, f"neuron {n}, {words}: {cx:.1f}, {cy:.1f} degrees, sigma {s:.1f}", 3.6)
        plot.end()
    return plot.svg()


def spectra(found: Found) -> str:
    """Eigenvalue by rank, both logarithmic, as shares of their sum, with the fitted line over its ranks."""
    drawn = {}
    for name, drawn_as in (("recorded", "recorded"), ("predicted", "model")):
        if f"{name}_eigenvalues" in found.spectra:
            values = found.spectra[f"{name}_eigenvalues"]
            drawn[drawn_as] = (values / np.abs(values).sum(), found.spectra[f"{name}_law"], name)
    if not drawn:
        return ""
    top = max(len(v) for v, _, _ in drawn.values())
    ranks = [float(r) for r in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if r <= top]
    positive = np.concatenate([v[v > 0] for v, _, _ in drawn.values()])
    decades = [10.0**k for k in range(math.floor(math.log10(max(positive.min(), 1e-6))), 1)]
    y = Axis(decades[0], 1.0, "share of variance", tuple((d, f"{d:g}") for d in decades), log=True)
    plot = Plot("Eigenspectra", Axis.logarithmic([*ranks, float(top)], "rank"), y, margins=(84, 14, 12, 46))
    for look_name, (values, law, name) in drawn.items():
        look = LOOKS[look_name]
        plot.begin(look_name, look.style)
        for rank, value in enumerate(values, 1):
            if value >= decades[0]:
                plot.mark(rank, value, look.shape, f"{name}, rank {rank}: {number(float(value), 5)}", 3.0)
        alpha, _, _, first, last = law.tolist()
        if math.isfinite(alpha):
            usable = np.arange(int(first), min(int(last), len(values)) + 1)
            usable = usable[values[usable - 1] > 0]
            level = np.average(np.log(values[usable - 1]) + alpha * np.log(usable), weights=1 / usable)
            fit = np.exp(level - alpha * np.log(usable))
            plot.line(usable.astype(float), np.where(fit >= decades[0], fit, np.nan), look.line)
        plot.end()
    return plot.svg()
