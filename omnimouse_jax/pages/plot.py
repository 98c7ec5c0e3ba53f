"""A chart as inline SVG, drawn mark by mark: axes, lines, points with their words, whiskers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from omnimouse_jax.pages.marks import marker, nice_ticks, number, tick_digits

Values = Float[np.ndarray, " n"]
Number = float | int


class Axis(NamedTuple):
    """A range with ticks; `log` for a logarithmic one."""

    low: float
    high: float
    name: str
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    @classmethod
    def over(cls, values: Sequence[Number] | Values, name: str, count: int = 5, zero: bool = False) -> Axis:
        """A linear axis with some room around finite values; from zero on, if they are all positive and it is wished."""
        finite = [float(v) for v in values if math.isfinite(v)] or [0.0, 1.0]
        low, high = min(finite), max(finite)
        if zero:
            low, high = min(low, 0.0), max(high, 0.0)
        span = max(high - low, 1e-6, 1e-3 * abs(high))
        low, high = low - (0.0 if zero and low == 0 else 0.05 * span), high + 0.05 * span
        ticks = nice_ticks(low, high, count)
        digits = tick_digits(ticks, 0)
        return cls(low, high, name, tuple((tick, number(tick, digits)) for tick in ticks))

    @classmethod
    def logarithmic(cls, values: Sequence[Number], name: str) -> Axis:
        """With a tick at each of a few values, as far as they do not touch."""
        levels = sorted(set(values))
        low, high = levels[0] / 1.25, levels[-1] * 1.25
        kept: list[float] = []
        for level in reversed(levels):
            if not kept or math.log(kept[-1] / level) / math.log(high / low) > 0.07:
                kept.append(level)
        return cls(low, high, name, tuple((level, _level(level)) for level in reversed(kept)), log=True)

    def share(self, value: Number) -> float:
        """0 at the low end, 1 at the high one."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


