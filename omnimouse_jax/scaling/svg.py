"""Charts as inline SVG: classes for the page's style sheet, marks with their words for its script."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from html import escape

import numpy as np

from omnimouse_jax.pages.marks import MARKERS, marker
from omnimouse_jax.scaling.charts import Chart, Mark, Series
from omnimouse_jax.scaling.forms import Array

#: (lightest useful, darkest) per hue: blues for model size, ambers for data; the largest level stands out most.
RAMPS = {
    "size": {"light": ("#6fb3d6", "#0b2f5b"), "dark": ("#3f6f95", "#d3ecff")},
    "data": {"light": ("#e0a258", "#6a2606"), "dark": ("#8a5a2b", "#ffe3b8")},
    "ink": {"light": ("#8a9098", "#4a5058"), "dark": ("#7d858f", "#b9c0c8")},
}
Number = float | int
RADIUS = {"run": 2.6, "mean": 4.2, "out": 4.0, "absent": 4.0}


def colour(hue: str, rank: int, ranks: int, mode: str) -> str:
    """Hex colour of level `rank` of `ranks`."""
    start, end = (np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) for c in RAMPS[hue][mode])
    share = rank / (ranks - 1) if ranks > 1 else 0.75
    return "#" + "".join(f"{round(v):02x}" for v in start + (end - start) * share)


def ramp_style(series: Series) -> str:
    light, dark = (colour(series.hue, series.rank, series.ranks, mode) for mode in ("light", "dark"))
    return f"--l:{light};--d:{dark}"


def scale(low: float, high: float, log: bool, start: Number, end: Number) -> Callable[[float], float]:
    """Values in [low, high] to pixels from `start` to `end`."""
    if not log:
        return lambda v: start + (v - low) / (high - low) * (end - start)
    span = math.log(high / low)
    return lambda v: start + math.log(v / low) / span * (end - start)


def render(chart: Chart, width: int = 520, height: int = 350, small: bool = False) -> str:
    """The chart as one <svg>, focusable, with marks in reading order for the arrow keys."""
    digits = max((len(name) for _, name in chart.y_ticks), default=4)
    names = max((len(s.name) for s in chart.series if s.ends), default=0)
    side = min(20 + 7.2 * names, 130) if names else 16
    left, right, top, bottom = (18 + 6.5 * digits, 10, 10, 24) if small else (30 + 7 * digits, side, 14, 46)
    plot_right, plot_bottom = width - right, height - bottom
    px = scale(*chart.x_range, chart.x_log, left, plot_right)
    py = scale(*chart.y_range, chart.y_log, plot_bottom, top)

    def path(x: Array, y: Array) -> str:
        return "M" + "L".join(f"{px(float(a)):.1f} {py(float(b)):.1f}" for a, b in zip(x, y, strict=True))

    clip = f"clip-{chart.key}"
    label = escape(f"{chart.title}. Arrow keys walk through the points.", quote=True)
    out = [
        f'<svg class="chart{" small" if small else ""}" viewBox="0 0 {width} {height}" role="group" tabindex="0" '
        f'aria-label="{label}"><clipPath id="{clip}"><rect x="{left:g}" y="{top}" width="{plot_right - left:g}" '
        f'height="{plot_bottom - top}"/></clipPath>'
    ]
    out += _axes(chart, px, py, (left, plot_right, top, plot_bottom), (width, height), small)
    for value, name in chart.rules:
        out.append(f'<path class="rule" d="M{left:g} {py(value):.1f}H{plot_right:g}"/>')
        if name:
            out.append(f'<text class="rule-name" x="{left + 4:g}" y="{py(value) - 5:.1f}">{escape(name)}</text>')
    if chart.data_end is not None:
        x = px(chart.data_end)
        out.append(f'<path class="edge" d="M{x:.1f} {top}V{plot_bottom}"/>')
        out.append(f'<text class="edge-name" x="{x + 5:.1f}" y="{plot_bottom - 6}">no data</text>')
    ends = _label_places(chart, py, top, plot_bottom)
    for index, series in enumerate(chart.series):
        out.append(f'<g class="series" data-series="{series.hue}-{series.rank}" style="{ramp_style(series)}">')
        out.append(f'<g clip-path="url(#{clip})">')
        for band in series.bands:
            around = np.concatenate([band.x, band.x[::-1]])
            edge = np.concatenate([band.high, band.low[::-1]])
            out.append(f'<path class="band{"" if band.inside else " beyond"}" d="{path(around, edge)}Z"/>')
            if not band.inside:
                out += [f'<path class="band-edge" d="{path(band.x, end)}"/>' for end in (band.low, band.high)]
        for line in series.lines:
            out.append(f'<path class="line {line.style}" d="{path(line.x, line.y)}"/>')
        out.append("</g>")
        shape = MARKERS[series.rank % len(MARKERS)]
        for mark in sorted(series.marks, key=lambda m: m.kind != "run"):
            out.append(_mark(mark, shape, px(mark.x), py(mark.y), small))
        for text in series.labels:
            x, y = px(text.x), py(text.y)
            out.append(
                f'<text class="level-name" x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle">{escape(text.text)}</text>'
            )
        if not small and index in ends:
            out.append(
                f'<text class="label" x="{plot_right + 6:g}" y="{ends[index] + 4:.1f}">{escape(series.name)}</text>'
            )
        out.append("</g>")
    out.append("</svg>")
    return "".join(out)


def _axes(
    chart: Chart,
    px: Callable[[float], float],
    py: Callable[[float], float],
    box: tuple[Number, Number, int, int],
    size: tuple[int, int],
    small: bool,
) -> list[str]:
    left, right, top, bottom = box
    out = []
    for tick, name in chart.y_ticks:
        y = py(tick)
        out.append(f'<path class="grid" d="M{left:g} {y:.1f}H{right:g}"/>')
        out.append(f'<text class="tick" x="{left - 7:g}" y="{y + 4:.1f}" text-anchor="end">{escape(name)}</text>')
    for tick, name in chart.x_ticks:
        x = px(tick)
        out.append(f'<path class="axis" d="M{x:.1f} {bottom}v5"/>')
        out.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{escape(name)}</text>')
    out.append(f'<path class="axis" d="M{left:g} {bottom}H{right:g}"/>')
    if not small:
        x_name, y_name = (
            n + (" (log scale)" if log else "") for n, log in ((chart.x_name, chart.x_log), (chart.y_name, chart.y_log))
        )
        out.append(
            f'<text class="name" x="{(left + right) / 2:.0f}" y="{size[1] - 7}" text-anchor="middle">{escape(x_name)}</text>'
            f'<text class="name" transform="translate(14 {(top + bottom) / 2:.0f}) rotate(-90)" text-anchor="middle">'
            f"{escape(y_name)}</text>"
        )
    return out


def _mark(mark: Mark, shape: str, x: float, y: float, small: bool) -> str:
    r = RADIUS[mark.kind] * (0.7 if small else 1.0)
    drawn = marker(shape, x, y, r)
    if mark.kind == "absent":
        drawn = f"M{x - r:.1f} {y - r:.1f}l{2 * r:.1f} {2 * r:.1f}M{x + r:.1f} {y - r:.1f}l{-2 * r:.1f} {2 * r:.1f}"
    return f'<path class="mark {mark.kind}" data-tip="{escape(mark.tip, quote=True)}" d="{drawn}"/>'


def _label_places(chart: Chart, py: Callable[[float], float], top: int, bottom: int) -> dict[int, float]:
    """Where each series ends, pushed apart so that names do not overlap."""
    ends: dict[int, float] = {}
    for index, series in enumerate(chart.series):
        if not series.ends:
            continue
        drawn = [line for line in series.lines if line.style != "straight"]
        if drawn:
            ends[index] = py(float(drawn[-1].y[-1]))
        elif series.marks:
            ends[index] = py(max(series.marks, key=lambda m: m.x).y)
    order = sorted(ends, key=lambda i: ends[i])
    gap = min(15.0, (bottom - top) / max(len(order), 1))
    for _ in range(60):
        for a, b in itertools.pairwise(order):
            overlap = gap - (ends[b] - ends[a])
            if overlap > 0:
                ends[a] -= overlap / 2
                ends[b] += overlap / 2
        for i in order:
            ends[i] = min(max(ends[i], top + 4.0), bottom - 2.0)
    return ends


def legend_swatch(series: Series) -> str:
    """What stands for a series on its button."""
    shape = MARKERS[series.rank % len(MARKERS)]
    drawn = [line.style for line in series.lines if not line.style.endswith("beyond")] or ["optimal-beyond"]
    style = "fit" if series.marks else drawn[0]
    mark = f'<path class="mark mean" d="{marker(shape, 13, 7, 4.2)}"/>' if series.marks or not series.lines else ""
    line = f'<path class="line {style}" d="M1 7H25"/>' if series.lines else ""
    return (
        f'<svg class="swatch" viewBox="0 0 26 14" aria-hidden="true"><g class="series" style="{ramp_style(series)}">'
        f"{line}{mark}</g></svg>"
    )
