"""Gains side by side as inline SVG: one pair of rows per task, thick bars for these sessions, thin ones for new sessions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from html import escape

from omnimouse_jax.pages.marks import marker, nice_ticks, number, tick_digits
from omnimouse_jax.scaling.charts_worth import Forest, ForestRow
from omnimouse_jax.scaling.svg import colour
from omnimouse_jax.scaling.words import bracket, digits_for


@dataclasses.dataclass(frozen=True)
class Frame:
    """Pixels: `left` of the axis, `right` free, `pitch` per task, `marks` below the top of a task, and where its name stands."""

    kind: str
    width: int
    left: int
    right: int
    pitch: int
    marks: tuple[int, int]  # data, parameters
    name: int
    limit: int  # letters of a task's name


WIDE = Frame("wide", 640, 236, 24, 54, (19, 37), 32, 17)
#: For telephones: names above the marks, so that the axis has all of the width.
NARROW = Frame("narrow", 340, 104, 14, 84, (42, 66), 22, 40)
TOP = 12


def render_forest(forest: Forest, narrow: bool = False) -> str:
    """The chart as one <svg>, with marks for pointer and arrow keys; `narrow`: for a window of a telephone's width."""
    frame = NARROW if narrow else WIDE
    rows = forest.rows
    tasks = list(dict.fromkeys(r.task for r in rows))
    height = TOP + frame.pitch * len(tasks) + 46
    low, high = forest_range(forest)
    end = frame.width - frame.right

    def px(value: float) -> float:
        return frame.left + (value - low) / (high - low) * (end - frame.left)

    bottom = TOP + frame.pitch * len(tasks)
    out = [
        f'<svg class="chart forest {frame.kind}" viewBox="0 0 {frame.width} {height}" role="group" tabindex="0" '
        f'aria-label="{escape(forest.title)}, for each task. Arrow keys walk through the points.">'
    ]
    ticks = nice_ticks(low, high, 3 if narrow else 5)
    digits = tick_digits(ticks)
    for tick in ticks:
        x = px(tick)
        out.append(f'<path class="{"zero" if tick == 0 else "grid"}" d="M{x:.1f} {TOP}V{bottom}"/>')
        text = number(tick, digits, signed=True)
        out.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{text}</text>')
    middle = frame.width / 2 if narrow else (frame.left + end) / 2
    out.append(
        f'<text class="name" x="{middle:.0f}" y="{height - 6}" text-anchor="middle">{escape(forest.x_name)}</text>'
    )
    for i, task in enumerate(tasks):
        y0 = TOP + frame.pitch * i
        if i:
            out.append(f'<path class="grid" d="M8 {y0}H{end}"/>')
        out.append(f'<text class="row" x="8" y="{y0 + frame.name}">{escape(_short(task, frame.limit))}</text>')
        out += [_row(row, y0, frame, px, (low, high)) for row in rows if row.task == task]
    out.append("</svg>")
    return "".join(out)


def _row(row: ForestRow, y0: int, frame: Frame, px: Callable[[float], float], ends: tuple[float, float]) -> str:
    """One mark with its intervals and words."""
    low, high = ends
    data = row.axis == "data"
    y = y0 + frame.marks[0 if data else 1]
    hue = "data" if data else "size"
    out = [f'<g class="series" style="--l:{colour(hue, 2, 4, "light")};--d:{colour(hue, 2, 4, "dark")}">']
    out.append(f'<text class="what" x="{frame.left - 10}" y="{y + 4}" text-anchor="end">{escape(row.what)}</text>')
    tip = f"{row.task}, {row.what}: {number(row.estimate, digits_for(row.these), signed=True)}"
    for interval, name in ((row.new, "thin"), (row.these, "thick")):
        if interval is None:
            continue
        a, b = px(min(max(interval.low, low), high)), px(max(min(interval.high, high), low))
        out.append(f'<path class="{name}" d="M{a:.1f} {y}H{b:.1f}"/>')
        for cut, x, way in ((interval.low < low, a, 1), (interval.high > high, b, -1)):
            if cut:
                out.append(f'<path class="cut" d="M{x + 6 * way:.1f} {y - 4}L{x:.1f} {y}l{6 * way} 4"/>')
    for interval in (row.these, row.new):
        if interval is not None:
            tip += f"; {interval.over} {bracket(interval, digits_for(interval))} ({interval.method})"
    x = px(row.estimate)
    out.append(
        f'<path class="mark mean" data-x="{x:.1f}" data-y="{y}" data-tip="{escape(tip, quote=True)}" '
        f'd="{marker("circle" if data else "square", x, y, 5)}"/></g>'
    )
    return "".join(out)


def forest_range(forest: Forest) -> tuple[float, float]:
    """Zero, all estimates and their intervals over these sessions. An interval over two new sessions can be enormous: it may widen
    the axis by half, then it is cut with an arrow."""
    core = [0.0, *(r.estimate for r in forest.rows)]
    core += [e for r in forest.rows if r.these and not r.these.is_open for e in (r.these.low, r.these.high)]
    wide = [e for r in forest.rows if r.new and not r.new.is_open for e in (r.new.low, r.new.high)]
    reach = max(core) - min(core) or 1e-3
    low = max(min(core + wide), min(core) - 0.5 * reach) - 0.05 * reach
    high = min(max(core + wide), max(core) + 0.5 * reach) + 0.05 * reach
    return low, high


def _short(name: str, limit: int) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "\u2026"
