"""Charts as inline SVG: classes for the page's style sheet, marks with their words for its script."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from html import escape

import numpy as np

from omnimouse_jax.pages.marks import MARKERS, marker, nice_ticks, number, tick_digits
from omnimouse_jax.scaling.charts import Chart, ForestRow, Mark, Series
from omnimouse_jax.scaling.forms import Array
from omnimouse_jax.scaling.words import bracket

#: (lightest useful, darkest) per hue: blues for model size, ambers for data; the largest level stands out most.
RAMPS = {
    "size": {"light": ("#6fb3d6", "#0b2f5b"), "dark": ("#3f6f95", "#d3ecff")},
    "data": {"light": ("#e0a258", "#6a2606"), "dark": ("#8a5a2b", "#ffe3b8")},
}


def colour(hue: str, rank: int, ranks: int, mode: str) -> str:
    """Hex colour of level `rank` of `ranks`."""
    start, end = (np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) for c in RAMPS[hue][mode])
    share = rank / (ranks - 1) if ranks > 1 else 0.75
    return "#" + "".join(f"{round(v):02x}" for v in start + (end - start) * share)


def ramp_style(series: Series) -> str:
    light, dark = (colour(series.hue, series.rank, series.ranks, mode) for mode in ("light", "dark"))
    return f"--l:{light};--d:{dark}"


def render(chart: Chart, width: int = 520, height: int = 350, small: bool = False) -> str:
    """The chart as one <svg>, focusable, with marks in reading order for the arrow keys."""
    digits = tick_digits(chart.y_ticks)
    names = max((len(s.name) for s in chart.series), default=0)
    left, right, top, bottom = (40, 10, 10, 24) if small else (42 + 8 * digits, min(20 + 7.2 * names, 130), 14, 46)
    x_low, x_high = (math.log(v) for v in chart.x_range)
    y_low, y_high = chart.y_range

    def px(x: float) -> float:
        return left + (math.log(x) - x_low) / (x_high - x_low) * (width - left - right)

    def py(y: float) -> float:
        return top + (y_high - y) / (y_high - y_low) * (height - top - bottom)

    def path(x: Array, y: Array) -> str:
        return "M" + "L".join(f"{px(float(a)):.1f} {py(float(b)):.1f}" for a, b in zip(x, y, strict=True))

    clip = f"clip-{chart.key}"
    plot_right, plot_bottom = width - right, height - bottom
    label = escape(f"{chart.title}. Arrow keys walk through the points.", quote=True)
    out = [
        f'<svg class="chart{" small" if small else ""}" viewBox="0 0 {width} {height}" role="group" tabindex="0" '
        f'aria-label="{label}"><clipPath id="{clip}"><rect x="{left}" y="{top}" width="{plot_right - left}" '
        f'height="{plot_bottom - top}"/></clipPath>'
    ]
    for tick in chart.y_ticks:
        y = py(tick)
        out.append(f'<path class="grid" d="M{left} {y:.1f}H{plot_right}"/>')
        out.append(f'<text class="tick" x="{left - 7}" y="{y + 4:.1f}" text-anchor="end">{number(tick, digits)}</text>')
    for tick, name in chart.x_ticks:
        x = px(tick)
        out.append(f'<path class="axis" d="M{x:.1f} {plot_bottom}v5"/>')
        out.append(f'<text class="tick" x="{x:.1f}" y="{plot_bottom + 18}" text-anchor="middle">{escape(name)}</text>')
    out.append(f'<path class="axis" d="M{left} {plot_bottom}H{plot_right}"/>')
    if not small:
        middle = (top + plot_bottom) / 2
        out.append(
            f'<text class="name" x="{(left + plot_right) / 2:.0f}" y="{height - 7}" text-anchor="middle">'
            f"{escape(chart.x_name)} (log scale)</text>"
            f'<text class="name" transform="translate(14 {middle:.0f}) rotate(-90)" text-anchor="middle">'
            f"{escape(chart.y_name)}</text>"
        )
    for value, name in chart.rules:
        out.append(f'<path class="rule" d="M{left} {py(value):.1f}H{plot_right}"/>')
        out.append(f'<text class="rule-name" x="{left + 4}" y="{py(value) - 5:.1f}">{escape(name)}</text>')
    if any(line.style == "beyond" for s in chart.series for line in s.lines):
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
        for line in series.lines:
            out.append(f'<path class="line {line.style}" d="{path(line.x, line.y)}"/>')
        out.append("</g>")
        shape = MARKERS[series.rank % len(MARKERS)]
        for mark in sorted(series.marks, key=lambda m: m.kind != "run"):
            out.append(_mark(mark, shape, px(mark.x), py(mark.y), small))
        if not small and index in ends:
            out.append(
                f'<text class="label" x="{plot_right + 6}" y="{ends[index] + 4:.1f}">{escape(series.name)}</text>'
            )
        out.append("</g>")
    out.append("</svg>")
    return "".join(out)


def _mark(mark: Mark, shape: str, x: float, y: float, small: bool) -> str:
    r = {"run": 2.6, "mean": 4.2}[mark.kind] * (0.7 if small else 1.0)
    return (
        f'<path class="mark {mark.kind}" data-x="{x:.1f}" data-y="{y:.1f}" data-tip="{escape(mark.tip, quote=True)}" '
        f'd="{marker(shape, x, y, r)}"/>'
    )


def _label_places(chart: Chart, py: Callable[[float], float], top: int, bottom: int) -> dict[int, float]:
    """Where each series ends, pushed apart so that names do not overlap."""
    ends: dict[int, float] = {}
    for index, series in enumerate(chart.series):
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
    shape = MARKERS[series.rank % len(MARKERS)]
    return (
        f'<svg class="swatch" viewBox="0 0 26 14" aria-hidden="true"><g class="series" style="{ramp_style(series)}">'
        f'<path class="line fit" d="M1 7H25"/><path class="mark mean" d="{marker(shape, 13, 7, 4.2)}"/></g></svg>'
    )


def render_forest(rows: Sequence[ForestRow]) -> str:
    """Gain per doubling of data and of parameters, one pair of rows per task."""
    tasks = list(dict.fromkeys(r.task for r in rows))
    width, left, right, pitch, top = 640, 196, 24, 54, 12
    height = top + pitch * len(tasks) + 46
    core = [0.0, *(r.estimate for r in rows)]
    core += [e for r in rows if r.seeds for e in (r.seeds.low, r.seeds.high)]
    wide = [e for r in rows if r.sessions for e in (r.sessions.low, r.sessions.high)]
    reach = max(core) - min(core) or 1e-3
    # a t interval over two sessions can be enormous: it may widen the axis by half, then it is cut with an arrow
    low = max(min(core + wide), min(core) - 0.5 * reach) - 0.05 * reach
    high = min(max(core + wide), max(core) + 0.5 * reach) + 0.05 * reach

    def px(value: float) -> float:
        return left + (value - low) / (high - low) * (width - left - right)

    bottom = top + pitch * len(tasks)
    out = [
        f'<svg class="chart forest" viewBox="0 0 {width} {height}" role="group" tabindex="0" '
        'aria-label="Gain per doubling of data and of parameters, for each task. Arrow keys walk through the points.">'
    ]
    ticks = nice_ticks(low, high, 5)
    digits = tick_digits(ticks)
    for tick in ticks:
        x = px(tick)
        out.append(f'<path class="{"zero" if tick == 0 else "grid"}" d="M{x:.1f} {top}V{bottom}"/>')
        text = number(tick, digits, signed=True)
        out.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{text}</text>')
    out.append(
        f'<text class="name" x="{(left + width - right) / 2:.0f}" y="{height - 6}" text-anchor="middle">'
        "change of score per doubling</text>"
    )
    for i, task in enumerate(tasks):
        y0 = top + pitch * i
        if i:
            out.append(f'<path class="grid" d="M8 {y0}H{width - right}"/>')
        out.append(f'<text class="row" x="8" y="{y0 + pitch / 2 + 5}">{escape(_short(task))}</text>')
        for row in (r for r in rows if r.task == task):
            data = row.what == "data"
            y = y0 + (19 if data else 37)
            hue = "data" if data else "size"
            style = f"--l:{colour(hue, 2, 4, 'light')};--d:{colour(hue, 2, 4, 'dark')}"
            out.append(f'<g class="series" style="{style}">')
            out.append(f'<text class="what" x="{left - 10}" y="{y + 4}" text-anchor="end">{row.what}</text>')
            for interval, name in ((row.sessions, "thin"), (row.seeds, "thick")):
                if interval is not None:
                    a, b = px(max(interval.low, low)), px(min(interval.high, high))
                    out.append(f'<path class="{name}" d="M{a:.1f} {y}H{b:.1f}"/>')
                    for cut, x, way in ((interval.low < low, a, 1), (interval.high > high, b, -1)):
                        if cut:
                            out.append(f'<path class="cut" d="M{x + 6 * way:.1f} {y - 4}L{x:.1f} {y}l{6 * way} 4"/>')
            tip = f"{task}: a doubling of {row.what} changes the score by {number(row.estimate, signed=True)}"
            for interval in (row.seeds, row.sessions):
                if interval is not None:
                    tip += f"; {interval.over} {bracket(interval)} ({interval.method})"
            x = px(row.estimate)
            out.append(
                f'<path class="mark mean" data-x="{x:.1f}" data-y="{y}" data-tip="{escape(tip, quote=True)}" '
                f'd="{marker("circle" if data else "square", x, y, 5)}"/></g>'
            )
    out.append("</svg>")
    return "".join(out)


def _short(name: str, limit: int = 17) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "\u2026"
