"""The sentences of the page and of the terminal summary. Every number comes with its interval or says it has none."""

from __future__ import annotations

import math

from omnimouse_jax.pages.marks import number, plural
from omnimouse_jax.scaling.analysis import Study, Task
from omnimouse_jax.scaling.analysis_cells import human
from omnimouse_jax.scaling.analysis_worth import Estimate
from omnimouse_jax.scaling.grid import MIN_DECADES, MIN_LEVELS, Gain
from omnimouse_jax.scaling.uncertainty import Interval
from omnimouse_jax.scaling.verdict import DATA, FLAT, NONE, PARAMETERS, UNDECIDED
from omnimouse_jax.scaling.words_stated import (
    decimals,
    directions,
    doubling_value,
    per_doubling,
    resolution,
    stated_sentences,
)

TITLES = {
    DATA: "Data-limited",
    PARAMETERS: "Parameter-limited",
    UNDECIDED: "Data and parameters: balanced or not determined",
    FLAT: "No measurable return",
}


def bracket(interval: Interval | None, digits: int = 3) -> str:
    """[low, high], an infinite end as "open"."""
    if interval is None:
        return ""
    ends = [number(e, digits) if abs(e) < 1e30 else "open" for e in (interval.low, interval.high)]
    return f"[{ends[0]}, {ends[1]}]"


def best_interval(gain: Gain) -> Interval | None:
    """The interval that a headline quotes: for these sessions where there is one, else for new ones."""
    return gain.seeds or gain.sessions


def digits_for(interval: Interval | None) -> int:
    """Decimals that keep the ends of a narrow interval apart, and from zero if it excludes zero."""
    if interval is None or interval.is_open:
        return 3
    touches = interval.excludes_zero and min(abs(interval.low), abs(interval.high)) < 0.0005
    width = interval.high - interval.low
    wanted = math.ceil(-math.log10(width / 4)) if 0 < width < 0.003 else 3  # two digits of half an interval
    return min(max(wanted, 4 if touches else 3), 6)


def told(gain: Gain, signed: bool = True) -> str:
    """Estimate and interval."""
    interval = best_interval(gain)
    digits = digits_for(interval)
    value = number(gain.estimate, digits, signed=signed)
    return (
        f"{value} {bracket(interval, digits)}" if interval else f"{value} (no interval: one run per cell, one session)"
    )


def moved(gain: Gain, what: str) -> str:
    """Raised WHAT by 0.147 [0.140, 0.155], or that it made no measurable difference."""
    interval = best_interval(gain)
    if interval is not None and interval.low > 0:
        return f"raised {what} by {told(gain, signed=False)}"
    if interval is not None and interval.high < 0:
        return f"lowered {what}: {told(gain)}"
    suffix = ", no measurable difference" if interval is not None else ""
    return f"changed {what} by {told(gain)}{suffix}"


def effect(gain: Gain | None) -> str:
    """helped, hurt, or made no measurable difference; empty where it was not tried."""
    if gain is None:
        return ""
    interval = best_interval(gain)
    if interval is None:
        return "helped, by a difference without an interval" if gain.estimate > 0 else "did not help"
    if interval.low > 0:
        return "helped"
    return "hurt" if interval.high < 0 else "made no measurable difference"


def title(task: Task, study: Study) -> str:
    """The headline of a task: its verdict, or what the cells show where there is none."""
    step = resolution(study) if task.stated else 0.0
    name = task.joint.verdict.name
    if task.stated and name == NONE:
        return directions(task, step, "stated") or "Nothing to compare: neither axis was varied alone"
    if name != NONE:
        return TITLES[name]
    gains = task.data_gain or task.data_step, task.parameter_gain or task.parameter_step
    if gains == (None, None):
        return "Nothing to compare: neither axis was varied alone"
    if not task.noise_known:
        return f"{directions(task, 0.0, 'scored')}; noise unknown"
    data, size = effect(gains[0]), effect(gains[1])
    if data == size:
        return f"More data and bigger models {data}"
    told_data = f"More data {data}" if gains[0] is not None else "Data were not varied"
    told_size = f"bigger models {size}" if gains[1] is not None else "model size was not varied"
    return f"{told_data}; {told_size}"


def two(value: float) -> str:
    """Two significant digits of a ratio or a count; "open" for what has no bound."""
    if not math.isfinite(value) or abs(value) > 1e9:
        return "open"
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return human(float(f"{value:.2g}"))
    return f"{value:#.2g}".rstrip(".").replace("-", "\u2212")


