"""What each figure shows, before anybody draws it: the page's SVG and matplotlib's files render the same charts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np

from omnimouse_jax.pages.marks import nice_ticks, number, tick_digits
from omnimouse_jax.scaling.analysis_cells import human
from omnimouse_jax.scaling.forms import Array

BEYOND = 4.0  # curves stop at this multiple of the largest x
Range = tuple[float, float]
Ticks = tuple[tuple[float, str], ...]


@dataclasses.dataclass(frozen=True)
class Mark:
    """A point with what it says when pointed at. `kind`: "run" (one seed), "mean", or "out" (in no fit)."""

    x: float
    y: float
    tip: str
    kind: str


@dataclasses.dataclass(frozen=True)
class Line:
    """`style`: "mean" joins cell means, "fit" is inside the data, "beyond" outside, "straight" the log-linear rival, "path" joins
    points of one training, "level" and "level-beyond" are contours, "optimal" the compute-optimal line, "cost" one budget."""

    x: Array
    y: Array
    style: str


@dataclasses.dataclass(frozen=True)
class Band:
    x: Array
    low: Array
    high: Array
    inside: bool


@dataclasses.dataclass(frozen=True)
class Label:
    x: float
    y: float
    text: str


@dataclasses.dataclass(frozen=True)
class Series:
    """One legend entry. `hue` "size", "data" or "ink" and `rank` of `ranks` pick the colour; rank picks the marker."""

    name: str
    hue: str
    rank: int
    ranks: int
    marks: tuple[Mark, ...]
    lines: tuple[Line, ...] = ()
    bands: tuple[Band, ...] = ()
    labels: tuple[Label, ...] = ()
    ends: bool = True  # its name stands at the end of its line


@dataclasses.dataclass(frozen=True)
class Chart:
    key: str
    title: str
    x_name: str
    y_name: str
    x_range: Range
    y_range: Range
    x_ticks: Ticks
    y_ticks: Ticks
    series: tuple[Series, ...]
    rules: tuple[tuple[float, str], ...] = ()  # horizontal lines with a name
    caption: str = ""
    data_end: float | None = None  # largest x with data, where curves go on
    x_log: bool = True
    y_log: bool = False


def finite_range(series: Iterable[Series]) -> Range:
    """Over what must be seen: marks, curves, and bands inside the data."""
    values: list[float] = []
    for s in series:
        values += [m.y for m in s.marks]
        for band in s.bands:
            values += [float(band.low.min()), float(band.high.max())] if band.inside else []
        for line in s.lines:
            values += [float(line.y.min()), float(line.y.max())] if line.style in ("fit", "beyond") else []
    found = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
    return min(found), max(found)


def linear(low: float, high: float, ticks: int = 6, least: float = 1e-3) -> tuple[Range, Ticks]:
    """A linear axis with some room around the values."""
    if high - low < least:
        low, high = low - least / 2, high + least / 2
    room = 0.06 * (high - low)
    return (low - room, high + room), named_ticks(nice_ticks(low - room, high + room, count=ticks))


def named_ticks(values: Sequence[float], least: int = 2) -> Ticks:
    digits = tick_digits(values, least)
    return tuple((v, number(v, digits)) for v in values)


def padded(left: float, right: float, share: float = 0.05, least: float = 0.08) -> Range:
    """A logarithmic range with room at both ends."""
    pad = max(math.log(right / left) * share, least)
    return left * math.exp(-pad), right * math.exp(pad)


def level_ticks(
    levels: Array | Sequence[float], names: Sequence[str] = (), right: float = 0.0, gap: float = 0.075
) -> Ticks:
    """A tick at every level of a logarithmic axis (and at `right`) that does not touch a larger one."""
    values = {float(v): names[i] if names else human(float(v)) for i, v in enumerate(levels)}
    if right > max(values):
        values[right] = human(right)
    order = sorted(values)
    span = math.log(order[-1] / order[0]) or 1.0
    kept: list[float] = []
    for value in reversed(order):  # the largest matter most
        if not kept or math.log(kept[-1] / value) / span > gap:
            kept.append(value)
    return tuple((v, values[v]) for v in reversed(kept))


def decade_ticks(low: float, high: float) -> Ticks:
    """Powers of ten inside a logarithmic range; with others between them where they are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    few = math.log10(high / low) < 2.5
    values: list[tuple[float | int, int]] = []
    for factors in ((1, 3) if few else (1,), (1, 2, 5), range(1, 10)):
        values = [(m, k) for k in range(first, last + 1) for m in factors if low <= m * 10.0**k <= high]
        if len(values) > 1:
            break
    if len(values) < 2:  # less than a digit apart
        values = [(v, first) for v in nice_ticks(low / 10.0**first, high / 10.0**first, 4)]
    step = max(1, math.ceil(len(values) / 6))
    return tuple((m * 10.0**k, _power(m, k)) for m, k in values[::step])


def _power(factor: float | int, power: int) -> str:
    """30, 10\u2077, 3\u00d710\u2077."""
    if 0 <= power < 4:
        return f"{factor * 10**power:.6g}"
    return (f"{factor:.4g}\u00d7" if factor != 1 else "") + f"10{superscript(power)}"


def superscript(value: int) -> str:
    return str(value).translate(
        str.maketrans("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")
    )


def groups(values: Iterable[object]) -> list[np.ndarray]:
    """Indices of equal values, in order of first appearance."""
    found: dict[object, list[int]] = {}
    for i, value in enumerate(values):
        found.setdefault(value, []).append(i)
    return [np.array(rows) for rows in found.values()]
