"""Small things that every chart needs: numbers as text, round ticks, marks of equal area."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

MARKERS = ("circle", "square", "triangle", "diamond", "wedge", "hexagon")


class Look(NamedTuple):
    """How a series is called and drawn: different in shape and dashes too, so that greyscale tells them apart."""

    words: str
    shape: str
    line: str
    light: str
    dark: str

    @property
    def style(self) -> str:
        """CSS variables of its colours."""
        return f"--l:{self.light};--d:{self.dark}"


def number(value: float, digits: int = 3, signed: bool = False) -> str:
    """Fixed digits with a true minus sign."""
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    return text.replace("-", "\u2212") if float(text) else text.lstrip("+-")


def plural(count: str | int, noun: str) -> str:
    return f"{count} {noun}" if str(count) == "1" else f"{count} {noun}s"


def nice_ticks(low: float, high: float, count: int = 5) -> tuple[float, ...]:
    """Round numbers inside [low, high]."""
    step = 10.0 ** math.floor(math.log10((high - low) / count))
    for factor in (1, 2, 2.5, 5, 10):
        if (high - low) / (step * factor) <= count:
            step *= factor
            break
    first = math.ceil(low / step - 1e-9)
    return tuple(round(k * step, 10) for k in range(first, math.floor(high / step + 1e-9) + 1))


def tick_digits(ticks: Sequence[float], least: int = 2) -> int:
    """Fewest decimals, but `least`, that print every tick exactly."""
    return next((d for d in range(least, 6) if all(abs(round(t, d) - t) < 1e-9 for t in ticks)), 6)


def marker(shape: str, x: float | int, y: float | int, r: float | int) -> str:
    """A closed path of about equal area for every shape."""
    if shape == "circle":
        return f"M{x - r:.1f} {y:.1f}a{r:.1f} {r:.1f} 0 1 0 {2 * r:.1f} 0a{r:.1f} {r:.1f} 0 1 0 {-2 * r:.1f} 0Z"
    corners = {"square": (4, 45, 1.22), "triangle": (3, -90, 1.35), "diamond": (4, 0, 1.3), "wedge": (3, 90, 1.35)}
    count, turn, scale = corners.get(shape, (6, 0, 1.12))
    points = []
    for k in range(count):
        angle = math.radians(turn + 360 * k / count)
        points.append(f"{x + scale * r * math.cos(angle):.1f} {y + scale * r * math.sin(angle):.1f}")
    return "M" + "L".join(points) + "Z"