def ratio_told(value: float, interval: Interval) -> str:
    return f"{two(value)} [{two(interval.low)}, {two(interval.high)}]"


def exchange_told(exchange: Estimate, unit: str) -> str:
    """How many more sessions a doubling of parameters is worth."""
    if not math.isfinite(exchange.value):
        return f"more than any number of {unit}s"
    return f"{ratio_told(exchange.value, exchange.interval)} more {unit}s"


def headline(task: Task, study: Study) -> tuple[str, list[tuple[str, str]]]:
    """Of a card: one sentence with its number and interval (or none), and a few numbers by name."""
    verdict, prospects = task.joint.verdict, task.prospects
    rows = [("largest cell", largest_cell(task, study))]
    if study.outside:
        step = resolution(study)
        for name, axis in (("2\u00d7 data", "data"), ("2\u00d7 parameters", "parameters")):
            found = per_doubling(task, axis, step)
            if found is not None:
                rows.append((name, doubling_value(*found)))
        return "", rows
    if verdict.ratio is None or verdict.interval is None:
        for name, gain in (("2\u00d7 data", task.data_gain), ("2\u00d7 parameters", task.parameter_gain)):
            if gain is not None:
                rows.append((name, told(gain)))
        return "", rows
    sentence = (
        f"Twice the data gains {ratio_told(verdict.ratio, verdict.interval)} times what twice the parameters gains"
    )
    if prospects is not None and prospects.exchange is not None:
        sentence += f"; twice the parameters is worth {exchange_told(prospects.exchange, study.unit)}"
    if prospects is not None:
        for name, worth in (
            (prospects.data.name.replace("next ", "+"), prospects.data.worth),
            ("2\u00d7 parameters", prospects.parameters.worth),
        ):
            digits = digits_for(worth.these)
            rows.append((name, f"{number(worth.estimate, digits, signed=True)} {bracket(worth.these, digits)}"))
    return f"{sentence}.", rows


def largest_cell(task: Task, study: Study) -> str:
    """Score of the largest model at the largest amount."""
    if not task.grid.count[-1, -1]:
        return "not stated" if task.stated else "no run"
    return number(float(task.grid.mean[-1, -1]), decimals(resolution(study)) if task.stated else 3)


def sentences(task: Task, study: Study) -> list[str]:
    """The few sentences under the headline."""
    if study.outside:
        return [task.joint.verdict.words, *stated_sentences(study, task)]
    verdict, prospects = task.joint.verdict, task.prospects
    out = [verdict.words]
    both = verdict.ratio is not None  # with one term at zero, rates of exchange and shares are 0 or without end
    if both and prospects is not None and prospects.exchange is not None:
        told_units = exchange_told(prospects.exchange, study.unit)
        out.append(f"At the largest cell a doubling of the parameters is worth as much as {told_units}.")
    if both and prospects is not None and prospects.shares is not None:
        parts = [
            f"{100 * s.value:.0f} % [{100 * s.interval.low:.0f}, {100 * s.interval.high:.0f}]" for s in prospects.shares
        ]
        out.append(
            f"Of what is left to gain in this law, {parts[1]} would come from more data and {parts[0]} from more parameters."
        )
    out += to_be_sure(task, study)
    amounts, sizes = task.amount_names, task.size_names
    if task.data_step is not None:
        out.append(
            f"With the largest model ({sizes[-1]}), going from {amounts[0]} to {plural(amounts[-1], study.unit)} "
            f"{moved(task.data_step, f'the {task.noun}')}."
        )
    if task.parameter_step is not None:
        what = "it" if task.data_step is not None else f"the {task.noun}"
        told_step = f"going from {sizes[0]} to {sizes[-1]} {moved(task.parameter_step, what)}"
        out.append(f"With {plural(amounts[-1], study.unit)}, {told_step}.")
    if task.data_gain is not None and task.parameter_gain is not None:
        out.append(
            f"Averaged over the grid, a doubling of data gained {told(task.data_gain)} and a doubling of parameters "
            f"{told(task.parameter_gain)}."
        )
    if task.selection is not None:
        words = task.selection.words
        out.append(words[0].upper() + words[1:] + ".")
    return out