class Plot:
    """Elements in the order they are drawn. `title` is what a screen reader says of the chart."""

    def __init__(
        self,
        title: str,
        x: Axis,
        y: Axis,
        width: int = 520,
        height: int = 330,
        margins: tuple[int, int, int, int] = (64, 14, 12, 46),
        small: bool = False,
    ):
        self.title, self.x, self.y, self.small = title, x, y, small
        self.width, self.height = width, height
        self.left, self.right, self.top, self.bottom = margins
        self._out: list[str] = []
        self._interactive = False
        self._axes()

    def px(self, value: Number) -> float:
        return self.left + self.x.share(value) * (self.width - self.left - self.right)

    def py(self, value: Number) -> float:
        return self.height - self.bottom - self.y.share(value) * (self.height - self.top - self.bottom)

    def line(self, x: Sequence[Number] | Values, y: Sequence[Number] | Values, kind: str) -> None:
        """A line of class `kind`, broken where a value is missing."""
        pieces, drawing = [], False
        for a, b in zip(x, y, strict=True):
            if not (math.isfinite(a) and math.isfinite(b)):
                drawing = False
                continue
            pieces.append(f"{'L' if drawing else 'M'}{self.px(float(a)):.1f} {self.py(float(b)):.1f}")
            drawing = True
        self._out.append(f'<path class="line {kind}" d="{"".join(pieces)}"/>')

    def whisker(self, x: Number, low: Number, high: Number) -> None:
        """A vertical interval."""
        self._out.append(f'<path class="thin" d="M{self.px(x):.1f} {self.py(low):.1f}V{self.py(high):.1f}"/>')

    def bar(self, y: Number, low: Number, high: Number) -> None:
        """A horizontal interval."""
        self._out.append(f'<path class="thin" d="M{self.px(low):.1f} {self.py(y):.1f}H{self.px(high):.1f}"/>')

    def mark(self, x: Number, y: Number, shape: str, tip: str, r: Number = 4.2, kind: str = "mean") -> None:
        """A point that says `tip` when it is pointed at or walked to."""
        at_x, at_y = self.px(x), self.py(y)
        self._interactive = True
        self._out.append(
            f'<path class="mark {kind}" data-x="{at_x:.1f}" data-y="{at_y:.1f}" data-tip="{escape(tip, quote=True)}" '
            f'd="{marker(shape, at_x, at_y, r)}"/>'
        )

    def cloud(self, x: Values, y: Values) -> None:
        """Many points as one path, without words."""
        both = zip(x, y, strict=True)
        dots = "".join(
            f"M{self.px(a):.1f} {self.py(b):.1f}h0" for a, b in both if math.isfinite(a) and math.isfinite(b)
        )
        self._out.append(f'<path class="cloud" d="{dots}"/>')

    def rule(self, y: Number, name: str) -> None:
        """A horizontal line with a name."""
        at = self.py(y)
        self._out.append(f'<path class="rule" d="M{self.left} {at:.1f}H{self.width - self.right}"/>')
        self._out.append(f'<text class="rule-name" x="{self.left + 4}" y="{at - 5:.1f}">{escape(name)}</text>')

    def diagonal(self) -> None:
        """Where x equals y."""
        low, high = max(self.x.low, self.y.low), min(self.x.high, self.y.high)
        ends = f"M{self.px(low):.1f} {self.py(low):.1f}L{self.px(high):.1f} {self.py(high):.1f}"
        self._out.append(f'<path class="zero" d="{ends}"/>')

    def row(self, y: Number, name: str) -> None:
        """What stands left of a row."""
        self._out.append(f'<text class="row" x="4" y="{self.py(y) + 4:.1f}">{escape(name)}</text>')

    def begin(self, series: str, style: str) -> None:
        """What is drawn up to `end` belongs to a series of that name, with CSS variables `style`."""
        self._out.append(f'<g class="series" data-series="{escape(series, quote=True)}" style="{style}">')

    def end(self) -> None:
        self._out.append("</g>")

    def svg(self) -> str:
        """The element. Charts whose points have words take the focus, for the arrow keys."""
        title = escape(self.title)
        spoken = f"{title}. Arrow keys walk through the points." if self._interactive else title
        role = 'role="group" tabindex="0"' if self._interactive else 'role="img"'
        kind = "chart small" if self.small else "chart"
        return (
            f'<svg class="{kind}" viewBox="0 0 {self.width} {self.height}" {role} aria-label="{spoken}">'
            f"<title>{title}</title>{''.join(self._out)}</svg>"
        )

    def _axes(self) -> None:
        right, bottom = self.width - self.right, self.height - self.bottom
        for tick, name in self.y.ticks:
            y = self.py(tick)
            self._out.append(f'<path class="grid" d="M{self.left} {y:.1f}H{right}"/>')
            self._out.append(
                f'<text class="tick" x="{self.left - 7}" y="{y + 4:.1f}" text-anchor="end">{escape(name)}</text>'
            )
        for tick, name in self.x.ticks:
            x = self.px(tick)
            self._out.append(f'<path class="axis" d="M{x:.1f} {bottom}v5"/>')
            self._out.append(
                f'<text class="tick" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{escape(name)}</text>'
            )
        self._out.append(f'<path class="axis" d="M{self.left} {bottom}H{right}"/>')
        if self.x.name:
            middle = (self.left + right) / 2
            self._out.append(
                f'<text class="name" x="{middle:.0f}" y="{self.height - 7}" text-anchor="middle">{escape(self.x.name)}</text>'
            )
        if self.y.name:
            at = f"translate(14 {(self.top + bottom) / 2:.0f}) rotate(-90)"
            self._out.append(f'<text class="name" transform="{at}" text-anchor="middle">{escape(self.y.name)}</text>')


def _level(value: float) -> str:
    """0.3833 -> 0.38, 12.5 -> 12.5, 320.4 -> 320."""
    return f"{value:.2g}" if value < 10 else f"{value:.3g}"