def to_be_sure(task: Task, study: Study) -> list[str]:
    """What it would take to be sure, where there is no verdict: more runs, more levels, or nothing that seeds could give."""
    verdict = task.joint.verdict
    if verdict.name == UNDECIDED and verdict.ratio and verdict.interval is not None and verdict.interval.low > 0:
        away = abs(math.log(verdict.ratio))
        half = math.log(verdict.interval.high / verdict.interval.low) / 2
        if half < away:
            return [
                "To be sure: repeat the three corner cells (the largest, and next to it on each axis) with more seeds; they decide."
            ]
        if not math.isfinite(half) or away < half / 10:
            return [
                "To be sure: the ratio is too near 1 for more seeds to tell; take data and parameters as worth the same here."
            ]
        factor = math.ceil((half / away) ** 2)
        return [f"To be sure: about {factor} times as many runs per cell, if the ratio stays at {two(verdict.ratio)}."]
    if verdict.name == NONE:
        wanted = [w for axis in ("data", "parameters") if (w := _wanted_levels(task, study, axis))]
        if wanted:
            return [f"To be sure: train {' and '.join(wanted)}."]
    if verdict.name == FLAT:
        seen = [
            f"{number(half, 4)} per doubling of {axis}"
            for axis, gain in (("data", task.data_gain), ("parameters", task.parameter_gain))
            if gain is not None and gain.seeds is not None
            for half in [max(abs(gain.seeds.low), abs(gain.seeds.high))]
        ]
        if seen:
            return [f"A gain above {' or '.join(seen)} would have been seen."]
    return []


def _wanted_levels(task: Task, study: Study, axis: str) -> str:
    """Levels that an axis lacks for an exponent, in words; empty if it has them."""
    levels, decades = task.grid.span(axis)
    need = MIN_DECADES[axis]
    values = task.grid.amounts if axis == "data" else task.grid.sizes
    more = max(MIN_LEVELS - levels, 0)
    if not more and decades >= need - 1e-9:
        return ""
    noun, unit = ("amount", f"{study.unit}s") if axis == "data" else ("model size", "core parameters")
    reach = float(values[0]) * 10**need
    far = f" up to {human(math.ceil(reach))} {unit} or more" if decades < need - 1e-9 else ""
    far += " (which the store must have)" if far and axis == "data" else ""
    return f"{plural(max(more, 1), f'more {noun}')}{far}" if more != 1 or far else f"1 more {noun}"


def interval_note(task: Task) -> str:
    """What the headline's brackets are over."""
    gain = task.data_step or task.parameter_step or task.data_gain or task.parameter_gain
    interval = best_interval(gain) if gain else None
    if interval is None and task.stated:
        return "No intervals: nothing tells the noise of these scores."
    if interval is None:
        return "No intervals: there is one run per cell and one evaluation session."
    return f"Brackets: 95 % for {interval.over} ({interval.method})."


def summary_lines(study: Study) -> list[str]:
    """At most ten lines for a terminal."""
    first = study.tasks[0]
    scored = "" if study.outside else f", {plural(len(first.sessions), 'evaluation session')}"
    lines = [
        f"{study.name}: {plural(len(study.runs), 'stated score' if study.outside else 'run')}, "
        f"{plural(len(first.size_names), 'size')} ({', '.join(first.size_names)}) x "
        f"{plural(len(first.amount_names), 'amount')} of data ({', '.join(first.amount_names)} {study.unit}s){scored}"
    ]
    room = 10 - 1 - 1 - (1 if study.missing else 0)
    detail = 2 * len(study.tasks) <= room
    shown = study.tasks if detail or len(study.tasks) <= room else study.tasks[: room - 1]
    for task in shown:
        lines.append(f"{task.name}: {title(task, study)} (largest model and amount: {largest_cell(task, study)})")
        if detail and (task.data_gain or task.parameter_gain):
            parts = [
                f"{what} {number(gain.estimate, 4, signed=True) if task.stated else told(gain)}"
                for what, gain in (("data", task.data_gain), ("parameters", task.parameter_gain))
                if gain is not None
            ]
            lines.append(f"  gain per doubling: {', '.join(parts)}")
    if len(shown) < len(study.tasks):
        lines.append(f"... and {len(study.tasks) - len(shown)} more tasks, on the page")
    lines.append(interval_note(first))
    if study.missing:
        what = "of the table not drawn" if study.outside else "failed or unfinished"
        lines.append(f"{plural(len(study.missing), 'line' if study.outside else 'cell')} {what}, listed on the page")
    return lines
